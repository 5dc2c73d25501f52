"""Rows without a label of some task: its logs are NaN, which is said once of an evaluation."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any

import keras
import numpy as np
from keras import ops

from mtl.context import held
from mtl.training.callbacks import with_callbacks

_evaluating: ContextVar[bool] = ContextVar("evaluating", default=False)
_told: ContextVar[set[str] | None] = ContextVar("told", default=None)


def evaluation() -> AbstractContextManager[bool]:
    """Say that what is logged within is of an evaluation."""
    return held(_evaluating, True)


def evaluating() -> bool:
    """Return whether what is logged is of an evaluation."""
    return _evaluating.get()


def evaluations_of_fit() -> AbstractContextManager[Any]:
    """Say once, whatever the number of evaluations within, that a task has no labels."""
    return held(_told, set())


def tell_unseen(seen: Seen) -> None:
    """Warn of the tasks without labels in an evaluation that has ended."""
    told = _told.get()
    unseen = [name for name in seen.unseen() if told is None or name not in told]
    if told is not None:
        told.update(unseen)
    if unseen:
        data = "y" if told is None else "validation_data"
        warnings.warn(
            f"`{data}` should hold labels of every task. Received: none of {unseen}, whose losses "
            "and metrics are NaN",
            stacklevel=4,
        )


class Seen(keras.metrics.Metric):
    """How many labels each task had since the start of an epoch; it puts nothing into the logs.

    A task without labels has no loss and no metrics; one whose labels have no weight, no loss.

    Args:
        names: the tasks' output names.
        others: names of logs that are of no task by itself, whatever they begin with. Defaults to
            none.
    """

    def __init__(self, names: Sequence[str], others: Sequence[str] = ()) -> None:
        super().__init__(name="labels_seen")
        self._names = list(names)
        self._others = set(others)
        self._counts, self._weighted = (
            self.add_variable((len(names),), "zeros", name=name) for name in ("counts", "weighted")
        )

    def update_state(self, y: Sequence[Any], sample_weight: Sequence[Any]) -> None:
        """Count the labels of a batch, and those of them that have a weight.

        Args:
            y: list of labels, one tensor per task, or None.
            sample_weight: list of weights, one tensor per task, or None.
        """
        counts = [_count(label, None) for label in y]
        weighted = [
            count if weight is None else _count(label, weight)
            for count, label, weight in zip(counts, y, sample_weight, strict=True)
        ]
        for variable, more in ((self._counts, counts), (self._weighted, weighted)):
            variable.assign_add(ops.cast(ops.stack(more), variable.dtype))

    def result(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def unseen(self) -> list[str]:
        """Return the output names of tasks without labels; none if no batch was counted."""
        counts = ops.convert_to_numpy(self._counts.value)
        return [n for n, count in zip(self._names, counts, strict=True) if not count]

    def without(self, logs: dict[str, Any], total: bool) -> dict[str, Any]:
        """Return logs in which all of a task without labels is NaN, and the loss if none has any.

        Args:
            logs: dict from name to value.
            total: bool. Whether the loss may become NaN: not amid an epoch of training, which
                callbacks would end for it.
        """
        # Amid training, metrics may be updated where no loss was, which is what counts.
        counted = True if total else ops.any(self._counts > 0)
        nothing, weightless = (
            ops.logical_and(ops.equal(c, 0), counted) for c in (self._counts, self._weighted)
        )
        single = len(self._names) == 1
        values = {}
        for key, value in logs.items():
            names = [n for n in self._names if single or key.startswith(f"{n}_")]
            if key == "loss" and total:
                absent = ops.all(weightless)
            elif names and key not in ("loss", *self._others):
                name = max(names, key=len)
                of_loss = key == f"{name}_loss"
                absent = (weightless if of_loss else nothing)[self._names.index(name)]
            else:
                values[key] = value
                continue
            nan = ops.full_like(value, float("nan"))
            values[key] = ops.where(absent, nan, value)
        return values


def _count(label: Any, weight: Any) -> Any:
    """Return how many labels there are, out of those with a weight unless that is None."""
    if label is None:
        return ops.zeros(())
    known = ops.logical_not(ops.isnan(label)) if may_be_nan(label) else ops.ones_like(label, "bool")
    if weight is not None:
        rows = (-1, *(1,) * (len(label.shape) - 1))
        known = ops.logical_and(known, ops.reshape(weight, rows) > 0)
    return ops.sum(ops.cast(known, "float32"))


class _NoBestOfNothing(keras.callbacks.Callback):
    """Takes back that a callback took the NaN of a task without labels for the best.

    Args:
        watching: list of callbacks that keep a best value: early stopping, checkpoints, rates.
    """

    def __init__(self, watching: Sequence[Any]) -> None:
        super().__init__()
        self._watching = watching

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        for callback in self._watching:
            if callback.best is not None and np.isnan(callback.best):
                callback.best = None
                if hasattr(callback, "best_weights"):
                    callback.best_weights = None


def without_best_of_nothing(callbacks: Any) -> Any:
    """Return the callbacks of `fit`, none of which takes NaN for the best."""
    made = isinstance(callbacks, keras.callbacks.CallbackList)
    every = callbacks.callbacks if made else keras.tree.flatten(callbacks)
    watching = [c for c in every if hasattr(c, "best")]
    return with_callbacks(callbacks, last=_NoBestOfNothing(watching)) if watching else callbacks


def may_be_nan(labels: Any) -> bool:
    """Return whether a tensor is of a type that holds NaN."""
    return bool(keras.backend.is_float_dtype(keras.backend.standardize_dtype(labels.dtype)))
