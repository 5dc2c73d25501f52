import dataclasses
import json
import re

import numpy as np
import pytest

from mtl.tasks import Task, per_task, resolve_tasks, tower_units

DEFAULT = per_task(64, 32)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"num_tasks": 2}, [("task_1", "binary", 1), ("task_2", "binary", 1)]),
        ({"num_tasks": np.int64(1)}, [("task_1", "binary", 1)]),
        ({"task_names": ("a", "b b")}, [("a", "binary", 1), ("b b", "binary", 1)]),
        (
            {"task_types": ["regression", ("multiclass", 5)]},
            [("task_1", "regression", 1), ("task_2", "multiclass", 5)],
        ),
        (
            {"task_types": [["multilabel", 3], ("binary", 1)], "task_names": ["x", "y"]},
            [("x", "multilabel", 3), ("y", "binary", 1)],
        ),
        (
            {"num_tasks": 1, "task_types": ("regression",), "task_names": ["rent"]},
            [("rent", "regression", 1)],
        ),
    ],
)
def test_tasks_come_from_whichever_lists_are_given(arguments, expected):
    tasks = resolve_tasks(**arguments)
    assert [(task.name, task.type, task.size) for task in tasks] == expected
    assert not any(task.hidden for task in tasks)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "Received: None for all three"),
        ({"num_tasks": 0}, ValueError, "`num_tasks` should be a positive integer. Received: 0"),
        ({"num_tasks": 2.0}, TypeError, "`num_tasks` should be a positive integer. Received: 2.0"),
        ({"num_tasks": True}, TypeError, "`num_tasks`.* Received: True"),
        ({"task_names": []}, ValueError, "at least one task. Received: 0 tasks"),
        ({"task_types": []}, ValueError, "at least one task. Received: 0 tasks"),
        ({"task_names": "ctr"}, TypeError, "`task_names` should be a list .* Received: 'ctr'"),
        ({"task_types": "binary"}, TypeError, "`task_types` should be a list .* 'binary'"),
        ({"task_types": 3}, TypeError, "`task_types` should be a list .* Received: 3"),
        (
            {"num_tasks": 2, "task_types": ["binary"] * 3},
            ValueError,
            "`task_types` should have one entry per task. Received: 3 entries for 2 tasks.",
        ),
        (
            {"num_tasks": 3, "task_names": ["a"]},
            ValueError,
            "`task_names` should have one entry per task. Received: 1 entries for 3 tasks.",
        ),
        (
            {"task_names": ["a"], "task_types": ["binary"] * 2},
            ValueError,
            "`task_types` should have one entry per task. Received: 2 entries for 1 tasks.",
        ),
        ({"num_tasks": 2, "task_types": []}, ValueError, "Received: 0 entries for 2 tasks."),
        ({"task_types": ["ranking"]}, ValueError, "Received: 'ranking'"),
        ({"task_types": [None]}, ValueError, "Received: None"),
        ({"task_types": [("binary", 1, 2)]}, ValueError, r"Received: \('binary', 1, 2\)"),
        ({"task_types": [(["binary"], 2)]}, ValueError, r"Received: \['binary'\]"),
        ({"task_types": ["multiclass"]}, ValueError, r"number of classes .*\('multiclass', 5\)"),
        ({"task_types": [("multiclass", 1)]}, ValueError, "at least 2 classes or labels"),
        ({"task_types": [("multilabel", 0)]}, ValueError, "`task size`.* Received: 0"),
        ({"task_types": [("multilabel", 2.0)]}, TypeError, "`task size`.* Received: 2.0"),
        ({"task_types": [("lifetime_value", 3)]}, ValueError, "takes no size. Received: 3"),
        ({"task_types": [("binary", 2)]}, ValueError, "'binary' takes no size. Received: 2"),
        ({"task_names": ["a", ""]}, ValueError, "non-empty strings. Received: ''"),
        ({"task_names": [" "]}, ValueError, "non-empty strings. Received: ' '"),
        ({"task_names": [1]}, ValueError, "non-empty strings. Received: 1"),
        ({"task_names": ["a", "b", "a"]}, ValueError, "differ from each other. .*'a' and 'a'"),
        (
            {"task_names": ["task 1", "task_1"]},
            ValueError,
            "after characters unsafe in names become _. Received: 'task 1' and 'task_1'",
        ),
    ],
)
def test_invalid_tasks_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        resolve_tasks(**arguments)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ctr", "ctr"),
        ("task 1", "task_1"),
        ("a.b-c_d", "a_b-c_d"),
        ("click/long", "click_long"),
        ("点击", "u70b9u51fb"),
        ("café", "cafue9"),
        ("_hidden", "task_hidden"),
        ("-1", "task-1"),
        ("2nd", "2nd"),
        ("a\nb", "a_b"),
    ],
)
def test_output_names_are_safe_and_names_are_kept(name, expected):
    task = Task(name)
    assert task.name == name
    assert task.output_name == expected
    # What TensorFlow takes as the name of a scope.
    assert re.fullmatch(r"[A-Za-z0-9.][A-Za-z0-9_.\\/>-]*", task.output_name)


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (Task("t"), ("sigmoid", "binary_crossentropy", "AUC")),
        (Task("t", "regression"), ("linear", "mean_squared_error", "mean_absolute_error")),
        (
            Task("t", "multiclass", 3),
            ("softmax", "sparse_categorical_crossentropy", "sparse_categorical_accuracy"),
        ),
        (Task("t", "multilabel", 3), ("sigmoid", "binary_crossentropy", "binary_accuracy")),
        (
            Task("t", "lifetime_value"),
            ("lifetime_value", "zero_inflated_lognormal", "mean_absolute_error"),
        ),
    ],
)
def test_type_tells_activation_loss_and_metric(task, expected):
    assert (task.activation, task.loss, task.metric) == expected


def test_a_lifetime_value_has_four_outputs_and_one_label():
    (task,) = resolve_tasks(task_types=["lifetime_value"])
    assert (task.size, task.num_logits, task.label_size) == (4, 3, 1)
    assert Task("task_1", "lifetime_value", 4) == task
    shown = task.shown(np.arange(8).reshape(2, 4))
    np.testing.assert_array_equal(shown, [[0], [4]])
    assert (Task("t").num_logits, Task("t", "multilabel", 3).label_size) == (1, 3)


def test_numpy_sizes_become_plain_ints():
    (task,) = resolve_tasks(task_types=[("multiclass", np.int64(4))])
    assert json.loads(json.dumps(dataclasses.asdict(task)))["size"] == 4


@pytest.mark.parametrize(
    ("lists", "num_tasks", "expected"),
    [
        (DEFAULT, 1, [(64, 32)]),
        (DEFAULT, 3, [(64, 32)] * 3),
        ([[8], [4, 2]], 2, [(8,), (4, 2)]),
        ([[], None], 2, [(), ()]),
        ((np.array([3, 2]), (np.int64(5),)), 2, [(3, 2), (5,)]),
    ],
)
def test_tower_units(lists, num_tasks, expected):
    units = tower_units(lists, num_tasks)
    assert units == expected
    assert all(type(width) is int for widths in units for width in widths)


@pytest.mark.parametrize(
    ("lists", "num_tasks", "error", "message"),
    [
        # A given list counts, also where it equals the default.
        ([[64, 32], [64, 32]], 3, ValueError, "Received: 2 lists for 3 tasks."),
        ([], 1, ValueError, "one list of units per task. Received: 0 lists for 1 tasks."),
        (None, 2, TypeError, "`tower_dnn_units_lists` should be a list of lists.* None"),
        (8, 2, TypeError, "`tower_dnn_units_lists` should be a list .* Received: 8"),
        ([8, 4], 2, TypeError, r"`tower_dnn_units_lists\[0\]` should be a list of positive"),
        ([[8], ["4"]], 2, TypeError, r"`tower_dnn_units_lists\[1\]\[0\]`.* Received: '4'"),
        ([[8], [4, 0]], 2, ValueError, r"`tower_dnn_units_lists\[1\]\[1\]`.* Received: 0"),
    ],
)
def test_invalid_tower_units_are_refused(lists, num_tasks, error, message):
    with pytest.raises(error, match=message):
        tower_units(lists, num_tasks)
