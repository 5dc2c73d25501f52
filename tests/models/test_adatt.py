"""f_u = Σ_i (g_u)_i e_i + Σ_{i in u} (v_u)_i e_i: every unit fuses the experts of all."""

import re
from typing import Any

import numpy as np
import pytest
import reference as ref
import toy
from keras import ops

from mtl.inspection import gate_weights
from mtl.models import extract_task


def build(tasks: int = 2, specific: int = 2, shared: int = 1, **options: Any) -> Any:
    model = toy.build(
        "AdaTT",
        num_tasks=tasks,
        num_experts_specific=specific,
        num_experts_shared=shared,
        **options,
    )
    return toy.randomize(model)


def fused(model: Any, tasks: int, specific: int, shared: int, levels: int) -> list[np.ndarray]:
    w, units = ref.weights(model), tasks + bool(shared)
    sizes = [specific] * tasks + [shared] * bool(shared)
    f = [ref.encode(model, toy.features())] * units
    for level in range(1, levels + 1):
        path, gates = f"fusion_{level}", tasks if level == levels else units

        def native(k: int, u: np.ndarray, path: str = path) -> np.ndarray:
            fixed = np.ones((1, sizes[k]))
            return np.repeat(w.get(f"{path}/native_kernel_{k}", fixed), len(u), axis=0)

        reads = [list(range(units))] * gates
        f = ref.fusion(w, path, f, f[:gates], sizes, reads, native)
    return f


@pytest.mark.parametrize(
    ("tasks", "specific", "shared", "levels"),
    [(2, 1, 0, 1), (2, 2, 0, 3), (3, 1, 1, 2), (2, 3, 2, 3), (1, 2, 1, 2), (3, 0, 2, 2)],
)
def test_predictions_follow_the_equation(
    tasks: int, specific: int, shared: int, levels: int
) -> None:
    model = build(tasks, specific, shared, expert_dnn_units=(8, 6, 5)[:levels])
    f = fused(model, tasks, specific, shared, levels)
    w = ref.weights(model)
    expected = [ref.tower(w, f"task_{k + 1}", f[k]) for k in range(tasks)]
    toy.same(toy.outputs(model, toy.features()), expected, atol=1e-5, rtol=1e-5)


def test_gates_and_residuals_are_of_the_units_that_fuse() -> None:
    w = ref.weights(toy.build("AdaTT", num_experts_shared=3, expert_dnn_units=(8, 6)))
    found = {path: v.shape for path, v in w.items() if "gate" in path or "native" in path}
    assert found == {
        **{f"fusion_1/gate_{u}/logits/kernel": (12, 7) for u in range(3)},
        **{f"fusion_2/gate_{u}/logits/kernel": (8, 7) for u in range(2)},
        **{f"fusion_1/native_kernel_{u}": (1, n) for u, n in enumerate((2, 2, 3))},
        **{f"fusion_2/native_kernel_{u}": (1, 2) for u in range(2)},
    }
    # U(-1/√m, 1/√m), each drawn by itself.
    for path, v in w.items():
        if "native" in path:
            assert np.abs(v).max() < v.size**-0.5
    drawn = [v.tobytes() for path, v in w.items() if "native" in path]
    assert len(set(drawn)) == len(drawn)


def test_one_expert_has_a_residual_of_one_that_is_no_weight() -> None:
    model = build(specific=1, shared=0, expert_dnn_units=(8,))
    layer, x = (
        model.get_layer("fusion_1"),
        np.random.default_rng(0).normal(size=(6, 12)).astype("float32"),
    )
    assert not any("native" in weight.path for weight in model.weights)
    g = ops.convert_to_numpy(layer.gates[0](x))
    before = [ops.convert_to_numpy(z) for z in layer(x)]
    # Linear in the bias where all units are active: adding c to the expert moves f by (1 + g) c.
    bias = layer.experts.weights[1]
    bias.assign(np.full(bias.shape, 50.0))
    start = [ops.convert_to_numpy(z) for z in layer(x)]
    bias.assign(np.array([[52.0] * 8, [50.0] * 8]))
    after = [ops.convert_to_numpy(z) for z in layer(x)]
    assert np.abs(start[0] - before[0]).max() > 1
    np.testing.assert_allclose(after[0] - start[0], 2 * (1 + g[:, :1]) * np.ones(8), rtol=1e-3)


def test_without_experts_of_the_tasks_one_level_is_mmoe() -> None:
    model = build(specific=0, shared=3, expert_dnn_units=(8,))
    mmoe = toy.build("MMoE", num_experts=3, expert_dnn_units=(8,))
    values = {weight.path: ops.convert_to_numpy(weight) for weight in model.weights}
    for weight in mmoe.weights:
        path = re.sub("^(?=experts)", "fusion_1/", weight.path)
        path = re.sub(r"gate_task_(\d)", lambda m: f"fusion_1/gate_{int(m[1]) - 1}", path)
        weight.assign(values.pop(path))
    assert not values
    x = toy.features()
    toy.same(toy.outputs(model, x), toy.outputs(mmoe, x))


def test_every_unit_reads_every_other_at_every_level() -> None:
    model, x = build(expert_dnn_units=(8, 6)), toy.features()
    before = toy.outputs(model, x)
    for level in (1, 2):
        kernel = model.get_layer(f"fusion_{level}").experts.weights[0]
        value = ops.convert_to_numpy(kernel)
        for expert in range(5):
            moved = np.array(value)
            moved[expert] += 1
            kernel.assign(moved)
            changes = [
                np.abs(a - b).max() for a, b in zip(toy.outputs(model, x), before, strict=True)
            ]
            assert min(changes) > 1e-4
        kernel.assign(value)


def test_what_is_shared_and_what_is_a_tasks_own() -> None:
    model = build(expert_dnn_units=(8, 6))
    last = model.get_layer("fusion_2")
    shared = {v.path for v in model.shared_variables}
    assert {"fusion_1/gate_0/logits/kernel", "fusion_1/native_kernel_0"} <= shared
    assert {v.path for v in last.experts.weights} <= shared
    assert not any(path.startswith(("fusion_2/gate", "fusion_2/native")) for path in shared)


@pytest.mark.parametrize(("specific", "shared"), [(2, 1), (1, 0), (0, 2)])
def test_gates_and_single_tasks(specific: int, shared: int) -> None:
    model = build(3, specific, shared, task_names=["a", "shared", "c"], expert_dnn_units=(8, 6))
    x = toy.features()
    weights = gate_weights(model, x)
    units = ["a", "shared", "c", *["shared_"] * bool(shared)]
    assert list(weights) == [*((1, u) for u in units), *((2, u) for u in units[:3])]
    own = [f"{u} {i + 1}" for u in units[:3] for i in range(specific)]
    for table in weights.values():
        assert list(table) == [*own, *(f"shared_ {i + 1}" for i in range(shared))]
        np.testing.assert_allclose(table.sum(axis=1), 1, rtol=1e-5)
    w = ref.weights(model)
    first = ref.gate(w, "fusion_1/gate_1", ref.encode(model, x))
    toy.same([weights[1, "shared"]], [first], rtol=1e-5)
    for k, name in enumerate(["a", "shared", "c"]):
        one = extract_task(model, name)
        toy.same(toy.outputs(one, x), [toy.outputs(model, x)[k]])
        toy.same([gate_weights(one, x)[2, name]], [weights[2, name]])


def test_groups_of_features() -> None:
    groups = {"user": ["user", "age"], "item": ["item", "history"]}
    model = build(2, 2, 1, expert_dnn_units=(8, 6), expert_features=groups)
    table = gate_weights(model, toy.features())[1, "task_2"]
    assert list(table)[:4] == ["task_1 user 1", "task_1 user 2", "task_1 item 1", "task_1 item 2"]
    assert list(table)[-2:] == ["shared user 1", "shared item 1"]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_experts_specific": -1}, r"`num_experts_specific`.*non-negative.*Received: -1"),
        ({"num_experts_shared": 1.0}, r"`num_experts_shared`.*non-negative.*Received: 1.0"),
        ({"num_experts_specific": 0, "num_experts_shared": 0}, r"positive. Received: 0 and 0"),
        ({"expert_dnn_units": ()}, r"`expert_dnn_units`.*each level. Received: none"),
    ],
)
def test_errors(options: dict[str, Any], match: str) -> None:
    with pytest.raises((TypeError, ValueError), match=match):
        toy.build("AdaTT", **options)
