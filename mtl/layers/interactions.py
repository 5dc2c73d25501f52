"""What a shared bottom may be other than a DNN: interactions of keras-rs, or any Keras layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
from keras import ops

from mtl.features import DenseFeat
from mtl.layers.encoder import layout
from mtl.seeds import glorot

if TYPE_CHECKING:
    from mtl.models.assembly import Plan

_NAMES = ("dnn", "dcn", "deepfm")
_CROSS_LAYERS = 2


def keras_rs_layers() -> Any:
    """Return `keras_rs.layers`.

    Raises:
        ImportError: keras-rs isn't installed.
    """
    try:
        import keras_rs
    except ImportError as error:
        raise ImportError(
            "The bottoms 'dcn' and 'deepfm' need keras-rs: pip install 'keras-mtl[rs]'"
        ) from error
    return keras_rs.layers


def check_bottom(plan: Plan, bottom: Any) -> Any:
    """Return `bottom`, or raise if no such bottom can be built.

    Args:
        plan: the checked arguments.
        bottom: str or Keras layer.

    Raises:
        ImportError: "dcn" or "deepfm" without keras-rs.
        ValueError: neither a known name nor a Keras layer, "deepfm" without two embeddings of one
            size, or a layer whose name is taken.
    """
    if isinstance(bottom, keras.layers.Layer):
        encoder = plan.layer_name("encoder")
        if bottom.name == encoder or plan.layer_name(bottom.name) != bottom.name:
            raise ValueError(
                f"`bottom` should have a name of its own, other than {encoder!r} and the names of "
                f"features and tasks. Received: a layer named {bottom.name!r}"
            )
        return bottom
    if bottom not in _NAMES:
        raise ValueError(
            f"`bottom` should be one of {_NAMES} or a Keras layer. Received: {bottom!r}"
        )
    if bottom != "dnn":
        keras_rs_layers()
    if bottom == "deepfm":
        _fields(plan)
    return bottom


def cross_network(plan: Plan, x: Any) -> Any:
    """Return what cross layers c_{i+1} = x ⊙ (W_i c_i + b_i) + c_i make of x, `(B, D)`."""
    c = x
    for i in range(_CROSS_LAYERS):
        options = plan.options(f"cross_{i}")
        l2_reg = options["l2_reg"]
        cross = keras_rs_layers().FeatureCross(
            kernel_initializer=glorot(options["seed"]),
            kernel_regularizer=keras.regularizers.L2(l2_reg) if l2_reg else None,
            name=options["name"],
        )
        c = cross(x, c)
    return c


def factorization_machine(plan: Plan, x: Any) -> list[Any]:
    """Return the terms of a factorization machine over x: those of first and of second order."""
    options = plan.options("linear")
    linear = keras.layers.Dense(
        1, use_bias=False, kernel_initializer=glorot(options["seed"]), name=options["name"]
    )
    count, dim = _fields(plan)
    ends = [end for end in range(dim, count * dim + 1, dim) if end < x.shape[-1]]
    embeddings = ops.split(x, ends, axis=1)[:count]
    products = keras_rs_layers().DotInteraction(name=plan.layer_name("inner_products"))
    return [linear(x), products(embeddings)]


def call_layer(layer: Any, x: Any) -> Any:
    """Return a user's layer of x, or raise ValueError if that isn't of shape `(B, H)`."""
    h = layer(x)
    if not isinstance(h, keras.KerasTensor) or len(h.shape) != 2 or h.shape[1] is None:
        raise ValueError(f"`bottom` should return a tensor of shape (B, H). Received: {h}")
    return h


def _fields(plan: Plan) -> tuple[int, int]:
    """Return how many embeddings x begins with, and their size."""
    numbers = {column.name for column in plan.columns if isinstance(column, DenseFeat)}
    sizes = {
        name: len(span)
        for name, span in layout(plan.columns, plan.dense_embedding_dim).items()
        if plan.dense_embedding_dim or name not in numbers
    }
    if len(sizes) < 2 or len(set(sizes.values())) > 1:
        raise ValueError(
            "`bottom='deepfm'` should have at least two embeddings, all of one size (that of "
            f"numbers is `dense_embedding_dim`). Received: {sizes}"
        )
    return len(sizes), next(iter(sizes.values()))
