"""Labels and weights: which are refused, what they mean by task, and one shape from the start."""

import warnings
from typing import Any

import keras
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tensorflow as tf
import toy
from keras import ops
from test_arrays import Batches

from mtl.losses import FunnelLoss
from mtl.metrics import evaluate_tasks

X = toy.features()
Y = toy.labels()
TYPES: list[Any] = ["binary", "regression", ("multiclass", 3), ("multilabel", 2)]
NAMES = ["task_1", "task_2", "task_3", "task_4"]


def labels_of_types() -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [
        (rng.random(24) < 0.5).astype("float32"),
        rng.normal(size=24).astype("float32"),
        rng.integers(0, 3, 24),
        (rng.random((24, 2)) < 0.5).astype("float32"),
    ]


def build(types: Any = None, **options: Any) -> Any:
    types = types or ["binary"] * 2
    model = toy.build("SharedBottom", len(types), task_types=types, l2_reg_embedding=0)
    model = toy.randomize(model)
    model.compile(keras.optimizers.SGD(0.1), **{**toy.QUICK, **options})
    return model


def batches_of(x: Any, y: Any, *weights: Any, size: int = 12) -> list[Any]:
    """Cut data into batches, tuples of x, y and weights."""

    def batch(start: int) -> Any:
        return keras.tree.map_structure(lambda v: v[start : start + size], (x, y, *weights))

    return [batch(start) for start in range(0, 24, size)]


def generated(batches: list[Any]) -> Any:
    yield from batches * 2  # Keras warns at the end of a generator


def tensors(batches: list[Any]) -> Any:
    def whole(*parts: Any) -> Any:
        return np.concatenate(parts)

    data = keras.tree.map_structure(whole, *batches)
    rows = len(keras.tree.flatten(batches[0])[0])
    return tf.data.Dataset.from_tensor_slices(data).batch(rows)


STREAMS = {"PyDataset": Batches, "generator": generated, "tf.data": tensors}


def evaluate(model: Any, stream: Any, batches: list[Any]) -> Any:
    return model.evaluate(stream(batches), steps=len(batches), verbose=0, return_dict=True)


def fit(model: Any, stream: Any, batches: list[Any]) -> Any:
    data = stream(batches)
    return model.fit(data, steps_per_epoch=len(batches), shuffle=False, verbose=0).history


ERRORS = (ValueError, tf.errors.InvalidArgumentError)

WRONG = {
    "0 and 2": (0, np.array([0, 2] * 12), r"labels from 0 to 1.*2(\.0)?"),
    "-1 and 1": (0, np.array([-1, 1] * 12), r"labels from 0 to 1.*NaN, not -1"),
    "0 and 100": (0, pd.Series([0, 100] * 12, dtype="int8"), r"labels from 0 to 1.*12 values.*100"),
    "uint8": (0, np.array([0, 255] * 12, "uint8"), r"labels from 0 to 1.*255"),
    "1 to C": (2, np.array([1, 2, 3] * 8), r"classes from 0 to 2.*8 values such as 3"),
    "-1": (2, np.array([-1.0, 2, 0] * 8), r"classes from 0 to 2.*-1.*NaN, not -1"),
    "half": (2, np.array([0.5, 2, 0] * 8), r"classes from 0 to 2.*0\.5"),
    "beside a missing one": (2, np.array([np.nan, 2, 7] * 8), r"classes from 0 to 2.*7\.0"),
    "labels": (3, np.full((24, 2), 2), r"labels from 0 to 1.*48 values"),
}


@pytest.mark.parametrize("case", WRONG)
def test_labels_outside_their_type_are_refused(case: str) -> None:
    k, label, match = WRONG[case]
    model, y = build(TYPES), labels_of_types()
    right = list(y)
    y[k] = label
    before = model.get_weights()
    for run in (model.fit, model.evaluate, model.train_on_batch, model.test_on_batch):
        with pytest.raises(ValueError, match=rf"(?s)`y\['{NAMES[k]}'\]` should hold {match}"):
            run(X, dict(zip(NAMES, y, strict=True)))
    with pytest.raises(ValueError, match=rf"(?s)`y\['{NAMES[k]}'\]` should hold {match}"):
        model.fit(X, right, validation_data=(X, y), verbose=0)
    toy.same(model.get_weights(), before, rtol=0, atol=0)


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("case", ["-1 and 1", "1 to C", "labels"])
def test_labels_outside_their_type_raise_in_data_sets(case: str, stream: str) -> None:
    k, label, _ = WRONG[case]
    model, y = build(TYPES), labels_of_types()
    y[k] = np.asarray(label)
    before = model.get_weights()
    with pytest.raises(ERRORS, match=rf"`y.*{NAMES[k]}.* should hold"):
        fit(model, STREAMS[stream], batches_of(X, tuple(y)))
    toy.same(model.get_weights(), before, rtol=0, atol=0)
    with pytest.raises(ERRORS, match=rf"`y.*{NAMES[k]}.* should hold"):
        evaluate(model, STREAMS[stream], batches_of(X, tuple(y)))


@pytest.mark.parametrize("case", ["-1 and 1", "1 to C", "-1"])
def test_labels_outside_their_type_in_a_data_loader_are_no_number(case: str) -> None:
    data = pytest.importorskip("torch.utils.data", reason="the extra torch is not installed")
    k, label, _ = WRONG[case]
    model, y = build(TYPES), labels_of_types()
    right = model.evaluate(X, y, verbose=0, return_dict=True)
    y[k] = np.asarray(label).astype("float32")
    named = dict(zip(NAMES, y, strict=True))
    rows = [
        ({n: v[i] for n, v in X.items()}, {n: v[i] for n, v in named.items()}) for i in range(24)
    ]
    before = model.get_weights()
    logs = model.fit(data.DataLoader(rows, batch_size=12), shuffle=False, verbose=0).history
    assert np.isnan(logs[f"{NAMES[k]}_loss"]).all()
    assert np.isnan(logs["loss"]).all()
    assert np.isfinite(logs[f"{NAMES[k - 1]}_loss"]).all()
    assert all(np.isfinite(w).all() for w in model.get_weights())
    model.set_weights(before)
    logs = model.evaluate(data.DataLoader(rows, batch_size=24), verbose=0, return_dict=True)
    assert logs[f"{NAMES[k - 1]}_loss"] == pytest.approx(right[f"{NAMES[k - 1]}_loss"], rel=1e-5)


def test_a_data_loader_takes_no_weights_by_class() -> None:
    data = pytest.importorskip("torch.utils.data", reason="the extra torch is not installed")
    rows = [({n: v[i] for n, v in X.items()}, tuple(v[i] for v in Y)) for i in range(24)]
    model = build()
    with pytest.raises(ValueError, match=r"`class_weight` goes with.*`x` of type DataLoader"):
        model.fit(data.DataLoader(rows, batch_size=8), class_weight={"task_1": {0: 1.0, 1: 9.0}})


def test_soft_labels_and_losses_of_ones_own_are_free() -> None:
    soft = [np.linspace(0, 1, 24), Y[1]]
    assert np.isfinite(build().evaluate(X, soft, verbose=0)).all()
    signs = [np.array([-1.0, 1] * 12), Y[1]]
    for loss in ("hinge", lambda y, p: ops.mean(ops.square(y - p), axis=-1)):
        model = build(loss=[loss, "binary_crossentropy"])
        assert np.isfinite(model.evaluate(X, signs, verbose=0)).all()
        with pytest.raises(ValueError, match=r"y\['task_2'\].*-1"):
            model.evaluate(X, signs[::-1], verbose=0)


@pytest.mark.parametrize(
    "loss",
    [
        "binary_crossentropy",
        "crossentropy",
        "binary_focal_crossentropy",
        keras.losses.binary_crossentropy,
        keras.losses.BinaryCrossentropy(label_smoothing=0.1),
        keras.losses.BinaryFocalCrossentropy(),
    ],
)
def test_every_cross_entropy_refuses(loss: Any) -> None:
    with pytest.raises(ValueError, match=r"y\['task_1'\].*from 0 to 1"):
        build(loss=loss).evaluate(X, [Y[0] * 2, Y[1]], verbose=0)


def test_a_funnel_loss_refuses_though_its_tasks_have_no_loss_of_their_own() -> None:
    model = build(loss={}, joint_losses=[FunnelLoss("task_1", "task_2")])
    assert np.isfinite(model.evaluate(X, Y, verbose=0)).all()
    with pytest.raises(ValueError, match=r"y\['task_2'\].*from 0 to 1.*funnel_loss.*2"):
        model.fit(X, [Y[0], 2 * Y[1]], verbose=0)


@pytest.mark.parametrize("metrics", [None, "default"])
@pytest.mark.parametrize("loss", ["categorical_crossentropy", "crossentropy"])
def test_one_hot_labels_have_a_loss_of_their_own(loss: str, metrics: Any) -> None:
    types: Any = [("multiclass", 3)] * 2
    y = labels_of_types()[2]
    one_hot = np.eye(3, dtype="float32")[y]
    sparse = build(types)
    with pytest.raises(ValueError, match=r"y\['task_1'\].*class numbers.*one-hot.*\(24, 3\)"):
        sparse.fit(X, [one_hot, y], verbose=0)
    with pytest.raises(ERRORS, match=r"y\['task_1'\].*class numbers"):
        fit(sparse, tensors, batches_of(X, (one_hot, y)))
    expected = sparse.evaluate(X, [y, y], verbose=0)[0]
    model = build(types, loss=loss, metrics=metrics)
    logs = model.evaluate(X, [one_hot, one_hot], verbose=0, return_dict=True)
    assert logs["loss"] == pytest.approx(expected, rel=1e-5)
    if metrics and loss == "categorical_crossentropy":
        p = model.predict(X, verbose=0)[0]
        accuracy = np.mean(p.argmax(axis=1) == y)
        assert logs["task_1_categorical_accuracy"] == pytest.approx(accuracy)
    if loss == "categorical_crossentropy":
        with pytest.raises(ValueError, match=r"y\['task_1'\].*one-hot.*\(24,"):
            model.evaluate(X, [y, one_hot], verbose=0)


WEIGHT = np.linspace(0.1, 3, 24).astype("float32")
WEIGHT_FORMS = {
    "frame": pd.DataFrame({"task_2": WEIGHT}),
    "two columns": pd.DataFrame({"task_2": WEIGHT, "task_1": np.ones(24)}),
    "table": pa.table({"task_2": WEIGHT}),
    "dict": {"task_2": WEIGHT},
    "dict of frames": {"task_2": pd.DataFrame({"w": WEIGHT})},
    "array": {"task_2": pa.array(WEIGHT)},
}


@pytest.mark.parametrize("form", WEIGHT_FORMS)
def test_weights_by_task(form: str) -> None:
    model, weights = build(), WEIGHT_FORMS[form]
    full = [np.ones(24), WEIGHT]
    expected = model.evaluate(X, Y, sample_weight=full, verbose=0)
    np.testing.assert_allclose(model.evaluate(X, Y, sample_weight=weights, verbose=0), expected)
    np.testing.assert_allclose(model.test_on_batch(X, Y, weights), expected, rtol=1e-5)
    tables = [evaluate_tasks(model, X, Y, sample_weight=w) for w in (full, weights)]
    pd.testing.assert_frame_equal(*tables)
    history = model.fit(X, Y, validation_data=(X, Y, weights), epochs=1, verbose=0).history
    assert history["val_loss"][0] == pytest.approx(
        model.evaluate(X, Y, sample_weight=full, verbose=0)[0], rel=1e-5
    )


@pytest.mark.parametrize("stream", STREAMS)
def test_weights_by_task_in_data_sets(stream: str) -> None:
    model = build()
    expected = model.evaluate(X, Y, sample_weight=[np.ones(24), WEIGHT], verbose=0)
    logs = evaluate(model, STREAMS[stream], batches_of(X, tuple(Y), {"task_2": WEIGHT}))
    assert logs["loss"] == pytest.approx(expected[0], rel=1e-5)
    for weights, match in (
        ({"task2": WEIGHT}, r"`sample_weight`.*\['task_1', 'task_2'\].*\['task2'\]"),
        ((WEIGHT,), r"`sample_weight`.*1 arrays for 2 tasks"),
        ({"task_2": -WEIGHT}, r"`sample_weight.*task_2.* should hold weights of at least 0"),
    ):
        for run in (evaluate, fit):
            with pytest.raises(ERRORS, match=match):
                run(model, STREAMS[stream], batches_of(X, tuple(Y), weights))


def test_unknown_weights_are_refused_on_every_route() -> None:
    model = build()
    for weights in ({"task2": WEIGHT}, pd.DataFrame({"task2": WEIGHT}), pa.table({"w": WEIGHT})):
        for run in (
            lambda w: model.fit(X, Y, sample_weight=w),
            lambda w: model.evaluate(X, Y, sample_weight=w),
            lambda w: model.train_on_batch(X, Y, sample_weight=w),
            lambda w: model.test_on_batch(X, Y, sample_weight=w),
            lambda w: evaluate_tasks(model, X, Y, sample_weight=w),
            lambda w: model.fit(X, Y, validation_data=(X, Y, w)),
        ):
            with pytest.raises(ValueError, match=r"`sample_weight` should name tasks out of"):
                run(weights)


def scalar(y: Any, p: Any) -> Any:
    return ops.mean(ops.abs(y - p))


def per_row(y: Any, p: Any) -> Any:
    return ops.mean(ops.abs(y - p), axis=-1)


def per_label(y: Any, p: Any) -> Any:
    return ops.abs(y - p)


@pytest.mark.filterwarnings("ignore:The metric")
@pytest.mark.parametrize("metric", [scalar, per_row, per_label])
@pytest.mark.parametrize("tasks", [1, 2])
@pytest.mark.parametrize("gaps", [False, True])
def test_metric_functions_see_labels_as_predictions(metric: Any, tasks: int, gaps: bool) -> None:
    y = [label.copy() for label in Y[:tasks]]
    if gaps:
        y[0][::3] = np.nan
    model = build(["binary"] * tasks, metrics=[metric], weighted_metrics=[metric])
    p = keras.tree.flatten(model.predict(X, verbose=0))
    errors = np.abs(y[0] - p[0][:, 0])
    expected = [np.nanmean(errors), np.nansum(errors * WEIGHT) / WEIGHT[~np.isnan(y[0])].sum()]
    forms = [label[:, None] for label in y] if tasks == 2 else y[0][:, None]
    for label in (y if tasks == 2 else y[0], forms):
        logs = model.evaluate(
            X, label, batch_size=16, sample_weight=WEIGHT, verbose=0, return_dict=True
        )
        prefix = "task_1_" if tasks > 1 else ""
        got = [logs[f"{prefix}{metric.__name__}"], logs[f"{prefix}weighted_{metric.__name__}"]]
        np.testing.assert_allclose(got, expected, rtol=1e-5)
    batches = batches_of(X, tuple(y) if tasks > 1 else y[0], WEIGHT, size=16)
    for stream in STREAMS.values():
        logs = evaluate(model, stream, batches)
        got = [logs[f"{prefix}{metric.__name__}"], logs[f"{prefix}weighted_{metric.__name__}"]]
        np.testing.assert_allclose(got, expected, rtol=1e-5)


def root(y: Any, p: Any) -> Any:
    return ops.sqrt(ops.mean(ops.square(y - p)))


@pytest.mark.parametrize("reason", ["labels", "weights", None])
def test_a_metric_function_of_whole_batches_is_told_of_once(reason: str | None) -> None:
    gaps = np.where(np.arange(24) % 3 == 0, np.nan, Y[1]).astype("float32")
    y = [Y[0], gaps] if reason == "labels" else Y
    options = {"sample_weight": WEIGHT, "batch_size": 7} if reason == "weights" else {}
    plain, weighted = {"metrics": [root]}, {"weighted_metrics": [None, root]}
    model = build(**(weighted if reason == "weights" else plain))
    with warnings.catch_warnings(record=True) as every:
        warnings.simplefilter("always")
        for _ in range(2):
            model.fit(X, y, verbose=0, **options)
            model.evaluate(X, y, verbose=0, **options)
    told = [str(w.message) for w in every if "The metric 'root' should return a" in str(w.message)]
    assert len(told) == {"labels": 2, "weights": 1, None: 0}[reason]  # of each task
    if reason is None:
        expected = np.sqrt(np.mean((Y[0] - model.predict(X, verbose=0)[0][:, 0]) ** 2))
        logs = model.evaluate(X, Y, verbose=0, return_dict=True)
        assert logs["task_1_root"] == pytest.approx(expected, rel=1e-5)


def test_shapes_may_change_between_calls() -> None:
    model = build(run_eagerly=False, jit_compile=False)
    flat = X
    columns = {n: v[:, None] if v.ndim == 1 else v for n, v in X.items()}
    expected = model.predict(flat, verbose=0)
    toy.same(model.predict(columns, verbose=0), expected)
    one = {n: v[:1].tolist() for n, v in columns.items()}
    toy.same(model.predict(one, verbose=0), [p[:1] for p in expected])
    y = [label[:, None] for label in Y]
    for x, label in ((flat, Y), (columns, y), (flat, y), (columns, Y)):
        for weight in (WEIGHT, WEIGHT[:, None]):
            model.fit(x, label, sample_weight=weight, verbose=0)
            model.evaluate(x, label, sample_weight=weight, verbose=0)
            model.train_on_batch(x, label, sample_weight=weight)
            for stream in STREAMS.values():
                fit(model, stream, batches_of(x, tuple(label), weight))
    for x in (flat, columns):
        expected = model.predict(X, verbose=0)
        for stream in (Batches, tensors):
            data = stream([part[0] for part in batches_of(x, Y[0])])
            toy.same(model.predict(data, verbose=0), expected)
