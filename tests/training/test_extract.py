"""extract_task: one task's model out of several."""

import pathlib
from typing import Any

import keras
import numpy as np
import pytest
import reference as ref
import toy

from mtl.models import extract_task
from mtl.training.model import MultiTaskModel

X = toy.features()


@pytest.fixture(scope="module", params=toy.MODELS)
def whole(request: pytest.FixtureRequest) -> Any:
    # A name that starts another one's name: layers are told apart by identity, not by prefix.
    return toy.randomize(toy.build(request.param, task_names=["click", "click long"]))


@pytest.mark.parametrize("index", [0, 1])
def test_the_part_predicts_as_the_whole(whole: Any, index: int) -> None:
    part = extract_task(whole, whole.task_names[index])
    assert type(part) is MultiTaskModel
    assert part.tasks == whole.tasks[index : index + 1]
    assert part.output_names == whole.output_names[index : index + 1]
    # To rounding: a level that is cut down has smaller products.
    toy.same(toy.outputs(part, X), toy.outputs(whole, X)[index : index + 1])
    assert len(part.layers) <= len(whole.layers)
    towers = {layer.name for layer in part.layers if hasattr(layer, "task")}
    if not whole.hidden_tasks:
        assert towers == set(part.output_names)
    elif index == 0:
        assert towers == {"click"}


@pytest.mark.parametrize("use_bn", [False, True])
@pytest.mark.parametrize(("name", "levels"), [("CGC", {}), ("PLE", {"num_levels": 3})])
def test_the_last_level_keeps_the_tasks_own_experts(
    name: str, levels: dict[str, int], use_bn: bool
) -> None:
    options = {"num_experts_specific": 2, "num_experts_shared": 3, "expert_dnn_units": (8, 5)}
    whole = toy.build(name, num_tasks=3, gate_dnn_units=[4], dnn_use_bn=use_bn, **levels, **options)
    toy.randomize(whole)
    last = f"extraction_{levels.get('num_levels', 1)}"
    for k, task in enumerate(whole.task_names):
        part = extract_task(whole, task)
        toy.same(toy.outputs(part, X), [toy.outputs(whole, X)[k]])  # to rounding: a smaller matmul
        level = part.get_layer(last)
        assert (level.num_tasks, level.experts.num_experts, len(level.gates)) == (1, 2 + 3, 1)
        kernels = [value for value in ref.weights(part).values() if value.ndim == 3]
        assert [len(v) for v in kernels][-2:] == [2 + 3] * 2
        assert all(len(v) == 3 * 2 + 3 for v in kernels[:-2])
        # Taken apart once more, it stays as it is.
        again = extract_task(part, task)
        assert again.count_params() == part.count_params() < whole.count_params()
        toy.same(toy.outputs(again, X), toy.outputs(part, X), rtol=0, atol=0)


def test_an_unknown_task_is_refused(whole: Any) -> None:
    with pytest.raises(ValueError, match=r"`name` should be one of \['click'.*Received: 'long'"):
        extract_task(whole, "long")


def test_the_weights_are_copies() -> None:
    whole = toy.randomize(toy.build("MMoE"))
    part = extract_task(whole, "task_1")
    before = whole.get_weights()
    part.compile(keras.optimizers.SGD(0.1), **toy.QUICK)
    moved = toy.outputs(part, X)
    part.fit(X, toy.labels(1), batch_size=24, verbose=0)
    assert np.abs(toy.outputs(part, X)[0] - moved[0]).max() > 1e-4
    toy.same(whole.get_weights(), before, rtol=0, atol=0)


def test_the_part_saves_loads_and_is_taken_apart_again(tmp_path: pathlib.Path) -> None:
    whole = toy.randomize(toy.build("ESMM"))
    for name in ("ctcvr", "cvr"):
        part = extract_task(whole, name)
        part.save(tmp_path / "part.keras")
        loaded = keras.models.load_model(tmp_path / "part.keras")
        assert loaded.task_names == [name]
        toy.same(toy.outputs(loaded, X), toy.outputs(part, X), rtol=0, atol=0)
    ctcvr = extract_task(whole, "ctcvr")
    toy.same(toy.outputs(extract_task(ctcvr, "ctr"), X), toy.outputs(whole, X)[:1])
    ctr, cvr = (toy.outputs(extract_task(whole, name), X)[0] for name in ("ctr", "cvr"))
    toy.same([ctr * cvr], toy.outputs(ctcvr, X))
