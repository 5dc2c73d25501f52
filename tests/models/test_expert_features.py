"""Groups of experts that see the features of one entity; gates see them all."""

from typing import Any

import keras
import numpy as np
import pytest
import reference as ref
import toy

import mtl.models
from mtl.features import DenseFeat, SparseFeat, VarLenSparseFeat

# x is user (3), item (3), history (3), price (2), age (1); the price reaches the gates alone.
GROUPS = {"user": ["age", "user"], "item": ("item", "history")}
SEEN = [[0, 1, 2, 11], [3, 4, 5, 6, 7, 8]]


def full_width(w: ref.Weights, path: str, banks: list[int], width: int = 12) -> ref.Weights:
    """Return the weights of the same experts, seeing all of x: what they don't see weighs 0."""
    kernels, first = [], 0
    for bank in banks:
        for s, columns in enumerate(SEEN):
            for own in w[f"{path}/kernel_0_{s}"][first : first + bank]:
                kernel = np.zeros((width, own.shape[1]))
                kernel[columns] = own
                kernels.append(kernel)
        first += bank
    assert len(w[f"{path}/bias_0"]) == len(kernels) == 2 * first
    return {**w, f"{path}/kernel_0": np.stack(kernels)}


@pytest.mark.parametrize("name", ["MoE", "MMoE"])
@pytest.mark.parametrize("gate_units", [None, [4]])
def test_mixtures_follow_the_equation(name: str, gate_units: list[int] | None) -> None:
    options = {"gate_dnn_units": gate_units, "gate_temperature": 0.5, "expert_dnn_units": (8, 5)}
    model = toy.randomize(toy.build(name, expert_features=GROUPS, **options))
    x, w = toy.features(), full_width(ref.weights(model), "experts", [3])
    v = ref.encode(model, x)
    e = ref.experts(w, "experts", [v] * 6)
    gates = ["gate", "gate"] if name == "MoE" else ["gate_task_1", "gate_task_2"]
    z = [ref.mix(e, ref.gate(w, gate, v, 0.5)) for gate in gates]
    expected = [ref.tower(w, f"task_{k + 1}", z[k]) for k in (0, 1)]
    toy.same(toy.outputs(model, x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "levels"), [("CGC", {}), ("PLE", {"num_levels": 3})])
@pytest.mark.parametrize("use_bn", [False, True])
def test_extraction_follows_the_equation(name: str, levels: dict[str, int], use_bn: bool) -> None:
    specific, shared, tasks, last = 2, 1, 3, levels.get("num_levels", 1)
    model = toy.build(
        name, tasks, expert_features=GROUPS, expert_dnn_units=(8, 5), dnn_use_bn=use_bn, **levels
    )
    toy.randomize(model)
    x = toy.features()
    w = full_width(ref.weights(model), "extraction_1/experts", [specific] * tasks + [shared])
    paths = [ref.encode(model, x)] * (tasks + 1)
    for level in range(1, last + 1):
        own, common = (2 * specific, 2 * shared) if level == 1 else (specific, shared)
        paths = ref.extraction(w, f"extraction_{level}", paths, own, common, level < last)
    expected = [ref.tower(w, f"task_{k + 1}", paths[k]) for k in range(tasks)]
    toy.same(toy.outputs(model, x), expected, atol=1e-5, rtol=1e-5)


def test_experts_do_not_see_the_features_of_another_group() -> None:
    model = toy.randomize(toy.build("MMoE", expert_features=GROUPS))
    experts = keras.Model(model.input, model.get_layer("experts").output)

    def outputs(**moved: Any) -> np.ndarray:
        x = {**toy.features(), **moved}
        x = {name: keras.ops.convert_to_tensor(value) for name, value in x.items()}
        return np.array(keras.ops.convert_to_numpy(experts(x))).reshape(24, 2, 3, 8)

    before, other = outputs(), toy.features(seed=1)
    for feature, value in other.items():
        changed = (outputs(**{feature: value}) != before).any(axis=(0, 2, 3))
        assert changed.tolist() == [feature in features for features in GROUPS.values()]


def test_projected_numbers_are_seen_in_full() -> None:
    model = toy.build("MoE", expert_features={"a": ["price"], "b": ["age"]}, dense_embedding_dim=4)
    layer = model.get_layer("experts")
    assert layer.subsets == {"a": [9, 10, 11, 12], "b": [13, 14, 15, 16]}


def grouped(*, user: Any = "user", item: Any = "item") -> list[Any]:
    ids = SparseFeat("history", 7, embedding_dim=3, group_name=item)
    return [
        DenseFeat("price", 2),
        SparseFeat("user", 5, embedding_dim=2, group_name=user),
        VarLenSparseFeat(ids, 3),
        SparseFeat("item", 7, embedding_dim=3, group_name=item),
    ]


@pytest.mark.parametrize("name", ["MoE", "PLE"])
def test_group_name_is_short_for_the_columns_groups(name: str) -> None:
    groups = {"default_group": ["price"], "user": ["user"], "item": ["history", "item"]}
    short, long = (
        getattr(mtl.models, name)(grouped(), num_tasks=2, expert_features=features)
        for features in ("group_name", groups)
    )
    toy.same(short.get_weights(), long.get_weights(), rtol=0, atol=0)
    first = short.get_layer("experts" if name == "MoE" else "extraction_1")
    experts = first if name == "MoE" else first.experts
    assert experts.subsets == {
        "default_group": [8, 9],
        "user": [0, 1],
        "item": [2, 3, 4, 5, 6, 7],
    }


def test_order_within_a_group_is_no_matter_and_groups_may_overlap() -> None:
    all_of_them = ["user", "item", "history", "price", "age"]
    one, other = (
        toy.build("MoE", expert_features={"user": features, "all": all_of_them})
        for features in (["user", "age"], ["age", "user"])
    )
    toy.same(one.get_weights(), other.get_weights(), rtol=0, atol=0)
    assert one.get_layer("experts").subsets == {"user": SEEN[0], "all": list(range(12))}


@pytest.mark.parametrize(
    ("features", "match"),
    [
        ("user", r"`expert_features`.*dict from group name.*Received: 'user'"),
        ({}, r"`expert_features`.*dict from group name.*Received: {}"),
        (["user"], r"`expert_features`.*dict from group name.*Received: \['user'\]"),
        ({1: ["user"]}, r"group of `expert_features`.*string.*Received: 1"),
        ({"a": "user"}, r"`expert_features\['a'\]`.*list of feature names.*Received: 'user'"),
        ({"a": 3}, r"`expert_features\['a'\]`.*list of feature names.*Received: 3"),
        ({"a": ["user"], "b": []}, r"`expert_features\['b'\]`.*at least one.*Received: none"),
        ({"a": ["user", "x"]}, r"`expert_features\['a'\]`.*'history'.*Received: \['x'\]"),
        ({"a": ["user", "user"]}, r"`expert_features\['a'\]`.*once.*Received: \['user', 'user'\]"),
        ("group_name", r"'group_name'.*more than one.*Received: 'default_group' for all"),
    ],
)
@pytest.mark.parametrize("name", ["MoE", "MMoE", "CGC", "PLE"])
def test_bad_groups_are_refused(name: str, features: Any, match: str) -> None:
    with pytest.raises((TypeError, ValueError), match=match):
        toy.build(name, expert_features=features)


@pytest.mark.parametrize("name", ["MoE", "MMoE", "CGC", "PLE"])
def test_groups_need_units(name: str) -> None:
    with pytest.raises(ValueError, match="`expert_dnn_units` should hold at least one width"):
        toy.build(name, expert_features=GROUPS, expert_dnn_units=())


def test_group_names_should_be_strings() -> None:
    columns = grouped(user=1)
    with pytest.raises(TypeError, match=r"`group_name` of feature 'user' .*: 1"):
        mtl.models.MoE(columns, num_tasks=2, expert_features="group_name")
