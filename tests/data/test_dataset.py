import dataclasses
from typing import Any

import numpy as np
import pytest

from mtl.data import MultiTaskData
from mtl.features import DenseFeat, SparseFeat, VarLenSparseFeat
from mtl.tasks import Task


def split(rows=3):
    x = {"a": np.zeros(rows, "int32"), "b": np.zeros((rows, 2), "float32")}
    return x, [np.zeros(rows, "float32"), np.zeros(rows, "float32")]


def make(**changes: Any) -> MultiTaskData:
    arguments = {
        "feature_columns": [SparseFeat("a", 3), DenseFeat("b", 2)],
        "task_names": ["click", "buy"],
        "task_types": ["binary", "regression"],
        "train": split(3),
        "val": None,
        "test": split(2),
    }
    return MultiTaskData(**(arguments | changes))


def test_defaults_and_repr():
    data = make()
    assert data.sample_weight is None
    assert data.truth is None
    assert repr(data) == "MultiTaskData(2 features, tasks: click, buy; rows in train: 3, test: 2)"
    assert "val: 1,000" in repr(make(val=split(1000)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.val = split()


def test_features_can_be_left_out():
    data = make(val=split(1), groups={"train": np.arange(3)})
    less = data.without(["a"])
    assert [column.name for column in less.feature_columns] == ["b"]
    assert [list(part[0]) for part in (less.train, less.val, less.test)] == [["b"]] * 3
    assert less.train[1] is data.train[1]
    assert less.groups is data.groups
    assert make().without(["b"]).val is None
    with pytest.raises(ValueError, match=r"`features` should be one of .*'a'.*Received: 'c'"):
        data.without(["a", "c"])


def test_a_sequence_is_left_out_with_its_length():
    items = VarLenSparseFeat(SparseFeat("items", 4), 3, length_name="length")

    def longer(rows):
        x, y = split(rows)
        more = {"items": np.zeros((rows, 3), "int32"), "length": np.zeros(rows, "int32")}
        return {**x, **more}, y

    columns = [*make().feature_columns, items]
    data = make(feature_columns=columns, train=longer(3), test=longer(2)).without(["items"])
    assert list(data.test[0]) == ["a", "b"]


def test_tasks_are_what_names_and_types_mean():
    data = make(task_types=[("multiclass", 3), "regression"])
    assert data.tasks == [Task("click", "multiclass", 3), Task("buy", "regression")]
    assert data.tasks is data.tasks


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task_types": ["binary"]}, "`task_types` should have one entry per task"),
        ({"train": None}, r"`train` should be a tuple \(x, y\) .* Received: NoneType"),
        ({"test": [1, 2]}, r"`test` should be a tuple \(x, y\) .* Received: list"),
        (
            {"val": ({"a": np.zeros(1)}, [np.zeros(1)] * 2)},
            r"`val` should hold one array per feature of `feature_columns`\. Received: \['b'\]",
        ),
        ({"train": (split()[0], split()[1][:1])}, "Received: 1 arrays for 2 tasks"),
        ({"train": (split(4)[0], split(3)[1])}, "`train` should have 3 rows .* 4 rows in 'a'"),
        (
            {"train": (split()[0], [np.zeros(3), np.zeros(2)])},
            "`train` should have 3 rows in every array. Received: 2 rows in 'labels 1'",
        ),
        ({"sample_weight": {"test": np.zeros(3)}}, r"`sample_weight\['test'\]` should have 2 rows"),
        ({"sample_weight": {"val": np.zeros(3)}}, r"`sample_weight\['val'\]` should belong to a"),
        ({"label_scale": {"click": 2.0}}, r"regression tasks, out of \['buy'\]. Received: 'click'"),
        ({"truth": {"test": {"ctr": np.zeros(3)}}}, r"`truth\['test'\]` .* 3 rows in 'ctr'"),
    ],
)
def test_parts_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)
