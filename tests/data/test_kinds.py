"""Sequences, hashes and times: by hand, over files, in JSON, extended, and in a model."""

import datetime
import json
import pathlib
from typing import Any

import numpy as np
import pandas as pd
import pytest
import toy

from mtl.data import ParquetStream, TableEncoder
from mtl.data.hashes import Hashes
from mtl.data.vocabulary import number_of, text_of
from mtl.features import DenseFeat, SparseFeat, VarLenSparseFeat, get_feature_names
from mtl.models import SharedBottom
from mtl.training import grow


def column(values: Any) -> pd.DataFrame:
    return pd.DataFrame({"x": values})


def listed(values: list[Any]) -> pd.DataFrame:
    return column(pd.Series(values, dtype=object))


TIMES = ["2024-05-31 13:45", "1969-12-31 23:59:59.5", None, "2000-02-29"]


def log() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "item": ["b", "a", None, "a"],
            "history": ["a|c", "", None, "c|d|a|b"],
            "user": [7, 8, 9, 2**60],
            "when": pd.to_datetime(TIMES, format="ISO8601"),
            "price": [1.0, 2.0, 3.0, 5.0],
        }
    )  # fmt: skip


def log_encoder(**options: Any) -> TableEncoder:
    return TableEncoder(
        {"item": {}, "user": {"hash": 100}},
        ["price"],
        sequences={"history": {"separator": "|", "vocabulary": "item", "maxlen": 3}},
        times={"when": {"parts": ["month", "day", "weekday", "hour", "minute", "days"]}},
        **options,
    )


def test_a_history_shares_the_items_ids() -> None:
    encoder = log_encoder(embedding_dim=6).fit(log())
    x = encoder.transform(log())
    assert x["item"].tolist() == [2, 1, 5, 1]  # a, b, c, d, missing
    assert x["history"].tolist() == [[1, 3, 0], [0, 0, 0], [0, 0, 0], [4, 1, 2]]  # the last three
    assert x["history_length"].tolist() == [2, 0, 0, 3]
    assert {x[name].dtype for name in ("history", "history_length")} == {np.dtype("int32")}
    columns = {c.name: c for c in encoder.feature_columns}
    assert columns["history"] == VarLenSparseFeat(
        SparseFeat("history", 6, 6, embedding_name="item"), 3, "mean", "history_length"
    )
    assert list(x) == get_feature_names(encoder.feature_columns)
    other = log().assign(history=["z|a", "z", "||b|", "a|z"])
    x = encoder.transform(other)
    assert x["history"].tolist() == [[0, 1, 0], [0, 0, 0], [2, 0, 0], [1, 0, 0]]
    assert x["history_length"].tolist() == [2, 1, 1, 2]  # an unknown item is one, nothing isn't


@pytest.mark.parametrize("kind", [list, tuple, np.array])
def test_lists_with_a_vocabulary_of_their_own(kind: Any) -> None:
    encoder = TableEncoder(sequences={"x": {"maxlen": 2, "min_count": 2}})
    frame = listed([kind([5, 3]), kind([3, 5, 9]), None, kind([]), float("nan")])
    x = encoder.fit_transform(frame)
    assert x["x"].tolist() == [[2, 1], [2, 0], [0, 0], [0, 0], [0, 0]]
    assert x["x_length"].tolist() == [2, 2, 0, 0, 0]
    x = encoder.transform(listed([[3, None, float("nan"), 5.0], [2**60]]))
    assert x["x"].tolist() == [[1, 2], [0, 0]]
    assert x["x_length"].tolist() == [2, 1]
    report = encoder.report(listed([[3, 4], None]))
    assert report.loc["x"].tolist() == [0.5, 0.5, "integers", "integers"]
    with pytest.warns(UserWarning, match="strings such as '3' in 'x', fitted on integers"):
        encoder.transform(listed([["3"]]))


def test_texts_of_a_vocabulary_of_numbers_are_its_numbers() -> None:
    frame = pd.DataFrame({"item": [10, 9, 9], "x": ["9,10", "8,9.5", "7"]})
    encoder = TableEncoder(["item"], sequences={"x": {"separator": ",", "vocabulary": "item"}}).fit(
        frame[:2]
    )
    x = encoder.transform(frame)
    assert x["item"].tolist() == [4, 2, 2]  # 8, 9, 9.5, 10
    assert x["x"][:, :2].tolist() == [[2, 4], [1, 3], [0, 0]]
    assert x["x_length"].tolist() == [2, 2, 1]
    with pytest.warns(UserWarning, match="strings such as '08' in 'x', fitted on integers, floats"):
        encoder.transform(frame.assign(x="08"))
    mixed = TableEncoder(["item"], sequences={"x": {"separator": ",", "vocabulary": "item"}})
    mixed.fit(pd.DataFrame({"item": ["a", "b"], "x": ["7,a", "7"]}))
    assert mixed.columns["item"].to_json()["categories"] == ["7", "a", "b"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (7, "7"), (7.0, "7"), (True, "1"), ("7", "7"), (0.1, "0.1"),
        (float(np.float32(0.1)), "0.1"),
        (1e20, "100000000000000000000"), (-0.0, "0"), (2**63 + 1, "9223372036854775809"),
    ],
)  # fmt: skip
def test_equal_values_have_one_text(value: Any, text: str) -> None:
    assert text_of(value) == text
    assert text_of(number_of(text)) == text


@pytest.mark.parametrize("text", ["07", "7.0", "+7", "1_0", "inf", "nan", "1e3", "", "٧", "7 "])
def test_what_is_no_numbers_text_stays_text(text: str) -> None:
    assert number_of(text) == text


def test_hashes_are_siphash_of_the_text() -> None:
    """The expected hashes are those of TensorFlow's `to_hash_bucket_strong`: they must not move."""
    hashes = Hashes(1001)
    values = column(["a", "hello world", "Zürich", "東京", "", None, "7"])["x"]
    expected = [1 + h for h in GOLDEN] + [0, 0]
    ids = hashes.look_up("x", values).ids
    assert ids[:6].tolist() == expected
    for number in (7, 7.0, np.int8(7), np.float32(7)):
        assert hashes.look_up("x", column([number])["x"]).ids[0] == ids[6]
    if toy.BACKEND == "tensorflow":
        import tensorflow as tf

        key = np.frombuffer(b"mtl.TableEncoder", "<u8").tolist()
        texts = tf.constant(["a", "hello world", "Zürich", "東京"])
        served = tf.strings.to_hash_bucket_strong(texts, 1000, key)
        assert served.numpy().tolist() == GOLDEN


GOLDEN = [407, 819, 354, 802]


def test_hashed_columns_and_sequences() -> None:
    frame = pd.DataFrame({"user": [1, 2, None], "seen": [[2, 1], [], [3]]})
    encoder = TableEncoder({"user": {"hash": 50}}, sequences={"seen": {"vocabulary": "user"}})
    x = encoder.fit_transform(frame)
    assert x["user"][2] == 0
    assert (x["user"][:2] > 0).all()
    assert x["seen"][0, :2].tolist() == x["user"][[1, 0]].tolist()
    assert [c.vocabulary_size for c in encoder.feature_columns] == [50, 50]
    assert encoder.report(frame).loc["user"].tolist() == [0, 1 / 3, "integers", "integers"]
    later = encoder.extend(frame.assign(user=["a", "b", "c"]))
    assert later.report(frame).loc["user", "fitted"] == "integers, strings"
    assert later.transform(frame)["user"].tolist() == x["user"].tolist()


def test_parts_of_times() -> None:
    encoder = log_encoder().fit(log())
    x = encoder.transform(log())
    expected = {
        "when_month": [5, 12, 0, 2],
        "when_day": [31, 31, 0, 29],
        "when_weekday": [5, 3, 0, 2],  # Friday, Wednesday, missing, Tuesday
        "when_hour": [14, 24, 0, 1],
        "when_minute": [46, 60, 0, 1],
    }
    assert {name: x[name].tolist() for name in expected} == expected
    days = np.array([19874 + 0.5729166666, -1 / 86400, np.nan, 11016])
    days[2] = np.nanmean(days)
    np.testing.assert_allclose(x["when_days"], (days - days.min()) / np.ptp(days), rtol=1e-6)
    sizes = {c.name: c.vocabulary_size for c in encoder.feature_columns if "_" in c.name[4:5]
             and isinstance(c, SparseFeat)}  # fmt: skip
    assert sizes == {
        "when_month": 13, "when_day": 32, "when_weekday": 8, "when_hour": 25, "when_minute": 61
    }  # fmt: skip
    assert DenseFeat("when_days") in encoder.feature_columns
    assert encoder.report(log()).loc["when"].tolist()[1:] == [0.25, "times", "times"]


@pytest.mark.parametrize(
    "values",
    [
        pd.Series(["2024-05-31 13:45", None]),
        pd.Series(["2024-05-31T13:45:00", None], dtype="category"),
        pd.to_datetime(["2024-05-31 13:45", None]),
        pd.to_datetime(["2024-05-31 13:45", None]).tz_localize("Asia/Tokyo"),
        pd.to_datetime(["2024-05-31 13:45", None]).astype("datetime64[s]"),
        pd.Series([datetime.datetime(2024, 5, 31, 13, 45), None], dtype=object),
        pd.Series(["2024-05-31T13:45:00.5+05:30", None]),
    ],
)
def test_forms_of_times_agree(values: Any) -> None:
    encoder = TableEncoder(times=["x"]).fit(column(values))
    x = encoder.transform(column(values))
    assert {name: ids.tolist() for name, ids in x.items()} == {
        "x_weekday": [5, 0],
        "x_hour": [14, 0],
    }


def test_rows_may_have_zones_of_their_own() -> None:
    texts = ["2024-03-31T01:59:00+01:00", "2024-03-31T03:00+0200", "2024-03-31 03:00Z",
             "2024-03-31T03-05", "2024-03-31", "2024-03-31T03:00:00.25 -10:30"]  # fmt: skip
    times = [pd.Timestamp(text) if text else None for text in [*texts, None]]
    encoder = TableEncoder(times={"x": {"parts": ["day", "hour", "minute"]}})
    for values in (pd.Series([*texts, None]), pd.Series(times, dtype=object)):
        x = encoder.fit_transform(column(values))
        assert x["x_day"].tolist() == [31] * 6 + [0]
        assert x["x_hour"].tolist() == [2, 4, 4, 4, 1, 4, 0]
        assert x["x_minute"].tolist() == [60, 1, 1, 1, 1, 1, 0]
    with pytest.raises(ValueError, match=r"should hold times such as .*\+99:00"):
        encoder.fit(column(pd.Series(["2024-03-31T03:00+99:00"])))


def test_times_of_arrow_show_the_same_clock() -> None:
    pa = pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    times = pd.Series(pd.to_datetime(["2024-05-31 13:45", None]))
    for values in (
        times.dt.tz_localize("Asia/Tokyo").astype(pd.ArrowDtype(pa.timestamp("us", "Asia/Tokyo"))),
        pd.Series([datetime.date(2024, 5, 31), None], dtype=pd.ArrowDtype(pa.date32())),
    ):
        x = TableEncoder(times={"x": {"parts": ["day", "weekday"]}}).fit_transform(column(values))
        assert {name: ids.tolist() for name, ids in x.items()} == {
            "x_day": [31, 0],
            "x_weekday": [5, 0],
        }


def test_parts_are_those_of_pandas() -> None:
    every = pd.Series(pd.date_range("1583-01-01", "2799-12-31", freq="2519min", unit="s"))
    parts = ["month", "day", "weekday", "hour", "minute"]
    x = TableEncoder(times={"x": {"parts": parts}}).fit_transform(column(every))
    expected = [every.dt.month, every.dt.day, every.dt.day_of_week + 1, every.dt.hour + 1]
    for part, values in zip(parts, [*expected, every.dt.minute + 1], strict=True):
        np.testing.assert_array_equal(x[f"x_{part}"], values)


def test_files_teach_what_their_rows_teach(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    frame = pd.concat([log()] * 3, ignore_index=True)
    frame["seen"] = [["x", None, "y"], [], None, ["y"]] * 3
    frame["date"] = [datetime.date(2024, 1, 1), None, datetime.date(2024, 2, 29), None] * 3
    frame[:5].to_parquet(tmp_path / "a.parquet", row_group_size=2)
    frame[5:].to_parquet(tmp_path / "b.parquet")

    def new() -> TableEncoder:
        return TableEncoder(
            {"item": {}, "user": {"hash": 100}},
            sequences={"history": {"separator": "|", "vocabulary": "item"}, "seen": {"maxlen": 2}},
            times={"when": {"parts": ["days", "hour"]}, "date": {"parts": ["day"]}},
        )

    files, memory = new().fit_parquet(tmp_path, verbose=0), new().fit(frame)
    described, other = files.to_json(), memory.to_json()
    assert {k: v for k, v in described.items() if k != "times"} == {
        k: v for k, v in other.items() if k != "times"
    }
    for key in ("mean", "shift", "scale"):
        days = described["times"][0][1][key], other["times"][0][1][key]
        assert days[0] == pytest.approx(days[1], rel=1e-9)
    streamed = ParquetStream(tmp_path, memory, None, 4, shuffle=False)
    batches = [streamed[i][0] for i in range(len(streamed))]
    for name, expected in memory.transform(frame).items():
        np.testing.assert_array_equal(np.concatenate([b[name] for b in batches]), expected, name)
    numbers = frame.assign(seen="a")
    numbers.to_parquet(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"'seen' of .*a.parquet.* should hold lists of strings"):
        new().fit_parquet(tmp_path, verbose=0)


@pytest.mark.parametrize("columns", ["history", "when"])
def test_json_holds_a_kind_alone(columns: str) -> None:
    given = {"history": {"sequences": {"history": {"separator": "|"}}}, "when": {"times": ["when"]}}
    encoder = TableEncoder(["item"], **given[columns]).fit(log())
    loaded = TableEncoder.from_json(json.loads(json.dumps(encoder.to_json())))
    assert loaded.feature_columns == encoder.feature_columns
    for name, expected in encoder.transform(log()).items():
        np.testing.assert_array_equal(loaded.transform(log())[name], expected, name)


def test_days_are_clipped_where_a_column_says_so() -> None:
    frame = pd.DataFrame({"when": pd.to_datetime(["2024-05-01", "2024-05-03", "2024-05-09"])})
    encoder = TableEncoder(times={"when": {"parts": ["days"], "clip": True}}).fit(frame[:2])
    assert encoder.transform(frame)["when_days"].tolist() == [0, 1, 1]


def test_json_holds_every_kind(tmp_path: pathlib.Path) -> None:
    encoder = log_encoder(scaling="standard").fit(log())
    described = json.loads(json.dumps(encoder.to_json()))
    assert described["version"] == 4
    encoder.save(tmp_path / "encoder.json")
    loaded = TableEncoder.load(tmp_path / "encoder.json")
    assert loaded.to_json() == encoder.to_json()
    assert loaded.feature_columns == encoder.feature_columns
    assert loaded.settings == encoder.settings
    for name, expected in encoder.transform(log()).items():
        np.testing.assert_array_equal(loaded.transform(log())[name], expected, name)
    described["categorical"][1][1]["kinds"] = ["words"]
    with pytest.raises(ValueError, match="`kinds` should be out of"):
        TableEncoder.from_json(described)
    assert repr(encoder) == (
        "TableEncoder(categorical: item (6 ids), user (100 ids); numeric: price; "
        "times: when; sequences: history (6 ids); fitted)"
    )


def test_new_items_of_a_history_grow_the_model() -> None:
    encoder = log_encoder().fit(log())
    model = SharedBottom(encoder.feature_columns, task_names=["t"], tower_dnn_units_lists=[[4]])
    toy.randomize(model)
    later = log().assign(history=["a|e", "e", "f", None], item=["a", "b", None, "c"])
    day_2 = encoder.extend(later)
    for one in (encoder, day_2):
        assert one.transform(log())["item"].tolist() == [2, 1, 5, 1]
    assert day_2.transform(later)["history"].tolist()[:3] == [[1, 6, 0], [6, 0, 0], [7, 0, 0]]
    grown = grow(model, day_2.feature_columns)
    before = model.predict(encoder.transform(later), verbose=0)
    toy.same([grown.predict(day_2.transform(later), verbose=0)], [before], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sequences": {"x": {"vocabulary": "y"}}}, r"`vocabulary of x` .*\['a'\]. Received: 'y'"),
        ({"sequences": {"x": {"separator": ""}}}, "`separator of x` should be a non-empty string"),
        ({"sequences": {"x": {"maxlen": 0}}}, "`maxlen of x` should be a positive integer"),
        ({"sequences": {"x": {"combiner": "last"}}}, "`combiner of x` should be one of 'sum'"),
        ({"times": {"x": {"parts": ["year"]}}}, "`parts of x` should be a list out of.*'year'"),
        ({"times": {"x": {"parts": []}}}, "`parts of x` should be a list out of"),
        ({"times": ["a"]}, "name each column once. Received: 'a' twice"),
        ({"sequences": ["x"], "numeric": ["x_length"]}, "once. Received: 'x_length' twice"),
        ({"numeric": {"x": {"hash": 3}}}, r"`numeric\['x'\]` should have settings out of"),
    ],
)
def test_wrong_settings(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TableEncoder(**{"categorical": ["a"], **options})


def test_a_hash_needs_two_ids() -> None:
    with pytest.raises(ValueError, match=r"`hash of a` should be None or at least 2\. Received: 1"):
        TableEncoder({"a": {"hash": 1}})


@pytest.mark.parametrize(
    ("options", "values", "message"),
    [
        ({"sequences": ["x"]}, ["a"], "'x' should hold lists. Received: 'a' of type str"),
        ({"sequences": {"x": {"separator": ","}}}, [["a"]], r"strings with ','. Received: \['a'\]"),
        ({"sequences": ["x"]}, [[["a"]]], r"'x' should hold strings.*Received: \['a'\] of type li"),
        ({"times": ["x"]}, [3], "'x' should hold dates.* Received: 3 of type int .*unit="),
        ({"times": ["x"]}, ["31.5.2024"], "'x' should hold times such as '2024-05-31"),
    ],
)
def test_wrong_values(options: Any, values: list[Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        TableEncoder(**options).fit(listed(values))
