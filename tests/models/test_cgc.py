"""Gate k mixes [E_k, E_s] only; CGC is PLE with one level."""

import numpy as np
import pytest
import reference as ref
import toy


@pytest.mark.parametrize(
    ("gate_units", "tasks", "specific", "shared"),
    [(None, 1, 2, 1), ([4], 2, 1, 3), (None, 5, 2, 2)],
)
def test_predictions_follow_the_equation(
    gate_units: list[int] | None, tasks: int, specific: int, shared: int
) -> None:
    model = toy.build(
        "CGC",
        num_tasks=tasks,
        num_experts_specific=specific,
        num_experts_shared=shared,
        expert_dnn_units=(8, 5),
        gate_dnn_units=gate_units,
        gate_temperature=0.5,
    )
    toy.randomize(model)
    x, w = toy.features(), ref.weights(model)
    inputs = [ref.encode(model, x)] * (tasks + 1)
    z = ref.extraction(w, "extraction_1", inputs, specific, shared, False, temperature=0.5)
    expected = [ref.tower(w, f"task_{k + 1}", z[k]) for k in range(tasks)]
    toy.same(toy.outputs(model, x), expected, atol=1e-5, rtol=1e-5)


def test_it_is_ple_with_one_level() -> None:
    cgc, ple = toy.build("CGC"), toy.build("PLE", num_levels=1, seed=7)
    assert [w.path for w in cgc.weights] == [w.path for w in ple.weights]
    x = toy.features()
    assert np.abs(toy.outputs(cgc, x)[0] - toy.outputs(ple, x)[0]).max() > 1e-4
    ple.set_weights(toy.randomize(cgc).get_weights())
    toy.same(toy.outputs(ple, x), toy.outputs(cgc, x))


def test_a_task_does_not_see_the_experts_of_another() -> None:
    model = toy.randomize(toy.build("CGC", num_experts_specific=2, num_experts_shared=1))
    x = toy.features()
    before = toy.outputs(model, x)
    kernel = next(w for w in model.weights if w.path.endswith("experts/kernel_0"))
    value = np.array(ref.weights(model)[kernel.path])
    value[:2] += 1  # the experts of task 1
    kernel.assign(value)
    after = toy.outputs(model, x)
    assert np.abs(after[0] - before[0]).max() > 1e-3
    toy.same(after[1:], before[1:])
