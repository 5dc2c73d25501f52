"""extract_task: one task's model out of several."""

import pathlib
from typing import Any

import keras
import numpy as np
import pytest
import toy

from mtl.models import extract_task
from mtl.models.base import MultiTaskModel

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
    toy.same(toy.outputs(part, X), toy.outputs(whole, X)[index : index + 1], rtol=0, atol=0)
    assert len(part.layers) <= len(whole.layers)
    towers = {layer.name for layer in part.layers if hasattr(layer, "task")}
    if not any(layer.name == "cvr" for layer in whole.layers):
        assert towers == set(part.output_names)
    elif index == 0:
        assert towers == {"click"}


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
