"""Experts of groups of tasks, then of tasks; Swish(BN(W (v ⊗ F(v)))); gates and self-gates."""

from typing import Any

import keras
import numpy as np
import pytest
import reference as ref
import toy
from grads import by_path, gradients
from keras import ops

from mtl.inspection import gate_weights
from mtl.models import extract_task
from mtl.training.sharing import shared_parts

TASKS = ["watch", "like", "share"]
GROUPS = {"passive": ["watch"], "active": ["share", "like"]}


def build(tasks: int = 3, **options: Any) -> Any:
    if tasks == 3:
        options = {"task_names": TASKS, "task_groups": GROUPS, **options}
    return toy.randomize(toy.build("HoME", num_tasks=tasks, **options))


def swish(v: np.ndarray) -> np.ndarray:
    return v * ref.sigmoid(v)


def level(
    w: ref.Weights, path: str, banks: Any, gates: Any, sizes: list[int], reads: Any
) -> list[np.ndarray]:
    def self_gate(k: int, u: np.ndarray) -> np.ndarray:
        if sizes[k] == 1:
            return ref.sigmoid(u @ w[f"{path}/self_gate_{k}/kernel"])
        return ref.softmax(u @ w[f"{path}/self_gate_{k}/logits/kernel"])

    return ref.fusion(w, path, banks, gates, sizes, reads, self_gate, swish)


@pytest.mark.parametrize(
    ("tasks", "sizes", "pairs"), [(1, (1, 1, 1), 1), (2, (2, 1, 3), 2), (3, (1, 2, 1), 3)]
)
def test_predictions_follow_the_equation(
    tasks: int, sizes: tuple[int, int, int], pairs: int
) -> None:
    specific, group, shared = sizes
    model = build(
        tasks,
        num_experts_specific=specific,
        num_experts_group=group,
        num_experts_shared=shared,
        feature_gate_pairs=pairs,
        expert_dnn_units=(8, 5),
    )
    members = [0, 1, 1] if tasks == 3 else [0] * tasks
    m = 1 + max(members)
    x, w = toy.features(), ref.weights(model)
    v = ref.encode(model, x)
    reads = [[g, m] for g in range(m)] + [list(range(m + 1))]
    *z, z_s = level(w, "meta", [v] * (m + 1), [v] * (m + 1), [group] * m + [shared], reads)
    h = level(
        w,
        "task",
        [*(z[g] for g in members), *z, z_s],
        [np.concatenate([z[g], z_s], axis=1) for g in members],
        [specific] * tasks + [group] * m + [shared],
        [[k, tasks + g, tasks + m] for k, g in enumerate(members)],
    )
    expected = [ref.tower(w, name, h[k]) for k, name in enumerate(model.output_names)]
    toy.same(toy.outputs(model, x), expected, atol=1e-5, rtol=1e-5)


def test_all_tasks_are_one_group_by_default() -> None:
    x = toy.features()
    model = toy.build("HoME")
    named = toy.build("HoME", task_groups={"every one": ["task_2", "task_1"]})
    toy.same(named.get_weights(), model.get_weights(), rtol=0, atol=0)
    toy.same(toy.outputs(named, x), toy.outputs(model, x), rtol=0, atol=0)
    assert list(gate_weights(model, x)) == [
        (1, "all"), (1, "shared"), (2, "task_1"), (2, "task_2"),
    ]  # fmt: skip


def test_experts_are_normalised_over_the_batch_then_swish() -> None:
    model = toy.build("HoME", expert_dnn_units=(8,), dnn_activation="relu")
    experts = model.get_layer("meta").experts
    assert keras.activations.serialize(experts.activation) == "silu"
    experts.activation = lambda x: x
    v = np.random.default_rng(0).normal(2, 3, (64, 3, 12)).astype("float32")
    e = ops.convert_to_numpy(experts(v, training=True))
    np.testing.assert_allclose(e.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(e.var(axis=0), 1, atol=1e-2)
    towers = [layer for layer in model.layers if hasattr(layer, "task")]
    assert not any(tower.dnn.use_bn for tower in towers)


def test_a_feature_gate_of_zeros_is_the_identity_and_weighs_below_two() -> None:
    gate = build().get_layer("meta")._feature_gate
    v = np.random.default_rng(0).normal(size=(6, 12)).astype("float32")
    factors = np.stack([ops.convert_to_numpy(seen) / v for seen in gate(v)], axis=1)
    assert factors.shape == (6, 4, 12)
    assert factors.min() > 0
    assert 1 < factors.max() < 2
    gate._up.assign(np.zeros(gate._up.shape))
    np.testing.assert_allclose(
        np.stack([ops.convert_to_numpy(seen) for seen in gate(v)], axis=1),
        np.repeat(v[:, None], 4, 1),
        1e-6,
    )


def test_a_group_reads_its_own_and_the_shared_experts_alone() -> None:
    model = build()
    meta = model.get_layer("meta")
    v = ops.convert_to_tensor(np.random.default_rng(0).normal(size=(6, 12)).astype("float32"))
    for k, reads in enumerate([[0, 2, 3], [1, 2, 3], [0, 1, 2, 3]]):
        (g,) = gradients(lambda k=k: ops.sum(meta(v)[k]), [meta.experts.weights[0]])
        assert sorted(np.flatnonzero(np.abs(g).max(axis=(1, 2)))) == reads


def test_a_task_trains_its_own_and_its_groups_experts() -> None:
    model = build()
    # Two experts of each task, one of each group, two shared ones.
    expected = {0: [0, 1, 6, 8, 9], 1: [2, 3, 7, 8, 9], 2: [4, 5, 7, 8, 9]}
    for k, trained in expected.items():
        found = by_path(model, lambda y, k=k: ops.sum(y[k]), toy.features())
        for path, g in found.items():
            if path.startswith(("task/experts/kernel", "task/feature_gate")):
                rows = np.abs(g).reshape(10, -1).max(axis=1)
                assert np.flatnonzero(rows).tolist() == trained, path
            if path.startswith(("task/gate", "task/self_gate")):
                assert np.any(g) == (f"gate_{k}/" in path), path
        of_meta = np.abs(found["meta/experts/kernel_0"]).max(axis=(1, 2))
        assert of_meta.min() > 0  # of the other group by way of z_s


def test_without_z_s_a_task_trains_nothing_of_another_group() -> None:
    model = build()
    task = model.get_layer("task")
    gates = [variable for gate in (*task.gates, *task._self_gates) for variable in gate.weights]
    for variable in (task.experts.weights[0], *gates):
        value = np.array(ops.convert_to_numpy(variable))
        value[8:] = 0  # the shared experts are 8 and 9; z_s are the columns of u from 8 on
        variable.assign(value)
    found = by_path(model, lambda y: ops.sum(y[0]), toy.features())
    rows = np.abs(found["meta/experts/kernel_0"]).max(axis=(1, 2))
    assert [row > 1e-9 for row in rows] == [True, False, True, True]
    assert rows[1] == 0


def test_what_balancers_see_is_shared() -> None:
    model = build()
    masks = {variable.path: mask for variable, mask in shared_parts(model)}
    for path in ("task/experts/kernel_0", "task/feature_gate/up_kernel"):
        assert masks[path].ravel().tolist() == [0] * 7 + [1] * 3
    assert masks["meta/experts/kernel_0"] is None
    assert not any(path.startswith(("task/gate", "task/self")) for path in masks)


def test_gates_and_single_tasks() -> None:
    groups = {"like": ["watch"], "shared": ["share", "like"]}
    model, x = build(task_groups=groups), toy.features()
    weights = gate_weights(model, x)
    assert list(weights) == [
        (1, "like_"), (1, "shared"), (1, "shared_"), *((2, task) for task in TASKS),
    ]  # fmt: skip
    assert list(weights[1, "like_"]) == ["like_ 1", "shared_ 1", "shared_ 2"]
    assert list(weights[2, "like"]) == ["like 1", "like 2", "shared 1", "shared_ 1", "shared_ 2"]
    for k, task in enumerate(TASKS):
        one = extract_task(model, task)
        toy.same(toy.outputs(one, x), [toy.outputs(model, x)[k]])
        toy.same([gate_weights(one, x)[2, task]], [weights[2, task]])
        assert one.count_params() < model.count_params()


@pytest.mark.parametrize(
    ("groups", "match"),
    [
        ([["watch"]], r"`task_groups`.*dict from group.*Received: \[\['watch'\]\]"),
        ({1: TASKS}, r"`task_groups`.*dict from group.*Received: \{1:"),
        ({"a": "watch"}, r"`task_groups\['a'\]`.*list of names.*Received: 'watch'"),
        ({"a": TASKS, "b": []}, r"`task_groups\['b'\]`.*at least one.*Received: none"),
        ({"a": [*TASKS, "buy"]}, r"`task_groups\['a'\]`.*'like', 'share'\].*Received: 'buy'"),
        ({"a": TASKS, "b": ["like"]}, r"each task once.*Received: 'like' in 'a' and 'b'"),
        ({"a": ["watch", "watch"]}, r"each task once.*Received: 'watch' in 'a' and 'a'"),
        ({"a": ["watch"]}, r"each task once.*Received: no group for \['like', 'share'\]"),
        ({}, r"each task once.*Received: no group for \['watch', 'like', 'share'\]"),
    ],
)
def test_groups_that_are_refused(groups: Any, match: str) -> None:
    with pytest.raises((TypeError, ValueError), match=match):
        build(task_groups=groups)


def test_experts_need_a_width() -> None:
    with pytest.raises(ValueError, match=r"`expert_dnn_units`.*at least one width"):
        build(expert_dnn_units=())
