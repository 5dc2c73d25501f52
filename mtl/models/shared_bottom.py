"""Shared-Bottom: one network for all tasks, then a tower each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from mtl import checks
from mtl.layers import DNN
from mtl.layers.interactions import call_layer, check_bottom, cross_network, factorization_machine
from mtl.models.assembly import Plan, assemble
from mtl.training.model import MultiTaskModel

_TOWERS = ((64, 32), (64, 32))
_UNITS = (128, 128)


def SharedBottom(
    dnn_feature_columns: Any,
    *,
    num_tasks: int | None = None,
    task_types: Sequence[Any] | None = None,
    task_names: Sequence[str] | None = None,
    bottom: Any = "dnn",
    bottom_dnn_units: Sequence[int] = _UNITS,
    tower_dnn_units_lists: Sequence[Sequence[int]] = _TOWERS,
    dense_embedding_dim: int | None = None,
    l2_reg_embedding: float = 1e-5,
    l2_reg_dnn: float = 0,
    seed: int | None = 1024,
    dnn_dropout: float = 0,
    embedding_dropout: float = 0,
    dnn_activation: Any = "relu",
    dnn_use_bn: bool = False,
    name: str | None = None,
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
        num_tasks: int or None. Number of tasks; may be left out where another argument tells it.
        task_types: list or None. Per task "binary", "regression", `("multiclass", C)` or
            `("multilabel", C)`. Defaults to binary tasks.
        task_names: list of str or None. Any names; outputs carry them, made safe for backends.
            Defaults to "task_1", "task_2", ….
        bottom: "dnn", "dcn", "deepfm", or a Keras layer from `(B, D)` to `(B, H)`. A layer keeps
            its own seed and options; to load the model, its class should be registered, as always
            in Keras. Defaults to "dnn".
        bottom_dnn_units: list of int. Widths of the bottom's DNN. Defaults to (128, 128).
        tower_dnn_units_lists: list of lists of int. Widths of each task's tower.
            Defaults to (64, 32) for every task.
        dense_embedding_dim: int or None. Size to which a linear map of its own takes each numeric
            feature. Defaults to None: the numbers as they are.
        l2_reg_embedding: float. L2 strength on the embeddings that a batch looks up.
            Defaults to 1e-5.
        l2_reg_dnn: float. L2 strength on the kernels of every DNN and cross layer. Defaults to 0.
        seed: int or None. Seed of all weights and dropout. Defaults to 1024.
        dnn_dropout: float in [0, 1). Dropout of every DNN. Defaults to 0.
        embedding_dropout: float in [0, 1). Dropout of the encoded features. Defaults to 0.
        dnn_activation: str or function. Activation of every DNN. Defaults to "relu".
        dnn_use_bn: bool. Batch normalisation in every DNN. Defaults to False.
        name: str or None. Name of the model.

    Returns:
        A `MultiTaskModel`, which is a functional `keras.Model` with one output per task.

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
    plan = Plan(
        dnn_feature_columns,
        num_tasks,
        task_types,
        task_names,
        tower_dnn_units_lists,
        _TOWERS,
        dense_embedding_dim,
        l2_reg_embedding,
        l2_reg_dnn,
        seed,
        dnn_dropout,
        embedding_dropout,
        dnn_activation,
        dnn_use_bn,
        name,
    )
    bottom = check_bottom(plan, bottom)
    bottom_units = checks.units("bottom_dnn_units", bottom_dnn_units)
    if bottom_units != _UNITS and not isinstance(bottom, str):
        raise ValueError(
            "`bottom_dnn_units` should be left out where `bottom` is a layer. "
            f"Received: {bottom_dnn_units!r}"
        )

    def body(x: Any) -> list[Any]:
        if isinstance(bottom, keras.layers.Layer):
            h = call_layer(bottom, x)
        else:
            h = DNN(bottom_units, **plan.options("bottom"))(x)
        if bottom == "dcn":
            h = ops.concatenate([cross_network(plan, x), h], axis=-1)
        if bottom == "deepfm":
            h = ops.concatenate([*factorization_machine(plan, x), h], axis=-1)
        return [h for _ in plan.tasks]

    return assemble(plan, body)
