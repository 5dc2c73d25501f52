"""The rows of a batch: which are real, for others fill it up, and how many all replicas have.

On JAX, devices get equal parts of a batch, and a sum over rows is one over all of them. On
TensorFlow a replica of a distribution strategy sees its own part, of any length, and Keras takes
the mean of the replicas' losses. A mean over rows is therefore a replica's own sum, divided by the
mean number of rows of all replicas: the mean of these is the one over the whole batch.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any

import keras
from keras import ops

from mtl.context import held

_real: ContextVar[Any] = ContextVar("real", default=None)


def real_rows(mask: Any) -> AbstractContextManager[Any]:
    """Say which rows of a batch are real, for the time of a block.

    Args:
        mask: boolean tensor `(B,)`, or None: all.
    """
    return held(_real, mask)


def real() -> Any:
    """Return which rows of the batch are real, `(B,)`, or None: all."""
    return _real.get()


def _replicas() -> Any:
    """Return TensorFlow's context of this replica, or None where there are no others."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return context if context is not None and context.num_replicas_in_sync > 1 else None


def among_replicas() -> bool:
    """Return whether this is one of several replicas, each with a part of the batch."""
    return _replicas() is not None


def meet_replicas() -> None:
    """Wait until all replicas have come here; they run one after another, up to what they share."""
    context = _replicas()
    if context is not None:
        context.merge_call(lambda strategy: None)


def of_this_replica(tensors: Any) -> list[Any]:
    """Return a list of tensors without those that were made on other replicas' devices."""
    context = _replicas()
    if context is None:
        return list(tensors)
    own = keras.tree.flatten(context.devices)
    others = set(context.strategy.extended.worker_devices).difference(own)
    return [tensor for tensor in tensors if tensor.device not in others]


def replicas_mean(number: Any) -> Any:
    """Return the mean over all replicas of a tensor that each has, such as a number of rows."""
    context = _replicas()
    if context is None:
        return number
    if not keras.backend.is_float_dtype(keras.backend.standardize_dtype(number.dtype)):
        number = ops.cast(number, "float32")
    return context.all_reduce("MEAN", number)


def replicas_sum(values: Any) -> Any:
    """Return the sum over all replicas of a tensor that each has."""
    context = _replicas()
    return values if context is None else context.all_reduce("SUM", values)


def of_replicas(values: Any) -> Any:
    """Return a tensor `(B, …)` of the batch with the rows of all replicas."""
    context = _replicas()
    return values if context is None else context.all_gather(values, axis=0)


def count(values: Any) -> Any:
    """Return how many rows of a tensor `(B, …)` of the batch are real.

    Of several replicas it is the mean, whatever this one has.
    """
    mask = real()
    own = ops.shape(values)[0] if mask is None else ops.sum(ops.cast(mask, "float32"))
    return replicas_mean(ops.convert_to_tensor(own)) if among_replicas() else own


def only_real(values: Any, otherwise: float = 0) -> Any:
    """Return a tensor `(B, …)` of the batch with another value in rows that aren't real."""
    mask = real()
    if mask is None:
        return values
    mask = ops.reshape(mask, (-1, *(1,) * (len(values.shape) - 1)))
    return ops.where(mask, values, ops.full_like(values, otherwise))


def mean(values: Any) -> Any:
    """Return the mean of a tensor `(B, 1)` or `(B,)` over the real rows."""
    if real() is None and not among_replicas():
        return ops.mean(values)
    total = ops.sum(only_real(values))
    return ops.divide_no_nan(total, ops.cast(count(values), total.dtype))
