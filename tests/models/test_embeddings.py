"""MMoE, CGC and PLE with tables of embeddings for each task, alone or beside shared ones."""

from typing import Any

import numpy as np
import pytest
import reference as ref
import toy
from grads import by_path
from keras import ops

from mtl.inspection import gate_weights
from mtl.models import extract_task

NAMES, MODES = ["MMoE", "CGC", "PLE"], ["per_task", "shared_and_per_task"]
each = pytest.mark.parametrize(("name", "mode"), [(n, m) for n in NAMES for m in MODES])


def build(name: str, mode: str, tasks: int = 2) -> Any:
    return toy.randomize(toy.build(name, num_tasks=tasks, embeddings=mode))


@pytest.mark.parametrize("name", NAMES)
def test_shared_is_the_model_without_the_option(name: str) -> None:
    models = [toy.build(name), toy.build(name, embeddings="shared")]
    one, other = ([layer.get_config() for layer in model.layers] for model in models)
    assert one == other
    one, other = ([w.path for w in model.weights] for model in models)
    assert one == other
    toy.same(models[0].get_weights(), models[1].get_weights(), rtol=0, atol=0)
    x = toy.features()
    toy.same(*(toy.outputs(model, x) for model in models), rtol=0, atol=0)
    assert [encoder.name for encoder in models[0].encoders] == ["encoder"]


@each
@pytest.mark.parametrize("tasks", [1, 3])
def test_predictions_follow_the_equation(name: str, mode: str, tasks: int) -> None:
    model, x = build(name, mode, tasks), toy.features()
    w = ref.weights(model)
    own = [ref.encode(model, x, f"encoder_task_{k + 1}") for k in range(tasks)]
    common = sum(own) / tasks if mode == "per_task" else ref.encode(model, x)
    if name == "MMoE":
        inputs = own if mode == "per_task" else [v + common for v in own]
        z = [
            ref.mix(ref.experts(w, "experts", [v] * 3), ref.gate(w, f"gate_task_{k + 1}", v))
            for k, v in enumerate(inputs)
        ]
    else:
        z = [*own, common]
        for level, last in [(1, True)] if name == "CGC" else [(1, False), (2, True)]:
            z = ref.extraction(w, f"extraction_{level}", z, 2, 1, not last)
    expected = [ref.tower(w, f"task_{k + 1}", z[k]) for k in range(tasks)]
    toy.same(toy.outputs(model, x), expected, atol=1e-5, rtol=1e-5)
    for rows in (0, 1):
        part = toy.outputs(model, {feature: value[:rows] for feature, value in x.items()})
        toy.same(part, [y[:rows] for y in expected], atol=1e-5, rtol=1e-5)


@each
def test_each_encoder_has_tables_and_a_seed_of_its_own(name: str, mode: str) -> None:
    model = toy.build(name, num_tasks=3, embeddings=mode)
    tables = [ops.convert_to_numpy(weight) for e in model.encoders for _, weight in e.tables]
    assert len(tables) == (3 if mode == "per_task" else 4)
    assert len({table.tobytes() for table in tables}) == len(tables)


@each
def test_what_a_loss_trains_of_the_tables(name: str, mode: str) -> None:
    model = build(name, mode)
    found = by_path(model, lambda y: ops.sum(y[0]), toy.features())
    trained = {path.split("/")[0] for path, g in found.items() if "table" in path and np.any(g)}
    # By the shared experts' mean, and by PLE's shared path, a task trains the other's tables.
    alone = name == "MMoE" or (name == "CGC" and mode == "shared_and_per_task")
    expected = {"encoder_task_1"} | (set() if alone else {"encoder_task_2"})
    assert trained == expected | ({"encoder"} if mode == "shared_and_per_task" else set())


@each
def test_gates_single_tasks_and_balancers(name: str, mode: str) -> None:
    model, x = build(name, mode), toy.features()
    weights, y = gate_weights(model, x), toy.outputs(model, x)
    level = max(level for level, _ in weights)
    for k, task in enumerate(model.task_names):
        one = extract_task(model, task)
        toy.same(toy.outputs(one, x), [y[k]])
        toy.same([gate_weights(one, x)[level, task]], [weights[level, task]])
    shared = {v.path.rsplit("/", 1)[0] for v in model.shared_variables}
    assert ("experts" if name == "MMoE" else "extraction_1/experts") in shared
    assert not any("encoder" in path for path in shared)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", ["both", None, True])
def test_an_unknown_kind_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"`embeddings`.*'per_task'.*Received: {value!r}"):
        toy.build(name, embeddings=value)


@pytest.mark.parametrize("name", ["CGC", "PLE"])
@pytest.mark.parametrize("mode", MODES)
def test_groups_of_features_read_one_encoding(name: str, mode: str) -> None:
    match = rf"`expert_features`.*None.*`embeddings`.*Received: {mode!r}"
    with pytest.raises(ValueError, match=match):
        toy.build(name, embeddings=mode, expert_features={"user": ["user"], "item": ["item"]})


@pytest.mark.parametrize("mode", MODES)
def test_groups_of_features_of_mmoe(mode: str) -> None:
    groups = {"user": ["user", "age"], "item": ["item", "history"]}
    model = toy.build("MMoE", embeddings=mode, expert_features=groups)
    assert [y.shape for y in toy.outputs(model, toy.features())] == [(24, 1)] * 2
