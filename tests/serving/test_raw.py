"""What a column becomes in a graph is what `TableEncoder` makes of it, whatever it holds."""

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
import toy
from hypothesis import given, settings
from hypothesis import strategies as st

from mtl.data import TableEncoder
from mtl.serving.onnx_ops import ML, ML_VERSION, SPLIT_VERSION, TYPES, OnnxOps, Value
from mtl.serving.raw import encode, raw_inputs
from mtl.serving.saved_model import TensorFlowOps

pytestmark = pytest.mark.skipif(toy.BACKEND != "tensorflow", reason="graphs are the same on all")

words = st.sampled_from(["a", "b", " a", "a ", "", "é", "東京", "7", "7.0", "07", "|", "a|b", "\0"])
text = words | st.text(max_size=3)
whole = st.integers(-3, 3) | st.sampled_from([2**53, -(2**53)])
fraction = st.sampled_from([0.1, float(np.float32(0.1)), -0.0, 0.5, 1e300, 2.0, 1 / 3])
number = whole.map(float) | fraction | st.floats(allow_nan=False, allow_subnormal=False)
finite = st.floats(-3e38, 3e38, allow_subnormal=False) | whole.map(float)
second = st.integers(-62_135_596_800, 253_402_300_799)  # of the years 1 to 9999


def rows(value: Any, least: int = 1) -> Any:
    return st.lists(st.none() | value, min_size=least, max_size=8)


def column_of(options: dict[str, Any], values: list[Any]) -> Any:
    frame = pd.DataFrame({"x": pd.Series(values, dtype=object)})
    return TableEncoder(**options).fit(frame).columns["x"]


def served(one: Any, values: list[Any]) -> np.ndarray:
    gone = np.nan if one.missing is None else one.missing
    kind: Any = object if one.dtype == "string" else one.dtype
    if one.rank == 1:
        return np.array([gone if value is None else value for value in values], kind)
    width = max([len(value or []) for value in values])
    array = np.full((len(values), width), gone, kind)
    for i, value in enumerate(values):
        for j, entry in enumerate(value or []):
            array[i, j] = gone if entry is None else entry
    return array


def in_tensorflow(column: Any, one: Any, x: np.ndarray) -> dict[str, np.ndarray]:
    import tensorflow as tf

    found = encode(column, tf.constant(x, one.dtype), one.missing, TensorFlowOps())
    return {name: value.numpy() for name, value in found.items()}


def in_onnx(column: Any, one: Any, x: np.ndarray) -> dict[str, np.ndarray]:
    import onnxruntime
    from onnx import helper

    ops = OnnxOps()
    found = encode(column, Value(ops, "x", one.dtype), one.missing, ops)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        ops.nodes,
        "column",
        [value("x", TYPES[one.dtype], [None] * one.rank)],
        [value(out.name, TYPES[out.dtype], None) for out in found.values()],
        ops.constants,
    )
    opsets = [helper.make_opsetid("", SPLIT_VERSION), helper.make_opsetid(ML, ML_VERSION)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return dict(zip(found, session.run(None, {"x": x}), strict=True))


def assert_same(
    options: dict[str, Any],
    train: list[Any],
    test: list[Any],
    missing: str = "",
    as_raw: Any = None,
) -> None:
    column = column_of(options, train)
    (one,) = raw_inputs({"x": column}, {"x": "x"}, missing)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = column.encode(pd.Series(test, dtype=object)).arrays
    x = served(one, as_raw or test)
    hashed = column.settings.get("hash")
    for run in (in_tensorflow, *([] if hashed else [in_onnx])):
        found = run(column, one, x)
        assert list(found) == list(expected)
        for name, values in expected.items():
            got = np.asarray(found[name]).reshape(values.shape).astype(values.dtype)
            if values.dtype == np.int32:
                np.testing.assert_array_equal(got, values, err_msg=f"{run.__name__} {name}")
            else:
                np.testing.assert_allclose(got, values, rtol=3e-7, atol=1e-37, err_msg=name)


quick = settings(deadline=None, max_examples=60)


@quick
@given(train=rows(text), test=rows(text))
def test_strings(train: list[Any], test: list[Any]) -> None:
    for options in ({}, {"min_count": 2}, {"hash": 5}):
        assert_same({"categorical": {"x": options}}, train, test, missing="<none>")


@quick
@given(train=rows(number), test=rows(number))
def test_numbers(train: list[Any], test: list[Any]) -> None:
    if any(value is not None for value in train):
        assert_same({"categorical": ["x"]}, train, test)


@quick
@given(train=rows(st.integers(2**53, 2**63 - 1)), test=rows(st.integers(-(2**63) + 1, 2**63 - 1)))
def test_large_integers(train: list[Any], test: list[Any]) -> None:
    if any(value is not None for value in train):
        large = [2**62, *train]
        assert_same({"categorical": ["x"]}, large, test)
        assert_same({"categorical": {"x": {"hash": 7}}}, large, test)


@quick
@given(
    train=rows(finite),
    test=rows(finite),
    scaling=st.sampled_from(["minmax", "log", "robust"]),
    clip=st.booleans(),
)
def test_scaled_numbers(train: list[Any], test: list[Any], scaling: str, clip: bool) -> None:
    if any(value is not None for value in train):
        try:
            assert_same({"numeric": {"x": {"scaling": scaling, "clip": clip}}}, train, test)
        except ValueError as error:
            assert "should fit float32" in str(error)  # noqa: PT017


@quick
@given(train=rows(second), test=rows(second))
def test_times(train: list[Any], test: list[Any]) -> None:
    def times(values: list[Any]) -> list[Any]:
        return [None if v is None else np.datetime64(v, "s").item() for v in values]

    parts = ["month", "day", "weekday", "hour", "minute"]
    assert_same({"times": {"x": {"parts": parts}}}, times(train), times(test), as_raw=test)


@quick
@given(
    train=rows(st.lists(text.filter(lambda v: v != "<none>"), max_size=4).map("|".join)),
    test=rows(st.lists(text, max_size=6).map("|".join)),
)
def test_texts_with_a_separator(train: list[Any], test: list[Any]) -> None:
    for missing in ("", "<none>"):
        options = {"separator": "|", "maxlen": 3}
        assert_same({"sequences": {"x": options}}, train, test, missing=missing)


@quick
@given(train=rows(st.lists(st.none() | whole)), test=rows(st.lists(st.none() | number, max_size=6)))
def test_lists(train: list[Any], test: list[Any]) -> None:
    if any(value is not None for row in train for value in row or ()):
        assert_same({"sequences": {"x": {"maxlen": 3}}}, train, test)
