"""What every model of the zoo does, whatever its body."""

import inspect
import os
import pathlib
import pickle
import re
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
import toy
from keras import ops

from mtl.benchmark.recipes import zoo
from mtl.optimizers import LazyAdam
from mtl.training.model import MultiTaskModel

_TWO = {"SharedBottom": (64, 32), "MoE": (16, 8), "MMoE": (16, 8), "CGC": (16, 16), "PLE": (16, 16)}
_EXPERTS = {
    "num_experts": 4,
    "expert_dnn_units": (32, 32),
    "expert_features": None,
    "gate_dnn_units": None,
}
_LEVELS = {
    "num_experts_specific": 8,
    "num_experts_shared": 4,
    "expert_dnn_units": (64, 64),
    "expert_features": None,
    "gate_dnn_units": None,
}
_OWN: dict[str, dict[str, Any]] = {
    "SharedBottom": {"bottom": "dnn", "bottom_dnn_units": (128, 128)},
    "MoE": _EXPERTS,
    "MMoE": _EXPERTS,
    "CGC": _LEVELS,
    "PLE": {**_LEVELS, "num_levels": 2},
    "ESMM": {"task_names": ("ctr", "ctcvr"), "task_type": "binary"},
    "ESCM2": {"task_names": ("ctr", "ctcvr")},
}
_COMMON = {
    "num_tasks": None,
    "task_types": None,
    "task_names": None,
    "dense_embedding_dim": None,
    "l2_reg_embedding": 1e-5,
    "l2_reg_dnn": 0,
    "seed": 1024,
    "dnn_dropout": 0,
    "embedding_dropout": 0,
    "dense_scaling": 0,
    "dnn_activation": "relu",
    "dnn_use_bn": False,
    "name": None,
}


@pytest.fixture(scope="module", params=toy.SOME)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_task_comes_back_from_any_prediction(name: str) -> None:
    model = toy.build(name)
    biases = [w for w in model.trainable_weights if w.path.endswith("logits/bias")]
    for bias in biases:
        bias.assign(np.full(bias.shape, -40.0))
    model.compile(keras.optimizers.SGD(1.0), **toy.QUICK)
    model.train_on_batch(toy.features(), [np.ones(24)] * 2)
    # Each cross-entropy has the gradient p - 1 of its logit; steps of a funnel have several.
    gained = [float(ops.convert_to_numpy(bias)[0]) + 40 for bias in biases]
    assert all(change == pytest.approx(max(1, round(change)), abs=1e-5) for change in gained)


class Trained:
    """A model after three steps of gradient descent on one batch, and what it was before."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.x, self.y = toy.features(), toy.labels()
        self.model = toy.build(name, task_names=["first task", "2nd"])
        self.before = self.model.get_weights()
        self.model.compile(keras.optimizers.SGD(0.05), metrics=["mae"], **toy.QUICK)
        self.losses = self.fit(self.model)
        self.outputs = toy.outputs(self.model, self.x)

    def fit(self, model: Any) -> list[float]:
        """Return the loss after each of three steps, without dropout or what else is drawn."""
        data = (self.x, self.y)
        history = model.fit(*data, batch_size=24, epochs=3, verbose=0, validation_data=data)
        return list(history.history["val_loss"])


@pytest.fixture(scope="module")
def trained(name: str) -> Trained:
    return Trained(name)


def parameters_of(name: str) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(zoo()[name]).parameters)


@pytest.mark.parametrize("name", toy.MODELS)
def test_every_option_is_in_the_signature_and_in_the_documentation(name: str) -> None:
    parameters = parameters_of(name)
    first = parameters.pop("dnn_feature_columns")
    assert first.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert first.default is inspect.Parameter.empty
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters.values())
    assert "tower_dnn_units_lists" in parameters
    shared = {key: p.default for key, p in parameters.items() if key in _COMMON}
    assert shared == {**_COMMON, **{k: v for k, v in _OWN.get(name, {}).items() if k in shared}}
    text = inspect.getdoc(zoo()[name]) or ""
    documented = re.findall(r"^    (\w+): ", text.split("Args:")[1].split("Returns:")[0], re.M)
    assert sorted(documented) == sorted(["dnn_feature_columns", *parameters])
    for section in ("Returns:", "Raises:"):
        assert text.count(section) == 1
    assert "**options" not in text


@pytest.mark.parametrize("name", [*_TWO, "ESMM"])
def test_parameters_have_the_fixed_names_and_defaults(name: str) -> None:
    towers = (_TWO.get(name, (128, 128)),) * 2
    expected = {"tower_dnn_units_lists": towers, **_COMMON, **_OWN[name]}
    given = {key: p.default for key, p in parameters_of(name).items()}
    later = {"gate", "num_selected", "entropy_weight", "gate_temperature", "embeddings"}
    for key in {"dnn_feature_columns", *later}:
        given.pop(key, None)
    assert given == expected


def test_defaults_build(name: str) -> None:
    model = zoo()[name](toy.columns(), num_tasks=2, **toy.needed(name))
    assert isinstance(model, MultiTaskModel)
    names = parameters_of(name)["task_names"].default or ["task_1", "task_2"]
    assert model.task_names == list(names)
    assert [tuple(output.shape) for output in model.outputs] == [(None, 1)] * 2


@pytest.mark.parametrize("tasks", [1, 10])
def test_any_number_of_tasks(name: str, tasks: int) -> None:
    parameters = parameters_of(name)
    if parameters["task_names"].default:
        with pytest.raises(ValueError, match=rf"2 entries for {tasks} tasks"):
            zoo()[name](toy.columns(), num_tasks=tasks, **toy.needed(name))
        return
    # The default list of towers was written for two tasks: its entries serve them all.
    model = zoo()[name](toy.columns(), num_tasks=tasks, **toy.small(name))
    assert model.task_names == [f"task_{k + 1}" for k in range(tasks)]
    assert [tuple(output.shape) for output in model.outputs] == [(None, 1)] * tasks
    towers = parameters["tower_dnn_units_lists"].default
    shapes = [tuple(w.shape) for w in model.weights if w.path.endswith("/dense_1/kernel")]
    assert not towers[0] or shapes.count(towers[0]) == tasks


def test_an_explicit_list_of_towers_is_not_repeated(name: str) -> None:
    factory = zoo()[name]
    for towers in ([[4]], [[4], [4], [4]]):
        with pytest.raises(ValueError, match=rf"tower_dnn_units_lists.*{len(towers)} lists for 2"):
            factory(toy.columns(), num_tasks=2, tower_dnn_units_lists=towers, **toy.needed(name))


def test_outputs_are_named_after_the_tasks(trained: Trained) -> None:
    model = trained.model
    assert model.task_names == ["first task", "2nd"]
    assert model.output_names == ["first_task", "2nd"]
    copy = keras.models.clone_model(model)  # not compiled: it predicts in a graph
    copy.set_weights(model.get_weights())
    predictions = copy.predict(trained.x, batch_size=7, verbose=0)
    assert isinstance(predictions, list)
    assert [p.shape for p in predictions] == [(24, 1)] * 2
    toy.same(predictions, trained.outputs)


def test_a_step_lowers_the_loss(trained: Trained) -> None:
    first, second, third = trained.losses
    assert first > second > third > 0


def test_every_variable_is_trained(trained: Trained) -> None:
    after = trained.model.get_weights()
    fixed = [weight.path for weight in trained.model.non_trainable_weights]
    assert all("/moving_" in path for path in fixed)
    still = [
        weight.path
        for weight, a, b in zip(trained.model.weights, trained.before, after, strict=True)
        if np.array_equal(a, b)
    ]
    assert still == []


def test_save_and_load(trained: Trained, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "model.keras"
    trained.model.save(path)
    loaded = keras.models.load_model(path)
    assert type(loaded) is MultiTaskModel
    assert loaded.tasks == trained.model.tasks
    assert loaded.name == trained.model.name
    toy.same(toy.outputs(loaded, trained.x), trained.outputs, rtol=0, atol=0)
    # Training goes on where it was: with the optimizer's state, the losses and the metrics.
    assert int(loaded.optimizer.iterations) == 3
    losses = trained.fit(loaded)
    assert losses[-1] < losses[0] < trained.losses[-1]
    assert int(loaded.optimizer.iterations) == 6


def test_clone_pickle_and_weights(trained: Trained) -> None:
    clone = keras.models.clone_model(trained.model)
    assert type(clone) is MultiTaskModel
    assert clone.tasks == trained.model.tasks
    toy.same(clone.get_weights(), trained.before)  # seeds are part of the layers
    clone.set_weights(trained.model.get_weights())
    toy.same(toy.outputs(clone, trained.x), trained.outputs, rtol=0, atol=0)
    copy = pickle.loads(pickle.dumps(trained.model))
    assert type(copy) is MultiTaskModel
    assert copy.tasks == trained.model.tasks
    toy.same(toy.outputs(copy, trained.x), trained.outputs, rtol=0, atol=0)


def test_seeds(name: str) -> None:
    one, again, other = (toy.build(name, seed=seed) for seed in (1, 1, 2))
    for a, b, c in zip(one.weights, again.weights, other.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
        drawn = np.ptp(a.numpy()) > 0 and not a.path.endswith("alpha")  # and not a constant
        assert np.array_equal(a.numpy(), c.numpy()) != drawn
    none = [toy.build(name, seed=None).get_weights()[0] for _ in range(2)]
    assert not np.array_equal(*none)


def test_weights_save_and_load(trained: Trained, tmp_path: pathlib.Path) -> None:
    trained.model.save_weights(tmp_path / "model.weights.h5")
    other = toy.build(trained.name, task_names=["first task", "2nd"], seed=7)
    other.load_weights(tmp_path / "model.weights.h5")
    toy.same(toy.outputs(other, trained.x), trained.outputs, rtol=0, atol=0)


@pytest.mark.parametrize("name", toy.SOME)
def test_training_goes_on_after_loading_as_without_the_break(
    name: str, tmp_path: pathlib.Path
) -> None:
    def fit(model: Any) -> None:
        model.fit(toy.features(), toy.labels(), batch_size=12, shuffle=False, verbose=0)

    # Dropout, normalisation and the optimizer: they all have a state.
    model = toy.build(name, dnn_dropout=0.3, dnn_use_bn=True)
    model.compile(keras.optimizers.Adam(0.01), **toy.QUICK)
    fit(model)
    model.save(tmp_path / "model.keras")
    fit(model)
    loaded = keras.models.load_model(tmp_path / "model.keras")
    fit(loaded)
    toy.same(loaded.get_weights(), model.get_weights(), rtol=0, atol=0)
    for a, b in zip(loaded.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


@pytest.mark.parametrize(
    ("name", "policy"),
    [*((name, "mixed_float16") for name in toy.SOME), ("PLE", "mixed_bfloat16")],
)
def test_mixed_precision_trains(
    name: str, policy: str, tmp_path: pathlib.Path, request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(lambda: keras.config.set_dtype_policy("float32"))
    keras.config.set_dtype_policy(policy)
    x, y = toy.features(), toy.labels()
    model = toy.build(name, dnn_use_bn=True)
    before = model.get_weights()
    assert {str(w.dtype) for w in model.weights} == {"float32"}
    model.compile(keras.optimizers.Adam(0.01), **toy.QUICK)
    losses = model.fit(x, y, batch_size=24, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert all(np.isfinite(w).all() for w in model.get_weights())
    still = [
        weight.path
        for weight, a, b in zip(model.weights, before, model.get_weights(), strict=True)
        if np.array_equal(a, b)
    ]
    assert still == []
    predictions = toy.outputs(model, x)
    assert {p.dtype.name for p in predictions} == {"float32"}
    model.save(tmp_path / "model.keras")
    keras.config.set_dtype_policy("float32")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    toy.same(toy.outputs(loaded, x), predictions, rtol=0, atol=0)


# One of each kind: it weighs losses, compares them after the step, combines gradients by their
# inner products, or entry by entry.
BALANCERS = ["uncertainty", "famo", "pcgrad", "graddrop"]


@pytest.mark.parametrize(
    ("name", "balancer"),
    [*((name, None) for name in toy.SOME), *((n, b) for n in toy.FEW for b in BALANCERS)],
)
@pytest.mark.filterwarnings("ignore:LazyAdam received the gradient of a whole")
def test_it_trains_lazily_with_gaps_and_balanced(name: str, balancer: str | None) -> None:
    x, y = toy.features(), toy.labels()
    y[0][::3] = np.nan
    y[1][:8] = np.nan  # a batch without any
    model = toy.build(name)
    model.compile(LazyAdam(0.01), balancer=balancer, **toy.QUICK)
    before = [np.array(w) for w in model.get_weights()]
    logs = model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0).history
    assert np.isfinite(logs["loss"]).all()
    by_path = {w.path: np.array(ops.convert_to_numpy(w)) for w in model.weights}
    still = [
        path
        for (path, after), value in zip(by_path.items(), before, strict=False)
        if np.array_equal(after, value)
    ]
    assert still == []
    assert all(np.isfinite(value).all() for value in by_path.values())


def test_batches_of_any_size(trained: Trained) -> None:
    model, x, y = trained.model, trained.x, trained.y
    for rows in (0, 1, 2):
        head = {name: value[:rows] for name, value in x.items()}
        expected = [output[:rows] for output in trained.outputs]
        toy.same(toy.outputs(model, head), expected)
        toy.same(model.predict(head, verbose=0), expected)
    toy.same(model.predict(x, batch_size=7, verbose=0), trained.outputs)
    whole = model.evaluate(x, y, batch_size=24, verbose=0)
    parts = model.evaluate(x, y, batch_size=7, verbose=0)
    assert parts == pytest.approx(whole, rel=1e-4)


class Batches(keras.utils.PyDataset):
    """Batches of eight rows."""

    def __init__(self, x: Any, y: Any) -> None:
        super().__init__()
        self.x, self.y = x, y

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        rows = slice(8 * index, 8 * index + 8)
        return {k: v[rows] for k, v in self.x.items()}, tuple(v[rows] for v in self.y)


@pytest.mark.parametrize("name", toy.FEW)
def test_every_source_of_data_trains_alike(name: str) -> None:
    x, y = toy.features(), toy.labels()
    flat = {key: value for key, value in x.items() if value.ndim == 1}
    tall = {k: np.reshape(v, (24, -1)) for k, v in x.items()}
    model = toy.build(name)
    model.compile(keras.optimizers.SGD(0.1), **toy.QUICK)
    before, state = model.get_weights(), toy.state(model)
    frame = pd.DataFrame(dict(zip(model.task_names, y, strict=True)))
    sources: dict[str, Any] = {
        "numpy": {"x": x, "y": y, "batch_size": 8},
        "pandas": {"x": {**x, **pd.DataFrame(flat)}, "y": frame, "batch_size": 8},
        "PyDataset": {"x": Batches(tall, y)},
        "tf.data": {"x": tf.data.Dataset.from_tensor_slices((tall, tuple(y))).batch(8)},
    }
    weights = {}
    for source, data in sources.items():
        toy.restore(model, state)
        model.fit(**data, shuffle=False, verbose=0)
        weights[source] = model.get_weights()
    assert any(np.abs(a - b).max() > 1e-4 for a, b in zip(before, weights["numpy"], strict=True))
    for values in weights.values():
        toy.same(values, weights["numpy"])


@pytest.mark.parametrize("name", toy.FEW)
def test_validation_split_holds_out_the_last_rows(name: str) -> None:
    x, y = toy.features(), toy.labels()
    model = toy.build(name)
    model.compile(keras.optimizers.SGD(0.1), **toy.QUICK)
    before = toy.state(model)
    options: dict[str, Any] = {"batch_size": 6, "shuffle": False, "verbose": 0}
    logs = model.fit(x, y, validation_split=0.25, **options).history
    split = model.get_weights()
    toy.restore(model, before)
    head = {key: value[:18] for key, value in x.items()}, [label[:18] for label in y]
    tail = {key: value[18:] for key, value in x.items()}, [label[18:] for label in y]
    expected = model.fit(*head, validation_data=tail, **options).history
    toy.same(split, model.get_weights(), rtol=0, atol=0)
    assert {k: v[0] for k, v in logs.items()} == pytest.approx(
        {k: v[0] for k, v in expected.items()}
    )


_LOAD_AND_PREDICT = """
import pathlib
import keras, numpy as np
import mtl
x = dict(np.load("x.npz"))
for path in pathlib.Path().glob("*.keras"):
    model = keras.models.load_model(path)
    np.savez(path.with_suffix(".npz"), *model.predict(x, batch_size=8, verbose=0))
"""


def _predict_elsewhere(folder: pathlib.Path, backend: str) -> None:
    subprocess.run(
        [sys.executable, "-c", _LOAD_AND_PREDICT],
        cwd=folder,
        env={**os.environ, "KERAS_BACKEND": backend},
        check=True,
        timeout=600,
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Save every model, with large random weights, and what it predicts."""
    folder = tmp_path_factory.mktemp("saved")
    x = toy.features(rows=20)
    # Ids outside the vocabulary read the unknown row on every backend.
    x["user"][:4] = [-1, -7, 5, 2**31 - 1]
    np.savez(folder / "x.npz", **x)
    predictions = {}
    for name in toy.MODELS:
        model = toy.randomize(toy.build(name, task_names=["first task", "2nd"], dnn_use_bn=True))
        model.save(folder / f"{name}.keras")
        predictions[name] = model.predict(x, batch_size=8, verbose=0)
    return folder, predictions


def test_a_new_process_loads_every_model_after_import_mtl(saved: Any) -> None:
    folder, predictions = saved
    _predict_elsewhere(folder, toy.BACKEND)
    for name, expected in predictions.items():
        with np.load(folder / f"{name}.npz") as there:
            toy.same([there["arr_0"], there["arr_1"]], expected, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("backend", [b for b in ("jax", "torch") if b != toy.BACKEND])
def test_a_saved_model_predicts_alike_on_every_backend(saved: Any, backend: str) -> None:
    pytest.importorskip(backend, reason=f"the extra {backend} is not installed")
    folder, predictions = saved
    _predict_elsewhere(folder, backend)
    for name, expected in predictions.items():
        with np.load(folder / f"{name}.npz") as there:
            toy.same([there["arr_0"], there["arr_1"]], expected, rtol=0, atol=1e-5)
