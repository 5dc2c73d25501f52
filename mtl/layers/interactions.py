"""Interactions of features, by the layers of keras-rs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from mtl.seeds import glorot


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


def cross_network(x: Any, layers: Sequence[Mapping[str, Any]]) -> Any:
    """Return what cross layers c_{i+1} = x ⊙ (W_i c_i + b_i) + c_i make of x.

    Args:
        x: tensor `(B, D)`.
        layers: list of dicts with the name, the seed and the `l2_reg` of each layer.

    Returns:
        A tensor `(B, D)`.
    """
    c = x
    for layer in layers:
        cross = keras_rs_layers().FeatureCross(
            kernel_initializer=glorot(layer["seed"]),
            kernel_regularizer=keras.regularizers.L2(layer["l2_reg"]) if layer["l2_reg"] else None,
            name=layer["name"],
        )
        c = cross(x, c)
    return c


def factorization_machine(
    x: Any, count: int, dim: int, linear: Mapping[str, Any], products: str
) -> list[Any]:
    """Return the terms of a factorization machine over x: those of first and of second order.

    Args:
        x: tensor `(B, D)` that begins with embeddings.
        count: int. Number of embeddings.
        dim: int. Size of each.
        linear: dict with the name and the seed of the layer of first order.
        products: str. Name of the layer of second order.

    Returns:
        A list of two tensors: w · x `(B, 1)`, and the inner products, one per pair.
    """
    first = keras.layers.Dense(
        1, use_bias=False, kernel_initializer=glorot(linear["seed"]), name=linear["name"]
    )
    ends = [end for end in range(dim, count * dim + 1, dim) if end < x.shape[-1]]
    embeddings = ops.split(x, ends, axis=1)[:count]
    return [first(x), keras_rs_layers().DotInteraction(name=products)(embeddings)]
