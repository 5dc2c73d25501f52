"""Tasks: what a model predicts, from the parallel lists that the factories take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mtl import checks
from mtl.names import safe_name

__all__ = ["Task"]

# Activation of the head, default loss and default metric of each task type.
_TYPES = {
    "binary": ("sigmoid", "binary_crossentropy", "AUC"),
    "regression": ("linear", "mean_squared_error", "mean_absolute_error"),
    "multiclass": ("softmax", "sparse_categorical_crossentropy", "sparse_categorical_accuracy"),
    "multilabel": ("sigmoid", "binary_crossentropy", "binary_accuracy"),
    "lifetime_value": ("lifetime_value", "zero_inflated_lognormal", "mean_absolute_error"),
}
_SIZED = ("multiclass", "multilabel")


@dataclass(frozen=True)
class Task:
    """One task of a model.

    Attributes:
        name: str. The name that the user gave; any non-empty string.
        type: str. "binary", "regression", "multiclass", "multilabel" or "lifetime_value".
        size: int. Outputs: 1, the number of classes or labels, or 4 for "lifetime_value": the
            expected value, P(value > 0), and μ and σ of the logarithm of a value above 0.
        hidden: bool. Whether the model keeps it to itself: its joint losses see the prediction,
            and `extract_task` gives it, but there are no labels for it.
    """

    name: str
    type: str = "binary"
    size: int = 1
    hidden: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise ValueError(f"`task_names` should hold non-empty strings. Received: {self.name!r}")
        if not isinstance(self.type, str) or self.type not in _TYPES:
            raise ValueError(
                f"`task_types` should hold {_expected_types()}. Received: {self.type!r}"
            )
        size = 4 if self.type == "lifetime_value" else 1
        if self.type in _SIZED:
            size = checks.positive_int("task size", self.size)
        if self.type in _SIZED and size < 2:
            raise ValueError(
                f"`task_types` entry {self.type!r} should come with at least 2 classes or labels, "
                f"as ({self.type!r}, 5). Received: {self.size!r}"
            )
        if self.type not in _SIZED and self.size not in (1, size):
            raise ValueError(
                f"`task_types` entry {self.type!r} takes no size. Received: {self.size!r}"
            )
        object.__setattr__(self, "size", size)  # a plain int, for configs

    @property
    def activation(self) -> str:
        """Keras activation of the head, or "lifetime_value"."""
        return _TYPES[self.type][0]

    @property
    def num_logits(self) -> int:
        """How many numbers the head makes its outputs of."""
        return 3 if self.type == "lifetime_value" else self.size

    @property
    def label_size(self) -> int:
        """How many numbers a label has, where it isn't a class number."""
        return 1 if self.type == "lifetime_value" else self.size

    def shown(self, predictions: Any) -> Any:
        """Return what metrics and Keras' losses compare with labels: of values, the expected."""
        return predictions[:, :1] if self.type == "lifetime_value" else predictions

    @property
    def loss(self) -> str:
        """Loss that `compile` uses if none is given: Keras', or "zero_inflated_lognormal"."""
        return _TYPES[self.type][1]

    @property
    def metric(self) -> str:
        """Keras metric that `compile(metrics="default")` uses."""
        return _TYPES[self.type][2]

    @property
    def output_name(self) -> str:
        """The name made safe for every backend: it names the layer, the output and the logs."""
        return safe_name(self.name, "task")


def resolve_tasks(
    num_tasks: int | None = None,
    task_types: Sequence[Any] | None = None,
    task_names: Sequence[str] | None = None,
) -> list[Task]:
    """Make the list of tasks out of the factories' three parallel arguments.

    Each of them may be None where the others tell it; types default to "binary" and names to
    "task_1", "task_2", ….

    Args:
        num_tasks: int or None. Number of tasks.
        task_types: list or None. One entry per task: a type name, or `(type, size)` for
            "multiclass" and "multilabel", e.g. `("multiclass", 5)`.
        task_names: list of str or None. One unique name per task.

    Returns:
        A list of `Task`.

    Raises:
        TypeError: an argument isn't a list (or an int, for `num_tasks`).
        ValueError: lengths disagree, an unknown type, or duplicate names.
    """
    task_types = _entries("task_types", task_types)
    task_names = _entries("task_names", task_names)
    if num_tasks is not None:
        count = checks.positive_int("num_tasks", num_tasks)
    elif task_types is None and task_names is None:
        raise ValueError(
            "One of `num_tasks`, `task_types` and `task_names` should tell the tasks. "
            "Received: None for all three."
        )
    else:
        count = len(task_names if task_names is not None else task_types or ())
    for name, entries in (("task_types", task_types), ("task_names", task_names)):
        if entries is not None and len(entries) != count:
            raise ValueError(
                f"`{name}` should have one entry per task. "
                f"Received: {len(entries)} entries for {count} tasks."
            )
    if count == 0:
        raise ValueError("There should be at least one task. Received: 0 tasks.")
    types = task_types or ["binary"] * count
    names = task_names or [f"task_{i + 1}" for i in range(count)]
    tasks = [_task(name, entry) for name, entry in zip(names, types, strict=True)]
    for attribute in ("name", "output_name"):
        seen: dict[str, str] = {}
        for task in tasks:
            key = getattr(task, attribute)
            if key in seen:
                raise ValueError(
                    "`task_names` should differ from each other"
                    + ("" if attribute == "name" else " after characters unsafe in names become _")
                    + f". Received: {seen[key]!r} and {task.name!r}"
                )
            seen[key] = task.name
    return tasks


class PerTask(tuple[tuple[int, ...], ...]):
    """A default of `tower_dnn_units_lists`: its first list serves every task."""


def per_task(*units: int) -> PerTask:
    """Return the default that gives every task a tower of these widths.

    It looks as the lists for two tasks, with which it was documented from the start.
    """
    return PerTask((units, units))


def tower_units(tower_dnn_units_lists: Any, num_tasks: int) -> list[tuple[int, ...]]:
    """Return the widths of each task's tower.

    Args:
        tower_dnn_units_lists: list of lists of int, one per task, or what `per_task` returned.
        num_tasks: int. Number of tasks.

    Returns:
        A list of `num_tasks` tuples.

    Raises:
        TypeError: no list of lists of integers.
        ValueError: the number of lists isn't the number of tasks.
    """
    name = "tower_dnn_units_lists"
    if isinstance(tower_dnn_units_lists, PerTask):
        return [tower_dnn_units_lists[0]] * num_tasks
    lists = checks.entries(name, tower_dnn_units_lists, "a list of lists, one per task")
    widths = [checks.units(f"{name}[{i}]", entry) for i, entry in enumerate(lists)]
    if len(widths) != num_tasks:
        raise ValueError(
            f"`{name}` should have one list of units per task. "
            f"Received: {len(widths)} lists for {num_tasks} tasks."
        )
    return widths


def _task(name: Any, entry: Any) -> Task:
    if isinstance(entry, str):
        if entry in _SIZED:
            raise ValueError(
                f"`task_types` entry {entry!r} should come with its number of classes or labels, "
                f"as ({entry!r}, 5). Received: {entry!r}"
            )
        return Task(name, entry)
    if isinstance(entry, (tuple, list)) and len(entry) == 2:
        return Task(name, entry[0], entry[1])
    raise ValueError(f"`task_types` should hold {_expected_types()}. Received: {entry!r}")


def _expected_types() -> str:
    return "'binary', 'regression', 'lifetime_value', ('multiclass', size) or ('multilabel', size)"


def _entries(name: str, value: Any) -> list[Any] | None:
    return None if value is None else checks.entries(name, value, "a list with one entry per task")
