"""Levels of extraction over T + 1 paths; gates are fed with their own level's input."""

import numpy as np
import pytest
import reference as ref
import toy


@pytest.mark.parametrize(
    ("levels", "tasks", "specific", "shared", "gate_units", "temperature"),
    [
        (1, 2, 1, 3, [4], 1.0),
        (1, 3, 2, 1, None, 0.5),
        (2, 1, 2, 2, None, 1.0),
        (2, 2, 1, 3, [4], 0.5),
        (3, 2, 2, 1, None, 1.0),
        (3, 3, 3, 1, [4], 0.5),
        (2, 5, 1, 2, None, 1.0),
    ],
)
def test_predictions_follow_the_equation(
    levels: int,
    tasks: int,
    specific: int,
    shared: int,
    gate_units: list[int] | None,
    temperature: float,
) -> None:
    model = toy.build(
        "PLE",
        num_tasks=tasks,
        num_levels=levels,
        num_experts_specific=specific,
        num_experts_shared=shared,
        expert_dnn_units=(8, 5),
        gate_dnn_units=gate_units,
        gate_temperature=temperature,
    )
    toy.randomize(model)
    x, w = toy.features(), ref.weights(model)
    paths = [ref.encode(model, x)] * (tasks + 1)
    for level in range(1, levels + 1):
        last = level == levels
        paths = ref.extraction(
            w, f"extraction_{level}", paths, specific, shared, not last, temperature=temperature
        )
    expected = [ref.tower(w, f"task_{k + 1}", paths[k]) for k in range(tasks)]
    assert len(paths) == tasks
    toy.same(toy.outputs(model, x), expected, atol=1e-5, rtol=1e-5)


def test_the_shared_gate_is_absent_at_the_last_level_only() -> None:
    w = ref.weights(toy.build("PLE", num_levels=3))
    shared = [path for path in w if "gate_shared" in path]
    assert shared == [f"extraction_{level}/gate_shared/logits/kernel" for level in (1, 2)]
    # Gates of the first level read x, those of later levels the level below.
    x_width = 3 + 3 + 3 + 2 + 1
    assert w["extraction_1/gate_0/logits/kernel"].shape == (x_width, 2 + 1)
    assert w["extraction_1/gate_shared/logits/kernel"].shape == (x_width, 2 + 2 + 1)
    assert w["extraction_2/gate_0/logits/kernel"].shape == (8, 2 + 1)


def test_tasks_reach_each_other_through_the_shared_path() -> None:
    model = toy.randomize(toy.build("PLE", num_levels=2))
    x = toy.features()
    before = toy.outputs(model, x)
    kernel = next(w for w in model.weights if w.path == "extraction_1/experts/kernel_0")
    value = np.array(ref.weights(model)[kernel.path])
    value[:2] += 1  # the first level's experts of task 1
    kernel.assign(value)
    after = toy.outputs(model, x)
    assert all(np.abs(a - b).max() > 1e-6 for a, b in zip(after, before, strict=True))


def test_a_task_does_not_see_the_experts_of_another_at_the_last_level() -> None:
    model = toy.randomize(toy.build("PLE", num_levels=2))
    x = toy.features()
    before = toy.outputs(model, x)
    kernel = next(w for w in model.weights if w.path == "extraction_2/experts/kernel_0")
    value = np.array(ref.weights(model)[kernel.path])
    value[:2] += 1  # the experts of task 1
    kernel.assign(value)
    after = toy.outputs(model, x)
    assert np.abs(after[0] - before[0]).max() > 1e-3
    toy.same(after[1:], before[1:], rtol=0, atol=0)
