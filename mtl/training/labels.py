"""What users pass as labels and sample weights, checked and put into the model's structure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import pandas as pd

from mtl import checks
from mtl.tasks import Task
from mtl.training import host
from mtl.training.kinds import Kind, check_shape
from mtl.training.spread import known_entries

_GREATEST = float(np.finfo("float32").max)


def check_labels(
    tasks: Sequence[Task],
    y: Any,
    kinds: Sequence[Kind | None] = (),
    rows: int | None = None,
) -> Any:
    """Return labels in task order.

    Args:
        tasks: the model's tasks.
        y: list in task order, dict, DataFrame or pyarrow table by task name, one array for a
            single task, or None. Each label array has shape `(N,)`, `(N, 1)` or, for several
            classes or labels, `(N, size)`. What is None, NaN, NA or masked is missing.
        kinds: what each task's loss takes. Defaults to nothing: any numbers.
        rows: int or None. Number of rows that there should be. Defaults to None: any.

    Returns:
        A list of arrays `(N, 1)` or `(N, size)` in which missing labels are NaN, one array for a
        single task, or None.

    Raises:
        TypeError: labels that are no numbers.
        ValueError: a missing task, a wrong number of arrays or of rows, a wrong shape, infinite
            labels, missing ones in an array of integers, or labels that the task's loss doesn't
            take.
    """
    if y is None:
        return None
    labels = _in_task_order(tasks, "y", y)
    check_every_task(tasks, labels)
    kinds = kinds or [None] * len(tasks)
    checked = [_label(*given, rows) for given in zip(tasks, labels, kinds, strict=True)]
    return checked if len(tasks) > 1 else checked[0]


def check_every_task(tasks: Sequence[Task], labels: Sequence[Any]) -> None:
    """Raise a ValueError if the labels of a task, out of those in task order, are None."""
    absent = [task.name for task, label in zip(tasks, labels, strict=True) if label is None]
    if absent:
        raise ValueError(
            f"`y` should hold labels of every task. Received: none of {absent} (a missing label "
            "is NaN)"
        )


def check_sample_weights(tasks: Sequence[Task], sample_weight: Any, rows: int | None) -> Any:
    """Return one array of sample weights per task, or None.

    Args:
        tasks: the model's tasks.
        sample_weight: one array for every task, a list in task order, a dict, DataFrame or pyarrow
            table by task name, or None. Tasks that a dict, table or list leaves out weigh 1.
        rows: int or None. Number of rows that there should be; None means any.

    Returns:
        A list of arrays `(N, 1)`, one array for a single task, or None.

    Raises:
        TypeError: weights that are no numbers.
        ValueError: an unknown task, a wrong number of arrays or of rows, a wrong shape, weights
            that aren't finite, or negative ones.
    """
    if sample_weight is None:
        return None
    sample_weight = host.by_name("sample_weight", sample_weight)
    if isinstance(sample_weight, (Mapping, pd.DataFrame)):
        weights = known_entries(tasks, "sample_weight", sample_weight)
    elif isinstance(sample_weight, (list, tuple)):
        weights = _in_task_order(tasks, "sample_weight", sample_weight)
    else:
        weights = [sample_weight] * len(tasks)
    done: dict[int, np.ndarray] = {}  # one array for every task is checked once
    checked = []
    for task, weight in zip(tasks, weights, strict=True):
        if id(weight) not in done:
            done[id(weight)] = _weight(task, weight, rows)
        checked.append(done[id(weight)])
    return checked if len(tasks) > 1 else checked[0]


def check_class_weights(
    tasks: Sequence[Task], class_weight: Any
) -> list[Mapping[int, float] | None] | None:
    """Return each task's weights by class, None for those that have none; or None.

    Args:
        tasks: the model's tasks.
        class_weight: dict by task name of dicts from class to weight, the latter alone for a
            single task, or None.

    Raises:
        TypeError: no such dict.
        ValueError: an unknown task or class, a task without classes, or a negative weight.
    """
    if class_weight is None:
        return None
    if not isinstance(class_weight, Mapping):
        raise TypeError(f"`class_weight` should be a dict. Received: {class_weight!r}")
    if any(
        isinstance(value, Mapping) or isinstance(key, str) for key, value in class_weight.items()
    ):
        entries = known_entries(tasks, "class_weight", class_weight)
    elif len(tasks) == 1:
        entries = [class_weight]
    else:
        raise ValueError(
            "`class_weight` should be a dict by task name, such as "
            f"{{{tasks[0].name!r}: {dict(class_weight)}}}, for several tasks. "
            f"Received: {class_weight!r}"
        )
    for task, entry in zip(tasks, entries, strict=True):
        name = f"class_weight[{task.name!r}]"
        if entry is None:
            continue
        if not isinstance(entry, Mapping):
            raise TypeError(f"`{name}` should be a dict from class to weight. Received: {entry!r}")
        if task.type not in ("binary", "multiclass"):
            raise ValueError(
                f"`{name}` should be left out: a task of type {task.type!r} has no classes. "
                f"Received: {entry!r}"
            )
        classes = range(max(task.size, 2))
        if unknown := [label for label in entry if label not in classes]:
            raise ValueError(
                f"`{name}` should have classes from 0 to {classes[-1]} for keys. "
                f"Received: {unknown}"
            )
        for label, weight in entry.items():
            checks.non_negative_float(f"{name}[{label!r}]", weight)
    return entries


def weighted_by_class(
    tasks: Sequence[Task], y: Any, sample_weight: Any, class_weight: Sequence[Any]
) -> Any:
    """Return sample weights times those of the rows' classes; 1 for classes without a weight.

    Args:
        tasks: the model's tasks.
        y: checked labels.
        sample_weight: checked sample weights, or None.
        class_weight: what `check_class_weights` returned.
    """
    labels = checks.as_list(y)
    before = checks.as_list(sample_weight) or [None] * len(tasks)
    after = []
    for label, weight, by_class in zip(labels, before, class_weight, strict=True):
        factors = np.ones((len(label), 1), "float32") if weight is None else weight
        if by_class:
            factors = factors.copy()
            one_hot = label.shape[1] > 1
            classes = label.argmax(axis=1)[:, None] if one_hot else label
            for number, factor in by_class.items():
                factors[classes == number] *= factor
        after.append(factors)
    return after if len(tasks) > 1 else after[0]


def any_without_weight(sample_weight: Any) -> bool:
    """Return whether, of checked sample weights in any structure, those of a task are all 0."""
    return any(w is not None and not w.any() for w in keras.tree.flatten(sample_weight))


def any_missing(labels: Any) -> bool:
    """Return whether checked labels, in any structure, hold a NaN; tensors count as if they did."""
    for label in keras.tree.flatten(labels):
        if label is None:
            continue
        if not isinstance(label, np.ndarray) or (label.dtype.kind == "f" and np.isnan(label).any()):
            return True
    return False


def check_some_labels(tasks: Sequence[Task], argument: str, labels: Any) -> None:
    """Raise a ValueError if a task has no label at all in checked labels.

    Args:
        tasks: the model's tasks.
        argument: str. Name of the argument, for errors.
        labels: what `check_labels` returned.
    """
    for task, label in zip(tasks, checks.as_list(labels), strict=False):
        if isinstance(label, np.ndarray) and label.dtype.kind == "f" and np.isnan(label).all():
            raise ValueError(
                f"`{argument}` should hold at least one label of every task. "
                f"Received: {len(label)} missing labels (NaN) of {task.name!r}, and no other"
            )


def _in_task_order(tasks: Sequence[Task], argument: str, values: Any) -> list[Any]:
    names = [task.name for task in tasks]
    values = host.by_name(argument, values)
    if isinstance(values, (Mapping, pd.DataFrame)):
        missing = [t.name for t in tasks if t.name not in values and t.output_name not in values]
        if missing:
            raise ValueError(
                f"`{argument}` should hold labels of every task of {names}. Missing: {missing}. "
                f"Received: {list(values)}"
            )
        return [values[t.name] if t.name in values else values[t.output_name] for t in tasks]
    if isinstance(values, (list, tuple)) and not (len(tasks) == 1 and _is_scalar_list(values)):
        if len(values) != len(tasks):
            raise ValueError(
                f"`{argument}` should have one array per task {names}. "
                f"Received: {len(values)} arrays for {len(tasks)} tasks."
            )
        return list(values)
    if len(tasks) == 1:
        return [values]
    raise ValueError(
        f"`{argument}` should be a list with one array per task, or a dict by task name, for the "
        f"tasks {names}. Received: {host.describe(values)}"
    )


def _label(task: Task, label: Any, kind: Kind | None, rows: int | None) -> np.ndarray:
    """Return a task's labels, as floats or, for classes without missing ones, 32-bit integers."""
    name = f"y[{task.name!r}]"
    array = host.numbers(name, host.array_of(name, label), finite=False)
    low, high = _range(array)
    if array.dtype.kind == "i" and array.dtype.itemsize >= 4 and low == np.iinfo(array.dtype).min:
        raise ValueError(
            f"`{name}` should be of a float type where labels are missing (as NaN). "
            f"Received: {low}, which is what NaN becomes in {array.dtype}"
        )
    if max(-float(low), float(high)) > _GREATEST:
        wrong = array[np.abs(array) > _GREATEST]
        raise ValueError(
            f"`{name}` should hold finite labels, or NaN for missing ones. "
            f"Received: {wrong.size} values such as {wrong.flat[0]}"
        )
    check_shape(task, kind, array if array.ndim != 1 else array[:, None])
    array = host.shaped(name, array, *shapes_of(task, kind))
    _check_rows(name, array, rows)
    if kind is not None:
        _check_kind(name, task, array, kind, low, high)
    if array.dtype.kind != "f":
        small = task.type == "multiclass" and low >= -(2**31) and high < 2**31
        return array.astype("int32" if small else "float32", copy=False)
    return array.astype("float32", copy=False) if array.dtype.itemsize > 4 else array


def _range(array: np.ndarray) -> tuple[Any, Any]:
    """Return the least and the greatest of numbers, 0 if there are none; NaN is left out."""
    if not array.size:
        return 0, 0
    flat = array.reshape(-1)
    low, high = np.fmin.reduce(flat), np.fmax.reduce(flat)
    return (0, 0) if np.isnan(low) else (low, high)


def shapes_of(task: Task, kind: Kind | None) -> list[tuple[int, ...]]:
    """Return the shapes that a row of labels may have."""
    if task.type != "multiclass":
        return [(task.label_size,)]
    by_form: dict[str, list[tuple[int, ...]]] = {"classes": [(1,)], "one-hot": [(task.size,)]}
    return by_form.get(kind.form if kind else "either", [(task.size,), (1,)])


def _check_kind(name: str, task: Task, array: np.ndarray, kind: Kind, low: Any, high: Any) -> None:
    classes = kind.by_class(task, array.shape[1])
    most = kind.greatest(task, array.shape[1])
    fractions = classes and array.dtype.kind == "f"
    if low >= 0 and high <= most and not fractions:
        return
    wrong = array[~kind.valid(task, array)]
    if not wrong.size:
        return
    expected = f"classes from 0 to {most}" if classes else "labels from 0 to 1"
    if kind.form == "amounts":
        expected = "amounts of at least 0"
    hint = " (a missing label is NaN, not -1)" if (wrong == -1).any() else ""
    raise ValueError(
        f"`{name}` should hold {expected} for its loss {kind.loss}. "
        f"Received: {wrong.size} values such as {wrong.flat[0]}{hint}"
    )


def _weight(task: Task, weight: Any, rows: int | None) -> np.ndarray:
    if weight is None:
        return np.ones((rows or 0, 1), "float32")
    name = f"sample_weight[{task.name!r}]"
    array = host.numbers(name, host.array_of(name, weight), finite=True)
    array = host.shaped(name, array.astype("float32", copy=False), (1,))
    _check_rows(name, array, rows)
    if array.size and array.min() < 0:
        raise ValueError(f"`{name}` should hold weights of at least 0. Received: {array.min()}")
    return array


def _check_rows(name: str, array: np.ndarray, rows: int | None) -> None:
    """Raise a ValueError for another number of rows, which would be broadcast."""
    if rows is not None and len(array) != rows:
        raise ValueError(
            f"`{name}` should have as many rows as `x`, {rows}. Received: {len(array)}"
        )


def _is_scalar_list(values: Sequence[Any]) -> bool:
    first = values[0] if values else []
    return np.isscalar(first) or first is pd.NA or (first is None and len(values) > 1)
