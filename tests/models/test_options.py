"""What every model does with the options that change its shape."""

import pathlib
import pickle
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import toy

from mtl.models import extract_task

pytest.importorskip("keras_rs", reason="the extra rs is not installed")

GROUPS = {"user": ["age", "user"], "item": ["item", "history", "price"]}
OPTIONS: dict[str, Callable[[], dict[str, Any]]] = {
    **{f"{name} projects": lambda: {"dense_embedding_dim": 4} for name in toy.FEW},
    **{
        f"{name} by group": lambda: {"expert_features": GROUPS, "dnn_use_bn": True}
        for name in toy.SOME
        if name in ("MoE", "MMoE", "CGC", "PLE")
    },
    "SharedBottom crosses": lambda: {"bottom": "dcn"},
    "SharedBottom factorizes": lambda: {"bottom": "deepfm", "dense_embedding_dim": 3},
    "SharedBottom of a layer": lambda: {
        "bottom": keras.layers.Dense(4, kernel_initializer=keras.initializers.GlorotNormal(1)),
        "bottom_dnn_units": (128, 128),
    },
}


def build(case: str) -> Any:
    return toy.build(case.split()[0], **OPTIONS[case]())


@pytest.mark.parametrize("case", OPTIONS)
def test_it_trains_every_variable_and_its_copies_are_equal(
    case: str, tmp_path: pathlib.Path
) -> None:
    model, x, y = build(case), toy.features(), toy.labels()
    before = model.get_weights()
    toy.same(build(case).get_weights(), before, rtol=0, atol=0)
    model.compile(keras.optimizers.Adam(0.01), **toy.QUICK)
    losses = model.fit(x, y, batch_size=24, epochs=3, verbose=0).history["loss"]
    assert losses[0] > losses[-1] > 0
    for weight, start in zip(model.weights, before, strict=True):
        assert not np.array_equal(keras.ops.convert_to_numpy(weight), start), weight.path
    outputs = toy.outputs(model, x)

    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    clone = keras.models.clone_model(model)
    toy.same(clone.get_weights(), before, rtol=0, atol=0)
    clone.set_weights(model.get_weights())
    model.save_weights(tmp_path / "model.weights.h5")
    other = build(case)
    other.load_weights(tmp_path / "model.weights.h5")
    for copy in (loaded, clone, pickle.loads(pickle.dumps(model)), other):
        assert type(copy) is type(model)
        toy.same(toy.outputs(copy, x), outputs, rtol=0, atol=0)


@pytest.mark.parametrize("use_bn", [False, True])
@pytest.mark.parametrize("case", OPTIONS)
def test_a_task_of_it_predicts_the_same(case: str, use_bn: bool) -> None:
    options = {**OPTIONS[case](), "dnn_use_bn": use_bn}
    model = toy.randomize(toy.build(case.split()[0], **options))
    expected = toy.outputs(model, toy.features())
    for k, task in enumerate(model.task_names):
        part = extract_task(model, task)
        toy.same(toy.outputs(part, toy.features()), expected[k : k + 1])
        smaller = part.count_params() < model.count_params()
        assert smaller or model.hidden_tasks  # whose towers the last step needs


@pytest.mark.parametrize("name", toy.MODELS)
def test_numbers_are_projected_in_every_model(name: str) -> None:
    model = toy.build(name, dense_embedding_dim=4)
    assert model.encoder.dense_embedding_dim == 4
    assert model.encoder.output.shape == (None, 3 * 3 + 2 * 4)
