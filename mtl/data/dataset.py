"""MultiTaskData: what every loader returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from mtl import checks
from mtl.features import get_feature_names
from mtl.tasks import Task, resolve_tasks

Array = npt.NDArray[Any]
Split = tuple[dict[str, Array], list[Array]]
SPLITS = ("train", "val", "test")


@dataclass(frozen=True, repr=False, eq=False)
class MultiTaskData:
    """A multi-task data set: its inputs, its tasks and its splits.

    ```python
    data = load_census_income()
    model = MMoE(data.feature_columns, task_names=data.task_names, task_types=data.task_types)
    model.compile("adam")
    model.fit(*data.train, validation_data=data.val, batch_size=1024)
    ```

    Attributes:
        feature_columns: list of `SparseFeat` and `DenseFeat`. One per entry of x.
        task_names: list of str. One unique name per task.
        task_types: list. One type per task, e.g. "binary", or ("multiclass", 5).
        train: tuple `(x, y)`. x is a dict of arrays by feature name, (N,) int32 ids or float32
            numbers ((N, D) for a `DenseFeat` of dimension D); y is a list of (N,) float32 arrays
            in task order.
        val: tuple as `train`, or None where the protocol has no validation rows.
        test: tuple as `train`.
        sample_weight: dict of (N,) float32 arrays by split ("train", "val", "test"), or None
            where rows count the same. "val" is absent where `val` is None.
        truth: dict by split of dicts by name of (N,) float32 arrays, or None: true probabilities
            or noise-free targets, which only synthetic data knows.
        groups: dict by split of (N,) arrays, or None: what group AUC groups the rows by, such as
            the user's id.
        label_scale: dict of float by regression task, or None: what its labels were divided by.
            Errors times it are in the label's own unit.

    Raises:
        ValueError: a split doesn't fit the columns or the tasks, or its arrays differ in rows.
    """

    feature_columns: list[Any]
    task_names: list[str]
    task_types: list[Any]
    train: Split
    val: Split | None
    test: Split
    sample_weight: dict[str, Array] | None = None
    truth: dict[str, dict[str, Array]] | None = None
    label_scale: dict[str, float] | None = None
    groups: dict[str, Array] | None = None

    def __post_init__(self) -> None:
        names = get_feature_names(self.feature_columns)
        rows = {
            split: _check_split(split, data, names, len(self.tasks))
            for split in SPLITS
            if (data := getattr(self, split)) is not None or split != "val"
        }
        for split, weights in (self.sample_weight or {}).items():
            _check_rows(f"sample_weight[{split!r}]", {"weights": weights}, rows.get(split))
        for split, groups in (self.groups or {}).items():
            _check_rows(f"groups[{split!r}]", {"groups": groups}, rows.get(split))
        for split, truth in (self.truth or {}).items():
            _check_rows(f"truth[{split!r}]", truth, rows.get(split))
        regressions = [task.name for task in self.tasks if task.type == "regression"]
        for task in self.label_scale or {}:
            if task not in regressions:
                raise ValueError(
                    f"`label_scale` should name regression tasks, out of {regressions}. "
                    f"Received: {task!r}"
                )

    @cached_property
    def tasks(self) -> list[Task]:
        """The tasks that the names and types mean."""
        return resolve_tasks(task_names=self.task_names, task_types=self.task_types)

    def groups_of(self, split: str) -> Array | None:
        """Return the (N,) groups of a split's rows, or None where it has none."""
        return (self.groups or {}).get(split)

    def refitted(self) -> MultiTaskData:
        """Return the data whose validation rows are training rows: for a last fit, all chosen."""
        if self.val is None:
            return self

        def joined(train: Any, val: Any) -> Any:
            return keras.tree.map_structure(lambda *parts: np.concatenate(parts), train, val)

        beside: dict[str, Any] = {
            name: {"train": joined(parts["train"], parts["val"]), "test": parts["test"]}
            for name in ("sample_weight", "truth", "groups")
            if (parts := getattr(self, name)) is not None
        }
        return replace(self, train=joined(self.train, self.val), val=None, **beside)

    def without(self, features: Sequence[str]) -> MultiTaskData:
        """Return the data without some features, and without the lengths and weights of sequences.

        Args:
            features: list of str. Names of feature columns.

        Raises:
            ValueError: there is no such feature.
        """
        known = [column.name for column in self.feature_columns]
        for name in features:
            checks.one_of(*known)("features", name)
        kept = [column for column in self.feature_columns if column.name not in features]
        names = get_feature_names(kept)
        splits: dict[str, Any] = {
            split: ({name: data[0][name] for name in names}, data[1])
            for split in SPLITS
            if (data := getattr(self, split)) is not None
        }
        return replace(self, feature_columns=kept, **splits)

    def __repr__(self) -> str:
        rows = ", ".join(
            f"{split}: {len(data[1][0]):,}"
            for split in SPLITS
            if (data := getattr(self, split)) is not None
        )
        return (
            f"MultiTaskData({len(self.feature_columns)} features, "
            f"tasks: {', '.join(self.task_names)}; rows in {rows})"
        )


def take(x: Mapping[str, Array], y: Sequence[Array], rows: Any) -> Split:
    """Return some rows, a slice or an index, of inputs and labels."""
    return {name: values[rows] for name, values in x.items()}, [labels[rows] for labels in y]


def _check_split(split: str, data: Any, names: list[str], num_tasks: int) -> int:
    if not isinstance(data, tuple) or len(data) != 2 or not isinstance(data[0], Mapping):
        raise ValueError(
            f"`{split}` should be a tuple (x, y) with x a dict of arrays by feature name. "
            f"Received: {type(data).__name__}"
        )
    x, y = data
    if set(x) != set(names):
        difference = sorted(set(x) ^ set(names))
        raise ValueError(
            f"`{split}` should hold one array per feature of `feature_columns`. "
            f"Received: {difference} in one of them only"
        )
    if len(y) != num_tasks:
        raise ValueError(
            f"`{split}` should have one array of labels per task. "
            f"Received: {len(y)} arrays for {num_tasks} tasks."
        )
    rows = len(y[0])
    _check_rows(split, {**x, **{f"labels {i}": labels for i, labels in enumerate(y)}}, rows)
    return rows


def _check_rows(name: str, arrays: Mapping[str, Array], rows: int | None) -> None:
    if rows is None:
        raise ValueError(
            f"`{name}` should belong to a split of the data, one of {SPLITS}. "
            "Received: no such split."
        )
    for key, array in arrays.items():
        if len(array) != rows:
            raise ValueError(
                f"`{name}` should have {rows} rows in every array. "
                f"Received: {len(array)} rows in {key!r}"
            )
