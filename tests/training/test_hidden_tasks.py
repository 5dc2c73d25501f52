"""Tasks that a model keeps to itself, and losses that belong to it, on every way a model takes."""

import os
import pathlib
import pickle
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest
import toy
from keras import ops

from mtl.losses import JointLoss, OrderPenalty
from mtl.metrics import evaluate_tasks
from mtl.models import extract_task
from mtl.models.network import Network
from mtl.models.options import per_task
from mtl.training import MultiTaskModel

X, Y = toy.features(), toy.labels()


@keras.saving.register_keras_serializable(package="test_hidden_tasks")
class Agreement(JointLoss):
    """weight · mean (guess - first)²: of a hidden task and one with labels."""

    def __init__(self, tasks: Any, weight: float = 2.0, name: str = "agreement") -> None:
        super().__init__(tasks, weight, name)

    def call(self, y_true: Any, y_pred: Any, sample_weight: Any) -> Any:
        first, guess = self.tasks
        assert set(y_true) == {first}  # there are no labels of a hidden task
        return ops.mean(ops.square(y_pred[guess] - y_pred[first]))


def build(**options: Any) -> MultiTaskModel:
    """Build a model of two tasks, with a tower that only its own loss reads."""
    options = {"task_names": ["first", "second"], **options}
    net = Network(toy.columns(), per_task(4), **options)
    x = net.encode()
    guess = net.tower(0, x, hidden="guess")
    losses = [Agreement(["first", "guess"]), OrderPenalty("first", "second", 3.0)]
    return net.model([*net.towers([x, x]), guess], losses=losses)


def compiled(**options: Any) -> MultiTaskModel:
    model = toy.randomize(build())
    model.compile(keras.optimizers.SGD(0.1), **{**toy.QUICK, **options})
    return model


def every(model: MultiTaskModel) -> list[np.ndarray]:
    """Return the predictions of first, second and guess."""
    shown = toy.outputs(model, X)
    return [*shown, *toy.outputs(extract_task(model, "guess"), X)]


def expected_loss(first: Any, second: Any, guess: Any) -> tuple[float, float, float]:
    def cross_entropy(p: Any, y: Any) -> float:
        p, y = p.ravel().astype("float64"), y.astype("float64")
        return float(-np.mean(y * np.log(p) + (1 - y) * np.log(1 - p)))

    agreement = 2 * np.mean((guess - first) ** 2)
    order = 3 * np.mean(np.maximum(second - first, 0))
    tasks = cross_entropy(first, Y[0]) + cross_entropy(second, Y[1])
    return tasks + agreement + order, agreement, order


def test_they_are_seen_by_nobody_else() -> None:
    model = compiled(metrics=["mae"])
    assert model.task_names == ["first", "second"] == model.output_names
    assert [task.name for task in model.hidden_tasks] == ["guess"]
    assert [len(model.outputs), len(model.hidden_outputs), len(model.output_shape)] == [2, 1, 2]
    assert [tuple(p.shape) for p in toy.outputs(model, X)] == [(24, 1)] * 2
    for predictions in (model.predict(X, verbose=0), model.predict_on_batch(X)):
        assert [p.shape for p in predictions] == [(24, 1)] * 2
    by_steps = model.predict(X, verbose=0, batch_size=8, callbacks=[keras.callbacks.Callback()])
    toy.same(by_steps, model.predict(X, verbose=0))
    logs = model.evaluate(X, Y, verbose=0, return_dict=True)
    assert set(logs) == {
        *("loss", "first_loss", "second_loss", "agreement", "order_penalty"),
        *("first_mae", "second_mae"),
    }
    assert list(evaluate_tasks(model, X, Y).index) == ["first", "second"]
    with pytest.raises(ValueError, match="guess"):
        model.fit(X, {"first": Y[0], "guess": Y[1]}, verbose=0)
    symbolic = model(
        {name: keras.Input(t.shape[1:], dtype=t.dtype) for name, t in model.input.items()}
    )
    assert [tuple(t.shape) for t in symbolic] == [(None, 1)] * 2


def test_the_models_own_losses_are_in_the_total_and_in_the_logs() -> None:
    model = compiled()
    total, agreement, order = expected_loss(*every(model))
    logs = model.evaluate(X, Y, batch_size=24, verbose=0, return_dict=True)
    assert logs["agreement"] == pytest.approx(agreement, rel=1e-5)
    assert logs["order_penalty"] == pytest.approx(order, rel=1e-5)
    assert logs["loss"] == pytest.approx(total, rel=1e-5)
    history = model.fit(X, Y, batch_size=24, verbose=0).history
    assert history["loss"][0] == pytest.approx(total, rel=1e-5)
    # The tower that no label reaches is trained by the loss that reads it.
    tower = model.get_layer("guess")
    before = [w.copy() for w in tower.get_weights()]
    model.fit(X, Y, batch_size=24, verbose=0)
    assert all(not np.array_equal(a, b) for a, b in zip(before, tower.get_weights(), strict=True))


def test_they_come_beside_what_compile_is_given() -> None:
    model = compiled(joint_losses=OrderPenalty("first", "guess", name="mine"))
    logs = model.evaluate(X, Y, verbose=0, return_dict=True)
    first, _, guess = every(model)
    assert logs["mine"] == pytest.approx(np.mean(np.maximum(guess - first, 0)), rel=1e-5)
    assert "agreement" in logs
    with pytest.raises(ValueError, match="'agreement' twice"):
        model.compile("sgd", joint_losses=[Agreement(["first", "guess"])])
    config = model.get_compile_config()["joint_losses"]
    assert [loss["config"]["name"] for loss in config] == ["mine"]


@pytest.mark.parametrize("balancer", ["pcgrad", "uncertainty", "famo", "gradnorm", "dwa"])
def test_balancers_weigh_the_tasks_and_leave_them_alone(balancer: str) -> None:
    net = Network(toy.columns(), per_task(4), task_names=["first", "second"])
    x = keras.layers.Dense(4, name="bottom", activation="tanh")(net.encode())
    guess = net.tower(0, x, hidden="guess")
    model = net.model([*net.towers([x, x]), guess], losses=[Agreement(["first", "guess"])])
    model.compile(keras.optimizers.SGD(0.1), balancer=balancer, **toy.QUICK)
    before = model.get_weights()
    history = model.fit(X, Y, batch_size=8, epochs=2, verbose=0).history
    assert np.isfinite(history["agreement"]).all()
    names = {variable.path.split("/")[0] for variable in model.shared_variables}
    assert names == {"bottom"}
    still = [
        weight.path
        for weight, start in zip(model.weights, before, strict=True)
        if np.array_equal(weight.numpy(), start)
    ]
    assert not [path for path in still if path.startswith(("bottom", "first", "second", "guess"))]


def test_copies_keep_them(tmp_path: pathlib.Path) -> None:
    model = compiled()
    expected, outputs = model.evaluate(X, Y, verbose=0, return_dict=True), every(model)
    model.save(tmp_path / "model.keras")
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    clone.compile(keras.optimizers.SGD(0.1), **toy.QUICK)
    for copy in (
        keras.models.load_model(tmp_path / "model.keras"),
        pickle.loads(pickle.dumps(model)),
        clone,
    ):
        assert type(copy) is MultiTaskModel
        assert copy.hidden_tasks == model.hidden_tasks
        toy.same(every(copy), outputs, rtol=0, atol=0)
        again = copy.evaluate(X, Y, verbose=0, return_dict=True)
        assert again == pytest.approx(expected, rel=1e-6)
        history = copy.fit(X, Y, batch_size=24, verbose=0).history
        assert history["agreement"][0] == pytest.approx(expected["agreement"], rel=1e-5)


_ELSEWHERE = """
import keras, numpy as np
import mtl
model = keras.models.load_model("model.keras")
x = dict(np.load("x.npz"))
y = [np.ones(24, "float32"), np.zeros(24, "float32")]
assert [len(p) for p in model.predict(x, verbose=0)] == [24, 24]
print(model.evaluate(x, y, verbose=0, return_dict=True)["order_penalty"])
print(float(mtl.models.extract_task(model, "cvr").predict(x, verbose=0).sum()))
"""


@pytest.mark.slow
def test_a_new_process_loads_them_after_import_mtl(tmp_path: pathlib.Path) -> None:
    net = Network(toy.columns(), per_task(4), task_names=["first", "second"])
    x = net.encode()
    outputs = [*net.towers([x, x]), net.tower(0, x, hidden="cvr")]
    model = toy.randomize(net.model(outputs, losses=[OrderPenalty("first", "cvr")]))
    model.compile("sgd", **toy.QUICK)
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "x.npz", **X)
    result = subprocess.run(
        [sys.executable, "-c", _ELSEWHERE],
        cwd=tmp_path,
        env={**os.environ, "KERAS_BACKEND": toy.BACKEND},
        check=True,
        capture_output=True,
        text=True,
        timeout=600,
    )
    penalty, total = map(float, result.stdout.split()[-2:])
    y = [np.ones(24, "float32"), np.zeros(24, "float32")]
    here = model.evaluate(X, y, verbose=0, return_dict=True)["order_penalty"]
    assert penalty == pytest.approx(here, rel=1e-5)
    there = toy.outputs(extract_task(model, "cvr"), X)[0].sum()
    assert total == pytest.approx(there, rel=1e-5)


def test_a_part_keeps_the_losses_whose_tasks_it_has() -> None:
    model = toy.randomize(build())
    first = extract_task(model, "first")
    first.compile("sgd", **toy.QUICK)
    assert set(first.evaluate(X, Y[:1], verbose=0, return_dict=True)) == {"loss"}
    guess = extract_task(model, "guess")
    assert guess.task_names == ["guess"]
    guess.compile("sgd", **toy.QUICK)
    assert np.isfinite(guess.fit(X, Y[0], verbose=0).history["loss"]).all()
    with pytest.raises(ValueError, match=r"one of \['first', 'guess', 'second'\]"):
        extract_task(model, "guest")


def test_missing_labels_and_steps_by_hand() -> None:
    model = compiled()
    y = [label.copy() for label in Y]
    y[0][:7], y[1][3:] = np.nan, np.nan
    logs = model.evaluate(X, y, batch_size=24, verbose=0, return_dict=True)
    assert logs["agreement"] == pytest.approx(expected_loss(*every(model))[1], rel=1e-5)
    one = model.train_on_batch(X, Y, return_dict=True)
    assert np.isfinite(
        [one["agreement"], model.test_on_batch(X, Y, return_dict=True)["loss"]]
    ).all()


def test_esmm_has_one_of_them() -> None:
    model = toy.randomize(toy.build("ESMM", task_names=["click", "buy"]))
    assert [task.name for task in model.hidden_tasks] == ["cvr"]
    ctr, ctcvr = toy.outputs(model, X)
    (cvr,) = toy.outputs(extract_task(model, "cvr"), X)
    toy.same([ctr * cvr], [ctcvr])
    model.compile("sgd", joint_losses=[OrderPenalty("click", "cvr")], **toy.QUICK)
    logs = model.evaluate(X, Y, verbose=0, return_dict=True)
    assert logs["order_penalty"] == pytest.approx(np.mean(np.maximum(cvr - ctr, 0)), rel=1e-5)
