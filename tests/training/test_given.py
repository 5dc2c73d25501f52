"""What users pass to fit: rows of lists, class weights by task, errors that name the fault."""

from typing import Any

import keras
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import toy
from test_arrays import Batches
from test_labels import STREAMS, batches_of, build, evaluate, fit

from mtl.features import DenseFeat, SparseFeat, VarLenSparseFeat
from mtl.models import SharedBottom

X, Y = toy.features(), toy.labels()


def frame() -> pd.DataFrame:
    return pd.DataFrame({name: list(v) if v.ndim > 1 else v for name, v in X.items()})


FORMS: dict[str, Any] = {
    "frame": frame,
    "lists": lambda: pd.DataFrame({n: v.tolist() for n, v in X.items()}),
    "tuples": lambda: {n: [tuple(r) if v.ndim > 1 else r for r in v] for n, v in X.items()},
    "objects": lambda: {n: pd.Series(list(v), dtype=object) for n, v in X.items()},
    "table": lambda: pa.table({n: pa.array(v.tolist()) for n, v in X.items()}),
    "arrays": lambda: {n: pa.array(v.tolist()) for n, v in X.items()},
    "chunks": lambda: {n: pa.chunked_array([v.tolist()[:5], v.tolist()[5:]]) for n, v in X.items()},
    "arrow frame": lambda: pa.table({n: pa.array(v.tolist()) for n, v in X.items()}).to_pandas(
        types_mapper=pd.ArrowDtype
    ),
    "frames": lambda: {n: pd.DataFrame(v) for n, v in X.items()},
    "masked": lambda: {n: np.ma.MaskedArray(v) for n, v in X.items()},
    "tensors": lambda: {n: keras.ops.convert_to_tensor(v) for n, v in X.items()},
}


@pytest.mark.parametrize("form", FORMS)
def test_rows_of_lists_and_arrays_of_every_kind(form: str) -> None:
    model = build()
    expected = model.evaluate(X, Y, verbose=0)
    x = FORMS[form]()
    np.testing.assert_allclose(model.evaluate(x, Y, verbose=0), expected, rtol=1e-6)
    toy.same(model.predict(x, verbose=0), model.predict(X, verbose=0))
    model.fit(x, Y, verbose=0)


@pytest.mark.parametrize("of", [list, tuple, np.array])
def test_labels_of_several_columns_may_be_lists(of: Any) -> None:
    labels = (np.arange(48).reshape(24, 2) % 3 == 0).astype("float32")
    model = build([("multilabel", 2)])
    table = pd.DataFrame({"task_1": [of(row) for row in labels]})
    expected = model.evaluate(X, labels, verbose=0)
    assert model.evaluate(X, table, verbose=0) == pytest.approx(expected, rel=1e-6)


RAGGED: dict[str, tuple[dict[str, Any], str]] = {
    "sequence": ({"history": [[1, 2, 3]] * 23 + [[1]]},
                 r"x\['history'\].*one length: pad to maxlen"),
    "column": ({"history": pd.Series([[1, 2, 3]] * 23 + [[1]])}, r"pad to maxlen 3.*\[1, 3\]"),
    "missing": ({"history": pd.Series([[1, 2, 3]] * 23 + [None])}, r"pad to maxlen 3"),
    "missing first": ({"history": pd.Series([None] + [[1, 2, 3]] * 23)}, r"pad to max.*\[0, 3\]"),
    "missing list": ({"history": [None] + [[1, 2, 3]] * 23}, r"pad to maxlen 3.*\[0, 3\]"),
    "vector": ({"price": pd.Series([[1.0, 2.0]] * 23 + [[1.0]])}, r"x\['price'\].*dimension, 2"),
    "arrow": ({"history": pa.array([[1, 2, 3]] * 23 + [[]])}, r"x\['history'\].*pad to maxlen 3"),
}  # fmt: skip


@pytest.mark.parametrize("case", RAGGED)
def test_ragged_rows_are_refused_by_name(case: str) -> None:
    change, match = RAGGED[case]
    model = build()
    for x in ({**X, **change}, {n: change.get(n, v) for n, v in X.items()}):
        with pytest.raises(ValueError, match=match):
            model.fit(x, Y, verbose=0)
        with pytest.raises(ValueError, match=match):
            model.predict(x, verbose=0)
    with pytest.raises(ValueError, match=match):
        model.fit(Batches([({**X, **change}, tuple(Y))]), verbose=0)


def test_labels_in_lists_and_frames_in_data_sets() -> None:
    model = build()
    expected = model.evaluate(X, Y, verbose=0, return_dict=True)
    table = frame()
    labels = pd.DataFrame({"task_2": Y[1], "task_1": Y[0], "other": 0})
    forms = [
        [(X, list(Y))],
        [[X, list(Y)]],
        [(table, labels)],
        [(table, [labels["task_1"], labels["task_2"].tolist()])],
        [(X, tuple(Y), [np.ones(24), None])],
    ]
    for form in forms:
        for name in ("PyDataset", "generator"):
            assert evaluate(model, STREAMS[name], form) == pytest.approx(expected, rel=1e-5)
            fit(build(), STREAMS[name], form)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_py_dataset_keeps_its_workers_and_hooks(workers: int) -> None:
    class Counted(Batches):
        ends = 0

        def on_epoch_end(self) -> None:
            self.ends += 1

    data = Counted(batches_of(X, list(Y)), workers=workers)
    build().fit(data, epochs=3, verbose=0)
    assert data.ends >= 3


@pytest.mark.parametrize("stream", [None, *STREAMS])
@pytest.mark.parametrize("weighted", [False, True])
def test_class_weights_by_task(stream: str | None, weighted: bool) -> None:
    y = [Y[0].copy(), Y[1]]
    y[0][3] = np.nan
    factors, given = np.where(Y[0] == 1, 9, 0.5).astype("float32"), np.ones(24, "float32")
    if weighted:
        given = np.linspace(0.1, 3, 24).astype("float32")
    model, other = build(), build()
    options: dict[str, Any] = {"epochs": 1, "verbose": 0, "shuffle": False, "batch_size": 12}
    expected = model.fit(X, y, sample_weight=[given * factors, given], **options).history
    by_class = {"task_1": {0: 0.5, 1: 9.0}}
    if stream is None:
        weights = [given, given] if weighted else None
        logs = other.fit(X, y, sample_weight=weights, class_weight=by_class, **options).history
    else:
        options.pop("batch_size")
        parts = ((given, given),) if weighted else ()
        data = STREAMS[stream](batches_of(X, tuple(y), *parts))
        logs = other.fit(data, class_weight=by_class, steps_per_epoch=2, **options).history
    assert logs == pytest.approx({k: pytest.approx(v, rel=1e-5) for k, v in expected.items()})
    toy.same(other.get_weights(), model.get_weights(), atol=1e-5)


@pytest.mark.parametrize(
    ("types", "weights", "error", "match"),
    [
        (None, {"task1": {0: 1.0}}, ValueError, r"`class_weight` should name tasks.*task1"),
        (None, {0: 1.0, 1: 9.0}, ValueError, r"`class_weight`.*by task name, such as \{'task_1'"),
        (None, {"task_1": 3.0}, TypeError, r"class_weight\['task_1'\].*from class to weight"),
        (None, {"task_1": {0: -1.0}}, ValueError, r"class_weight\['task_1'\]\[0\].*-1"),
        (None, [1.0], TypeError, r"`class_weight` should be a dict"),
        (
            None,
            {"task_1": {"0": 1.0, 1: 9.0}},
            ValueError,
            r"class_weight\['task_1'\].*from 0 to 1 .*\['0'\]",
        ),
        (None, {"task_2": {0: 1.0, 2: 9.0}}, ValueError, r"class_weight\['task_2'\].*\[2\]"),
        (
            [("multiclass", 3)] * 2,
            {"task_2": {2.0: 1.0, 3: 9.0, 0.5: 1}},
            ValueError,
            r"class_weight\['task_2'\].*from 0 to 2 .*\[3, 0.5\]",
        ),
        (["regression"] * 2, {"task_2": {0: 1.0}}, ValueError, r"'regression' has no classes"),
    ],
)
def test_bad_class_weights_are_refused(
    types: Any, weights: Any, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        build(types).fit(X, Y, class_weight=weights, verbose=0)


def twice() -> pd.DataFrame:
    table = frame()
    return pd.concat([table, table[["user"]]], axis=1)


BAD_X: dict[str, tuple[Any, type[Exception], str]] = {
    "a column twice": (twice, ValueError, r"`x` should have each column once.*\['user'\] twice"),
    "a scalar": (lambda: {**X, "user": 3}, TypeError, r"x\['user'\].*one entry per row.*3"),
    "a string": (lambda: {**X, "user": "ab"}, TypeError, r"x\['user'\].*one entry per row.*'ab'"),
    "none": (lambda: {**X, "user": None}, TypeError, r"x\['user'\].*one entry per row.*None"),
    "masked": (lambda: {**X, "age": np.ma.masked_greater(X["age"], 0)}, ValueError,
               r"x\['age'\].*finite"),
    "masked ids": (lambda: {**X, "user": np.ma.masked_equal(X["user"], X["user"][0])}, ValueError,
                   r"x\['user'\].*integer ids.*nan"),
    "missing ids": (lambda: {**X, "user": pd.Series([None, *X["user"][1:]], dtype="Int64")},
                    ValueError, r"x\['user'\].*integer ids.*nan"),
    "missing numbers": (lambda: {**X, "age": pd.Series([None, *X["age"][1:]], dtype="Float32")},
                        ValueError, r"x\['age'\].*finite.*1 values such as nan"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_X)
def test_bad_features_are_refused_by_name(case: str) -> None:
    make, error, match = BAD_X[case]
    model = build()
    for run in (
        lambda x: model.fit(x, Y, verbose=0),
        lambda x: model.evaluate(x, Y, verbose=0),
        lambda x: model.predict(x, verbose=0),
        lambda x: model.predict_on_batch(x),
    ):
        with pytest.raises(error, match=match):
            run(make())


def test_bad_labels_are_refused_by_name() -> None:
    model = build()
    table = pd.DataFrame(np.stack([*Y, Y[0]], axis=1), columns=["task_1", "task_2", "task_1"])
    for run in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match=r"`y` should have each column once.*\['task_1'\]"):
            run(X, table, verbose=0)
        with pytest.raises(ValueError, match=r"`y` should hold labels of every task.*None"):
            run(X, verbose=0)
        for y in ([Y[0], None], {"task_1": Y[0], "task_2": None}):
            with pytest.raises(
                ValueError, match=r"`y` .*none of \['task_2'\] \(a missing label is"
            ):
                run(X, y, verbose=0)
        with pytest.raises(TypeError, match=r"y\['task_1'\].*one entry per row.*3"):
            run(X, {"task_1": 3, "task_2": Y[1]}, verbose=0)
    with pytest.raises(ValueError, match=r"y\['task_1'\].*\(N, 2\).*Received: \(24, 1\)"):
        build([("multilabel", 2)]).fit(X, Y[0][:, None], verbose=0)


@pytest.mark.parametrize("stream", STREAMS)
def test_data_sets_without_labels_are_refused(stream: str) -> None:
    for y, match in (
        ({"task_1": Y[0]}, r"`y` should hold labels of every task.*'task_2'"),
        ((Y[0],), r"`y` should have one array per task.*1 arrays for 2"),
        (Y[0], r"`y` should be a.* one array per task.*\('?(24|None|12)"),
    ):
        for run in (fit, evaluate):
            with pytest.raises(ValueError, match=match):
                run(build(), STREAMS[stream], batches_of(X, y))
    with pytest.raises(ValueError, match=r"should yield \(x, y\).*without y"):
        build().fit(STREAMS[stream]([(X,)]), shuffle=False, verbose=0)


def test_methods_before_compile_say_so() -> None:
    columns = [SparseFeat("u", 5, 2), VarLenSparseFeat(SparseFeat("h", 5, 2), 2), DenseFeat("a")]
    model = SharedBottom(columns, num_tasks=1)
    x = {"u": [1, 2], "h": [[1, 2], [3, 0]], "a": [0.5, 1]}
    for name in ("fit", "evaluate", "train_on_batch", "test_on_batch"):
        with pytest.raises(ValueError, match=rf"compiled before `{name}`, such as"):
            getattr(model, name)(x, [0, 1])
    assert model.predict(x, verbose=0).shape == (2, 1)
