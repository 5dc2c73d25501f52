"""How a model's compiled metrics are updated: each over the rows of its task that have a label."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from mtl import checks
from mtl.tasks import Task
from mtl.training.evaluation import may_be_nan
from mtl.training.internals import function_of, metrics_by_task
from mtl.training.objective import mask

_told: weakref.WeakSet[Any] = weakref.WeakSet()


def update_metrics(
    compiled: Any,
    tasks: Sequence[Task],
    y: Sequence[Any],
    y_pred: Any,
    sample_weight: Sequence[Any] | None,
    missing: bool,
) -> None:
    """Update a model's compiled metrics with the rows that have a label.

    Args:
        compiled: the metrics container of Keras' trainer.
        tasks: the model's tasks.
        y: labels, one tensor per task.
        y_pred: predictions, in the structure of the outputs.
        sample_weight: None, or weights as `y`.
        missing: bool. Whether there may be missing labels.
    """
    if not compiled.built:
        compiled.build(list(y) if len(tasks) > 1 else y[0], y_pred)
    predictions = [t.shown(p) for t, p in zip(tasks, checks.as_list(y_pred), strict=True)]
    weights = sample_weight or [None] * len(tasks)
    for weighted, by_task in metrics_by_task(compiled):
        for k, (task, metrics) in enumerate(zip(tasks, by_task, strict=bool(by_task))):
            for metric in metrics:
                given = y[k], predictions[k], weights[k] if weighted else None
                if (function := function_of(metric)) is not None:
                    values = function(*given[:2])
                    if len(values.shape) == 0:
                        _update_mean(metric, function, values, *given, missing)
                        continue
                if missing and may_be_nan(y[k]):
                    given = mask(task, *given)[:3]
                    if getattr(metric, "multi_label", False):  # AUC, label by label
                        given = tuple(ops.reshape(v, (-1, task.size)) for v in given)
                metric.update_state(*given)


def _tell_of_mean(metric: Any) -> None:
    """Warn once of a metric that may be another number than its function's."""
    if metric in _told:
        return
    _told.add(metric)
    warnings.warn(
        f"The metric {metric.name!r} should return a number for each row, or be of a class of "
        "keras.metrics: without the rows that have no label, and by sample weights, it is the mean "
        "over rows. Received: one number for a batch",
        stacklevel=2,
    )


def _update_mean(
    metric: Any,
    function: Any,
    value: Any,
    labels: Any,
    predictions: Any,
    weights: Any,
    missing: bool,
) -> None:
    """Update a metric whose function returns one number for a whole batch.

    The metric is the mean over batches, by their rows. Where rows have no label, or weights of
    their own, a batch's number is the mean of what the function returns for each row that counts:
    to take rows out of a batch, or weigh them, is beyond such a function.
    """
    rows = ops.cast(ops.shape(labels)[0], "float32")
    gaps = missing and may_be_nan(labels)
    if weights is None and not gaps:
        keras.metrics.Mean.update_state(metric, value, sample_weight=rows)
        return
    _tell_of_mean(metric)
    valid = ops.all(ops.logical_not(ops.isnan(labels)), axis=-1) if gaps else None
    count = ops.ones_like(labels[:, 0], dtype="float32")
    if weights is not None:
        count = ops.cast(ops.reshape(weights, (-1,)), "float32")
    known = labels
    if valid is not None:
        count = ops.where(valid, count, ops.zeros_like(count))
        known = ops.where(valid[:, None], labels, ops.zeros_like(labels))
    each = ops.vectorized_map(
        lambda row: function(row[0][None], row[1][None]), (known, predictions)
    )
    total = ops.sum(count)
    mean = ops.divide_no_nan(ops.sum(ops.cast(each, "float32") * count), total)
    if weights is None:
        mean = ops.where(ops.all(valid), ops.cast(value, "float32"), mean)
    keras.metrics.Mean.update_state(metric, mean, sample_weight=total)
