"""Bad arguments are refused before anything is built, by messages that name them."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
import toy

import mtl.models
from mtl.features import DenseFeat, SparseFeat


@pytest.fixture(autouse=True)
def _nothing_is_built(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    built: list[str] = []
    init = keras.layers.Layer.__init__

    def record(self: Any, *args: Any, **kwargs: Any) -> None:
        built.append(type(self).__name__)
        init(self, *args, **kwargs)

    monkeypatch.setattr(keras.layers.Layer, "__init__", record)
    yield
    assert built == []


A, B = SparseFeat("a", 5, 2), DenseFeat("b", 1)
COMMON: list[tuple[dict[str, Any], str]] = [
    ({"dnn_feature_columns": []}, r"`dnn_feature_columns`.*at least one.*Received: none"),
    ({"dnn_feature_columns": None}, r"`dnn_feature_columns`.*list.*Received: None"),
    ({"dnn_feature_columns": "a"}, r"`dnn_feature_columns`.*list.*Received: 'a'"),
    ({"dnn_feature_columns": A}, r"`dnn_feature_columns`.*list.*Received.*'a'"),
    ({"dnn_feature_columns": [A, "b"]}, r"`dnn_feature_columns`.*SparseFeat.*Received: 'b'"),
    ({"dnn_feature_columns": [A, B, A]}, r"`dnn_feature_columns`.*unique.*Received: 'a'"),
    ({"dnn_feature_columns": [SparseFeat("a", 0, 2)]}, r"vocabulary_size of a.*positive.*: 0"),
    ({"dnn_feature_columns": [SparseFeat("a", 2.5, 2)]}, r"vocabulary_size of a.*Received: 2.5"),
    ({"num_tasks": 0}, r"`num_tasks`.*positive integer.*Received: 0"),
    ({"num_tasks": 2.0}, r"`num_tasks`.*positive integer.*Received: 2.0"),
    ({"num_tasks": 3, "task_names": ["x", "y"]}, r"`task_names`.*2 entries for 3 tasks"),
    ({"num_tasks": 3, "task_types": ["binary"] * 2, "task_names": list("xyz")},
     r"`task_types`.*2 entries for 3 tasks"),
    ({"task_names": ["x", "y"], "task_types": ["binary"], "num_tasks": None},
     r"`task_types`.*1 entries for 2 tasks"),
    ({"task_types": ["binary", "ranking"]}, r"`task_types`.*'binary'.*Received: 'ranking'"),
    ({"task_types": "binary"}, r"`task_types`.*list.*Received: 'binary'"),
    ({"task_types": ["binary", "multiclass"]}, r"`task_types`.*number of classes.*'multiclass'"),
    ({"task_types": ["binary", ("multiclass", 1)]}, r"`task_types`.*at least 2.*Received: 1"),
    ({"task_names": ["x", "x"]}, r"`task_names`.*differ.*Received: 'x' and 'x'"),
    ({"task_names": ["x y", "x_y"]}, r"`task_names`.*differ.*Received: 'x y' and 'x_y'"),
    ({"task_names": ["x", "b"]}, r"`task_names`.*inputs.*Received: 'b'"),
    ({"task_names": ["x", ""]}, r"`task_names`.*non-empty.*Received: ''"),
    ({"task_names": ["x", 3]}, r"`task_names`.*strings.*Received: 3"),
    ({"tower_dnn_units_lists": [[4]]}, r"`tower_dnn_units_lists`.*1 lists for 2 tasks"),
    ({"tower_dnn_units_lists": [[4]] * 3}, r"`tower_dnn_units_lists`.*3 lists for 2 tasks"),
    ({"tower_dnn_units_lists": [4, 4]}, r"`tower_dnn_units_lists\[0\]`.*list.*Received: 4"),
    ({"tower_dnn_units_lists": [[4], [0]]}, r"`tower_dnn_units_lists\[1\]\[0\]`.*Received: 0"),
    ({"tower_dnn_units_lists": [[4], [4.0]]}, r"`tower_dnn_units_lists\[1\]\[0\]`.*: 4.0"),
    ({"dense_embedding_dim": 0}, r"`dense_embedding_dim`.*positive integer or None.*: 0"),
    ({"dense_embedding_dim": 4.0}, r"`dense_embedding_dim`.*positive integer or None.*: 4.0"),
    ({"dnn_dropout": 1}, r"`dnn_dropout`.*\[0, 1\).*Received: 1"),
    ({"dnn_dropout": -0.1}, r"`dnn_dropout`.*\[0, 1\).*Received: -0.1"),
    ({"embedding_dropout": 1}, r"`embedding_dropout`.*\[0, 1\).*Received: 1"),
    ({"dense_scaling": -1}, r"`dense_scaling`.*non-negative.*Received: -1"),
    ({"dnn_dropout": np.nan}, r"`dnn_dropout`.*Received: nan"),
    ({"dnn_activation": "rellu"}, r"`dnn_activation`.*activation.*Received: 'rellu'"),
    ({"dnn_activation": 3}, r"`dnn_activation`.*activation.*Received: 3"),
    ({"l2_reg_dnn": -1}, r"`l2_reg_dnn`.*non-negative.*Received: -1"),
    ({"l2_reg_embedding": -1e-5}, r"`l2_reg_embedding`.*non-negative.*Received: -1e-05"),
    ({"l2_reg_embedding": "1"}, r"`l2_reg_embedding`.*non-negative.*Received: '1'"),
    ({"l2_reg_embedding": np.inf}, r"`l2_reg_embedding`.*Received: inf"),
    ({"seed": -1}, r"`seed`.*non-negative.*Received: -1"),
    ({"seed": 1.5}, r"`seed`.*integer or None.*Received: 1.5"),
    ({"seed": "1"}, r"`seed`.*integer or None.*Received: '1'"),
]  # fmt: skip
INTEGERS = {
    "ESCM2": ["num_experts"],
    "MoE": ["num_experts"],
    "MMoE": ["num_experts"],
    "CGC": ["num_experts_specific", "num_experts_shared"],
    "PLE": ["num_experts_specific", "num_experts_shared", "num_levels"],
    "HoME": [
        "num_experts_specific",
        "num_experts_group",
        "num_experts_shared",
        "feature_gate_pairs",
        "feature_gate_rank",
    ],
    "STEM": ["num_experts_specific", "num_experts_shared", "num_levels"],
}
GATED = [*INTEGERS, "AdaTT"]
UNITS = {
    "SharedBottom": ["bottom_dnn_units"],
    "AITM": ["bottom_dnn_units"],
    **{name: ["expert_dnn_units", "gate_dnn_units"] for name in GATED},
}


def _refused(name: str, options: dict[str, Any], match: str) -> None:
    options = {"dnn_feature_columns": [A, B], "num_tasks": 2, **toy.needed(name), **options}
    with pytest.raises((ValueError, TypeError), match=match):
        getattr(mtl.models, name)(options.pop("dnn_feature_columns"), **options)


@pytest.mark.parametrize("name", toy.MODELS)
@pytest.mark.parametrize(("options", "match"), COMMON)
def test_arguments_of_every_model(name: str, options: dict[str, Any], match: str) -> None:
    _refused(name, options, match)


@pytest.mark.parametrize(
    ("name", "argument"), [(n, a) for n, args in INTEGERS.items() for a in args]
)
@pytest.mark.parametrize("value", [0, -1, 2.0, "2", True, None])
def test_counts(name: str, argument: str, value: Any) -> None:
    _refused(name, {argument: value}, rf"`{argument}`.*positive integer.*Received: {value!r}")


@pytest.mark.parametrize(("name", "argument"), [(n, a) for n, args in UNITS.items() for a in args])
@pytest.mark.parametrize("value", [0, -1, 2.0, "2", True, None])
def test_widths(name: str, argument: str, value: Any) -> None:
    match = rf"`{argument}\[1\]`.*positive integer.*Received: {value!r}"
    _refused(name, {argument: [4, value]}, match)
    if value is not None:
        _refused(name, {argument: value}, rf"`{argument}`.*list of positive.*Received: {value!r}")


@pytest.mark.parametrize("name", GATED)
@pytest.mark.parametrize("value", [0, -1.0, np.inf, np.nan, "1", None, True])
def test_temperature(name: str, value: Any) -> None:
    _refused(name, {"gate_temperature": value}, r"`gate_temperature`.*positive number.*Received")


@pytest.mark.parametrize("name", [n for n in toy.MODELS if n not in ("ESMM", "ESCM2")])
def test_nothing_that_tells_the_tasks(name: str) -> None:
    _refused(name, {"num_tasks": None}, r"`num_tasks`, `task_types` and `task_names`.*None")
