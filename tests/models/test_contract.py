"""What every model of the zoo does, whatever its body."""

import inspect
import pathlib
import pickle
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest
import toy

import mtl.models
from mtl.models.base import MultiTaskModel

_TWO = {"SharedBottom": (64, 32), "MoE": (16, 8), "MMoE": (16, 8), "CGC": (16, 16), "PLE": (16, 16)}
_EXPERTS = {"num_experts": 4, "expert_dnn_units": (32, 32), "gate_dnn_units": None}
_LEVELS = {
    "num_experts_specific": 8,
    "num_experts_shared": 4,
    "expert_dnn_units": (64, 64),
    "gate_dnn_units": None,
}
_OWN: dict[str, dict[str, Any]] = {
    "SharedBottom": {"bottom_dnn_units": (128, 128)},
    "MoE": _EXPERTS,
    "MMoE": _EXPERTS,
    "CGC": _LEVELS,
    "PLE": {**_LEVELS, "num_levels": 2},
    "ESMM": {"task_names": ("ctr", "ctcvr")},
}
_COMMON = {
    "num_tasks": None,
    "task_types": None,
    "task_names": None,
    "l2_reg_embedding": 1e-5,
    "l2_reg_dnn": 0,
    "seed": 1024,
    "dnn_dropout": 0,
    "dnn_activation": "relu",
    "dnn_use_bn": False,
    "name": None,
}


@pytest.fixture(scope="module", params=toy.MODELS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Trained:
    """A model after three steps of gradient descent on one batch, and what it was before."""

    def __init__(self, name: str) -> None:
        self.x, self.y = toy.features(), toy.labels()
        self.model = toy.build(name, task_names=["first task", "2nd"])
        self.before = self.model.get_weights()
        self.model.compile(keras.optimizers.SGD(0.05), metrics=["mae"], **toy.QUICK)
        self.losses = self.fit(self.model)
        self.outputs = toy.outputs(self.model, self.x)

    def fit(self, model: Any) -> list[float]:
        history = model.fit(self.x, self.y, batch_size=24, epochs=3, verbose=0)
        return list(history.history["loss"])


@pytest.fixture(scope="module")
def trained(name: str) -> Trained:
    return Trained(name)


def test_parameters_have_the_fixed_names_and_defaults(name: str) -> None:
    parameters = dict(inspect.signature(getattr(mtl.models, name)).parameters)
    first = parameters.pop("dnn_feature_columns")
    assert first.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert first.default is inspect.Parameter.empty
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters.values())
    towers = (_TWO.get(name, (128, 128)),) * 2
    expected = {"tower_dnn_units_lists": towers, **_COMMON, **_OWN.get(name, {})}
    given = {key: p.default for key, p in parameters.items() if key != "gate_temperature"}
    assert given == expected


def test_defaults_build(name: str) -> None:
    model = getattr(mtl.models, name)(toy.columns(), num_tasks=2)
    assert isinstance(model, MultiTaskModel)
    assert model.task_names == (["ctr", "ctcvr"] if name == "ESMM" else ["task_1", "task_2"])
    assert [tuple(output.shape) for output in model.outputs] == [(None, 1)] * 2


@pytest.mark.parametrize("tasks", [1, 5])
def test_any_number_of_tasks(name: str, tasks: int) -> None:
    if name == "ESMM":
        pytest.skip("ESMM is a model of two tasks")
    # The default list of towers was written for two tasks: its entries serve them all.
    options = dict(toy.SIZES.get(name, {}))
    model = getattr(mtl.models, name)(toy.columns(), num_tasks=tasks, **options)
    assert model.task_names == [f"task_{k + 1}" for k in range(tasks)]
    assert [tuple(output.shape) for output in model.outputs] == [(None, 1)] * tasks
    kernels = [w for w in model.weights if "/dnn/dense_1/kernel" in w.path]
    assert [tuple(w.shape) for w in kernels] == [_TWO[name]] * tasks


def test_an_explicit_list_of_towers_is_not_repeated(name: str) -> None:
    factory = getattr(mtl.models, name)
    for towers in ([[4]], [[4], [4], [4]]):
        with pytest.raises(ValueError, match=rf"tower_dnn_units_lists.*{len(towers)} lists for 2"):
            factory(toy.columns(), num_tasks=2, tower_dnn_units_lists=towers)


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
    # The loss of an epoch of one batch is the loss before its step.
    first, second, third = trained.losses
    assert first > second > third > 0


def test_every_variable_is_trained(trained: Trained) -> None:
    after = trained.model.get_weights()
    assert len(trained.model.trainable_weights) == len(after)
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
        drawn = "bias" not in a.path
        assert np.array_equal(a.numpy(), c.numpy()) != drawn
    none = [toy.build(name, seed=None).get_weights()[0] for _ in range(2)]
    assert not np.array_equal(*none)


def test_a_new_process_loads_a_model_after_import_mtl(tmp_path: pathlib.Path) -> None:
    model = toy.build("PLE", task_names=["first task", "2nd"], num_levels=2)
    model.save(tmp_path / "model.keras")
    x = toy.features(rows=3)
    np.savez(tmp_path / "x.npz", **x)
    script = (
        "import sys, keras, numpy as np, mtl\n"
        "model = keras.models.load_model('model.keras')\n"
        "x = {k: keras.ops.convert_to_tensor(v) for k, v in np.load('x.npz').items()}\n"
        "assert model.task_names == ['first task', '2nd'], model.task_names\n"
        "np.savez('y.npz', *[keras.ops.convert_to_numpy(y) for y in model(x)])\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, timeout=300)
    with np.load(tmp_path / "y.npz") as saved:
        toy.same([saved["arr_0"], saved["arr_1"]], toy.outputs(model, x))
