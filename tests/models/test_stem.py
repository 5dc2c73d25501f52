"""z_k = g_k(x_k + x_s) · [sg(E_1), …, E_k, …, sg(E_T), E_s]: all forward, one's own backward."""

import re
from typing import Any

import numpy as np
import pytest
import reference as ref
import toy
from grads import by_path
from keras import ops

from mtl.inspection import gate_weights
from mtl.models import extract_task
from mtl.training.sharing import shared_parts


def build(tasks: int = 2, **options: Any) -> Any:
    return toy.randomize(toy.build("STEM", num_tasks=tasks, **options))


def mixtures(model: Any, levels: int, tasks: int, specific: int, shared: int) -> list[np.ndarray]:
    w, x = ref.weights(model), toy.features()
    paths = [ref.encode(model, x, f"encoder_task_{k + 1}") for k in range(tasks)]
    paths.append(ref.encode(model, x))
    for level in range(1, levels + 1):
        *own, common = paths
        gates = [v + common for v in own] + [common] * (level < levels)
        sizes, reads = [specific] * tasks + [shared], [list(range(tasks + 1))] * len(gates)
        paths = ref.fusion(w, f"fusion_{level}", paths, gates, sizes, reads)
    return paths


@pytest.mark.parametrize(
    ("levels", "tasks", "specific", "shared"),
    [(1, 2, 1, 3), (1, 1, 2, 1), (2, 3, 2, 1), (3, 2, 1, 2)],
)
def test_predictions_follow_the_equation(
    levels: int, tasks: int, specific: int, shared: int
) -> None:
    model = build(
        tasks,
        num_levels=levels,
        num_experts_specific=specific,
        num_experts_shared=shared,
        expert_dnn_units=(8, 5),
    )
    z, w = mixtures(model, levels, tasks, specific, shared), ref.weights(model)
    assert len(z) == tasks
    expected = [ref.tower(w, f"task_{k + 1}", z[k]) for k in range(tasks)]
    toy.same(toy.outputs(model, toy.features()), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_a_loss_trains_its_tasks_own_and_the_shared_parts_alone(levels: int) -> None:
    model = build(3, num_levels=levels, dense_embedding_dim=2)
    owner = re.compile(r"^(?:encoder_)?task_(?P<task>\d)|gate_(?P<gate>\d)")
    for k in range(3):
        for path, g in by_path(model, lambda y, k=k: ops.sum(y[k]), toy.features()).items():
            if "experts" in path:  # two of each task, then a shared one
                trained = [bool(np.any(g[i])) for i in range(7)]
                assert trained == [i // 2 in (k, 3) for i in range(7)], path
                continue
            found = owner.search(path)
            own = 3 if found is None else int(found["gate"] or int(found["task"]) - 1)
            assert np.any(g) == (own in (k, 3)), path


@pytest.mark.parametrize("levels", [1, 2])
def test_a_task_sees_what_the_others_learn(levels: int) -> None:
    model, x = build(num_levels=levels), toy.features()
    before = toy.outputs(model, x)
    for k in range(2):
        table = model.get_layer(f"encoder_task_{k + 1}").tables[0][1]
        value = ops.convert_to_numpy(table)
        table.assign(value + 1)
        after = toy.outputs(model, x)
        table.assign(value)
        assert all(np.abs(a - b).max() > 1e-4 for a, b in zip(after, before, strict=True))


def test_each_encoder_has_tables_and_a_seed_of_its_own() -> None:
    model = toy.build("STEM", num_tasks=3)
    assert len(model.encoders) == 4
    tables = [ops.convert_to_numpy(weight) for e in model.encoders for _, weight in e.tables]
    assert len({table.shape for table in tables}) == 1
    assert len({table.tobytes() for table in tables}) == 4
    renamed = toy.build("STEM", num_tasks=3, task_names=["a", "b", "c"])
    toy.same(renamed.get_weights(), model.get_weights(), rtol=0, atol=0)
    assert {e.name for e in renamed.encoders} == {"encoder", *(f"encoder_{n}" for n in "abc")}


def test_the_last_level_has_no_shared_gate() -> None:
    gates = {
        levels: [len(layer.gates) for layer in toy.build("STEM", num_levels=levels).layers
                 if hasattr(layer, "gates")]
        for levels in (1, 3)
    }  # fmt: skip
    assert gates == {1: [2], 3: [3, 3, 2]}


@pytest.mark.parametrize("levels", [1, 2])
def test_what_balancers_see_is_shared(levels: int) -> None:
    model = build(num_levels=levels)
    parts = model.shared_variables
    gates = {v.path.split("/dnn")[0].split("/logits")[0] for v in parts if "gate" in v.path}
    assert gates == {f"fusion_{level}/gate_2" for level in range(1, levels)}
    assert {v.path for v in parts if "gate" not in v.path} == {
        f"fusion_{level}/experts/{name}_0"
        for level in range(1, levels + 1)
        for name in ("kernel", "bias")
    }
    for _, mask in shared_parts(model):
        assert mask is None or mask.ravel().tolist() == [0, 0, 0, 0, 1]


def test_gates_and_single_tasks() -> None:
    model, x = build(num_levels=2, task_names=["a", "shared"]), toy.features()
    weights = gate_weights(model, x)
    assert list(weights) == [(1, "a"), (1, "shared"), (1, "shared_"), (2, "a"), (2, "shared")]
    experts = ["a 1", "a 2", "shared 1", "shared 2", "shared_ 1"]
    assert all(list(table) == experts for table in weights.values())
    w = ref.weights(model)
    own, common = ref.encode(model, x, "encoder_shared"), ref.encode(model, x)
    toy.same([weights[1, "shared"]], [ref.gate(w, "fusion_1/gate_1", own + common)], rtol=1e-5)
    toy.same([weights[1, "shared_"]], [ref.gate(w, "fusion_1/gate_2", common)], rtol=1e-5)
    for k, name in enumerate(["a", "shared"]):
        one = extract_task(model, name)
        toy.same(toy.outputs(one, x), [toy.outputs(model, x)[k]])
        toy.same([gate_weights(one, x)[2, name]], [weights[2, name]])
