"""Ids outside the vocabulary, and the arrays that fit and predict accept or refuse."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
import reference as ref
import tensorflow as tf
import toy

from mtl.features import DenseFeat, SparseFeat
from mtl.models import SharedBottom

V = 5
X: dict[str, Any] = {
    "narrow": np.array([0, 1, 2, 3], dtype="int32"),
    "wide": np.array([3, 2, 1, 0], dtype="int64"),
    "age": np.array([0.5, 1.5, -1, 0], dtype="float32"),
    "price": np.ones((4, 2), "float32"),
}
Y = [np.array([0, 1, 0, 1.0]), np.array([1, 1, 0, 0.0])]


def _model() -> Any:
    columns = [
        SparseFeat("narrow", V, 2),
        SparseFeat("wide", V, 2, dtype="int64"),
        DenseFeat("age", 1),
        DenseFeat("price", 2),
    ]
    options = {"bottom_dnn_units": (4,), "tower_dnn_units_lists": [[], []]}
    model = SharedBottom(columns, num_tasks=2, l2_reg_embedding=0, dnn_activation="tanh", **options)
    return toy.randomize(model)


@pytest.fixture(scope="module")
def model() -> Any:
    model = _model()
    model.compile("adam", **toy.QUICK)
    return model


UNKNOWN = np.array([-1, V, 2**31 - 1, -(2**31)], dtype="int64")
WIDE = np.array([2**32, 2**40, -(2**40), 2**32 + 1], dtype="int64")  # 0 or 1 if cut to 32 bits


@pytest.mark.parametrize("feature", ["narrow", "wide"])
@pytest.mark.parametrize("ids", [UNKNOWN, WIDE], ids=["int32", "int64"])
@pytest.mark.parametrize("path", ["predict", "predict_on_batch"])
def test_ids_outside_the_vocabulary_read_the_unknown_row(
    model: Any, feature: str, ids: np.ndarray, path: str
) -> None:
    w = ref.weights(model)
    table = w["encoder/table_0"]
    assert table.shape == (2 * V + 2, 2)  # the vocabularies, then an unknown row per feature
    rows = {"narrow": table[X["narrow"]], "wide": table[V + X["wide"]]}
    rows[feature] = table[[2 * V + list(rows).index(feature)] * 4]
    v = np.concatenate([rows["narrow"], rows["wide"], X["age"][:, None], X["price"]], axis=1)
    h = ref.dnn(w, "bottom", v, np.tanh)
    expected = [ref.tower(w, name, h) for name in ("task_1", "task_2")]
    call = {"verbose": 0} if path == "predict" else {}
    predictions = getattr(model, path)({**X, feature: ids}, **call)
    predictions = [keras.ops.convert_to_numpy(p) for p in predictions]
    toy.same(predictions, expected, atol=1e-5, rtol=1e-5)


def test_unknown_ids_train_the_unknown_row_alone() -> None:
    model = _model()
    before = ref.weights(model)["encoder/table_0"]
    model.compile(keras.optimizers.SGD(0.5), **toy.QUICK)
    logs = model.fit({**X, "narrow": UNKNOWN, "wide": WIDE}, Y, verbose=0).history
    assert np.isfinite(logs["loss"]).all()
    moved = np.abs(ref.weights(model)["encoder/table_0"] - before).max(axis=1) > 0
    assert moved.tolist() == [False] * 2 * V + [True, True]


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint8", "uint16", "uint32"])
@pytest.mark.parametrize("hashed", [False, True])
def test_ids_beyond_a_columns_type_do_not_wrap(dtype: str, hashed: bool) -> None:
    options: dict[str, Any] = {"bottom_dnn_units": (4,), "tower_dnn_units_lists": [[]], "seed": 1}
    columns = [SparseFeat("id", V, 2, dtype=dtype, use_hash=hashed)]
    plain = [SparseFeat("id", V, 2, use_hash=hashed)]
    models = [toy.randomize(SharedBottom(c, num_tasks=1, **options)) for c in (columns, plain)]
    period = 2 ** np.iinfo(dtype).bits
    ids = np.array([3, period + 3, period + 1, -1, 2 * period, -period + 2])
    expected = models[1].predict({"id": ids}, verbose=0)
    if not hashed:
        toy.same(expected[1:], np.repeat(expected[1:2], 5, axis=0))
        assert abs(expected[0] - expected[1]) > 1e-4
    for given in (ids, ids.astype("float64"), ids.astype(object), ids[:, None].tolist()):
        toy.same(models[0].predict({"id": given}, verbose=0), expected)
    called = keras.ops.convert_to_numpy(models[0]({"id": ids[:, None]}))
    toy.same(called, expected)
    batches = Batches([{"id": ids[:4]}, {"id": ids[4:]}])
    toy.same(models[0].predict(batches, verbose=0), expected)
    data = tf.data.Dataset.from_tensor_slices({"id": ids}).batch(4)
    toy.same(models[0].predict(data, verbose=0), expected)


def test_a_model_saved_with_inputs_of_a_narrow_type_takes_ids_beyond_it() -> None:
    model = toy.randomize(SharedBottom([SparseFeat("id", V, 2)], num_tasks=1))
    config = model.get_config()
    [layer] = [one for one in config["layers"] if one["class_name"] == "InputLayer"]
    layer["config"]["dtype"] = "int8"
    old = type(model).from_config(config)
    old.set_weights(model.get_weights())
    x = {"id": np.array([3, 259, 256])}
    toy.same(old.predict(x, verbose=0), model.predict(x, verbose=0))


def test_fractions_in_a_dense_feature_of_an_integer_type_are_kept() -> None:
    models = [
        SharedBottom([DenseFeat("a", dtype=dtype)], num_tasks=1, seed=1)
        for dtype in ("int8", "float32")
    ]
    models[0].set_weights(models[1].get_weights())
    x = {"a": np.array([0.5, 300, -0.25])}
    toy.same(models[0].predict(x, verbose=0), models[1].predict(x, verbose=0))


class Batches(keras.utils.PyDataset):
    """The batches that it is given."""

    def __init__(self, batches: list[Any], **options: Any) -> None:
        super().__init__(**options)
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Any:
        return self.batches[index]


@pytest.mark.parametrize(
    "ids",
    [
        np.array([0.0, 1, 0, 1]),
        np.array([False, True, False, True]),
        np.array([0, 1, 0, 1], dtype="uint64"),
        np.array([0, 1, 0, 1], dtype="int8"),
        pd.Series([0, 1, 0, 1], dtype="boolean"),
        pd.Series([0, 1, 0, 1], dtype="Float64"),
        pd.Series([0, 1, 0, 1], dtype="category"),
        [0, 1, 0, 1],
    ],
    ids=lambda ids: str(getattr(ids, "dtype", "list")),
)
@pytest.mark.parametrize("feature", ["narrow", "wide"])
def test_whole_numbers_are_ids(model: Any, feature: str, ids: Any) -> None:
    expected = model.predict({**X, feature: np.array([0, 1, 0, 1])}, verbose=0)
    toy.same(model.predict({**X, feature: ids}, verbose=0), expected)


WORDS = np.array(["a", "b", "a", "c"])
BAD_X: dict[str, tuple[Any, type[Exception], str]] = {
    "missing": ({k: v for k, v in X.items() if k != "wide"}, ValueError,
                r"`x`.*every feature.*\['wide'\].*Received.*'narrow'"),
    "list": (list(X.values()), TypeError, r"`x`.*dict from feature name.*Received: 4 entries"),
    "matrix": (np.ones((4, 4)), TypeError, r"`x`.*dict from feature name.*\(4, 4\)"),
    "words": ({**X, "narrow": WORDS}, TypeError, r"x\['narrow'\].*integer ids.*Received.*'a'"),
    "objects": ({**X, "narrow": WORDS.astype(object)}, TypeError, r"x\['narrow'\].*integer ids"),
    "string series": ({**X, "wide": pd.Series(WORDS, dtype="string")}, TypeError,
                      r"x\['wide'\].*integer ids.*Received.*'a'"),
    "categories": ({**X, "wide": pd.Series(WORDS, dtype="category")}, TypeError,
                   r"x\['wide'\].*integer ids"),
    "fractions": ({**X, "wide": np.array([0, 1.5, 1, 1])}, ValueError,
                  r"x\['wide'\].*integer ids.*Received.*1\.5"),
    "missing ids": ({**X, "wide": np.array([0, np.nan, 1, 1])}, ValueError,
                    r"x\['wide'\].*integer ids.*Received.*nan"),
    "nan": ({**X, "age": np.array([0, np.nan, 1, 1])}, ValueError,
            r"x\['age'\].*finite.*Received: 1 values such as nan"),
    "infinity": ({**X, "price": np.full((4, 2), -np.inf)}, ValueError,
                 r"x\['price'\].*finite.*Received: 8 values such as -inf"),
    "dense words": ({**X, "age": WORDS}, TypeError, r"x\['age'\].*numbers.*Received.*'a'"),
    "width": ({**X, "price": np.ones((4, 3))}, ValueError,
              r"x\['price'\].*\(N, 2\).*Received: \(4, 3\)"),
    "flat": ({**X, "price": np.ones(4)}, ValueError, r"x\['price'\].*\(N, 2\).*Received: \(4,\)"),
    "wide ids": ({**X, "narrow": np.ones((4, 2), int)}, ValueError,
                 r"x\['narrow'\].*\(N, 1\).*Received: \(4, 2\)"),
    "scalar": ({**X, "narrow": np.array(1)}, ValueError, r"x\['narrow'\].*Received: \(\)"),
    "rows": ({**X, "age": np.ones(3)}, ValueError, r"`x`.*equal length.*'age': 3"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_X)
@pytest.mark.parametrize(
    "run",
    [
        lambda model, x: model.fit(x, Y, verbose=0),
        lambda model, x: model.predict(x, verbose=0),
        lambda model, x: model.evaluate(x, Y, verbose=0),
        lambda model, x: model.predict_on_batch(x),
        lambda model, x: model.train_on_batch(x, Y),
        lambda model, x: model.test_on_batch(x, Y),
        lambda model, x: model.fit(X, Y, validation_data=(x, Y), verbose=0),
    ],
    ids=["fit", "predict", "evaluate", "predict_batch", "train_batch", "test_batch", "validation"],
)
def test_bad_features_are_refused(model: Any, case: str, run: Callable[..., Any]) -> None:
    x, error, match = BAD_X[case]
    before = model.get_weights()
    with pytest.raises(error, match=match):
        run(model, x)
    toy.same(model.get_weights(), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("y", "error", "match"),
    [
        (Y[:1], ValueError, r"`y`.*one array per task.*'task_2'.*1 arrays for 2 tasks"),
        ([*Y, Y[0]], ValueError, r"`y`.*3 arrays for 2 tasks"),
        (Y[0], ValueError, r"`y`.*one array per task.*Received: an array of shape \(4,\)"),
        (np.stack(Y, axis=1), ValueError, r"`y`.*one array per task.*\(4, 2\)"),
        ({"task_1": Y[0]}, ValueError, r"`y`.*every task.*Missing: \['task_2'\].*\['task_1'\]"),
        (pd.DataFrame({"task_2": Y[1]}), ValueError, r"`y`.*Missing: \['task_1'\]"),
        ([Y[0], WORDS], TypeError, r"y\['task_2'\].*numbers.*Received.*'a'"),
        ([Y[0], np.ones((4, 2))], ValueError, r"y\['task_2'\].*\(N, 1\).*Received: \(4, 2\)"),
        ([np.ones(3), Y[1]], ValueError, r"y\['task_1'\].*as many rows as `x`, 4.*Received: 3"),
    ],
)
def test_bad_labels_are_refused(model: Any, y: Any, error: type[Exception], match: str) -> None:
    for run in (model.fit, model.evaluate, model.train_on_batch, model.test_on_batch):
        with pytest.raises(error, match=match):
            run(X, y)
    with pytest.raises(error, match=match):
        model.fit(Batches([(X, y)]), verbose=0)


@pytest.mark.parametrize(
    ("weight", "error", "match"),
    [
        ({"task_3": Y[0]}, ValueError, r"`sample_weight`.*\['task_1', 'task_2'\].*\['task_3'\]"),
        ([Y[0]], ValueError, r"`sample_weight`.*1 arrays for 2 tasks"),
        ([Y[0], WORDS], TypeError, r"sample_weight\['task_2'\].*numbers.*Received.*'a'"),
        ([Y[0], Y[1] * np.nan], ValueError, r"sample_weight\['task_2'\].*finite.*nan"),
        (np.ones(3), ValueError, r"sample_weight\['task_1'\].*rows as `x`, 4.*Received: 3"),
        ({"task_2": [1.0]}, ValueError, r"sample_weight\['task_2'\].*rows as `x`, 4.*Received: 1"),
        (np.ones((4, 2)), ValueError, r"sample_weight\['task_1'\].*\(N,\) or \(N, 1\).*: \(4, 2\)"),
    ],
)
def test_bad_sample_weights_are_refused(
    model: Any, weight: Any, error: type[Exception], match: str
) -> None:
    for run in (model.fit, model.evaluate, model.train_on_batch, model.test_on_batch):
        with pytest.raises(error, match=match):
            run(X, Y, sample_weight=weight)
    for data in (Batches([(X, Y, weight)]), (batch for batch in [(X, Y, weight)])):
        with pytest.raises(error, match=match):
            model.fit(data, shuffle=False, verbose=0)


@pytest.mark.parametrize("argument", ["loss", "loss_weights", "metrics", "weighted_metrics"])
def test_compile_refuses_what_names_no_task(argument: str) -> None:
    value: Any = 1.0 if argument == "loss_weights" else "mse"
    with pytest.raises(ValueError, match=rf"`{argument}`.*'task_1', 'task_2'.*\['task 1'\]"):
        _model().compile("adam", **{argument: {"task 1": value}})
    nested = [[value]] * 3 if "metrics" in argument else [value] * 3
    with pytest.raises(ValueError, match=rf"`{argument}`.*3 entries for 2 tasks"):
        _model().compile("adam", **{argument: nested})
