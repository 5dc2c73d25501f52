"""What earlier versions wrote loads, and means what it meant."""

import json
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
import toy
from packaging.version import parse

import mtl.models
from mtl.data import TableEncoder
from mtl.training import MultiTaskModel

VERSIONS = sorted((Path(__file__).parent / "released").iterdir())
CASES = [(folder, name) for folder in VERSIONS for name in toy.MODELS[:6]]
# The options that the saved models were built with.
OPTIONS: dict[str, dict[str, Any]] = {
    "SharedBottom": {"bottom": "deepfm", "dense_embedding_dim": 3},
    "MoE": {"dnn_use_bn": True},
    "MMoE": {"expert_features": {"a": ["user", "age"], "b": ["item", "history", "price"]}},
    "CGC": {"task_types": ["binary", ("multiclass", 3)], "gate_dnn_units": [4]},
    "PLE": {"task_names": ["first task", "2nd"], "dnn_dropout": 0.1},
    "ESMM": {},
}


def ids(value: Any) -> str:
    return value.name if isinstance(value, Path) else str(value)


def arrays(folder: Path, kind: str) -> list[np.ndarray]:
    with np.load(folder / "arrays.npz") as stored:
        values = {key: stored[key] for key in stored.files if key.startswith(f"{kind}/")}
    return [values[f"{kind}/{i}"] for i in range(len(values))]


def path_of(folder: Path, name: str) -> Path:
    """Return the path of a saved model, which no older Keras than its own reads."""
    path = folder / f"{name}.keras"
    with zipfile.ZipFile(path) as file:
        written = json.loads(file.read("metadata.json"))["keras_version"]
    if parse(keras.__version__) < parse(written):
        pytest.skip(f"written by Keras {written}")
    return path


def features(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "arrays.npz") as stored:
        return {key[2:]: stored[key] for key in stored.files if key.startswith("x/")}


# As it does everywhere on PyTorch.
@pytest.mark.filterwarnings("ignore:LazyAdam received the gradient of a whole:UserWarning")
@pytest.mark.parametrize(("folder", "name"), CASES, ids=ids)
def test_a_saved_model_loads_predicts_and_goes_on(folder: Path, name: str) -> None:
    if name == "SharedBottom":
        pytest.importorskip("keras_rs", reason="the extra rs is not installed")
    model = keras.models.load_model(path_of(folder, name))
    assert type(model) is MultiTaskModel
    if toy.BACKEND == "torch":  # for which the file has what JAX made of "auto"
        model.jit_compile = False
    expected = arrays(folder, f"predictions/{name}")
    x, y = features(folder), toy.labels()
    toy.same(model.predict(x, batch_size=8, verbose=0), expected, atol=2e-6, rtol=2e-5)
    steps = int(model.optimizer.iterations)
    assert steps == 6
    before = model.get_weights()
    model.run_eagerly = toy.BACKEND == "tensorflow"
    history = model.fit(x, y, batch_size=8, epochs=1, verbose=0).history
    assert int(model.optimizer.iterations) == 9
    assert np.isfinite(history["loss"]).all()
    assert any(not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


@pytest.mark.parametrize(("folder", "name"), CASES, ids=ids)
def test_a_seed_gives_the_initial_weights_that_it_gave(folder: Path, name: str) -> None:
    if name == "SharedBottom":
        pytest.importorskip("keras_rs", reason="the extra rs is not installed")
    model = toy.build(name, **OPTIONS[name])
    given, now = arrays(folder, f"initial/{name}"), model.get_weights()
    if toy.BACKEND != "jax":  # which wrote them; a graph of other operations has another order
        given, now = (sorted(w, key=lambda v: (v.shape, v.tobytes())) for w in (given, now))
    toy.same(now, given, rtol=0, atol=0)


@pytest.mark.parametrize("folder", VERSIONS, ids=ids)
def test_saved_weights_load_into_a_new_model(folder: Path) -> None:
    model = toy.build("PLE", **OPTIONS["PLE"], seed=3)
    model.load_weights(folder / "PLE.weights.h5")
    predictions = model.predict(features(folder), batch_size=8, verbose=0)
    toy.same(predictions, arrays(folder, "predictions/PLE"), atol=2e-6, rtol=2e-5)


@pytest.mark.parametrize("folder", VERSIONS, ids=ids)
def test_an_extracted_task_of_a_saved_model_predicts_as_it_did(folder: Path) -> None:
    model = keras.models.load_model(path_of(folder, "ESMM"))
    ctr, cvr = (mtl.models.extract_task(model, name) for name in ("ctr", "cvr"))
    x = features(folder)
    product = ctr.predict(x, verbose=0) * cvr.predict(x, verbose=0)
    toy.same([product], arrays(folder, "predictions/ESMM")[1:], atol=2e-6, rtol=2e-5)


@pytest.mark.parametrize("folder", VERSIONS, ids=ids)
@pytest.mark.parametrize(
    ("name", "ages"),
    [("plain", [0, 1 / 3, 4 / 9, 1, 0]), ("bins", [0, 1 / 3, 4 / 9, 1, 0])],
)
def test_a_saved_encoder_transforms_as_it_did(folder: Path, name: str, ages: list[float]) -> None:
    encoder = TableEncoder.load(folder / f"encoder-{name}.json")
    frame = pd.DataFrame(
        {"city": ["a", "b", "a", None, "z"], "age": [1, 2, np.nan, 4, 1], "n": [3, 1, 2, 3, 9]}
    )
    x = encoder.transform(frame)
    assert x["city"].tolist() == [1, 2, 1, 3, 0]
    assert x["n"].tolist() == [3, 1, 2, 3, 0]
    np.testing.assert_allclose(x["age"], ages, rtol=1e-6)
    columns = {column.name: column for column in encoder.feature_columns}
    assert [columns[name].vocabulary_size for name in ("city", "n")] == [4, 4]
    assert (columns["age"].transform_fn is None) == (name == "plain")
