"""Pooling of a sequence feature's embeddings into one vector."""

from __future__ import annotations

from typing import Any

from keras import ops


def pool(vectors: Any, mask: Any, weights: Any, combiner: str, weight_norm: bool) -> Any:
    """Combine the valid steps of a sequence; an empty sequence gives zeros.

    As in DeepCTR, weights multiply the vectors before the combiner sees them; with
    `weight_norm` they go through a softmax over the valid steps first.

    Args:
        vectors: tensor of shape `(B, L, dim)`.
        mask: boolean tensor of shape `(B, L)`, True where a step is valid.
        weights: tensor of shape `(B, L, 1)`, or None.
        combiner: str. `"sum"`, `"mean"` or `"max"`.
        weight_norm: bool. Whether to apply a softmax to the weights.

    Returns:
        A tensor of shape `(B, dim)`.
    """
    valid = ops.expand_dims(mask, -1)
    if weights is not None:
        if weight_norm:
            lowest = ops.full_like(weights, -1e9)
            weights = ops.where(valid, weights, lowest)
            # A single step weighs 1; Keras' softmax of one value warns.
            single = weights.shape[1] == 1
            weights = ops.ones_like(weights) if single else ops.softmax(weights, axis=1)
        vectors = vectors * ops.cast(weights, vectors.dtype)
    vectors = ops.where(valid, vectors, ops.zeros_like(vectors))
    count = ops.sum(ops.cast(valid, vectors.dtype), axis=1)
    if combiner == "max" and vectors.shape[0] != 0:  # Keras refuses the maximum of no rows
        # Steps that are no part of the sequence must not win over negative values.
        floor = ops.full_like(vectors, -1e30)
        best = ops.max(ops.where(valid, vectors, floor), axis=1)
        return ops.where(count > 0, best, ops.zeros_like(best))
    total = ops.sum(vectors, axis=1)
    return total / ops.maximum(count, 1) if combiner == "mean" else total


def sequence_mask(ids: Any, lengths: Any) -> Any:
    """Return which steps are valid: those before the length, or those with an id that isn't 0.

    Args:
        ids: integer tensor of shape `(B, L)`.
        lengths: integer tensor of shape `(B, 1)`, or None.

    Returns:
        A boolean tensor of shape `(B, L)`.
    """
    if lengths is None:
        return ops.not_equal(ids, 0)
    return ops.arange(ids.shape[1], dtype="int32") < ops.cast(lengths, "int32")
