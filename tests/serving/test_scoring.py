"""Scores of files: those of their rows in memory, whole files, and only what is left to do."""

import pathlib
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mtl.data import TableEncoder
from mtl.models import MMoE
from mtl.serving import Pipeline, scoring
from mtl.serving.__main__ import main

pq = pytest.importorskip("pyarrow.parquet", reason="the extra parquet is not installed")
ROWS = 500


def log(seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "row": np.arange(ROWS),
            "city": rng.choice(["Rome", "Oslo", "NB", None], ROWS),
            "code": np.where(rng.random(ROWS) < 0.1, np.nan, rng.integers(0, 5, ROWS)),
            "member": rng.random(ROWS) < 0.5,
            "age": np.where(rng.random(ROWS) < 0.1, np.nan, rng.normal(40, 9, ROWS)),
            "when": pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(ROWS), unit="h"),
            "history": rng.choice(["Rome|Oslo", "Oslo", None], ROWS),
        }
    )


@pytest.fixture
def pipeline(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """Return a pipeline that is also in the folder "p"; parts of files are short."""
    monkeypatch.setattr(scoring, "_ROWS", 64)
    encoder = TableEncoder(
        ["city", "code", "member"], ["age"], times=["when"],
        sequences={"history": {"separator": "|", "vocabulary": "city", "maxlen": 3}},
    ).fit(log())  # fmt: skip
    model = MMoE(
        encoder.feature_columns,
        task_names=["click", "why"],
        task_types=["binary", ("multiclass", 3)],
        tower_dnn_units_lists=[[4], [4]],
    )
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 0.5, weight.shape) for weight in model.weights])
    made = Pipeline(encoder, model)
    made.save(tmp_path / "p")
    return made


def assert_scores(path: pathlib.Path, expected: pd.DataFrame, **kept: Any) -> None:
    scores = pd.read_parquet(path)
    assert list(scores) == [*kept, *expected]
    for name, values in kept.items():
        assert scores[name].tolist() == values.tolist() or scores[name].equals(values)
    np.testing.assert_allclose(scores[expected.columns], expected, rtol=1e-5, atol=1e-6)


def test_files_are_scored_as_their_rows(pipeline: Pipeline, tmp_path: pathlib.Path) -> None:
    frame, other = log(), log(1)
    frame.to_parquet(tmp_path / "a.parquet", row_group_size=90)
    other.to_csv(tmp_path / "b.csv", index=False)
    inputs = [tmp_path / "a.parquet", tmp_path / "b.csv"]
    paths = scoring.score_files(tmp_path / "p", inputs, tmp_path / "out", columns=["row"])
    assert paths == [tmp_path / "out" / "a.parquet", tmp_path / "out" / "b.parquet"]
    assert_scores(paths[0], pipeline.predict(frame), row=frame["row"])
    # What CSV means by its digits, such as 007, nobody but its owner knows.
    assert_scores(paths[1], pipeline.predict(other), row=other["row"].astype(str))


def test_csv_is_read_as_pandas_reads_it(
    pipeline: Pipeline, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = log().assign(
        row=[f"{i:03d}" for i in range(ROWS - 1)] + ["last"],
        city=np.resize(["Rome", "None", "<NA>", "Oslo", "two\nlines", 'a "b", c'], ROWS),
    )
    frame.to_csv(tmp_path / "a.csv", index=False)
    read = pd.read_csv(tmp_path / "a.csv", dtype={"row": str})
    monkeypatch.setattr(scoring, "_BLOCK", 300)  # bytes: borders of blocks lie within values
    keep = ["row", "code", "row"]
    (path,) = scoring.score_files(tmp_path / "p", tmp_path / "a.csv", tmp_path / "o", columns=keep)
    codes = read["code"].map("{:.1f}".format, na_action="ignore")
    assert_scores(path, pipeline.predict(read), row=frame["row"], code=codes)


def test_files_without_rows_have_no_scores(pipeline: Pipeline, tmp_path: pathlib.Path) -> None:
    inputs = [tmp_path / name for name in ("a.parquet", "b.parquet", "c.csv")]
    log()[:0].to_parquet(inputs[0])
    pq.ParquetWriter(inputs[1], pq.read_schema(inputs[0])).close()  # without a row group
    log()[:0].to_csv(inputs[2], index=False)
    for path in scoring.score_files(tmp_path / "p", inputs, tmp_path / "out", columns=["row"]):
        scores = pd.read_parquet(path)
        assert list(scores) == ["row", "click", "why_0", "why_1", "why_2"]
        assert not len(scores)


def test_folders_in_a_folder_are_kept(pipeline: Pipeline, tmp_path: pathlib.Path) -> None:
    for day in (1, 2):
        (tmp_path / "log" / f"day={day}").mkdir(parents=True)
        log(day).to_parquet(tmp_path / "log" / f"day={day}" / "part-0.parquet")
    paths = scoring.score_files(tmp_path / "p", tmp_path / "log", tmp_path / "out", columns=["day"])
    assert paths == [tmp_path / "out" / f"day={day}" / "part-0.parquet" for day in (1, 2)]
    for day, path in enumerate(paths, 1):
        assert_scores(path, pipeline.predict(log(day)), day=pd.Series([day] * ROWS))


def test_folders_named_as_files_are_folders(pipeline: Pipeline, tmp_path: pathlib.Path) -> None:
    for day in ("day-1.parquet", "day-2.csv"):
        (tmp_path / "log" / day).mkdir(parents=True)
        log().to_parquet(tmp_path / "log" / day / "part-0.parquet")
    paths = scoring.score_files(tmp_path / "p", tmp_path / "log", tmp_path / "out")
    found = [path.relative_to(tmp_path / "out").as_posix() for path in paths]
    assert found == ["day-1.parquet/part-0.parquet", "day-2.csv/part-0.parquet"]


def test_no_file_of_a_folder_is_passed_over(pipeline: Pipeline, tmp_path: pathlib.Path) -> None:
    (tmp_path / "log").mkdir()
    for i, name in enumerate(("a.CSV", "b.csv.gz", "c.d.csv.bz2", "e.Parquet", "notes.txt")):
        write = log(i).to_parquet if "P" in name else partial(log(i).to_csv, index=False)
        write(tmp_path / "log" / name)
    paths = scoring.score_files(tmp_path / "p", tmp_path / "log", tmp_path / "out")
    assert [path.name for path in paths] == [f"{name}.parquet" for name in ("a", "b", "c.d", "e")]
    for i, path in enumerate(paths):
        assert_scores(path, pipeline.predict(log(i)))


def test_the_command_scores_one_task(
    pipeline: Pipeline, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log().to_parquet(tmp_path / "a.parquet")
    given = [str(tmp_path / "p"), str(tmp_path / "a.parquet"), "-o", str(tmp_path / "s.parquet")]
    main(["score", *given, "--task", "why", "--columns", "row", "city"])
    expected = pipeline.predict(log())[["why_0", "why_1", "why_2"]]
    kept = {name: log()[name] for name in ("row", "city")}
    assert_scores(tmp_path / "s.parquet", expected, **kept)
    assert "500/500" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"mtl.serving: error: `tasks` should be out of \['click'"):
        main(["score", *given, "--task", "buy"])


def test_a_call_that_was_killed_goes_on_by_file(
    pipeline: Pipeline, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = tmp_path / "log", tmp_path / "out"
    folder.mkdir()
    for i in range(3):
        log(i).to_parquet(folder / f"{i}.parquet")
    predict, calls = Pipeline.predict, []

    def failing(self: Pipeline, frame: pd.DataFrame) -> pd.DataFrame:
        calls.append(len(frame))
        if sum(calls) > ROWS + 100:
            raise KeyboardInterrupt
        return predict(self, frame)

    monkeypatch.setattr(Pipeline, "predict", failing)
    with pytest.raises(KeyboardInterrupt):
        scoring.score_files(tmp_path / "p", folder, out, verbose=0)
    assert [path.name for path in out.iterdir()] == ["0.parquet"]
    monkeypatch.setattr(Pipeline, "predict", predict)
    first = (out / "0.parquet").stat().st_mtime_ns
    log(5).to_parquet(folder / "1.parquet")
    scoring.score_files(tmp_path / "p", folder, out, verbose=0)
    assert (out / "0.parquet").stat().st_mtime_ns == first
    for i, seed in enumerate([0, 5, 2]):
        assert_scores(out / f"{i}.parquet", pipeline.predict(log(seed)))
    # Another choice of columns is other scores; so is another input.
    scoring.score_files(tmp_path / "p", folder, out, columns=["row"], verbose=0)
    assert_scores(out / "0.parquet", pipeline.predict(log()), row=log()["row"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": "none.parquet"}, "`inputs` should lead to Parquet or CSV files"),
        ({"inputs": ["a.parquet", "b.csv"], "output": "s.parquet"}, "a folder for 2 files"),
        ({"inputs": ["a.parquet", "a.csv"]}, "names of their own"),
        ({"output": ""}, "names of their own"),
        ({"output": "a.parquet"}, "names of their own, other than those of `output`"),
        ({"inputs": ""}, "`output` should lie outside of .*, whose files are scored"),
        ({"inputs": "infinite.csv"}, "infinite.csv' can't be scored: .*'age' should hold finite"),
        ({"columns": ["none"]}, "should have one column 'none'"),
        ({"columns": ["click"]}, r"other names than the scores. Received: \['click'\]"),
        ({"inputs": "wrong.parquet"}, "'age' of .* should hold numbers. Received: (large_)?string"),
        ({"inputs": "wrong.csv"}, "wrong.csv' should be a CSV file with the pipeline's columns"),
    ],
)
def test_wrong_arguments_write_nothing(
    options: dict[str, Any], message: str, pipeline: Pipeline, tmp_path: pathlib.Path
) -> None:
    log().assign(click=1).to_parquet(tmp_path / "a.parquet")
    log().to_csv(tmp_path / "b.csv")
    log().to_csv(tmp_path / "a.csv")
    log().assign(age="old").to_parquet(tmp_path / "wrong.parquet")
    log().assign(age="old").to_csv(tmp_path / "wrong.csv")
    log().assign(age=np.inf).to_csv(tmp_path / "infinite.csv")
    before = [(path, path.stat().st_mtime_ns) for path in sorted(tmp_path.iterdir())]
    given = options.get("inputs", "a.parquet")
    inputs = [tmp_path / one for one in ([given] if isinstance(given, str) else given)]
    output = tmp_path / options.get("output", "out")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        scoring.score_files(
            tmp_path / "p", inputs, output, columns=options.get("columns", ()), verbose=0
        )
    left = [path for path in sorted(tmp_path.rglob("*")) if path.name.endswith(".tmp")]
    assert left == []
    if (tmp_path / "out").exists():
        (tmp_path / "out").rmdir()
    assert [(path, path.stat().st_mtime_ns) for path in sorted(tmp_path.iterdir())] == before
