"""Shared-Bottom: one network for all tasks, then a tower each."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from mtl.features import DenseFeat
from mtl.layers import DNN
from mtl.layers.encoder import layout
from mtl.layers.interactions import cross_network, factorization_machine, keras_rs_layers
from mtl.models.network import Network
from mtl.models.options import Options, Towers, Units, Unpack, Widths, model, per_task
from mtl.training import MultiTaskModel

_BOTTOMS = ("dnn", "dcn", "deepfm")
_UNITS = (128, 128)


@model(search={"bottom_dnn_units": Widths(8)})
def SharedBottom(
    dnn_feature_columns: Any,
    *,
    bottom: Any = "dnn",
    bottom_dnn_units: Units = _UNITS,
    tower_dnn_units_lists: Towers = per_task(64, 32),
    **options: Unpack[Options],
) -> MultiTaskModel:
    """Build a Shared-Bottom model: h = bottom(x), ŷ_k = σ(t_k(h)).

    The bottoms are, with `;` for side by side:

    - `"dnn"`: h = DNN(x).
    - `"dcn"`, a deep & cross network: h = c_2 ; DNN(x), with two cross layers
      c_{i+1} = x ⊙ (W_i c_i + b_i) + c_i, c_0 = x.
    - `"deepfm"`, a factorization machine and a DNN: h = w·x ; ⟨v_1, v_2⟩ ; ⟨v_1, v_3⟩ ; … ; DNN(x),
      with the inner products of the features' embeddings v_i, two by two. Embeddings should be of
      one size. Numbers are among them with `dense_embedding_dim`; as they are, they have no inner
      products.

    Args:
        dnn_feature_columns: list of feature columns (see `mtl.features`).
        bottom: "dnn", "dcn", "deepfm", or a Keras layer from `(B, D)` to `(B, H)`. A layer keeps
            its own seed and options; to load the model, its class should be registered, as always
            in Keras. Defaults to "dnn".
        bottom_dnn_units: list of int. Widths of the bottom's DNN. Defaults to (128, 128).
        tower_dnn_units_lists: list of lists of int. Widths of each task's tower.
            Defaults to (64, 32) for every task.
        **options: what every model takes (see `mtl.models.options.Options`).

    Raises:
        ImportError: "dcn" and "deepfm" without keras-rs.
        TypeError: an argument of a wrong type.
        ValueError: an argument out of range, or arguments that disagree.

    References:
        - Caruana, Multitask Learning, Machine Learning 1997
        - Wang et al., DCN V2: Improved Deep & Cross Network and Practical Lessons for Web-scale
          Learning to Rank Systems, WWW 2021
        - Guo et al., DeepFM: A Factorization-Machine based Neural Network for CTR Prediction,
          IJCAI 2017
    """
    net = Network(dnn_feature_columns, tower_dnn_units_lists, **options)
    bottom = _checked(net, bottom, bottom_dnn_units)
    x = net.encode()
    if isinstance(bottom, keras.layers.Layer):
        h = _called(bottom, x)
    else:
        h = DNN(bottom_dnn_units, **net.layer("bottom"))(x)
    if bottom == "dcn":
        c = cross_network(x, [net.layer("cross_0"), net.layer("cross_1")])
        h = ops.concatenate([c, h], axis=-1)
    if bottom == "deepfm":
        products = net.layer_name("inner_products")
        terms = factorization_machine(x, *_embeddings(net), net.layer("linear"), products)
        h = ops.concatenate([*terms, h], axis=-1)
    return net.model(net.towers([h] * len(net.tasks)))


def _checked(net: Network, bottom: Any, units: Any) -> Any:
    """Return `bottom`, or raise if no such bottom can be built."""
    if isinstance(bottom, keras.layers.Layer):
        if tuple(units) != _UNITS:
            raise ValueError(
                "`bottom_dnn_units` should be left out where `bottom` is a layer. "
                f"Received: {units!r}"
            )
        encoder = net.layer_name("encoder")
        if bottom.name == encoder or net.layer_name(bottom.name) != bottom.name:
            raise ValueError(
                f"`bottom` should have a name of its own, other than {encoder!r} and the names of "
                f"features and tasks. Received: a layer named {bottom.name!r}"
            )
        return bottom
    if bottom not in _BOTTOMS:
        raise ValueError(
            f"`bottom` should be one of {_BOTTOMS} or a Keras layer. Received: {bottom!r}"
        )
    if bottom != "dnn":
        keras_rs_layers()
    if bottom == "deepfm":
        _embeddings(net)
    return bottom


def _called(layer: Any, x: Any) -> Any:
    """Return a user's layer of x, or raise ValueError if that isn't of shape `(B, H)`."""
    h = layer(x)
    if not isinstance(h, keras.KerasTensor) or len(h.shape) != 2 or h.shape[1] is None:
        raise ValueError(f"`bottom` should return a tensor of shape (B, H). Received: {h}")
    return h


def _embeddings(net: Network) -> tuple[int, int]:
    """Return how many embeddings x begins with, and their size."""
    dim = net.dense_embedding_dim
    numbers = {column.name for column in net.columns if isinstance(column, DenseFeat)}
    sizes = {
        name: len(span)
        for name, span in layout(net.columns, dim).items()
        if dim or name not in numbers
    }
    if len(sizes) < 2 or len(set(sizes.values())) > 1:
        raise ValueError(
            "`bottom='deepfm'` should have at least two embeddings, all of one size (that of "
            f"numbers is `dense_embedding_dim`). Received: {sizes}"
        )
    return len(sizes), next(iter(sizes.values()))
