import json
import os
import pathlib

import numpy as np
import pandas as pd
import pytest

from mtl.data import TableEncoder
from mtl.data.vocabulary import Vocabulary
from mtl.features import DenseFeat, SparseFeat


def frame():
    return pd.DataFrame(
        {
            "city": ["Rome", "Oslo", None, "Rome"],
            "code": [7, 3, 3, 10],
            "member": [True, False, True, True],
            "grade": [1.5, 2.5, np.nan, 1.5],
            "mixed": pd.Series(["b", 2, 1.5, "a"], dtype=object),
            "age": [20.0, np.nan, 40.0, 60.0],
            "visits": [0, 5, 10, 10],
        }
    )


CATEGORICAL = ["city", "code", "member", "grade", "mixed"]
NUMERIC = ["age", "visits"]


@pytest.fixture
def encoder():
    return TableEncoder(CATEGORICAL, NUMERIC).fit(frame())


def assert_encoded(x, expected):
    assert list(x) == list(expected)
    for name, values in expected.items():
        assert x[name].dtype == (np.int32 if name in CATEGORICAL else np.float32)
        np.testing.assert_allclose(x[name], values, rtol=1e-6, err_msg=name)


def test_ids_and_scaling_by_hand(encoder):
    expected = {
        "city": [2, 1, 3, 2],  # Oslo, Rome, missing
        "code": [2, 1, 1, 3],  # 3, 7, 10: as numbers, not as strings
        "member": [2, 1, 2, 2],
        "grade": [1, 2, 3, 1],
        "mixed": [4, 2, 1, 3],  # numbers, then strings
        "age": [0, 0.5, 0.5, 1],  # missing: the mean, 40
        "visits": [0, 0.5, 1, 1],
    }
    assert_encoded(encoder.transform(frame()), expected)
    assert_encoded(TableEncoder(CATEGORICAL, NUMERIC).fit_transform(frame()), expected)


def test_unknown_and_missing_values(encoder):
    other = pd.DataFrame(
        {
            "city": ["Bern", None, "Oslo"],
            "code": [3.0, np.nan, 4.0],  # float because of the missing value
            "member": pd.Series([True, None, False], dtype=object),
            "grade": [np.nan, 3.5, 2.5],
            "mixed": pd.Series([None, 1.5, "c"], dtype=object),
            "age": [80.0, 0.0, np.nan],
            "visits": [None, 5, 20],
            "ignored": ["x", "y", "z"],
        }
    ).set_index(pd.Index([5, 5, 9]))
    assert_encoded(
        encoder.transform(other),
        {
            "city": [0, 3, 1],
            "code": [1, 0, 0],
            "member": [2, 0, 1],
            "grade": [3, 0, 2],
            "mixed": [0, 1, 0],
            "age": [1.5, -0.5, 0.5],
            "visits": [0.625, 0.5, 2],
        },
    )


def test_feature_columns(encoder):
    columns = encoder.feature_columns
    assert [c.name for c in columns] == CATEGORICAL + NUMERIC
    assert [c.vocabulary_size for c in columns[:5]] == [4, 4, 3, 4, 5]
    assert all(isinstance(c, SparseFeat) and c.embedding_dim == 4 for c in columns[:5])
    assert all(isinstance(c, DenseFeat) and c.dimension == 1 for c in columns[5:])
    ids = TableEncoder(["code"], embedding_dim=16).fit(frame()).feature_columns
    assert (ids[0].embedding_dim, ids[0].dtype) == (16, "int32")


@pytest.mark.parametrize(
    "dtype",
    [object, "string", "category", "str"],
    ids=lambda dtype: getattr(dtype, "__name__", dtype),
)
def test_string_dtypes_agree(dtype):
    train = pd.Series(["b", "a", None, "b"], dtype=object).astype(dtype)
    test = pd.Series(["c", "b", None], dtype=object).astype(dtype)
    if dtype == "str":  # which turns None into a string in pandas 2
        train, test = train.where(train != "None"), test.where(test != "None")
    encoder = TableEncoder(["city"])
    assert encoder.fit_transform(pd.DataFrame({"city": train}))["city"].tolist() == [2, 1, 3, 2]
    assert encoder.transform(pd.DataFrame({"city": test}))["city"].tolist() == [0, 2, 3]


@pytest.mark.parametrize("dtype", ["Int64", "int8", "float32", "category", object])
def test_number_dtypes_agree(dtype):
    encoder = TableEncoder(["n"]).fit(pd.DataFrame({"n": [10, 9, 2]}))
    other = pd.DataFrame({"n": pd.Series([2, 10, 3]).astype(dtype)})
    assert encoder.transform(other)["n"].tolist() == [1, 3, 0]
    numbers = TableEncoder([], ["n"], scaling="none")
    assert numbers.fit_transform(other)["n"].tolist() == [2, 10, 3]


def test_unused_category_of_the_dtype_is_unknown():
    column = pd.Categorical(["b", "a"], categories=["a", "b", "c"])
    encoder = TableEncoder(["x"]).fit(pd.DataFrame({"x": column}))
    assert encoder.feature_columns[0].vocabulary_size == 3
    other = pd.DataFrame({"x": pd.Categorical(["c", "a"], categories=["a", "b", "c"])})
    assert encoder.transform(other)["x"].tolist() == [0, 1]


def test_strings_and_numbers_differ():
    encoder = TableEncoder(["x"]).fit(pd.DataFrame({"x": [1, 2]}))
    with pytest.warns(UserWarning, match="strings such as '1' in 'x', fitted on integers"):
        x = encoder.transform(pd.DataFrame({"x": ["1", "2"]}))
    assert x["x"].tolist() == [0, 0]


def column(values):
    return pd.DataFrame({"x": values})


@pytest.mark.parametrize("dtype", [object, "category"])
@pytest.mark.parametrize(
    ("train", "test", "note"),
    [
        (
            [1, 2],
            ["7", "1"],
            r"strings such as '[17]' in 'x', fitted on integers \(1 of it unknown",
        ),
        (["1", "2"], [1, 2], r"integers such as 1 in 'x', fitted on strings \(1 of it unknown"),
        ([1, 2, 3], [1, 2.5, 2, 2], r"floats such as 2.5 .* integers \(0.25 of it unknown"),
        ([1.5, 2.5], [3, 4], r"integers such as 3 in 'x', fitted on floats \(1 of it unknown"),
        (
            [1, 2, 3],
            [True, False],
            r"booleans such as (True|False) .* integers \(0.5 of it unknown",
        ),
        ([True, False], [1, 7], r"integers such as 7 in 'x', fitted on booleans \(0.5 of it"),
        ([1, "a"], [2.5, "b"], r"floats such as 2.5 in 'x', fitted on integers, strings"),
        ([1, "a"], ["1", "a"], r"strings such as '1' .* integers, strings \(0.5 of it unknown"),
        ([2, "a", "1"], [1, "a"], r"integers such as 1 .* integers, strings \(0.5 of it unknown"),
        (["a", "b"], [1.0, None], r"integers such as 1(.0)? .* fitted on strings \(0.5 of it"),
    ],
)
def test_values_of_another_kind_are_told_in_one_warning(train, test, note, dtype):
    encoder = TableEncoder(["x"]).fit(column(pd.Series(train, dtype=object)))
    frame = column(pd.Series(test, dtype=object).astype(dtype))
    with pytest.warns(UserWarning, match=note) as caught:
        encoder.transform(frame)
    assert len(caught) == 1


def test_one_warning_names_every_column_of_another_kind():
    train = pd.DataFrame({"a": [1, 2], "b": ["x", "y"], "c": ["x", "y"]})
    with pytest.warns(UserWarning, match="'1' in 'a', .*; integers such as 3 in 'b', ") as caught:
        TableEncoder(["a", "b", "c"]).fit(train).transform(
            pd.DataFrame({"a": ["1", "2"], "b": [3, 4], "c": ["z", "z"]})
        )
    assert len(caught) == 1
    assert "'c'" not in str(caught[0].message)
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("train", "test", "ids"),
    [
        ([1, 2], [2.0, np.nan, 9.0], [2, 0, 0]),  # floats because of a missing value
        ([1.0, None, 2.0], [1, 9], [1, 0]),
        ([1.5, 2.5], [3.0, 1.5], [0, 1]),
        ([0, 1], [True, False], [2, 1]),
        ([True, False], [0, 1], [1, 2]),
        (["a"], ["b", None], [0, 0]),
        ([1, 2], [None, None], [0, 0]),
        ([1, 2], pd.Categorical([2], categories=[2, "unused"]), [2]),
        ([1, 2], pd.Categorical([2, 1, 2, 1], categories=[1, 2, "unused"]), [2, 1, 2, 1]),
    ],
)
def test_values_of_the_same_kind_are_no_matter(train, test, ids):
    encoder = TableEncoder(["x"]).fit(column(train))
    assert encoder.transform(column(test))["x"].tolist() == ids


@pytest.mark.parametrize("dtypes", [("float32", "float64"), ("float64", "float32")])
def test_a_fraction_is_the_same_category_in_32_and_64_bits(dtypes):
    train = pd.Series([0.1, 0.25, -1e-30, 7.0]).astype(dtypes[0])
    test = pd.Series([0.3, 7.0, 0.25, 0.1, -1e-30, 0.1000001, np.nan]).astype(dtypes[1])
    encoder = TableEncoder(["x"]).fit(column(train))
    ids = encoder.transform(column(test))["x"].tolist()
    assert ids == [0, 4, 3, 2, 1, 0, 0]
    loaded = TableEncoder.from_json(encoder.to_json())
    assert loaded.transform(column(test))["x"].tolist() == ids
    assert encoder.transform(column(train))["x"].tolist() == [2, 3, 1, 4]
    encoder.transform(column([1e300]))  # beyond 32 bits
    close = TableEncoder(["x"]).fit(column([0.1, float(np.float32(0.1))]))
    assert close.transform(column([0.1, np.float32(0.1)]))["x"].tolist() == [1, 2]


def test_other_fractions_that_32_bits_do_not_tell_apart_are_unknown():
    encoder = TableEncoder(["x"]).fit(column([0.123456789, 0.1234567891]))
    values = [0.1234567891, 0.1234567892, 0.123456789, 1e-300]
    assert encoder.transform(column(values))["x"].tolist() == [2, 0, 1, 0]
    third = TableEncoder(["x"]).fit(column([1 / 3, 0.1, 0.9999999999, 1e-300]))
    x = third.transform(column(np.array([1 / 3, 0.1, 1, 0], "float32")))
    assert x["x"].tolist() == [3, 2, 0, 0]  # but what is whole in 32 bits is another number


def test_report_tells_unknown_and_missing_shares():
    encoder = TableEncoder(["code", "city"], ["age"]).fit(
        pd.DataFrame({"code": [1, 2], "city": ["a", None], "age": [1.0, 2.0]})
    )
    frame = pd.DataFrame(
        {"code": ["1", "2", None, "3"], "city": ["a", "b", None, "a"], "age": [9, np.nan, 1, 2]}
    )
    expected = pd.DataFrame(
        {
            "unknown": [0.75, 0.25, np.nan],
            "missing": [0.25, 0.25, 0.25],
            "fitted": ["integers", "strings", "numbers"],
            "received": ["strings", "strings", "numbers"],
        },
        index=pd.Index(["code", "city", "age"], name="column"),
    )
    pd.testing.assert_frame_equal(encoder.report(frame), expected)
    nothing = encoder.report(frame.iloc[:0])
    assert nothing[["unknown", "missing"]].isna().all(axis=None)
    assert (nothing["received"] == "").all()


@pytest.mark.parametrize("dtype", ["int64", "category"])
def test_one_row_costs_the_same_whatever_the_vocabulary(dtype):
    """Constant is: of a million categories, none is looked at after the first call."""

    class Watched(tuple):
        __slots__ = ()
        read = 0

        def __iter__(self):
            Watched.read += 1
            return super().__iter__()

    values = np.arange(1000)
    encoder = TableEncoder(["x"]).fit(column(values))
    vocabulary = Vocabulary(Watched(values.tolist()), missing=False)
    encoder.columns["x"] = encoder.columns["x"].having(vocabulary=vocabulary)
    one = column(pd.Series([7]).astype(pd.CategoricalDtype(values) if dtype != "int64" else dtype))
    assert encoder.transform(one)["x"].tolist() == [8]
    first = Watched.read
    for _ in range(3):
        assert encoder.transform(one)["x"].tolist() == [8]
    assert first > 0
    assert Watched.read == first
    found = vocabulary.look_up("x", one["x"])
    assert found.values == [7]  # and not the thousand of the dtype


@pytest.mark.parametrize(
    ("scaling", "expected"),
    [
        ("minmax", [0, 0.25, 0.25, 1]),
        ("standard", [-1, -1 / 3, -1 / 3, 5 / 3]),  # mean 2.5, deviation 1.5
        ("robust", [-1 / 1.0, 0, 0, 3 / 1.0]),  # quartiles 1.75, 2, 2.75
        ("log", (np.log([2, 3, 3, 6]) - np.log(108) / 4) / np.std(np.log([2, 3, 3, 6]))),
        ("none", [1, 2, 2, 5]),
    ],
)
def test_scalings(scaling, expected):
    values = pd.DataFrame({"n": [1, 2, 2, 5]})
    encoded = TableEncoder([], ["n"], scaling=scaling).fit_transform(values)["n"]
    np.testing.assert_allclose(encoded, expected, rtol=1e-6)


@pytest.mark.parametrize("encoding", [None, "piecewise_linear"])
@pytest.mark.parametrize("scaling", ["minmax", "standard", "robust", "log", "none"])
def test_clipped_numbers_stay_among_those_of_training(
    scaling: str, encoding: str | None, tmp_path: pathlib.Path
) -> None:
    train = pd.DataFrame({"n": [-1.5, 2, 2, 5, None], "free": [-1.5, 2, 2, 5, None]})
    later = pd.DataFrame({"n": [-1e9, -1.5, 3, 1e9, None], "free": [-1e9, -1.5, 3, 1e9, None]})
    options = {"scaling": scaling, "encoding": encoding}
    encoder = TableEncoder([], {"n": {}, "free": {"clip": False}}, clip=True, **options).fit(train)
    encoder.save(tmp_path / "encoder.json")
    loaded = TableEncoder.load(tmp_path / "encoder.json")
    assert json.loads((tmp_path / "encoder.json").read_text())["version"] == 5
    for one in (encoder, loaded):
        x = one.transform(later)
        expected = one.transform(later.assign(free=[-1.5, -1.5, 3, 5, None]))["free"]
        np.testing.assert_array_equal(x["n"], expected)
        assert x["free"][0] < x["free"][1]
        assert x["free"][3] > expected[3]
    assert loaded.feature_columns == encoder.feature_columns


def test_log_scaling_is_odd_and_robust_scaling_has_a_fallback():
    values = pd.DataFrame({"n": [-9.0, 9.0, -99.0, 99.0]})
    encoded = TableEncoder([], ["n"], scaling="log").fit_transform(values)["n"]
    np.testing.assert_allclose(encoded[1] / encoded[3], 0.5, rtol=1e-6)
    np.testing.assert_allclose(encoded[::2], -encoded[1::2])
    mostly = pd.DataFrame({"n": [0.0] * 9 + [10.0]})
    encoded = TableEncoder([], ["n"], scaling="robust").fit_transform(mostly)["n"]
    np.testing.assert_allclose(encoded, [0] * 9 + [10 / 3])  # the standard deviation is 3


@pytest.mark.parametrize("scaling", ["minmax", "standard", "robust", "log"])
def test_constant_column_becomes_zero(scaling):
    encoder = TableEncoder([], ["n"], scaling=scaling)
    train = pd.DataFrame({"n": [0.1, 0.1, 0.1, None]})
    assert encoder.fit_transform(train)["n"].tolist() == [0, 0, 0, 0]
    assert encoder.transform(pd.DataFrame({"n": [0.1, 1e6]}))["n"].tolist() == [0, 0]


@pytest.mark.parametrize("scaling", ["minmax", "standard", "robust", "log", "none"])
def test_missing_number_is_the_training_mean(scaling):
    train, test = pd.DataFrame({"n": [1.0, 2.0, 6.0, None]}), pd.DataFrame({"n": [None, 3.0]})
    encoder = TableEncoder([], ["n"], scaling=scaling).fit(train)
    encoded = encoder.transform(test.astype(float))["n"]
    assert encoded[0] == encoded[1]


def test_rare_categories_train_the_unknown_id():
    train = pd.DataFrame({"city": ["a", "a", "a", "b", None, None], "code": [1, 1, 1, 2, 2, 3]})
    encoder = TableEncoder({"city": {"min_count": 2}, "code": {}}, min_count=3)
    x = encoder.fit_transform(train)
    assert x["city"].tolist() == [1, 1, 1, 0, 2, 2]
    assert x["code"].tolist() == [1, 1, 1, 0, 0, 0]
    assert [c.vocabulary_size for c in encoder.feature_columns] == [3, 2]
    rare = TableEncoder(["city"], min_count=9)
    assert rare.fit_transform(train)["city"].tolist() == [0] * 6
    assert rare.feature_columns[0].vocabulary_size == 1


def test_settings_of_one_column_come_before_those_of_all():
    encoder = TableEncoder(
        {"city": {"embedding_dim": 2}, "code": {}},
        {"age": {"scaling": "none", "encoding": None}, "visits": {"bins": 2}},
        embedding_dim=3,
        encoding="bins",
    ).fit(frame())
    city, code, age, visits = encoder.feature_columns
    assert (city.embedding_dim, code.embedding_dim) == (2, 3)
    assert age.transform_fn is None
    assert encoder.transform(frame())["age"].tolist() == [20, 40, 40, 60]
    assert visits.transform_fn.edges == [0.75]  # between 5 and 10, scaled to [0, 1]
    expected = {"scaling": "none", "encoding": None, "bins": 32, "clip": False, "min_share": 0}
    assert encoder.settings["age"] == expected


def test_a_bin_holds_a_least_share_of_the_rows():
    values = pd.DataFrame({"a": np.r_[np.zeros(90), 1:11], "b": np.r_[np.zeros(90), 1:11]})
    encoder = TableEncoder(
        [], {"a": {}, "b": {"min_share": 0}}, scaling="none", encoding="bins", min_share=0.05
    ).fit(values)
    a, b = (column.transform_fn.edges for column in encoder.feature_columns)
    assert (a, len(b)) == ([0.5, 5.5], 10)
    assert TableEncoder.from_json(encoder.to_json()).settings == encoder.settings


@pytest.mark.parametrize("encoding", ["bins", "piecewise_linear"])
def test_encodings_are_fitted_on_scaled_training_rows_and_saved(tmp_path, encoding):
    encoder = TableEncoder(CATEGORICAL, NUMERIC, encoding=encoding, bins=3).fit(frame())
    encoder.save(tmp_path / "encoder.json")
    loaded = TableEncoder.load(tmp_path / "encoder.json")
    edges = [c.transform_fn.edges for c in encoder.feature_columns[5:]]
    assert [c.transform_fn.edges for c in loaded.feature_columns[5:]] == edges
    inner = [0.25, 0.75] if encoding == "bins" else [0, 0.25, 0.75, 1]
    assert edges == [inner, inner]
    assert loaded.settings == encoder.settings
    assert_encoded(loaded.transform(frame()), encoder.transform(frame()))


def test_a_file_of_version_1_is_read():
    vocabulary = {"categories": ["a", "b"], "missing": False}
    scaler = {"mean": 1.0, "shift": 0.0, "scale": 2.0}
    encoder = TableEncoder.from_json(
        {
            "format": "mtl.TableEncoder",
            "version": 1,
            "embedding_dim": 8,
            "scaling": "standard",
            "categorical": [["city", vocabulary]],
            "numeric": [["age", scaler]],
        }
    )
    x = encoder.transform(pd.DataFrame({"city": ["b"], "age": [3.0]}))
    assert (x["city"].tolist(), x["age"].tolist()) == ([2], [1.5])
    assert encoder.feature_columns[0].embedding_dim == 8
    assert encoder.settings["age"]["scaling"] == "standard"


def test_no_rows_to_transform(encoder):
    x = encoder.transform(frame().iloc[:0])
    assert all(values.shape == (0,) for values in x.values())
    assert x["city"].dtype == np.int32


def test_fit_reads_no_other_frame(encoder):
    train = frame()
    before = train.copy()
    encoder.transform(train)
    pd.testing.assert_frame_equal(train, before)


def test_failed_fit_keeps_the_encoder(encoder):
    before = encoder.to_json()
    with pytest.raises(ValueError, match="finite"):
        encoder.fit(frame().assign(age=np.inf))
    assert encoder.to_json() == before


def test_json_round_trip(encoder, tmp_path):
    path = tmp_path / "encoder.json"
    encoder.save(path)
    assert os.listdir(tmp_path) == ["encoder.json"]
    loaded = TableEncoder.load(str(path))
    assert loaded.to_json() == encoder.to_json()
    categories, again = (
        {name: column["categories"] for name, column in one.to_json()["categorical"]}
        for one in (encoder, loaded)
    )
    for name, values in categories.items():
        assert again[name] == values
        assert [type(v) for v in again[name]] == [type(v) for v in values], name
    assert [type(v) for v in again["code"]] == [int, int, int]
    expected = encoder.transform(frame())
    assert_encoded(loaded.transform(frame()), expected)
    assert [c[:3] for c in loaded.feature_columns] == [c[:3] for c in encoder.feature_columns]


def test_loaded_encoder_can_be_fitted_again(encoder, tmp_path):
    encoder.save(tmp_path / "encoder.json")
    loaded = TableEncoder.load(tmp_path / "encoder.json")
    assert loaded.fit(frame().iloc[:2]).feature_columns[0].vocabulary_size == 3
    assert loaded.settings == encoder.settings


def test_non_ascii_categories_survive(tmp_path):
    train = pd.DataFrame({"x": ["Zürich", "東京", 'a "quoted"\nline']})
    encoder = TableEncoder(["x"]).fit(train)
    encoder.save(tmp_path / "e.json")
    loaded = TableEncoder.load(tmp_path / "e.json")
    assert loaded.transform(train)["x"].tolist() == encoder.transform(train)["x"].tolist()


def test_failed_save_keeps_the_old_file(encoder, tmp_path, monkeypatch):
    path = tmp_path / "encoder.json"
    encoder.save(path)
    before = path.read_bytes()

    def fail(*args):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        encoder.fit(frame().iloc[:1]).save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["encoder.json"]


def changed(config, *path, value):
    config = json.loads(json.dumps(config))
    target = config
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    return config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: [], "should be a TableEncoder's JSON form"),
        (lambda c: {}, "should be a TableEncoder's JSON form"),
        (
            lambda c: changed(c, "version", value=9),
            r"reads: \(1, 2, 3, 4, 5\). Received: version 9",
        ),
        (lambda c: {k: v for k, v in c.items() if k != "numeric"}, "KeyError: 'numeric'"),
        (lambda c: changed(c, "scaling", value="ln"), "`scaling` should be one of"),
        (lambda c: changed(c, "numeric", 0, 1, "bins", value=0), "`bins of age` should be"),
        (lambda c: changed(c, "numeric", 0, 1, "encoding", value="bins"), "KeyError: 'edges'"),
        (lambda c: changed(c, "numeric", 0, 1, "log", value=1), "`log` should be a bool"),
        (lambda c: changed(c, "embedding_dim", value="4"), "`embedding_dim` should be a positive"),
        (lambda c: changed(c, "categorical", 0, 1, "categories", value=[[1]]), "should hold str"),
        (lambda c: changed(c, "categorical", 0, 1, "categories", value=[1, 1]), "should differ"),
        (lambda c: changed(c, "categorical", 0, 1, "missing", value=3), "a bool `missing`"),
        (lambda c: changed(c, "numeric", 0, 1, "scale", value="1"), "`scale` should be numbers"),
        (lambda c: changed(c, "numeric", 0, 1, "low", value=1), "KeyError: 'high'"),
        (lambda c: changed(c, "clip", value=1), "TypeError: `clip` should be a bool"),
        (lambda c: changed(c, "numeric", value=3), "TypeError"),
    ],
)
def test_bad_json(encoder, tmp_path, change, message):
    config = change(encoder.to_json())
    with pytest.raises(ValueError, match=message):
        TableEncoder.from_json(config)
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"`path` should be a file .*bad.json.*{message}"):
        TableEncoder.load(path)


@pytest.mark.parametrize("content", [b"", b'{"format": ', b"\xff\xfe\x00"])
def test_file_that_is_no_json(content, tmp_path):
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"`path` should be a file that TableEncoder.save wrote"):
        TableEncoder.load(path)


def test_absent_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        TableEncoder.load(tmp_path / "absent.json")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((["a", "a"],), ValueError, "name each column once. Received: 'a' twice"),
        ((["a"], ["a"]), ValueError, "name each column once. Received: 'a' twice"),
        (([], []), ValueError, "should name a column. Received: none"),
        (("ab",), TypeError, "`categorical` should be a list of column names. Received: 'ab'"),
        (([], 3), TypeError, "`numeric` should be a list of column names. Received: 3"),
        (([1],), ValueError, "`categorical` should hold non-empty strings .* Received: 1"),
        ((["a/b"],), ValueError, "without '/'. Received: 'a/b'"),
        ((["a"], [], 0), ValueError, "`embedding_dim` should be a positive integer. Received: 0"),
        ((["a"], [], 4, "ln"), ValueError, "`scaling` should be one of .* Received: 'ln'"),
        ((["a"], [], 4, "log", "bin"), ValueError, "`encoding` should be one of None, .*: 'bin'"),
        ((["a"], [], 4, "log", "bins", 0), ValueError, "`bins` should be a positive integer"),
        ((["a"], [], 4, "log", "bins", 8, 0), ValueError, "`min_count` should be a positive"),
        (({"a": {"scaling": "log"}},), ValueError, r"`categorical\['a'\]` .* Received: 'scaling'"),
        (([], {"a": {"scaling": 3}}), ValueError, "`scaling of a` should be one of .*: 3"),
        (([], {"a": {"clip": 1}}), TypeError, "`clip of a` should be a bool. Received: 1"),
        (([], {"a": "log"}), TypeError, r"`numeric\['a'\]` should be a dict .*Received: 'log'"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        TableEncoder(*arguments)


@pytest.mark.parametrize(
    "use",
    [
        lambda encoder, path: encoder.transform(frame()),
        lambda encoder, path: encoder.feature_columns,
        lambda encoder, path: encoder.to_json(),
        lambda encoder, path: encoder.save(path / "encoder.json"),
    ],
)
def test_use_before_fit(use, tmp_path):
    with pytest.raises(RuntimeError, match="`TableEncoder` should be fitted before"):
        use(TableEncoder(["city"]), tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("method", ["fit", "transform"])
def test_bad_frames(encoder, method):
    call = getattr(encoder, method)
    with pytest.raises(
        ValueError, match=r"should have one column 'code'. Received: 0 such columns"
    ):
        call(frame().drop(columns="code"))
    twice = pd.concat([frame(), frame()[["age"]]], axis=1)
    with pytest.raises(ValueError, match=r"should have one column 'age'. Received: 2 such columns"):
        call(twice)
    with pytest.raises(TypeError, match=r"`frame` should be a pandas DataFrame. Received: dict"):
        call({"city": ["a"]})


def test_fit_on_no_rows():
    with pytest.raises(ValueError, match="`frame` should have at least one row to fit"):
        TableEncoder(["city"]).fit(frame().iloc[:0])


@pytest.mark.parametrize("method", ["fit", "transform"])
@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ([1.0, np.inf, 2.0], ValueError, "'age' should hold finite numbers .* Received: inf"),
        ([1.0, -np.inf, 2.0], ValueError, "'age' should hold finite numbers .* Received: -inf"),
        ([1.0, 1e300, 2.0], ValueError, "within float32's range. Received: 1e\\+300"),
        (["1", "2", "3"], TypeError, "'age' should hold numbers. Received: '1' of type str"),
        ([1, "two", None], TypeError, "'age' should hold numbers. Received: 'two' of type str"),
        ([1j, 2j, 3j], TypeError, "'age' should hold numbers. Received: .* of type complex"),
        (pd.Categorical(["a", "b", "a"]), TypeError, "should hold numbers. Received: 'a'"),
        (pd.to_datetime(["2020-01-01"] * 3), TypeError, "Received: Timestamp.*among `times`, or"),
        (pd.to_datetime([None] * 3), TypeError, "Received: a column of dtype datetime64"),
        (pd.to_timedelta([None] * 3), TypeError, "Received: a column of dtype timedelta64"),
        (pd.Series([[1, 2], [3], None]), TypeError, r"'age' .* Received: \[1, 2\] of type list"),
    ],
)
def test_bad_numeric_columns(method, values, error, message):
    encoder = TableEncoder([], ["age"]).fit(pd.DataFrame({"age": [1, 2]}))
    with pytest.raises(error, match=message):
        getattr(encoder, method)(pd.DataFrame({"age": values}))


def test_numeric_column_without_values():
    with pytest.raises(ValueError, match="'age' should hold at least one value"):
        TableEncoder([], ["age"]).fit(pd.DataFrame({"age": [np.nan, np.nan]}))


def test_scaled_value_beyond_float32():
    encoder = TableEncoder([], ["age"]).fit(pd.DataFrame({"age": [0, 1e-30]}))
    with pytest.raises(
        ValueError, match=r"'age' should fit float32 after scaling. Received: 1e\+30"
    ):
        encoder.transform(pd.DataFrame({"age": [1e30]}))


@pytest.mark.parametrize(
    ("values", "received"),
    [
        (pd.to_datetime(["2020-01-01"]), "of type"),
        (pd.Series([[1, 2]], dtype=object), r"\[1, 2\] of type list \(list it among `sequences`"),
        (pd.Series(["a", None, [1, 2]], dtype=object), r"\[1, 2\] of type list"),
        (pd.Series([np.array([1, 2])]), "of type ndarray .*`sequences`"),
        (pd.Categorical(pd.to_datetime(["2020-01-01"])), "Timestamp .*among `times`"),
        (pd.cut([1.0, 2.0], 2), r"Interval.*astype\(str\)"),
        (pd.Series([(1, 2)], dtype=object), "of type tuple"),
        (pd.Series([b"x"], dtype=object), r"of type bytes \(decode it"),
    ],
)
def test_bad_categories(values, received):
    for call in (TableEncoder(["x"]).fit, TableEncoder(["x"]).fit(column([1, 2])).transform):
        with pytest.raises(TypeError, match=f"column 'x' should hold strings, .*{received}"):
            call(column(values))


def test_numeric_columns_alone():
    encoder = TableEncoder(numeric=["age"]).fit(pd.DataFrame({"age": [1, 3]}))
    assert encoder.transform(pd.DataFrame({"age": [2]}))["age"].tolist() == [0.5]


def test_repr_tells_the_columns_and_whether_they_are_fitted(encoder):
    assert repr(TableEncoder(["a"], ["b"])) == (
        "TableEncoder(categorical: a; numeric: b; not fitted)"
    )
    assert repr(encoder) == (
        "TableEncoder(categorical: city (4 ids), code (4 ids), member (3 ids), grade (4 ids), "
        "mixed (5 ids); numeric: age, visits; fitted)"
    )
    many = TableEncoder(numeric=[f"n{i}" for i in range(40)])
    assert repr(many).endswith("n9 and 30 more; not fitted)")


def test_new_categories_come_behind_those_that_are_known() -> None:
    first = pd.DataFrame({"city": ["Rome", "Oslo", None, "Rome"], "kind": [2, 1, 2, 1]})
    encoder = TableEncoder({"city": {}, "kind": {"min_count": 2}}).fit(first)
    second = pd.DataFrame({"city": ["Bonn", "Kiel", "Rome", None], "kind": [7, 7, None, None]})
    third = pd.DataFrame({"city": ["Aalen"], "kind": [0]})
    day_2 = encoder.extend(second)
    day_3 = day_2.extend(third, min_count=1)
    every = pd.concat([first, second, third], ignore_index=True)
    ids = [one.transform(every) for one in (encoder, day_2, day_3)]
    assert ids[0]["city"].tolist() == [2, 1, 3, 2, 0, 0, 2, 3, 0]
    assert ids[1]["city"].tolist() == [2, 1, 3, 2, 4, 5, 2, 3, 0]
    assert ids[2]["city"].tolist() == [2, 1, 3, 2, 4, 5, 2, 3, 6]
    # The missing value of a kind was not seen in fit: it comes behind, and stays there.
    assert ids[0]["kind"].tolist() == [2, 1, 2, 1, 0, 0, 0, 0, 0]
    assert ids[1]["kind"].tolist() == [2, 1, 2, 1, 3, 3, 4, 4, 0]
    assert ids[2]["kind"].tolist() == [2, 1, 2, 1, 3, 3, 4, 4, 5]
    assert [c.vocabulary_size for c in day_3.feature_columns] == [7, 6]
    assert [c.vocabulary_size for c in encoder.feature_columns] == [4, 3]
    for one, expected, version in zip((encoder, day_2, day_3), ids, (2, 3, 3), strict=True):
        described = json.loads(json.dumps(one.to_json()))
        assert described["version"] == version
        again = TableEncoder.from_json(described).transform(every)
        assert all(np.array_equal(again[name], expected[name]) for name in expected)
    nothing = encoder.extend(first)
    assert nothing.to_json() == encoder.to_json()


def test_an_encoder_extends_over_files(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    frame = pd.DataFrame({"city": ["Rome", "Oslo"] * 3, "age": np.arange(6.0)})
    encoder = TableEncoder(["city"], ["age"]).fit(frame)
    later = pd.DataFrame({"city": ["Bonn", "Kiel", "Bonn", "Rome", None, "Kiel"]})
    later.to_parquet(tmp_path / "a.parquet", row_group_size=2)
    later[:1].to_parquet(tmp_path / "b.parquet")
    both = pd.concat([later, later[:1]])
    for count in (1, 2, 3):
        streamed, memory = encoder.extend(tmp_path, count), encoder.extend(both, count)
        assert streamed.to_json() == memory.to_json()
    with pytest.raises(TypeError, match="`path`"):
        encoder.extend(3)
    with pytest.raises(ValueError, match="min_count"):
        encoder.extend(frame, min_count=0)
    with pytest.raises(ValueError, match="one column 'city'"):
        encoder.extend(frame[["age"]])
    with pytest.raises(RuntimeError, match="fitted"):
        TableEncoder(["city"]).extend(frame)


@pytest.mark.parametrize("scaling", ["minmax", "standard", "robust", "log", "none"])
@pytest.mark.parametrize("encoding", [None, "bins", "piecewise_linear"])
def test_an_encoder_of_files_is_that_of_their_rows(
    scaling: str, encoding: str | None, tmp_path: pathlib.Path
) -> None:
    pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    rng, rows = np.random.default_rng(0), 20_000
    frame = pd.DataFrame(
        {
            "city": rng.choice(["Rome", "Oslo", "Bonn", None], rows, p=[0.5, 0.3, 0.19, 0.01]),
            "device": rng.zipf(1.5, rows).clip(0, 1000),
            "age": rng.normal(40, 9, rows).round(),
            "spent": np.where(rng.random(rows) < 0.5, 0, rng.lognormal(3, 2, rows)),
        }
    )
    frame.loc[::9, "age"] = np.nan
    frame[:9000].to_parquet(tmp_path / "a.parquet", row_group_size=1000)
    frame[9000:].to_parquet(tmp_path / "b.parquet", row_group_size=4000)

    def new() -> TableEncoder:
        return TableEncoder(
            ["city", "device"], ["age", "spent"], scaling=scaling, encoding=encoding, bins=8,
            min_count=5, clip=True,
        )  # fmt: skip

    files, memory = new().fit_parquet(tmp_path, verbose=0), new().fit(frame)
    assert files.to_json()["categorical"] == memory.to_json()["categorical"]
    for (name, a), (_, b) in zip(
        files.to_json()["numeric"], memory.to_json()["numeric"], strict=True
    ):
        exact = 1e-9 if scaling != "robust" else 0.02
        for key in ("mean", "shift", "scale", "low", "high"):
            assert a[key] == pytest.approx(b[key], rel=exact, abs=1e-12)
        if encoding:
            values = [np.sort(one.transform(frame)[name]) for one in (files, memory)]
            ranks = [
                np.searchsorted(v, edges[1:-1]) / rows
                for v, edges in zip(values, (a["edges"], b["edges"]), strict=True)
            ]
            if name == "spent":
                np.testing.assert_allclose(ranks[0], ranks[1], atol=3e-3)
            # Of whole years one more or less may fall into a bin.
            assert np.diff([0, *ranks[0], 1]).max() < (0.6 if name == "spent" else 0.25)


def test_a_failed_fit_of_files_leaves_the_encoder_as_it_was(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    encoder = TableEncoder(["city"], ["age"])
    pd.DataFrame({"city": ["a"], "age": [np.nan]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"'age' should hold at least one value.*missing"):
        encoder.fit_parquet(tmp_path, verbose=0)
    assert "not fitted" in repr(encoder)
    with pytest.raises(ValueError, match="one column 'city'"):
        TableEncoder(["city"]).fit_parquet(_without(tmp_path, "city"), verbose=0)


def _without(folder: pathlib.Path, column: str) -> pathlib.Path:
    path = folder / "without.parquet"
    pd.read_parquet(folder / "t.parquet").drop(columns=column).to_parquet(path)
    return path
