"""How much one call of a compiled function does: small steps are lost in the cost of the calls."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import keras

from mtl.optimizers import is_table

# Multiply-adds of one call; forward, on one core, a matter of 10 to 100 ms.
_WORK = 2**29
_MOST_STEPS = 32
_MOST_ROWS = 8192
_BATCH_HOOKS = [
    f"on_{phase}batch_{end}" for phase in ("", "train_", "test_") for end in ("begin", "end")
]


def steps_at_once(model: Any, batch_size: int | None, callbacks: Any) -> int:
    """Return how many training steps to run per call.

    Args:
        model: a built Keras model.
        batch_size: int or None, which is Keras' 32.
        callbacks: the callbacks of `fit`. One that watches batches gets to see each of them, unless
            it has `most_steps`: how many it may miss, or None.

    Returns:
        A number from 1 to 32.
    """
    if keras.backend.backend() == "torch" or any(
        _watches_batches(callback) for callback in keras.tree.flatten(callbacks)
    ):
        return 1
    most: list[int | None] = [
        getattr(callback, "most_steps", None) for callback in keras.tree.flatten(callbacks)
    ]
    fitting = max(_rows(model) // (batch_size or 32), 1)
    return min(fitting, _MOST_STEPS, *(number for number in most if number is not None))


def rows_at_once(model: Any, batch_size: int | None) -> int:
    """Return how many rows to predict per call, which changes nothing but the speed.

    Args:
        model: a built Keras model.
        batch_size: int or None, which is Keras' 32. The least to return.

    Returns:
        The batch size, or a power of two up to 8,192.
    """
    rows = min(max(_rows(model), 1), _MOST_ROWS)
    return int(max(1 << (rows.bit_length() - 1), batch_size or 32))


def padded(have: int, rows: int) -> int:
    """Return a length that few numbers of rows share: XLA compiles anew for each.

    Args:
        have: int. Number of rows to predict, at least one.
        rows: int. Rows per call.

    Returns:
        A multiple of `rows`, or a power of two below it.
    """
    if have > rows:
        return math.ceil(have / rows) * rows
    return min(1 << (have - 1).bit_length(), rows)


def count_parameters(variables: Iterable[Any]) -> int:
    """Return the number of entries of some variables."""
    return sum(math.prod(variable.shape) for variable in variables)


def dense_parameters(model: Any) -> int:
    """Return the number of weights outside of embedding tables: a row's multiply-adds."""
    return count_parameters(v for v in model.weights if not is_table(v))


def _rows(model: Any) -> int:
    """Return how many rows the work of one call is."""
    return _WORK // max(dense_parameters(model), 1)


def _watches_batches(callback: Any) -> bool:
    if not isinstance(callback, keras.callbacks.Callback):
        return callback is not None
    if getattr(callback, "save_freq", None) == "epoch" or hasattr(callback, "most_steps"):
        return False
    return any(
        getattr(getattr(callback, hook), "__func__", None)
        is not getattr(keras.callbacks.Callback, hook)
        for hook in _BATCH_HOOKS
    )
