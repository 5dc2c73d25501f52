"""z_k = Σ_i g^k_i e_i(x), g^k = softmax(W_k x / τ): a gate per task over shared experts."""

import numpy as np
import pytest
import reference as ref
import toy


@pytest.mark.parametrize(
    ("gate_units", "tasks", "temperature"), [(None, 1, 1.0), ([4], 2, 0.5), (None, 5, 0.5)]
)
def test_predictions_follow_the_equation(
    gate_units: list[int] | None, tasks: int, temperature: float
) -> None:
    model = toy.build(
        "MMoE",
        num_tasks=tasks,
        expert_dnn_units=(8, 5),
        gate_dnn_units=gate_units,
        gate_temperature=temperature,
    )
    toy.randomize(model)
    x, w = toy.features(), ref.weights(model)
    v = ref.encode(model, x)
    e = ref.experts(w, "experts", [v] * 3)
    z = [ref.mix(e, ref.gate(w, f"gate_task_{k + 1}", v, temperature)) for k in range(tasks)]
    expected = [ref.tower(w, f"task_{k + 1}", z[k]) for k in range(tasks)]
    toy.same(toy.outputs(model, x), expected, atol=1e-5, rtol=1e-5)


def test_gates_and_towers_of_a_fresh_model_differ() -> None:
    w = ref.weights(toy.build("MMoE", num_tasks=3, gate_dnn_units=[4]))
    for kind in ("logits/kernel", "dnn/dense_0/kernel"):
        for group in ("gate", "task"):
            kernels = [v for path, v in w.items() if path.startswith(group) and kind in path]
            assert len(kernels) == 3
            for i in range(3):
                assert np.abs(kernels[i] - kernels[i - 1]).max() > 1e-3
