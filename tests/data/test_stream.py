"""Parquet files as a stream of batches."""

import os
import pathlib
import pickle
import sys
import threading
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
import toy

pa = pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
pq = pytest.importorskip("pyarrow.parquet")

from mtl.data import ParquetStream, TableEncoder  # noqa: E402
from mtl.features import DenseFeat, SparseFeat, VarLenSparseFeat  # noqa: E402

ROWS = 1000
TASKS = ["task_1", "task_2"]


def arrays(rows: int = ROWS) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    """Inputs of the toy models, labels with gaps."""
    x, y = toy.features(rows), toy.labels(rows=rows)
    y[0][::7] = np.nan
    return x, y


def table(x: Any, y: Any = ()) -> Any:
    """The same as an Arrow table: sequences are lists without their padding."""
    columns: dict[str, Any] = {"row": np.arange(len(x["user"]))}
    for name, value in x.items():
        columns[name] = value if value.ndim == 1 else list(value)
    for name, value in zip(TASKS, y, strict=False):
        columns[name] = pa.array(value, from_pandas=True)  # NaN as null
    return pa.table(columns)


def write(folder: pathlib.Path, files: int = 3, group: int = 64) -> tuple[Any, Any]:
    x, y = arrays()
    whole = table(x, y)
    folder.mkdir(exist_ok=True, parents=True)
    for i, part in enumerate(np.array_split(np.arange(ROWS), files)):
        pq.write_table(whole.take(part), folder / f"part-{i}.parquet", row_group_size=group)
    return x, y


def stream(path: Any, **options: Any) -> ParquetStream:
    given = {"tasks": TASKS, "batch_size": 96, "pool_rows": 200, **options}
    return ParquetStream(path, toy.columns(), **given)


def every(data: ParquetStream) -> Any:
    batches = [data[i] for i in range(data.num_batches)]
    return keras.tree.map_structure(lambda *parts: np.concatenate(parts), *batches)


def test_in_order_the_rows_are_those_of_the_files(tmp_path: pathlib.Path) -> None:
    x, y = write(tmp_path)
    data = stream(tmp_path, shuffle=False)
    assert data.num_batches == 11
    assert [len(data[i][1][0]) for i in range(11)] == [96] * 10 + [40]
    found, labels = every(data)
    assert set(found) == set(x)
    for name, value in x.items():
        np.testing.assert_array_equal(found[name], value)
    for label, expected in zip(labels, y, strict=True):
        np.testing.assert_array_equal(label, expected)
        assert label.dtype == "float32"
    for path in (str(tmp_path), tmp_path / "part-*.parquet", sorted(tmp_path.iterdir())):
        toy.same([every(stream(path, shuffle=False))[0]["age"]], [x["age"]], rtol=0, atol=0)


def test_each_epoch_has_every_row_once_in_an_order_of_its_own(tmp_path: pathlib.Path) -> None:
    x, _ = write(tmp_path)
    data = stream(tmp_path)
    orders = []
    for _ in range(3):
        data.on_epoch_begin()
        ages = every(data)[0]["age"]
        np.testing.assert_array_equal(np.sort(ages), np.sort(x["age"]))
        orders.append(ages)
    assert all((a != b).mean() > 0.9 for a, b in zip(orders, [x["age"], *orders], strict=False))
    # A pool holds rows of several groups, and no more groups than it needs.
    place = {age: i for i, age in enumerate(x["age"])}
    first = np.array([place[age] for age in orders[0][:200]])
    assert 4 <= len(np.unique(first // 64)) <= 6
    assert (np.diff(first) != 1).mean() > 0.9


def test_a_batch_follows_from_seed_epoch_and_step(tmp_path: pathlib.Path) -> None:
    write(tmp_path)
    one, again, other = stream(tmp_path), stream(tmp_path), stream(tmp_path, seed=1)
    copy = pickle.loads(pickle.dumps(one))
    for each in (one, again, other, copy):
        each.start(2, 3)
        assert each.num_batches == 8
    # In any order of reading, and from any step.
    backwards = [one[i] for i in (7, 2, 0)]
    for i, batch in zip((7, 2, 0), backwards, strict=True):
        for each in (again, copy):
            toy.same(keras.tree.flatten(each[i]), keras.tree.flatten(batch), rtol=0, atol=0)
    assert not np.array_equal(other[0][0]["age"], one[0][0]["age"])
    whole = stream(tmp_path)
    whole.start(2)
    toy.same(keras.tree.flatten(whole[3]), keras.tree.flatten(one[0]), rtol=0, atol=0)
    whole.on_epoch_begin()
    whole.on_epoch_begin()
    assert not np.array_equal(whole[3][0]["age"], one[0][0]["age"])


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_rows_and_make_equally_many_batches(
    processes: int, tmp_path: pathlib.Path
) -> None:
    x, _ = write(tmp_path)
    parts = [stream(tmp_path, shard=(i, processes), batch_size=32) for i in range(processes)]
    assert len({part.num_batches for part in parts}) == 1
    ages = [every(part)[0]["age"] for part in parts]
    assert {len(a) for a in ages} == {parts[0].num_batches * 32}
    together = np.concatenate(ages)
    assert len(np.unique(together)) == len(together)
    assert set(together) <= set(x["age"])
    assert ROWS - len(together) == parts[0].left_out < 32 * processes + 64
    toy.same([np.sort(a) for a in ages], [np.sort(every(p)[0]["age"]) for p in parts])


@pytest.mark.parametrize("steps", ["auto", 2])
def test_training_is_that_of_the_same_batches_in_memory(steps: Any, tmp_path: pathlib.Path) -> None:
    if steps == 2 and toy.BACKEND == "torch":
        pytest.skip("Keras runs one step per call on PyTorch")
    write(tmp_path)
    data = stream(tmp_path)
    model, other = (toy.build("MMoE") for _ in range(2))
    for each in (model, other):
        each.compile(
            keras.optimizers.SGD(0.1), metrics=["mae"], balancer="uncertainty",
            steps_per_execution=steps if each is model else 1, **toy.NO_XLA,
        )  # fmt: skip
    logs = model.fit(data, epochs=2, validation_data=data, verbose=0).history
    for epoch in range(2):
        data.start(epoch)
        for i in range(data.num_batches):
            x, y = data[i]
            other.train_on_batch(x, list(y))
    toy.same(model.get_weights(), other.get_weights(), rtol=1e-4, atol=1e-6)
    evaluated = model.evaluate(*arrays(), batch_size=96, verbose=0, return_dict=True)
    for name, value in evaluated.items():
        if "loss" not in name:
            assert logs[f"val_{name}"][-1] == pytest.approx(value, rel=1e-4)


def test_predictions_are_in_the_order_of_the_files(tmp_path: pathlib.Path) -> None:
    x, _ = write(tmp_path)
    model = toy.build("PLE")
    expected = model.predict(x, batch_size=96, verbose=0)
    for tasks in (TASKS, None):
        toy.same(model.predict(stream(tmp_path, tasks=tasks), verbose=0), expected)


def test_class_and_sample_weights(tmp_path: pathlib.Path) -> None:
    x, y = arrays()
    weights = np.random.default_rng(3).random((2, ROWS)).astype("float32")
    whole = (
        table(x, y)
        .append_column("w1", pa.array(weights[0]))
        .append_column("w2", pa.array(weights[1]))
    )
    pq.write_table(whole, tmp_path / "t.parquet", row_group_size=100)
    model = toy.build("SharedBottom")
    model.compile(keras.optimizers.SGD(0.0), **toy.QUICK)
    cases: list[tuple[Any, Any]] = [
        ("w1", weights[0]),
        (["w1", "w2"], list(weights)),
        ({"task_2": "w1"}, {"task_2": weights[0]}),
    ]
    for columns, given in cases:
        data = stream(tmp_path, sample_weight=columns)
        expected = model.evaluate(x, y, sample_weight=given, batch_size=96, verbose=0)
        assert model.evaluate(data, verbose=0) == pytest.approx(expected, rel=1e-5)
    by_class = {"task_2": {0: 1.0, 1: 9.0}}
    options: dict[str, Any] = {"class_weight": by_class, "verbose": 0}
    data = stream(tmp_path, shuffle=False, sample_weight="w1")
    streamed = model.fit(data, **options).history
    memory = model.fit(
        x, y, sample_weight=weights[0], batch_size=96, shuffle=False, **options
    ).history
    for name, values in memory.items():
        assert streamed[name] == pytest.approx(values, rel=1e-5)


def frame(rows: int = 300) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    city = rng.choice(["Berlin", "Rome", "Oslo", None], rows)
    age = rng.normal(40, 9, rows)
    age[::11] = np.nan
    return pd.DataFrame(
        {
            "city": city,
            "device": rng.integers(2**60, 2**60 + 5, rows),
            "member": rng.random(rows) < 0.5,
            "age": age,
            "spent": rng.integers(0, 99, rows),
            "click": rng.random(rows) < 0.3,
            "buy": rng.integers(0, 2, rows),
        }
    )


def test_raw_files_go_through_an_encoder(tmp_path: pathlib.Path) -> None:
    raw = frame()
    encoder = TableEncoder(["city", "device", "member"], ["age", "spent"]).fit(raw)
    for day, part in raw.groupby(np.arange(300) // 100):
        folder = tmp_path / f"day={day}"
        folder.mkdir()
        part.drop(columns="city" if day == 5 else []).to_parquet(folder / "rows.parquet")
    data = ParquetStream(tmp_path, encoder, ["click", "buy"], 50, shuffle=False)
    x, y = every(data)
    for name, values in encoder.transform(raw).items():
        np.testing.assert_array_equal(x[name], values)
        assert x[name].dtype == values.dtype
    np.testing.assert_array_equal(y[0], raw["click"].astype("float32"))
    model = toy.zoo()["SharedBottom"](data.feature_columns, task_names=["click", "buy"])
    model.compile("adam", **toy.QUICK)
    assert np.isfinite(model.fit(data, verbose=0).history["loss"]).all()


def test_large_integers_beside_nulls_keep_their_digits(tmp_path: pathlib.Path) -> None:
    ids = [2**60, 2**60 + 1, 2**60 + 2]
    encoder = TableEncoder(["id"]).fit(pd.DataFrame({"id": ids}))
    pq.write_table(
        pa.table({"id": pa.array([2**60 + 1, None, 2**60]), "click": [1, 0, 1]}),
        tmp_path / "t.parquet",
    )
    x, _ = every(ParquetStream(tmp_path, encoder, ["click"], 3, shuffle=False))
    assert x["id"].tolist() == [2, 0, 1]


def test_folders_give_columns(tmp_path: pathlib.Path) -> None:
    for day in (10, 9):
        folder = tmp_path / f"day={day}" / "hour=x"
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"u": [1, 2], "click": [0, 1]}), folder / "rows.parquet")
    encoder = TableEncoder(["day", "hour"]).fit(pd.DataFrame({"day": [9, 10], "hour": ["x", "y"]}))
    x, _ = every(ParquetStream(tmp_path, encoder, ["click"], 4, shuffle=False))
    assert x["day"].tolist() == [2, 2, 1, 1]
    assert x["hour"].tolist() == [1] * 4
    data = ParquetStream(tmp_path, [SparseFeat("u", 9), SparseFeat("day", 99)], ["click"], 4)
    assert sorted(every(data)[0]["day"].tolist()) == [9, 9, 10, 10]


def test_folders_named_as_files_are_folders(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "log" / "day-1.parquet")
    stream = ParquetStream(tmp_path / "log", toy.columns(), TASKS, 100)
    assert stream.table.rows == ROWS


def test_lists_are_sequences_vectors_and_labels(tmp_path: pathlib.Path) -> None:
    pq.write_table(
        pa.table(
            {
                "items": pa.array([[1, 2], [], None, [3, 4, 5, 6]]),
                "shares": pa.array([[0.5, 1.0], [], None, [1.0, 2.0, 3.0, 4.0]]),
                "place": pa.array([[1.0, 2.0]] * 4, pa.list_(pa.float32(), 2)),
                "tags": pa.array([[0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1]]),
            }
        ),
        tmp_path / "t.parquet",
    )
    columns = [
        VarLenSparseFeat(
            SparseFeat("items", 9, 4), 3, combiner="sum", length_name="n", weight_name="shares"
        ),
        DenseFeat("place", 2),
    ]
    x, (tags,) = every(ParquetStream(tmp_path, columns, ["tags"], 4, shuffle=False))
    assert x["items"].tolist() == [[1, 2, 0], [0, 0, 0], [0, 0, 0], [4, 5, 6]]
    assert x["n"].tolist() == [2, 0, 0, 3]
    assert x["shares"][..., 0].tolist() == [[0.5, 1, 0], [0, 0, 0], [0, 0, 0], [2, 3, 4]]
    assert x["place"].tolist() == [[1, 2]] * 4
    assert tags.shape == (4, 3)
    model = toy.zoo()["SharedBottom"](columns, task_types=[("multilabel", 3)])
    model.compile("sgd", **toy.QUICK)
    data = ParquetStream(tmp_path, columns, ["tags"], 4)
    assert np.isfinite(model.evaluate(data, verbose=0))


def test_what_the_files_should_hold(tmp_path: pathlib.Path) -> None:
    x, y = write(tmp_path / "good")
    good = tmp_path / "good" / "part-0.parquet"
    with pytest.raises(FileNotFoundError, match=r"`path` should lead to Parquet files.*nowhere"):
        stream(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="`path`"):
        stream(tmp_path / "*.csv")
    with pytest.raises(TypeError, match=r"`path`.*3"):
        stream(3)
    lacks = tmp_path / "lacks.parquet"
    pq.write_table(table(x, y).drop_columns(["user"]), lacks)
    with pytest.raises(ValueError, match=r"lacks.parquet' should have one column 'user'"):
        stream([good, lacks])
    text = tmp_path / "text.parquet"
    pq.write_table(table({**x, "user": x["user"].astype(str)}, y), text)
    with pytest.raises(ValueError, match=r"'user' of .*text.parquet' should hold integers.*string"):
        stream([good, text])
    pq.write_table(table({**x, "history": x["item"]}, y), text)
    with pytest.raises(ValueError, match=r"'history' of .* should hold lists of integers"):
        stream(text)
    empty = tmp_path / "empty.parquet"
    empty.write_bytes(b"")
    with pytest.raises(ValueError, match=r"empty.parquet', which is none, or damaged"):
        stream([good, empty])
    pq.write_table(table(x, y).slice(0, 0), empty)
    with pytest.raises(ValueError, match=r"at least one row.*empty.parquet"):
        stream(empty)
    assert stream([good, empty]).table.rows == 334
    half = tmp_path / "half.parquet"
    half.write_bytes(good.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"half.parquet', which is none, or damaged"):
        stream(half)


def test_what_goes_wrong_later_names_the_file(tmp_path: pathlib.Path) -> None:
    write(tmp_path)
    data = stream(tmp_path)
    content = (tmp_path / "part-1.parquet").read_bytes()
    (tmp_path / "part-1.parquet").write_bytes(b"PAR1" + bytes(2000) + content[2004:])
    data = stream(tmp_path)
    with pytest.raises(ValueError, match=r"part-1.parquet' should be a whole Parquet file"):
        every(data)
    (tmp_path / "part-1.parquet").write_bytes(content)
    with pytest.raises(ValueError, match=r"part-1.parquet' should stay as it was"):
        every(data)
    x, y = arrays()
    pq.write_table(table(x, [y[0] + 7, y[1]]), tmp_path / "part-1.parquet")
    model = toy.build("MMoE")
    model.compile("sgd", **toy.QUICK)
    before = model.get_weights()
    wrong = (ValueError,)
    if toy.BACKEND == "tensorflow":
        import tensorflow as tf

        wrong = (ValueError, tf.errors.InvalidArgumentError)
    with pytest.raises(wrong, match=r"part-1.parquet.*task_1.* should hold"):
        model.fit(stream(tmp_path / "part-1.parquet"), verbose=0)
    toy.same(model.get_weights(), before, rtol=0, atol=0)
    nulls = table(x, y).set_column(1, "user", pa.array([None, *x["user"][1:]]))
    pq.write_table(nulls, tmp_path / "part-1.parquet")
    with pytest.raises(wrong, match=r"part-1.parquet.*user"):
        model.predict(stream(tmp_path / "part-1.parquet"), verbose=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "`batch_size` should be a positive integer"),
        ({"tasks": "click"}, "`tasks` should be a list of column names"),
        ({"tasks": []}, "`tasks` should be a list of column names"),
        ({"tasks": ["nothing"]}, "should have one column 'nothing'"),
        ({"sample_weight": "nothing"}, "should have one column 'nothing'"),
        ({"tasks": None, "sample_weight": "row"}, "`sample_weight` needs `tasks`"),
        ({"shard": (2, 2)}, "`shard` should be"),
        ({"shard": (0, 99)}, "18 row groups for 99 processes"),
        ({"shard": (0, 2), "batch_size": 600}, "`batch_size` should leave every process a batch"),
        ({"seed": -1}, "`seed` should be"),
    ],
)
def test_wrong_arguments(options: Any, message: str, tmp_path: pathlib.Path) -> None:
    write(tmp_path)
    with pytest.raises((TypeError, ValueError), match=message):
        stream(tmp_path, **options)


def test_an_encoder_should_be_fitted_and_strings_need_one(tmp_path: pathlib.Path) -> None:
    with pytest.raises(RuntimeError, match="fitted"):
        ParquetStream(tmp_path, TableEncoder(["city"]), ["click"], 8)
    wrong = r"TableEncoder where files hold strings.*'city'|strings are hashed on the TensorFlow"
    column = SparseFeat("city", 9, 4, use_hash=True, dtype="string")
    with pytest.raises(ValueError, match=wrong):
        ParquetStream(tmp_path, [column], ["click"], 8)


def test_the_next_epoch_is_read_ahead_if_one_follows(tmp_path: pathlib.Path) -> None:
    write(tmp_path)
    expected, data = stream(tmp_path), stream(tmp_path)
    data.goes_on = True
    for epoch in range(2):
        expected.on_epoch_begin()
        data.on_epoch_begin()
        keras.tree.map_structure(np.testing.assert_array_equal, every(data), every(expected))
        assert expected._next is None
        assert data._next is not None
        assert data._next[0] == (epoch + 1, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own on Linux")
def test_threads_that_read_ahead_give_way_to_the_training(tmp_path: pathlib.Path) -> None:
    write(tmp_path)
    seen = {}

    def function(batch: Any) -> Any:
        seen[threading.get_ident()] = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        return batch

    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    stream = ParquetStream(tmp_path, toy.columns(), TASKS, 50, pool_rows=200).by_pool(function)
    for i in range(len(stream)):
        stream[i]
    assert seen.pop(threading.get_ident()) == before
    assert set(seen.values()) == {min(before + 10, 19)}
