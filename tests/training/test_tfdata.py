"""Batches of tf.data mean what arrays mean, and what is refused there is refused here."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import toy
from test_labels import ERRORS

from mtl.features import DenseFeat, SparseFeat, VarLenSparseFeat
from mtl.models import SharedBottom

ROWS = 4
X: dict[str, Any] = {
    "id": np.arange(ROWS),
    "hashed": np.arange(ROWS),
    "history": np.arange(2 * ROWS).reshape(ROWS, 2),
    "number": np.linspace(-1, 1, ROWS).astype("float32"),
    "half": np.linspace(-1, 1, ROWS),
    "weight": np.linspace(0, 1, 2 * ROWS).reshape(ROWS, 2),
    "free": np.ones(ROWS, "float32"),
}
Y = {"buy": np.array([0, 1, 0, 1.0]), "spent": np.array([0.5, np.nan, -3, 10])}


def known(value: Any) -> Any:
    return keras.ops.where(keras.ops.isnan(value), 0.0, value)


def build() -> Any:
    columns = [
        SparseFeat("id", 10, 3),
        SparseFeat("hashed", 10, 3, use_hash=True),
        VarLenSparseFeat(SparseFeat("history", 10, 3), 2, weight_name="weight"),
        DenseFeat("number"),
        DenseFeat("half", dtype="float16"),
        DenseFeat("free", transform_fn=known),
    ]
    model = SharedBottom(
        columns, task_types=["binary", "regression"], task_names=list(Y), bottom_dnn_units=[4],
        tower_dnn_units_lists=[[], []],
    )  # fmt: skip
    model.compile("sgd", **toy.QUICK)
    return toy.randomize(model)


@pytest.fixture(scope="module")
def model() -> Any:
    return build()


def batched(*parts: Any) -> Any:
    return tf.data.Dataset.from_tensor_slices(parts if len(parts) > 1 else parts[0]).batch(ROWS)


def whole(*parts: Any) -> Any:
    """One batch, whatever the rows of its parts."""
    return tf.data.Dataset.from_tensors(parts)


IDS = {
    "uint64": np.array([3, 2**32 + 3, 2**63 + 3, 2**64 - 5], "uint64"),
    "int64": np.array([3, 2**32 + 3, -(2**63) + 3, -5]),
    "uint32": np.array([3, 2**31 + 3, 2**32 - 5, 0], "uint32"),
    "int8": np.array([3, -1, 0, 127], "int8"),
    "bool": np.array([True, False, True, True]),
    "float64": np.array([3, 2.0**32 + 3, -(2.0**63), 1e30]),
}


@pytest.mark.parametrize("dtype", IDS)
@pytest.mark.parametrize("name", ["id", "hashed", "history"])
def test_ids_of_every_type_mean_what_arrays_mean(model: Any, name: str, dtype: str) -> None:
    ids = IDS[dtype]
    x = {**X, name: np.stack([ids, ids[::-1]], axis=1) if name == "history" else ids}
    toy.same(model.predict(batched(x), verbose=0), model.predict(x, verbose=0))


@pytest.mark.parametrize("dtype", ["uint64", "float64", "int8", "bool"])
def test_numbers_and_labels_of_every_type(model: Any, dtype: str) -> None:
    x = {**X, "number": X["number"].astype(dtype), "another": X["id"].astype("uint64")}
    y = {name: label.astype(dtype) for name, label in (("buy", Y["buy"]), ("spent", Y["buy"]))}
    expected = model.evaluate(x, y, verbose=0)
    np.testing.assert_allclose(model.evaluate(batched(x, y), verbose=0), expected, rtol=1e-5)


def test_numbers_for_a_transformation_may_be_missing(model: Any) -> None:
    x = {**X, "free": np.array([1, np.nan, 1, 0], "float32")}
    toy.same(model.predict(batched(x), verbose=0), model.predict(x, verbose=0))


HUGE = np.array([1.0, 2, 3, 1e39])
BAD_X = {
    "fraction": ({"id": [3, 3.7, 1, 2]}, r"id.* should hold integer ids.*3\.7"),
    "nan id": ({"hashed": [3, np.nan, 1, 2]}, r"hashed.* should hold integer ids.*nan"),
    "infinite id": ({"history": [[0, np.inf]] * 4}, r"history.* should hold integer ids.*inf"),
    "nan": ({"number": [1, np.nan, 1, 2]}, r"number.* should hold finite numbers.*nan"),
    "nan weight": ({"weight": [[1, np.nan]] * 4}, r"weight.* should hold finite numbers.*nan"),
    "huge": ({"number": HUGE}, r"number.* should hold finite numbers.*(inf|1e\+39)"),
}


@pytest.mark.parametrize("case", BAD_X)
def test_features_out_of_range_are_refused(model: Any, case: str) -> None:
    change, match = BAD_X[case]
    x = {**X, **{name: np.array(value) for name, value in change.items()}}
    name, expected = match.split(".*", 1)
    for run in (lambda x: model.fit(*x, verbose=0), lambda x: model.predict(x[0], verbose=0)):
        with pytest.raises(ValueError, match=rf"x\['{name}'\].*{expected}"):
            run((x, Y))
    before = model.get_weights()
    for data in (batched(x, Y), batched(x, Y, np.ones(ROWS))):
        with pytest.raises(ERRORS, match=rf"`x` should hold.*Received:.*\[of\] \[{name}"):
            model.fit(data, shuffle=False, verbose=0)
    with pytest.raises(ERRORS, match=rf"`x` should hold.*Received:.*\[of\] \[{name}"):
        model.predict(batched(x), verbose=0)
    toy.same(model.get_weights(), before, rtol=0, atol=0)


@pytest.mark.parametrize("value", [np.inf, 1e39])
def test_infinite_labels_and_weights_are_refused(model: Any, value: float) -> None:
    wrong = np.array([1.0, value, 0, 0])
    before = model.get_weights()
    with pytest.raises(ERRORS, match=r"`y` of spent should hold finite labels.*inf"):
        model.fit(batched(X, {**Y, "spent": wrong}), shuffle=False, verbose=0)
    with pytest.raises(ERRORS, match=r"`sample_weight` of buy .* at least 0, all finite.*inf"):
        model.fit(batched(X, Y, {"buy": wrong}), shuffle=False, verbose=0)
    with pytest.raises(ValueError, match=r"sample_weight\['buy'\].*finite"):
        model.fit(X, Y, sample_weight={"buy": wrong}, verbose=0)
    toy.same(model.get_weights(), before, rtol=0, atol=0)


def test_rows_of_labels_and_weights_are_those_of_the_features(model: Any) -> None:
    ones = np.ones(ROWS)
    for parts in (
        (X, {**Y, "spent": ones[:1]}),
        (X, Y, ones[:1]),
        (X, Y, {"spent": ones[:1, None]}),
    ):
        with pytest.raises(ERRORS, match=r"as many rows as `x`"):
            model.evaluate(whole(*parts), verbose=0)


WORDS = np.array(["a", "b", "c", "d"])
BAD_FORMS: dict[str, Any] = {
    "not batched": (lambda: batched(X, Y).unbatch(), ValueError,
                    r"x\['id'\].*Received: \(\) \(call .batch"),
    "length": (lambda: batched({**X, "history": np.ones((4, 3), int)}, Y), ValueError,
               r"x\['history'\].*\(N, 2\).*\(None, 3\)"),
    "words": (lambda: batched({**X, "id": WORDS}, Y), TypeError,
              r"x\['id'\].*integer ids \(map strings.*string"),
    "number words": (lambda: batched({**X, "number": WORDS}, Y), TypeError,
                     r"x\['number'\].*numbers.*string"),
    "label words": (lambda: batched(X, {**Y, "buy": WORDS}), TypeError, r"y\['buy'\].*numbers"),
    "labels": (lambda: batched(X, {**Y, "buy": np.ones((4, 2))}), ValueError,
               r"y\['buy'\].*\(N, 1\).*\(None, 2\)"),
    "weights": (lambda: batched(X, Y, {"spent": np.ones((4, 2))}), ValueError,
                r"sample_weight\['spent'\].*\(N, 1\).*\(None, 2\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FORMS)
def test_other_forms_are_refused_by_name(model: Any, case: str) -> None:
    make, error, match = BAD_FORMS[case]
    with pytest.raises(error, match=match):
        model.fit(make(), shuffle=False, verbose=0)
    with pytest.raises(error, match=match):
        model.evaluate(make(), verbose=0)
