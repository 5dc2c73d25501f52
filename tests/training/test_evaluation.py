"""Evaluation without labels of a task: NaN in the logs, said once, and no best of it."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import pytest
import toy
from test_labels import STREAMS, batches_of, build, fit

from mtl.losses import OrderPenalty

X, Y = toy.features(), toy.labels()
NONE = np.full(24, np.nan, "float32")
OTHERS = ["task_1_loss", "task_1_AUC", "loss"]


@contextmanager
def said(*parts: str) -> Iterator[None]:
    """Expect one warning of missing labels, with these parts; Keras warns of its own affairs."""
    with warnings.catch_warnings(record=True) as every:
        warnings.simplefilter("always")
        yield
    ours = [str(w.message) for w in every if "labels of every task" in str(w.message)]
    assert len(ours) == 1
    for part in parts:
        assert part in ours[0]


def _validated(model: Any, way: str, **options: Any) -> Any:
    options = {"epochs": 2, "verbose": 0, **options}
    if way == "split":
        x = {name: np.concatenate([v, v]) for name, v in X.items()}
        y = [np.concatenate([Y[0], Y[0]]), np.concatenate([Y[1], NONE])]
        return model.fit(x, y, validation_split=0.5, **options).history
    data: Any = (X, [Y[0], NONE])
    if way != "arrays":
        data = STREAMS[way](batches_of(X, (Y[0], NONE)))
    return model.fit(X, Y, validation_data=data, **options).history


@pytest.mark.parametrize("way", ["split", "arrays", "PyDataset", "tf.data"])
def test_validation_without_labels_of_a_task_is_nan_and_said_once(way: str) -> None:
    model = build(metrics="default")
    with said("`validation_data`", "['task_2']"):
        logs = _validated(model, way)
    assert np.isnan([logs["val_task_2_loss"], logs["val_task_2_AUC"]]).all()
    for name in OTHERS:
        assert np.isfinite(logs[f"val_{name}"]).all()
    assert np.isfinite([v for k, v in logs.items() if not k.startswith("val_")]).all()


def test_evaluation_without_labels_of_a_task_is_nan() -> None:
    model = build(metrics="default", weighted_metrics=["mae"])
    right = model.evaluate(X, Y, verbose=0, return_dict=True)
    batches = batches_of(X, (Y[0], NONE))
    for data in (
        (X, [Y[0], NONE]),
        (STREAMS["PyDataset"](batches),),
        (STREAMS["tf.data"](batches),),
    ):
        with said("`y`", "['task_2']"):
            logs = model.evaluate(*data, verbose=0, return_dict=True)
        assert all(np.isnan(v) for k, v in logs.items() if k.startswith("task_2"))
        for name in ("task_1_loss", "task_1_AUC", "task_1_mae"):
            assert logs[name] == pytest.approx(right[name], rel=1e-5)
        assert logs["loss"] == pytest.approx(right["task_1_loss"], rel=1e-5)
    model.reset_metrics()
    logs = model.test_on_batch(X, [Y[0], NONE], return_dict=True)
    assert np.isnan(logs["task_2_loss"])
    assert np.isfinite(logs["task_1_loss"])
    assert model.evaluate(X, Y, verbose=0, return_dict=True) == pytest.approx(right, rel=1e-5)


def test_a_joint_loss_may_begin_with_the_name_of_a_task_without_labels() -> None:
    model = build(joint_losses=[OrderPenalty("task_1", "task_2", name="task_2_order")])
    with said("`y`", "['task_2']"):
        logs = model.evaluate(X, [Y[0], NONE], verbose=0, return_dict=True)
    assert np.isnan(logs["task_2_loss"])
    assert np.isfinite(logs["task_2_order"])


def test_evaluation_without_any_label_is_nan() -> None:
    model = build(["binary"], metrics=["mae"])
    with said("`y`", "['task_1']"):
        logs = model.evaluate(X, NONE, verbose=0, return_dict=True)
    assert np.isnan(list(logs.values())).all()
    assert set(logs) == {"loss", "mae"}
    several = build()
    with said("['task_1', 'task_2']"):
        assert np.isnan(several.evaluate(X, [NONE, NONE], verbose=0)).all()


@pytest.mark.filterwarnings("ignore:.*labels of every task")
def test_early_stopping_takes_no_task_without_labels_for_the_best() -> None:
    stop = keras.callbacks.EarlyStopping(
        "val_task_2_loss", patience=1, mode="min", restore_best_weights=True
    )
    model = build()
    logs = _validated(model, "arrays", epochs=4, callbacks=[stop])
    assert len(logs["loss"]) == 4
    assert stop.best is None
    last = [np.array(w) for w in model.get_weights()]
    again = build()
    _validated(again, "arrays", epochs=4)
    toy.same(last, again.get_weights())


@pytest.mark.parametrize(
    ("tasks", "monitor", "greater"),
    [
        (1, "val_AUC", True),
        (2, "val_task_2_AUC", True),
        (2, "val_task_2_mae", False),
        (2, "task_1_weighted_AUC", True),
        (2, "val_task_2_loss", False),
        (2, "val_order", False),
    ],
)
def test_callbacks_know_which_logs_should_rise(tasks: int, monitor: str, greater: bool) -> None:
    joint = [OrderPenalty("task_1", "task_2", name="order")] if tasks > 1 else None
    options = {"metrics": [["AUC", "mae"]] * tasks, "weighted_metrics": [["AUC"]] * tasks}
    model = build(["binary"] * tasks, joint_losses=joint, **options)
    y = Y[:tasks]
    stop = keras.callbacks.EarlyStopping(monitor, patience=1)
    logs = model.fit(X, y, validation_data=(X, y), callbacks=[stop], epochs=2, verbose=0).history
    assert stop.monitor_op is (keras.ops.greater if greater else keras.ops.less)
    assert stop.best == (max if greater else min)(logs[monitor])


def test_a_task_whose_labels_have_no_weight_has_no_loss() -> None:
    model = build(metrics=["mae"], weighted_metrics=["mse"])
    right = model.evaluate(X, Y, verbose=0, return_dict=True)
    weights = {"task_2": np.zeros(24, "float32")}
    for data in (
        (X, Y, weights),
        (STREAMS["PyDataset"](batches_of(X, tuple(Y), weights)),),
        (STREAMS["tf.data"](batches_of(X, tuple(Y), weights)),),
    ):
        x, y, weight = (*data, None, None)[:3]
        logs = model.evaluate(x, y, sample_weight=weight, verbose=0, return_dict=True)
        assert np.isnan(logs["task_2_loss"])
        for name in ("task_1_loss", "task_1_mae", "task_2_mae"):
            assert logs[name] == pytest.approx(right[name], rel=1e-5)
        assert logs["loss"] == pytest.approx(right["task_1_loss"], rel=1e-5)
    logs = model.fit(X, Y, validation_data=(X, Y, weights), epochs=1, verbose=0).history
    assert np.isnan(logs["val_task_2_loss"]).all()
    assert np.isfinite(logs["val_task_2_mae"] + logs["val_loss"] + logs["task_2_loss"]).all()


@pytest.mark.parametrize("stream", STREAMS)
def test_training_without_labels_of_a_task_logs_nan_of_it_alone(stream: str) -> None:
    model = build(metrics=["mae"])
    logs = fit(model, STREAMS[stream], batches_of(X, (Y[0], NONE)))
    assert np.isnan(logs["task_2_loss"] + logs["task_2_mae"]).all()
    assert np.isfinite(logs["task_1_loss"] + logs["task_1_mae"] + logs["loss"]).all()
    gaps = np.where(np.arange(24) < 12, np.nan, Y[1]).astype("float32")  # none in the first batch
    logs = fit(model, STREAMS[stream], batches_of(X, (Y[0], gaps)))
    assert np.isfinite(logs["task_2_loss"] + logs["task_2_mae"]).all()
