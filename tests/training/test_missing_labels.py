"""Labels that are NaN: no loss, no gradient, no metric."""

import keras
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import toy

import mtl.metrics
import mtl.models
from mtl.metrics import StreamingAUC

TYPES = ["binary", "regression", ("multiclass", 3), ("multilabel", 2)]


def mixed_labels(rows: int = 24) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [
        (rng.random(rows) < 0.5).astype("float32"),
        rng.normal(size=rows).astype("float32"),
        rng.integers(0, 3, rows).astype("float32"),
        (rng.random((rows, 2)) < 0.5).astype("float32"),
    ]


def with_gaps(labels: list[np.ndarray]) -> list[np.ndarray]:
    """Take away other labels of each task, and of one row every label of it."""
    labels = [label.copy() for label in labels]
    for k, label in enumerate(labels):
        label[k :: k + 2] = np.nan
        label[5] = np.nan
    labels[-1][1, 0] = np.nan  # one of a row's two labels
    return labels


def build(**options):
    model = toy.build("SharedBottom", 4, task_types=TYPES, l2_reg_embedding=0, **options)
    return toy.randomize(model)


def numpy_losses(model, x, y, weights=None) -> list[float]:
    """Return Σ weight · loss / number over the valid labels of each task."""
    predictions = [p.astype("float64") for p in toy.outputs(model, x)]
    rows = len(predictions[0])
    weights = weights or [np.ones(rows)] * 4

    def mean(values, valid, weight):
        return float((values * weight)[valid].sum() / max(valid.sum(), 1))

    def cross_entropy(labels, p):
        return -(labels * np.log(p) + (1 - labels) * np.log(1 - p))

    binary, regression, classes, labels = y
    known = ~np.isnan(classes)
    picked = predictions[2][np.arange(rows), np.where(known, classes, 0).astype(int)]
    return [
        mean(cross_entropy(binary, predictions[0][:, 0]), ~np.isnan(binary), weights[0]),
        mean((regression - predictions[1][:, 0]) ** 2, ~np.isnan(regression), weights[1]),
        mean(-np.log(picked), known, weights[2]),
        mean(cross_entropy(labels, predictions[3]), ~np.isnan(labels), weights[3][:, None]),
    ]


@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_of_a_task_is_the_mean_over_its_valid_rows(weighted):
    model, x, y = build(), toy.features(), with_gaps(mixed_labels())
    model.compile("sgd", **toy.NO_XLA)
    weights = None
    if weighted:
        rng = np.random.default_rng(5)
        weights = [rng.uniform(0, 2, 24).astype("float32") for _ in TYPES]
    logs = model.evaluate(x, y, batch_size=24, sample_weight=weights, verbose=0, return_dict=True)
    expected = numpy_losses(model, x, y, weights)
    got = [logs[f"{name}_loss"] for name in model.output_names]
    np.testing.assert_allclose(got, expected, rtol=2e-6)
    np.testing.assert_allclose(logs["loss"], sum(expected), rtol=2e-6)


def test_logged_losses_weigh_each_row_alike_whatever_its_batch():
    model, x, y = build(), toy.features(), with_gaps(mixed_labels())
    model.compile("sgd", **toy.NO_XLA)
    logs = model.evaluate(x, y, batch_size=7, verbose=0, return_dict=True)
    got = [logs[f"{name}_loss"] for name in model.output_names]
    np.testing.assert_allclose(got, numpy_losses(model, x, y), rtol=2e-6)


def test_training_with_gaps_is_training_each_task_on_its_own_rows():
    """One step of gradient descent: the changes by each task's own rows add up."""
    x, y = toy.features(), with_gaps(mixed_labels())
    y[3][1] = np.nan  # own rows are whole rows here
    model = build()
    before = model.get_weights()
    model.compile(keras.optimizers.SGD(0.5), **toy.NO_XLA)
    model.fit(x, y, batch_size=24, epochs=1, shuffle=False, verbose=0)
    together = [a - b for a, b in zip(model.get_weights(), before, strict=True)]
    apart = [np.zeros_like(w) for w in before]
    for k, label in enumerate(y):
        valid = ~np.isnan(label).reshape(24, -1).any(axis=1)
        alone = build()
        alone.compile(keras.optimizers.SGD(0.5), loss_weights=np.eye(4)[k].tolist(), **toy.NO_XLA)
        own_x = {name: value[valid] for name, value in x.items()}
        own_y = [np.nan_to_num(label[valid]) for label in y]  # the others' labels don't count
        alone.fit(own_x, own_y, batch_size=24, epochs=1, shuffle=False, verbose=0)
        for total, a, b in zip(apart, alone.get_weights(), before, strict=True):
            total += a - b
    toy.same(together, apart, atol=1e-6)


@pytest.mark.parametrize("loss", ["mean_squared_error", keras.losses.MeanSquaredError("sum")])
def test_the_reduction_of_a_loss_is_kept(loss):
    x, y = toy.features(), with_gaps(mixed_labels())
    model = toy.randomize(toy.build("SharedBottom", task_types=["regression"] * 2))
    model.compile("sgd", loss=loss, **toy.NO_XLA)
    logs = model.evaluate(x, [y[1], y[1]], batch_size=24, verbose=0, return_dict=True)
    errors = (toy.outputs(model, x)[0][:, 0] - y[1]) ** 2
    expected = np.nanmean(errors) if isinstance(loss, str) else np.nansum(errors)
    np.testing.assert_allclose(logs["task_1_loss"], expected, rtol=1e-6)


@pytest.mark.parametrize(
    "loss",
    [
        keras.losses.BinaryFocalCrossentropy(gamma=3),
        keras.losses.BinaryCrossentropy(label_smoothing=0.1),
    ],
)
def test_losses_of_keras_see_valid_rows_only(loss):
    x, y = toy.features(), toy.labels()
    y[0][::2] = np.nan
    model = toy.randomize(toy.build("SharedBottom"))
    model.compile("sgd", loss=loss, **toy.NO_XLA)
    logs = model.evaluate(x, y, batch_size=24, verbose=0, return_dict=True)
    own = toy.outputs(model, x)[0][1::2]
    np.testing.assert_allclose(logs["task_1_loss"], float(loss(y[0][1::2, None], own)), rtol=1e-6)


def test_a_batch_without_a_label_of_a_task_contributes_nothing():
    x, y = toy.features(), toy.labels()
    y[1][:12] = np.nan
    model = toy.randomize(toy.build("SharedBottom", l2_reg_embedding=0))
    model.compile(keras.optimizers.SGD(0.5), metrics="default", **toy.NO_XLA)
    tower = model.get_layer("task_2")
    before = tower.get_weights()
    first = {name: value[:12] for name, value in x.items()}
    logs = model.train_on_batch(first, [label[:12] for label in y], return_dict=True)
    assert np.isnan(logs["task_2_loss"])
    assert logs["loss"] == logs["task_1_loss"] > 0
    toy.same(tower.get_weights(), before, rtol=0, atol=0)


def test_compiled_metrics_see_the_mask():
    model, x, y = build(), toy.features(), with_gaps(mixed_labels())
    metrics = {
        "task_1": ["AUC", "accuracy"],
        "task_2": ["mae"],
        "task_3": ["accuracy"],
        "task_4": ["binary_accuracy", keras.metrics.AUC(name="per_label", multi_label=True)],
    }
    weights = [np.random.default_rng(k).uniform(0, 2, 24).astype("float32") for k in range(4)]
    model.compile(
        "sgd",
        metrics=metrics,
        weighted_metrics={"task_2": [keras.metrics.MeanAbsoluteError("w")]},
        **toy.NO_XLA,
    )
    y[3][:, 0] = mixed_labels()[3][:, 0]
    logs = model.evaluate(x, y, 7, sample_weight=weights, verbose=0, return_dict=True)
    p = toy.outputs(model, x)
    valid = [~np.isnan(label) for label in y]

    def keras_auc(labels, scores):
        metric = keras.metrics.AUC()
        metric.update_state(labels, scores)
        return float(metric.result())

    def auc(labels, scores):
        metric = StreamingAUC()
        metric.update_state(labels, scores)
        return float(metric.result())

    error = np.abs(y[1] - p[1][:, 0])[valid[1]]
    hits = p[3] > 0.5
    expected = {
        "task_1_AUC": auc(y[0][valid[0]], p[0][valid[0], 0]),
        "task_1_accuracy": np.mean((p[0][:, 0] > 0.5)[valid[0]] == y[0][valid[0]]),
        "task_2_mae": np.mean(error),
        "task_2_w": np.average(error, weights=weights[1][valid[1]]),
        "task_3_accuracy": np.mean(p[2].argmax(1)[valid[2]] == y[2][valid[2]]),
        "task_4_binary_accuracy": np.mean(hits[valid[3]] == y[3][valid[3]]),
        "task_4_per_label": np.mean(
            [keras_auc(y[3][valid[3][:, c], c], p[3][valid[3][:, c], c]) for c in range(2)]
        ),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(logs[name], value, rtol=1e-5, err_msg=name)


def test_without_missing_labels_nothing_is_masked(monkeypatch):
    calls = []
    original = mtl.training.objective.mask
    monkeypatch.setattr(
        mtl.training.objective, "mask", lambda *args: calls.append(args) or original(*args)
    )
    x, y = toy.features(), toy.labels()
    model = toy.build("SharedBottom")
    model.compile("sgd", metrics="default", **toy.NO_XLA)
    model.fit(x, y, batch_size=24, verbose=0)
    assert calls == []
    y[1][3] = np.nan
    model.fit(x, y, batch_size=24, verbose=0)
    assert calls


def test_missing_labels_of_a_later_call_are_masked_though_earlier_ones_had_none():
    x, y = toy.features(), toy.labels()
    gaps = [y[0], np.where(np.arange(24) % 2, y[1], np.nan).astype("float32")]
    model = toy.randomize(toy.build("SharedBottom"))
    model.compile("sgd", **toy.QUICK)
    for call in (model.evaluate, model.test_on_batch, model.train_on_batch):
        model.fit(x, y, batch_size=24, verbose=0)
        options = {"verbose": 0} if call == model.evaluate else {}
        assert np.isfinite(call(x, gaps, **options)).all()
    model.fit(x, y, batch_size=24, verbose=0)
    history = model.fit(x, y, validation_data=(x, gaps), batch_size=24, verbose=0).history
    assert np.isfinite(history["val_loss"]).all()


def test_data_sets_are_masked():
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            part = slice(12 * index, 12 * index + 12)
            return {k: v[part] for k, v in x.items()}, tuple(label[part] for label in y)

    x, y = toy.features(), toy.labels()
    y[1][::3] = np.nan
    models = [toy.randomize(toy.build("SharedBottom")) for _ in range(2)]
    for model in models:
        model.compile(keras.optimizers.SGD(0.1), **toy.QUICK)
    histories = [
        models[0].fit(Batches(), shuffle=False, verbose=0).history,
        models[1].fit(x, y, batch_size=12, shuffle=False, verbose=0).history,
    ]
    for name, values in histories[0].items():
        np.testing.assert_allclose(values, histories[1][name], rtol=1e-6)
    toy.same(models[0].get_weights(), models[1].get_weights())


def test_a_data_set_without_a_tasks_labels_is_refused():
    class Batch(keras.utils.PyDataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            return toy.features(), {"task_1": toy.labels()[0]}

    model = toy.build("SharedBottom")
    model.compile("sgd", **toy.QUICK)
    with pytest.raises(ValueError, match=r"`y` should hold labels of every task.*'task_2'"):
        model.fit(Batch(), verbose=0)


def test_a_single_task_and_class_weights():
    x, (y,) = toy.features(), toy.labels(1)
    y[::4] = np.nan
    model = toy.randomize(toy.build("SharedBottom", 1, l2_reg_embedding=0))
    model.compile("sgd", metrics=["AUC"], **toy.QUICK)
    loss, _ = model.evaluate(x, y, batch_size=24, verbose=0)
    p, valid = toy.outputs(model, x)[0][:, 0], ~np.isnan(y)
    expected = -np.where(y == 1, np.log(p), np.log(1 - p))
    np.testing.assert_allclose(loss, expected[valid].mean(), rtol=1e-5)
    history = model.fit(x, y, batch_size=24, class_weight={0: 1.0, 1: 3.0}, verbose=0).history
    expected = np.where(y == 1, 3, 1) * expected
    np.testing.assert_allclose(history["loss"][0], expected[valid].mean(), rtol=1e-4)


def test_training_without_a_label_of_a_task_is_refused():
    model = toy.build("SharedBottom")
    model.compile("sgd", **toy.QUICK)
    message = r"`y` should hold at least one label of every task.*'task_2'"
    with pytest.raises(ValueError, match=message):
        model.fit(toy.features(), [toy.labels()[0], np.full(24, np.nan)], verbose=0)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.r_[np.inf, np.zeros(23)], r"`y\['task_2'\]` should hold finite labels.*inf"),
        (
            np.r_[np.iinfo("int64").min, np.zeros(23, "int64")],
            r"`y\['task_2'\]` should be of a float type.*-9223372036854775808.*int64",
        ),
    ],
)
def test_bad_labels_are_refused_before_training(labels, message):
    model = toy.build("SharedBottom")
    model.compile("sgd", **toy.QUICK)
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        model.fit(toy.features(), [toy.labels()[0], labels], verbose=0)
    with pytest.raises(ValueError, match=message):
        model.evaluate(toy.features(), [toy.labels()[0], labels], verbose=0)
    toy.same(model.get_weights(), before, rtol=0, atol=0)


GAPS = {
    "Int64": lambda y: pd.Series(y).astype("Int64"),
    "boolean": lambda y: pd.Series(y).astype("boolean"),
    "Float64": lambda y: pd.Series(y).astype("Float64"),
    "int64[pyarrow]": lambda y: pd.Series(y).astype("Int64").astype("int64[pyarrow]"),
    "bool[pyarrow]": lambda y: pd.Series(y).astype("boolean").astype("bool[pyarrow]"),
    "object": lambda y: pd.Series(y).astype(object).where(~np.isnan(y), pd.NA),
    "list": lambda y: [None if np.isnan(v) else int(v) for v in y],
    "masked": lambda y: np.ma.MaskedArray(np.nan_to_num(y).astype("int64"), np.isnan(y)),
    "pyarrow": lambda y: pa.array([None if np.isnan(v) else v for v in y]),
    "chunks": lambda y: pa.chunked_array([[None if np.isnan(v) else v for v in y]]),
}


@pytest.mark.parametrize("form", GAPS)
def test_every_kind_of_missing_is_missing(form):
    x, y = toy.features(), toy.labels()
    y[1][::3] = np.nan
    model = toy.randomize(toy.build("SharedBottom"))
    model.compile("sgd", metrics="mae", **toy.QUICK)
    expected = model.evaluate(x, y, verbose=0)
    given = GAPS[form](y[1])
    np.testing.assert_allclose(model.evaluate(x, [y[0], given], verbose=0), expected, rtol=1e-6)
    table = {"task_1": y[0], "task_2": given}
    np.testing.assert_allclose(model.evaluate(x, table, verbose=0), expected, rtol=1e-6)
    np.testing.assert_allclose(model.test_on_batch(x, table), expected, rtol=1e-5)
    scores = mtl.metrics.evaluate_tasks(model, x, table)
    assert scores.loc["task_2", "rows"] == 16


def test_negative_sample_weights_are_refused():
    model, x, y = toy.build("SharedBottom"), toy.features(), toy.labels()
    model.compile("sgd", **toy.QUICK)
    weight = np.ones(24)
    weight[3] = -0.5
    with pytest.raises(ValueError, match=r"`sample_weight\['task_1'\]` should.*-0.5"):
        model.fit(x, y, sample_weight={"task_1": weight}, verbose=0)


def test_a_loaded_model_masks_too(tmp_path):
    x, y = toy.features(), toy.labels()
    y[0][::2] = np.nan
    model = toy.build("SharedBottom")
    model.compile("sgd", metrics="default", **toy.QUICK)
    expected = model.evaluate(x, y, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.evaluate(x, y, verbose=0), expected, rtol=1e-6)
