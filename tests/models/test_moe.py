"""g = softmax(W x / τ); z = Σ_i g_i e_i(x); ŷ_k = σ(t_k(z)): one gate for all tasks."""

import numpy as np
import pytest
import reference as ref
import toy


@pytest.mark.parametrize(
    ("gate_units", "tasks", "temperature"), [(None, 1, 1.0), ([4], 2, 0.2), (None, 5, 0.5)]
)
def test_predictions_follow_the_equation(
    gate_units: list[int] | None, tasks: int, temperature: float
) -> None:
    model = toy.build(
        "MoE",
        num_tasks=tasks,
        expert_dnn_units=(8, 5),
        gate_dnn_units=gate_units,
        gate_temperature=temperature,
    )
    toy.randomize(model)
    x, w = toy.features(), ref.weights(model)
    v = ref.encode(model, x)
    z = ref.mix(ref.experts(w, "experts", [v] * 3), ref.gate(w, "gate", v, temperature))
    expected = [ref.tower(w, f"task_{k + 1}", z) for k in range(tasks)]
    toy.same(toy.outputs(model, x), expected, atol=1e-5, rtol=1e-5)


def test_batch_normalisation_is_per_unit_of_each_expert() -> None:
    model = toy.randomize(toy.build("MoE", dnn_use_bn=True, dnn_activation="tanh"))
    x, w = toy.features(), ref.weights(model)
    v = ref.encode(model, x)
    z = ref.mix(ref.experts(w, "experts", [v] * 3, np.tanh), ref.gate(w, "gate", v))
    expected = [ref.tower(w, name, z, activation=np.tanh) for name in ("task_1", "task_2")]
    toy.same(toy.outputs(model, x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["MoE", "MMoE", "CGC", "PLE"])
def test_experts_of_a_fresh_model_differ(name: str) -> None:
    w = ref.weights(toy.build(name, expert_dnn_units=(8, 8)))
    kernels = [w[path] for path in w if "experts/kernel" in path]
    assert len(kernels) == (4 if name == "PLE" else 2)
    # Every expert of every level and depth: what is equal is found among them all.
    flat = [k[e].ravel() for k in kernels for e in range(len(k))]
    for i, a in enumerate(flat):
        assert a.std() > 0
        for b in flat[:i]:
            assert a.shape != b.shape or np.abs(a - b).max() > 1e-3


@pytest.mark.parametrize("name", ["MoE", "PLE"])
def test_an_expert_starts_with_the_spread_of_a_dense_layer(name: str) -> None:
    w = ref.weights(toy.build(name, expert_dnn_units=(64,)))
    for path, kernel in w.items():
        if "experts/kernel" in path:
            fan_in, fan_out = kernel.shape[1:]
            # Glorot's distribution; a stacked fan would be √E or E times smaller.
            assert kernel.std() == pytest.approx(np.sqrt(2 / (fan_in + fan_out)), rel=0.1)
