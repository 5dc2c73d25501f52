"""Which rows of a batch are real: the others fill it up, so that devices get equal parts."""

from __future__ import annotations

from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any

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


def count(values: Any) -> Any:
    """Return how many rows of a tensor `(B, …)` of the batch are real."""
    mask = real()
    return ops.shape(values)[0] if mask is None else ops.sum(ops.cast(mask, "float32"))


def only_real(values: Any) -> Any:
    """Return a tensor `(B, …)` of the batch with zeros in rows that aren't real."""
    mask = real()
    if mask is None:
        return values
    mask = ops.reshape(mask, (-1, *(1,) * (len(values.shape) - 1)))
    return ops.where(mask, values, ops.zeros_like(values))


def mean(values: Any) -> Any:
    """Return the mean of a tensor `(B, 1)` or `(B,)` over the real rows."""
    if real() is None:
        return ops.mean(values)
    total = ops.sum(only_real(values))
    return ops.divide_no_nan(total, ops.cast(count(values), total.dtype))
