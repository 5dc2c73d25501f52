"""The forms in which features, labels and sample weights may come: all mean the same."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
import toy
from test_call import DATA, WEIGHTS, X, Y, _small, model_inputs

NAMES = ["task 1", "task 2"]


@pytest.fixture(scope="module")
def model() -> Any:
    model = _small()
    model.compile("adam", metrics="mae", weighted_metrics=["mse"], **toy.QUICK)
    return model


def _logs(model: Any, x: Any, *rest: Any, **options: Any) -> dict[str, float]:
    if not isinstance(x, keras.utils.PyDataset) and not hasattr(x, "element_spec"):
        options["batch_size"] = 16
    if rest:
        options["y"], options["sample_weight"] = (*rest, None)[:2]
    return dict(model.evaluate(x, verbose=0, return_dict=True, **options))


@pytest.fixture(scope="module")
def plain(model: Any) -> dict[str, float]:
    return _logs(model, X, Y)


@pytest.fixture(scope="module")
def weighted(model: Any, plain: dict[str, float]) -> dict[str, float]:
    logs = _logs(model, X, Y, WEIGHTS)
    assert logs["loss"] != pytest.approx(plain["loss"], rel=1e-3)
    assert logs["task_1_mae"] == pytest.approx(plain["task_1_mae"], rel=1e-6)
    return logs


@pytest.mark.parametrize(
    "x",
    [
        {name: DATA[name] for name in X},
        {name: DATA[name].to_numpy()[:, None] for name in X},
        {name: DATA[name].tolist() for name in X},
        {**X, "extra": np.zeros(40), "text": DATA["comment"]},
        dict(reversed(X.items())),
        DATA,
        DATA.set_index(DATA.index[::-1]),  # rows go by position, not by the frame's index
        {**X, "user": X["user"].astype("float64"), "item": X["item"].astype("int8")},
        {**X, "item": X["item"].astype(object), "price": X["price"].astype(object)},
        {**X, "user": pd.Series(X["user"], dtype="Int64")},
        {name: DATA[name].astype("category") if name == "item" else DATA[name] for name in X},
    ],
    ids=lambda x: type(x).__name__,
)
def test_x(model: Any, plain: dict[str, float], x: Any) -> None:
    assert _logs(model, x, Y) == pytest.approx(plain, rel=1e-6)


Y_FORMS: dict[str, Any] = {
    "list": Y,
    "tuple of columns": tuple(y[:, None] for y in Y),
    "series": [DATA[name] for name in NAMES],
    "names": {"task 2": Y[1], "task 1": Y[0]},
    "output names": {"task_1": Y[0], "task_2": Y[1].tolist()},
    "frame": DATA,
    "frame of labels": DATA[["task 2", "task 1"]],
    "other dtypes": [Y[0].astype(bool), Y[1].astype("float32")],
}
WEIGHT_FORMS: dict[str, Any] = {
    "list": WEIGHTS,
    "series": [pd.Series(w) for w in WEIGHTS],
    "names": {"task 2": WEIGHTS[1], "task 1": WEIGHTS[0]},
    "mixed names": {"task_2": WEIGHTS[1], "task 1": WEIGHTS[0]},
}


@pytest.mark.parametrize("y", Y_FORMS.values(), ids=Y_FORMS)
def test_y(model: Any, plain: dict[str, float], y: Any) -> None:
    assert _logs(model, X, y) == pytest.approx(plain, rel=1e-6)


@pytest.mark.parametrize("y", ["list", "names", "frame"])
@pytest.mark.parametrize("weight", WEIGHT_FORMS)
def test_y_and_sample_weight(model: Any, weighted: dict[str, float], y: str, weight: str) -> None:
    assert _logs(model, X, Y_FORMS[y], WEIGHT_FORMS[weight]) == pytest.approx(weighted, rel=1e-6)


def test_one_weight_for_all_tasks_and_weights_for_some(model: Any) -> None:
    ones, w = np.ones(40), WEIGHTS[0]
    for some, full in ((w, [w, w]), ({"task 2": w}, [ones, w]), ([None, w], [ones, w])):
        expected = _logs(model, X, Y, full)
        assert _logs(model, X, {"task 1": Y[0], "task 2": Y[1]}, some) == pytest.approx(expected)


class Sequence(keras.utils.PyDataset):
    """Batches of 16 rows, as tuples of whatever `make` makes of them."""

    def __init__(self, make: Callable[[slice], Any]) -> None:
        super().__init__()
        self.make = make

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        return self.make(slice(16 * index, 16 * index + 16))


def _cut(values: Any, rows: slice) -> Any:
    # Keras on TensorFlow takes tuples from a data set, no lists.
    values = tuple(values) if isinstance(values, list) else values
    return keras.tree.map_structure(lambda v: v[rows].astype("float32"), values)


@pytest.mark.parametrize(
    ("y", "weight"),
    [("list", None), ("names", None), ("list", "list"), ("list", "names"), ("names", "list")],
)
def test_a_py_dataset(
    model: Any, plain: dict[str, float], weighted: dict[str, float], y: str, weight: str | None
) -> None:
    inputs = {**model_inputs(X), "extra": np.zeros(40, "float32")}

    def make(rows: slice) -> Any:
        batch = ({k: v[rows] for k, v in inputs.items()}, _cut(Y_FORMS[y], rows))
        return (*batch, _cut(WEIGHT_FORMS[weight], rows)) if weight else batch

    expected = weighted if weight else plain
    assert _logs(model, Sequence(make)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.skipif(toy.BACKEND != "tensorflow", reason="tf.data is TensorFlow's")
@pytest.mark.parametrize("weight", [None, "names"])
def test_tf_data_with_labels_by_name(
    model: Any, plain: dict[str, float], weighted: dict[str, float], weight: str | None
) -> None:
    import tensorflow as tf

    rows = slice(None)
    tensors = (model_inputs(X), _cut(Y_FORMS["names"], rows))
    if weight:
        tensors = (*tensors, _cut(WEIGHT_FORMS[weight], rows))
    data = tf.data.Dataset.from_tensor_slices(tensors).batch(16)
    assert _logs(model, data) == pytest.approx(weighted if weight else plain, rel=1e-5)
    columns = tf.data.Dataset.from_tensor_slices(model_inputs(X)).batch(16)
    toy.same(model.predict(columns, verbose=0), model.predict(X, verbose=0))


def test_fit_takes_every_form_and_validation_data() -> None:
    model = _small()
    model.compile("adam", metrics="mae", **toy.QUICK)
    options: dict[str, Any] = {"batch_size": 16, "verbose": 0}
    frames = (DATA, DATA[NAMES], {"task 1": WEIGHTS[0]})
    logs = model.fit(
        DATA, DATA, sample_weight=WEIGHT_FORMS["names"], validation_data=frames, **options
    ).history
    again = model.evaluate(
        X, Y, sample_weight=[WEIGHTS[0], np.ones(40)], return_dict=True, **options
    )
    assert {k: v[0] for k, v in logs.items() if k.startswith("val_")} == pytest.approx(
        {f"val_{k}": v for k, v in again.items()}, rel=1e-5
    )
    logs = model.fit(X, Y_FORMS["names"], validation_split=0.25, **options).history
    last = model.evaluate({k: v[30:] for k, v in X.items()}, [y[30:] for y in Y], **options)
    assert logs["val_loss"][0] == pytest.approx(last[0], rel=1e-5)


def test_single_batches(model: Any, plain: dict[str, float]) -> None:
    model.reset_metrics()  # which Keras 3.8 leaves to its users
    for y in (Y, Y_FORMS["names"], DATA):
        logs = model.test_on_batch(DATA, y, return_dict=True)
        assert logs["loss"] == pytest.approx(plain["loss"], rel=1e-5)
        model.reset_metrics()
    copy = _small()
    copy.compile(keras.optimizers.SGD(0.01), **toy.QUICK)
    first = copy.train_on_batch(DATA, Y, sample_weight={"task 2": WEIGHTS[1]}, return_dict=True)
    second = copy.test_on_batch(X, DATA, sample_weight={"task_2": WEIGHTS[1]}, return_dict=True)
    assert second["loss"] < first["loss"]
    toy.same(model.predict_on_batch(DATA), model.predict(X, verbose=0))


def test_a_call_with_tensors_takes_more_than_it_needs(model: Any) -> None:
    x = {"extra": np.zeros((40, 2), "float32"), **model_inputs(X)}
    toy.same(toy.outputs(model, x), model.predict(X, verbose=0))
    columns = {name: value[:, None] for name, value in model_inputs(X).items()}
    toy.same(toy.outputs(model, columns), model.predict(X, verbose=0))


def test_a_single_task_takes_and_gives_one_array() -> None:
    model = _small(num_tasks=1, task_types=["binary"], task_names=["task 1"],
                   tower_dnn_units_lists=[[]])  # fmt: skip
    model.compile("adam", metrics=["AUC", "mae"], **toy.QUICK)
    expected = _logs(model, X, Y[0], WEIGHTS[0])
    assert set(expected) == {"loss", "AUC", "mae"}
    for y in ([Y[0]], Y[0].tolist(), {"task 1": Y[0]}, DATA, DATA["task 1"]):
        for weight in ([WEIGHTS[0]], {"task 1": WEIGHTS[0]}):
            assert _logs(model, X, y, weight) == pytest.approx(expected, rel=1e-6)
    assert model.predict(X, verbose=0).shape == (40, 1)
