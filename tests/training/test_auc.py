"""The streaming AUC against the exact one, over rates of positives."""

import pathlib
from typing import Any

import keras
import numpy as np
import pytest
import toy
from sklearn.metrics import roc_auc_score

from mtl.features import DenseFeat
from mtl.metrics import StreamingAUC
from mtl.models import SharedBottom


def rare(rate: float, rows: int = 200_000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels of a rate, and predictions that tell something about them."""
    rng = np.random.default_rng(seed)
    logits = np.log(rate / (1 - rate)) + 1.2 * rng.normal(size=rows)
    p = 1 / (1 + np.exp(-logits))
    y = (rng.random(rows) < p).astype("float32")
    return y, p.astype("float32")


def streamed(y: np.ndarray, p: np.ndarray, weight: Any = None, batch: int = 10_000) -> float:
    metric = StreamingAUC()
    for start in range(0, len(y), batch):
        rows = slice(start, start + batch)
        metric.update_state(
            y[rows, None], p[rows, None], weight if weight is None else weight[rows]
        )
    return float(metric.result())


@pytest.mark.parametrize("rate", [0.5, 0.1, 1e-2, 1e-3, 1e-4])
def test_it_is_the_exact_one_whatever_the_rate(rate: float) -> None:
    y, p = rare(rate)
    exact = roc_auc_score(y, p)
    assert streamed(y, p) == pytest.approx(exact, abs=1e-4)
    if rate == 1e-3:  # what it stands in place of
        keras_auc = keras.metrics.AUC()
        keras_auc.update_state(y, p)
        assert abs(float(keras_auc.result()) - exact) > 0.05


def test_weights_shapes_and_extremes() -> None:
    y, p = rare(0.1, 5000)
    weight = np.random.default_rng(1).random(5000).astype("float32")
    exact = roc_auc_score(y, p, sample_weight=weight)
    assert streamed(y, p, weight) == pytest.approx(exact, abs=1e-4)
    metric = StreamingAUC()
    metric.update_state(y, p, weight[:, None])
    assert float(metric.result()) == pytest.approx(exact, abs=1e-4)
    # By hand: of four pairs three are won, and one is a tie.
    assert streamed(np.array([1, 1, 0, 0.0]), np.array([1.0, 0.5, 0.5, 0.0])) == 0.875
    assert streamed(np.array([1, 0.0]), np.array([0.0, 1.0])) == 0
    assert np.isnan(streamed(np.ones(3), np.full(3, 0.5)))
    metric.reset_state()
    assert np.isnan(float(metric.result()))


@pytest.mark.parametrize(("center", "spread"), [(0, 3), (-18, 3), (0, 20), (14, 1)])
def test_predictions_that_float32_tells_apart_are_told_apart(center: float, spread: float) -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=100_000)
    y = (rng.random(len(z)) < 1 / (1 + np.exp(-z))).astype("float32")
    p = (1 / (1 + np.exp(-(center + spread * z)))).astype("float32")
    weight = rng.random(len(z)).astype("float32")
    exact = roc_auc_score(y, p, sample_weight=weight)
    assert streamed(y, p, weight) == pytest.approx(exact, abs=2e-5)


def test_weights_of_any_size_and_predictions_that_are_nan() -> None:
    y, p = rare(0.1, 5000)
    for scale in (1e-20, 1e20):
        weight = np.full(5000, scale, "float32")
        assert streamed(y, p, weight) == pytest.approx(roc_auc_score(y, p), abs=1e-4)
    for nan in (slice(7, 8), slice(None)):
        p[nan] = np.nan
        assert np.isnan(streamed(y, p))


@pytest.mark.parametrize("metrics", ["default", "AUC", ["auc"], {"cvr": ["AUC"]}])
def test_by_name_it_is_the_one_of_models(metrics: Any, tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(0)
    rows = 50_000
    z = rng.normal(size=rows).astype("float32")
    cvr = (rng.random(rows) < 1 / (1 + np.exp(6 - 1.2 * z))).astype("float32")
    ctr = (rng.random(rows) < 0.3).astype("float32")
    model = SharedBottom(
        [DenseFeat("z")], task_names=["ctr", "cvr"], bottom_dnn_units=[4],
        tower_dnn_units_lists=[[], []], dnn_activation="linear", seed=1,
    )  # fmt: skip
    model.compile(keras.optimizers.Adam(0.1), metrics=metrics, **toy.NO_XLA)
    model.fit({"z": z}, [ctr, cvr], batch_size=1000, verbose=0)
    name = "cvr_auc" if metrics == ["auc"] else "cvr_AUC"
    exact = roc_auc_score(cvr, model.predict({"z": z}, verbose=0)[1])
    logs = model.evaluate({"z": z}, [ctr, cvr], batch_size=8192, verbose=0, return_dict=True)
    assert logs[name] == pytest.approx(exact, abs=1e-4)
    gaps = np.where(rng.random(rows) < 0.5, cvr, np.nan).astype("float32")
    known = ~np.isnan(gaps)
    exact = roc_auc_score(cvr[known], model.predict({"z": z}, verbose=0)[1][known])
    logs = model.evaluate({"z": z}, [ctr, gaps], batch_size=8192, verbose=0, return_dict=True)
    assert logs[name] == pytest.approx(exact, abs=1e-4)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    again = loaded.evaluate({"z": z}, [ctr, gaps], batch_size=8192, verbose=0, return_dict=True)
    assert again == pytest.approx(logs, rel=1e-5)


def test_other_types_and_objects_keep_keras_own() -> None:
    model = toy.build("SharedBottom", task_types=["binary", ("multilabel", 3)])
    model.compile("sgd", metrics=[keras.metrics.AUC(name="mine"), "AUC"], **toy.QUICK)
    y = [toy.labels()[0], np.random.default_rng(0).integers(0, 2, (24, 3)).astype("float32")]
    logs = model.evaluate(toy.features(), y, verbose=0, return_dict=True)
    assert {"task_1_mine", "task_2_AUC"} <= set(logs)


def test_default_may_be_one_of_several() -> None:
    types = ["binary", ("multiclass", 3)]
    model = toy.build("SharedBottom", task_types=types)
    losses = ["binary_crossentropy", "categorical_crossentropy"]
    y = [toy.labels()[0], np.eye(3, dtype="float32")[np.arange(24) % 3]]
    for metrics in ({"task_1": ["default", "accuracy"], "task_2": "default"}, [["default"]]):
        model.compile("sgd", loss=losses, metrics=metrics, **toy.QUICK)
        logs = model.evaluate(toy.features(), y, verbose=0, return_dict=True)
        assert {"task_1_AUC", "task_2_categorical_accuracy"} <= set(logs)


@pytest.mark.parametrize("metric", ["AUC", keras.metrics.AUC(), StreamingAUC()])
@pytest.mark.parametrize("kind", ["regression", "lifetime_value", ("multiclass", 3)])
def test_it_is_refused_where_labels_are_not_0_and_1(kind: Any, metric: Any) -> None:
    model = toy.build("SharedBottom", task_types=["binary", kind])
    with pytest.raises(ValueError, match=r"`metrics` should hold an AUC .* 'AUC' .*'task_2'|'auc'"):
        model.compile("sgd", metrics=metric)
    model.compile("sgd", metrics={"task_1": metric})
