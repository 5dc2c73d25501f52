"""The call that DeepCTR's users write, and its variants in compile and in the data."""

from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
import toy

from mtl.features import DenseFeat, SparseFeat
from mtl.metrics import auc
from mtl.models import PLE, SharedBottom


def halve(value: Any) -> Any:
    return value * 0.5


def _frame(rows: int = 40) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    user, price = rng.integers(0, 6, rows), rng.normal(size=rows)
    return pd.DataFrame(
        {
            "comment": ["not a feature"] * rows,
            "user": user,
            "item": rng.integers(0, 4, rows),
            "price": price,
            "task 1": (user + price > 3).astype("int64"),
            "task 2": price * 2 + user,
        }
    )


DATA = _frame()
X = {name: DATA[name].to_numpy() for name in ("user", "item", "price")}
Y = [DATA["task 1"].to_numpy(), DATA["task 2"].to_numpy()]
WEIGHTS = [np.linspace(0.1, 2, 40), np.linspace(3, 0, 40)]


def _columns() -> list[Any]:
    dtype: Any = "int32"
    if toy.BACKEND == "tensorflow":
        import tensorflow as tf

        dtype = tf.int32  # an object instead of a string
    return [
        SparseFeat("user", DATA["user"].max() + 1, embedding_dim=4),  # a numpy integer
        SparseFeat("item", DATA["item"].max() + 1, embedding_dim=4, dtype=dtype),
        DenseFeat("price", 1, transform_fn=halve),
    ]


def test_the_call_as_it_stands() -> None:
    dnn_feature_columns, X_train, X_test = _columns(), X, {k: v[:9] for k, v in X.items()}
    y_task1, y_task2 = Y
    model = PLE(dnn_feature_columns, num_tasks=2, task_types=['binary', 'regression'],
                task_names=['task 1', 'task 2'], num_levels=2, num_experts_specific=8,
                num_experts_shared=4, expert_dnn_units=[64, 64], gate_dnn_units=[16, 16],
                tower_dnn_units_lists=[[32, 32], [32, 32]])  # fmt: skip
    model.compile("adam", loss=["binary_crossentropy", "mean_squared_error"],
                  metrics=['AUC', 'mae'])  # fmt: skip
    history = model.fit(X_train, [y_task1, y_task2], batch_size=256, epochs=5, verbose=2)
    pred_ans = model.predict(X_test, batch_size=256)
    assert isinstance(pred_ans, list)
    assert [p.shape for p in pred_ans] == [(9, 1), (9, 1)]
    logs = history.history
    assert set(logs) == {"loss", "task_1_loss", "task_2_loss", "task_1_AUC", "task_2_mae"}
    assert all(len(values) == 5 and np.isfinite(values).all() for values in logs.values())
    assert logs["loss"][-1] < logs["loss"][0]


def _small(**options: Any) -> Any:
    return SharedBottom(
        _columns(),
        **{
            "task_types": ["binary", "regression"],
            "task_names": ["task 1", "task 2"],
            "bottom_dnn_units": (8,),
            "tower_dnn_units_lists": [[], []],
            "l2_reg_embedding": 0,
            **options,
        },
    )


@pytest.fixture(scope="module")
def model() -> Any:
    return _small()


@pytest.fixture(scope="module")
def predictions(model: Any) -> list[np.ndarray]:
    return toy.outputs(model, model_inputs(X))


@pytest.fixture(scope="module")
def errors(predictions: list[np.ndarray]) -> dict[str, np.ndarray]:
    """The errors of each row, in double precision, by the names of losses and metrics."""
    one, two = (p.astype("float64")[:, 0] for p in predictions)
    y = Y[0]
    entropy = -(y * np.log(one) + (1 - y) * np.log(1 - one))
    return {
        "bce1": entropy,
        "mse1": (one - y) ** 2,
        "mse2": (two - Y[1]) ** 2,
        "mae1": abs(one - y),
        "mae2": abs(two - Y[1]),
    }


def model_inputs(x: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {k: v.astype("float32" if k == "price" else "int32") for k, v in x.items()}


def _columned(y: list[np.ndarray]) -> list[np.ndarray]:
    return [label[:, None].astype("float32") for label in y]


BCE, MSE = "binary_crossentropy", "mean_squared_error"


@pytest.mark.parametrize(
    ("options", "total"),
    [
        ({}, {"bce1": 1, "mse2": 1}),
        ({"loss": [BCE, MSE]}, {"bce1": 1, "mse2": 1}),
        ({"loss": MSE}, {"mse1": 1, "mse2": 1}),
        ({"loss": [MSE]}, {"mse1": 1, "mse2": 1}),
        ({"loss": keras.losses.MeanSquaredError()}, {"mse1": 1, "mse2": 1}),
        ({"loss": {"task 2": MSE, "task 1": BCE}}, {"bce1": 1, "mse2": 1}),
        ({"loss": {"task_1": MSE, "task 2": MSE}}, {"mse1": 1, "mse2": 1}),
        ({"loss": {"task_1": BCE}}, {"bce1": 1}),
        ({"loss": {"task 2": MSE}}, {"mse2": 1}),
        ({"loss_weights": [0.5, 2]}, {"bce1": 0.5, "mse2": 2}),
        ({"loss_weights": (np.float32(0.5), 0)}, {"bce1": 0.5}),
        ({"loss_weights": {"task 2": 3}}, {"bce1": 1, "mse2": 3}),
        ({"loss_weights": {"task_1": 0.25, "task 2": 3}}, {"bce1": 0.25, "mse2": 3}),
        ({"loss_weights": 0.5}, {"bce1": 0.5, "mse2": 0.5}),
    ],
)
def test_losses_and_their_weights(
    model: Any,
    predictions: list[np.ndarray],
    errors: dict[str, np.ndarray],
    options: Any,
    total: dict[str, float],
) -> None:
    model.compile("adam", **options)
    loss = model.compute_loss(y=_columned(Y), y_pred=predictions)
    expected = sum(weight * errors[name].mean() for name, weight in total.items())
    assert float(loss) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ("mae", {"task_1_mae": "mae1", "task_2_mae": "mae2"}),
        (["mae"], {"task_1_mae": "mae1", "task_2_mae": "mae2"}),
        (["mse", "mae"], {"task_1_mse": "mse1", "task_2_mae": "mae2"}),
        (
            ["mse", "mae", "MeanAbsoluteError"],
            {
                f"task_{k}_{m}": f"{'mse' if m == 'mse' else 'mae'}{k}"
                for k in (1, 2)
                for m in ("mse", "mae", "MeanAbsoluteError")
            },
        ),
        ([["mse", "mae"], []], {"task_1_mse": "mse1", "task_1_mae": "mae1"}),
        ({"task 2": "mae"}, {"task_2_mae": "mae2"}),
        ({"task_2": ["mae"], "task 1": ["mse"]}, {"task_1_mse": "mse1", "task_2_mae": "mae2"}),
        (
            [keras.metrics.MeanAbsoluteError(name="off")],  # one object, a state per task
            {"task_1_off": "mae1", "task_2_off": "mae2"},
        ),
        ("default", {"task_2_mean_absolute_error": "mae2"}),
    ],
)  # fmt: skip
def test_metrics(
    model: Any,
    predictions: list[np.ndarray],
    errors: dict[str, np.ndarray],
    metrics: Any,
    expected: dict[str, str],
) -> None:
    model.compile("adam", metrics=metrics)
    logs = model.compute_metrics(None, _columned(Y), predictions)
    auc = {"task_1_AUC"} if metrics == "default" else set()
    assert {key for key in logs if "loss" not in key} == set(expected) | auc
    for key, name in expected.items():
        assert float(logs[key]) == pytest.approx(errors[name].mean(), rel=1e-5)


def test_weighted_metrics_see_the_weights_and_metrics_do_not(
    model: Any, errors: dict[str, np.ndarray]
) -> None:
    model.compile("adam", metrics=["mse"], weighted_metrics=["mae"], **toy.QUICK)
    logs = model.evaluate(X, Y, sample_weight=WEIGHTS, batch_size=40, verbose=0, return_dict=True)
    for k, weight in enumerate(WEIGHTS, start=1):
        mae = np.average(errors[f"mae{k}"], weights=weight)
        assert logs[f"task_{k}_mae"] == pytest.approx(mae, rel=1e-5)
        assert logs[f"task_{k}_mse"] == pytest.approx(errors[f"mse{k}"].mean(), rel=1e-5)


def test_auc_given_once_is_every_tasks_own() -> None:
    model = _small(task_types=["binary", "binary"])
    model.compile("adam", loss=BCE, metrics=["AUC"], **toy.QUICK)
    y = [Y[0], 1 - Y[0]]
    logs = model.evaluate(X, y, batch_size=40, verbose=0, return_dict=True)
    for k, prediction in enumerate(toy.outputs(model, model_inputs(X))):
        pairs = y[k].sum() * (1 - y[k]).sum()  # of which one is so close that it counts as a tie
        expected = pytest.approx(auc(y[k], prediction), abs=0.51 / pairs)
        assert logs[f"task_{k + 1}_AUC"] == expected
    assert logs["task_1_AUC"] != pytest.approx(logs["task_2_AUC"], abs=1e-3)


def test_several_classes_and_labels_are_learned() -> None:
    model = _small(
        num_tasks=2,
        task_types=[("multiclass", 3), ("multilabel", 2)],
        task_names=["class", "labels"],
        tower_dnn_units_lists=[[8], [8]],
    )
    several = DATA["user"].to_numpy() // 2
    both = np.stack([Y[0], 1 - Y[0]], axis=1)
    model.compile(keras.optimizers.Adam(0.05), metrics="default", **toy.NO_XLA)
    logs = model.fit(X, [several, both], batch_size=40, epochs=40, verbose=0).history
    assert logs["class_sparse_categorical_accuracy"][-1] > 0.9
    assert logs["labels_binary_accuracy"][-1] > 0.9
    classes, labels = model.predict(X, verbose=0)
    assert classes.shape == (40, 3)
    assert labels.shape == (40, 2)
    np.testing.assert_allclose(classes.sum(axis=1), 1, rtol=1e-5)
    assert np.mean(classes.argmax(axis=1) == several) > 0.9
