"""What `compile` and the trainer are given, spread over the tasks in task order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from mtl import checks
from mtl.tasks import Task
from mtl.training.auc import StreamingAUC
from mtl.training.kinds import Kind


def spread_losses(tasks: Sequence[Task], loss: Any) -> list[Any]:
    """Return one loss per task; None stands for each task's default.

    Args:
        tasks: the model's tasks.
        loss: one loss, a list of one or of one per task, a dict by task name, or None.

    Returns:
        A list with one loss, or None, per task.

    Raises:
        ValueError: a dict names an unknown task, or a list has another number of entries.
    """
    if loss is None:
        losses = [task.loss for task in tasks]
    elif isinstance(loss, (Mapping, list, tuple)):
        losses = _entries(tasks, "loss", loss)
    else:
        losses = [loss] * len(tasks)
    return losses


def spread_loss_weights(tasks: Sequence[Task], loss_weights: Any) -> list[float] | None:
    """Return one float per task, or None; tasks that a dict doesn't name weigh 1.

    Args:
        tasks: the model's tasks.
        loss_weights: one number, a list of one or of one per task, a dict by task name, or None.

    Raises:
        TypeError: a weight that is no number.
        ValueError: a negative weight, one that isn't finite, an unknown task, or a list of another
            number of entries.
    """
    if loss_weights is None:
        return None
    if isinstance(loss_weights, (Mapping, list, tuple)):
        entries = _entries(tasks, "loss_weights", loss_weights)
    else:
        entries = [loss_weights] * len(tasks)
    return [
        1.0 if weight is None else _loss_weight(task, weight)
        for task, weight in zip(tasks, entries, strict=True)
    ]


def spread_metrics(
    tasks: Sequence[Task], argument: str, metrics: Any, kinds: Sequence[Kind | None]
) -> Any:
    """Return one list of metrics per task, as Keras takes them, or None.

    Args:
        tasks: the model's tasks.
        argument: str. Name of the argument, for errors.
        metrics: as in `metric_lists`.
        kinds: what each task's loss takes, None for any labels; "default" goes by it.

    Returns:
        A list of lists, or a flat list for a single task, or None. A metric object that serves
        several tasks is copied: each task needs a state of its own.

    Raises:
        ValueError: a dict names an unknown task, a nested list has another number of entries, or
            an AUC for a task that has none.
    """
    if metrics is None:
        return None
    lists = [
        [_own(task, argument, metric, kind, index) for metric in metrics_of_task]
        for index, (task, kind, metrics_of_task) in enumerate(
            zip(tasks, kinds, metric_lists(tasks, argument, metrics), strict=True)
        )
    ]
    return lists if len(tasks) > 1 else lists[0]


def metric_lists(tasks: Sequence[Task], argument: str, metrics: Any) -> list[list[Any]]:
    """Return one list of metrics per task, as they were given.

    Args:
        tasks: the model's tasks.
        argument: str. Name of the argument, for errors.
        metrics: one metric or a flat list of metrics for every task, a list with one entry (a
            metric or a list of them) per task, or a dict by task name. `"default"` is a metric.

    Raises:
        ValueError: a dict names an unknown task, or a nested list has another number of entries.
    """
    if isinstance(metrics, Mapping):
        entries = _entries(tasks, argument, metrics)
    elif not isinstance(metrics, (list, tuple)):
        entries = [metrics] * len(tasks)
    elif len(metrics) == len(tasks) > 1 or any(isinstance(m, (list, tuple)) for m in metrics):
        entries = _entries(tasks, argument, metrics)
    else:
        entries = [metrics] * len(tasks)
    return [checks.as_list(entry) for entry in entries]


def by_task(tasks: Sequence[Task], argument: str, values: Any) -> list[Any] | None:
    """Return labels or sample weights of a batch, one tensor per task.

    Args:
        tasks: the model's tasks.
        argument: str. `"y"` or `"sample_weight"`; a dict of labels may hold more than the tasks',
            one weight means every task, and one tensor of labels a single task.
        values: None, a tensor, or a list, tuple or dict of tensors with one entry per task.

    Returns:
        None, or a list in task order of tensors `(B, 1)` or `(B, size)`, or None for those that a
        dict doesn't name.

    Raises:
        ValueError: another number of tensors than tasks, or weights of an unknown task.
    """
    if values is None:
        return None
    if isinstance(values, Mapping):
        weights = argument == "sample_weight"
        found = known_entries(tasks, argument, values) if weights else _picked(tasks, values)
    elif isinstance(values, (list, tuple)):
        found = list(values)
    elif len(tasks) == 1 or argument == "sample_weight":
        found = [values] * len(tasks)
    else:
        raise ValueError(
            f"`{argument}` should be a tuple with one array per task, or a dict by task name, for "
            f"the tasks {[task.name for task in tasks]} (tf.data makes one array of a list). "
            f"Received: an array of shape {tuple(values.shape)}"
        )
    if len(found) != len(tasks):
        raise ValueError(
            f"`{argument}` should have one array per task {[task.name for task in tasks]}. "
            f"Received: {len(found)} arrays for {len(tasks)} tasks."
        )
    return [_column(value) for value in found]


def known_entries(tasks: Sequence[Task], argument: str, values: Any) -> list[Any]:
    """Return a dict's entry per task, None where it has none.

    Args:
        tasks: the model's tasks.
        argument: str. Name of the argument, for errors.
        values: dict or DataFrame by task name or output name.

    Returns:
        A list in task order.

    Raises:
        ValueError: the dict names an unknown task.
    """
    names = {task.name for task in tasks} | {task.output_name for task in tasks}
    unknown = [key for key in values if key not in names]
    if unknown:
        raise ValueError(
            f"`{argument}` should name tasks out of {[task.name for task in tasks]}. "
            f"Received: {unknown}"
        )
    return _picked(tasks, values)


def _loss_weight(task: Task, weight: Any) -> float:
    name = f"loss_weights[{task.name!r}]"
    expected = (
        "a non-negative number; it is read once: compile again to change it, or balance the tasks "
        "(mtl.balancing)"
    )
    return checks.non_negative_float(name, checks.number(name, weight, expected))


def _default_metric(task: Task, kind: Kind | None) -> str:
    if task.type != "multiclass" or kind is None:
        return task.metric
    by_form = {"one-hot": "categorical_accuracy", "either": "accuracy"}  # the latter by the shapes
    return by_form.get(kind.form, task.metric)


def _picked(tasks: Sequence[Task], values: Any) -> list[Any]:
    return [values.get(task.name, values.get(task.output_name)) for task in tasks]


def _column(value: Any) -> Any:
    """Return a tensor `(B,)` as `(B, 1)`; beside predictions it would broadcast to `(B, B)`."""
    return value[:, None] if value is not None and len(value.shape) == 1 else value


def _entries(tasks: Sequence[Task], argument: str, values: Any) -> list[Any]:
    """Return one entry per task out of a dict by task name or a list."""
    if isinstance(values, Mapping):
        return known_entries(tasks, argument, values)
    if len(values) == 1:
        return [values[0]] * len(tasks)
    if len(values) != len(tasks):
        raise ValueError(
            f"`{argument}` should have one entry per task. "
            f"Received: {len(values)} entries for {len(tasks)} tasks."
        )
    return list(values)


def _own(task: Task, argument: str, metric: Any, kind: Kind | None, index: int) -> Any:
    """Return a task's own metric: a copy for every task but the first, and our AUC by its name."""
    if isinstance(metric, str) and metric == "default":
        metric = _default_metric(task, kind)
    named = isinstance(metric, str) and metric.lower() == "auc"
    if named or isinstance(metric, (keras.metrics.AUC, StreamingAUC)):
        _check_auc(task, argument, metric, kind)
    if named and task.type == "binary":
        return StreamingAUC(name=metric)
    copied = index and isinstance(metric, keras.metrics.Metric)
    return type(metric).from_config(metric.get_config()) if copied else metric


def _check_auc(task: Task, argument: str, metric: Any, kind: Kind | None) -> None:
    """Raise a ValueError for a task whose labels aren't 0 and 1: the number would be senseless."""
    classes = task.type == "multiclass" and kind is not None and kind.form == "classes"
    # A cross-entropy makes probabilities of what is called a regression.
    likely = kind is not None and kind.form == "probabilities"
    amounts = task.type == "lifetime_value" or (task.type == "regression" and not likely)
    if classes or amounts:
        name = metric if isinstance(metric, str) else metric.name
        raise ValueError(
            f"`{argument}` should hold an AUC for binary tasks and labels alone: give a dict by "
            f"task name, or 'default'. Received: {name!r} for {task.name!r}, a task of type "
            f"{task.type!r}"
        )
