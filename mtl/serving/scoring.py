"""Scoring of files of raw rows, a part at a time."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras

from mtl import checks
from mtl.data import arrow
from mtl.data.files import atomic_path
from mtl.data.parquet import ParquetTable, import_pyarrow
from mtl.models import extract_task
from mtl.serving.pipeline import MANIFEST, Pipeline

_ROWS = 1 << 17  # that are encoded and predicted at once
_BLOCK = 1 << 24  # bytes of CSV that are read at once
_MARK = b"mtl.scored"  # in a file's metadata: of what it is made


class _Any(arrow.Kind):
    def takes(self, kind: Any) -> bool:
        return True


def score_files(
    folder: str | os.PathLike[str],
    inputs: Any,
    output: str | os.PathLike[str],
    tasks: Sequence[str] | None = None,
    columns: Sequence[str] = (),
    verbose: int = 1,
) -> list[Path]:
    """Write the scores of raw rows in Parquet and CSV files to Parquet files, row by row.

    Memory is that of a row group, and of 131,072 rows as they are encoded. Each file is written
    whole or not at all. A file of scores that is there, of the same pipeline, input and options,
    is kept, so that a call that was killed goes on where it was, by file; others are replaced.

    In CSV, missing values are what pandas takes for them, such as an empty field or NA.

    Args:
        folder: str or path. What `Pipeline.save` wrote.
        inputs: str, path, or list of them. Parquet files, CSV files (`.csv`), or folders of such.
        output: str or path. A file that ends in ".parquet", for one file; else a folder, in which
            a file has the name of its input.
        tasks: list of str, or None. The tasks to score. Defaults to None: all.
        columns: list of str. Columns of the input to keep beside the scores. Defaults to none.
        verbose: int. 0 shows no progress. Defaults to 1.

    Returns:
        The list of the files of scores, in the order of the inputs.

    Raises:
        FileNotFoundError: no such folder or file.
        ImportError: pyarrow isn't installed.
        ValueError: no pipeline, an unknown task, files of one name, a damaged file, or a column
            that is absent, of a wrong type, or named as the scores are.
    """
    import_pyarrow()
    pipeline = Pipeline.load(folder)
    names = _check_tasks(pipeline, tasks)
    keep = checks.entries("columns", columns, "a list of column names")
    if len(names) == 1 and len(pipeline.model.tasks) > 1:
        pipeline = Pipeline(pipeline.encoder, extract_task(pipeline.model, names[0]))
    scores = [
        column
        for task in pipeline.describe()["tasks"]
        if task["name"] in names
        for column in task["columns"]
    ]
    if both := sorted({*keep} & {*scores}):
        raise ValueError(f"`columns` should have other names than the scores. Received: {both}")
    files = _files(inputs)
    targets = _targets(files, Path(output))
    digest = hashlib.sha256((Path(folder) / MANIFEST).read_bytes()).hexdigest()
    marks = [
        json.dumps([digest, file.stat().st_size, file.stat().st_mtime_ns, scores, keep]).encode()
        for file in files
    ]
    left = [one for one in zip(files, targets, marks, strict=True) if _mark_of(one[1]) != one[2]]
    readers = [_reader(file, pipeline, keep) for file, *_ in left]  # errors before any work
    rows = [reader.rows for reader in readers]
    total = None if None in rows else sum(rows)
    progress = keras.utils.Progbar(total, verbose=verbose if left else 0, unit_name="row")
    for reader, (_, target, mark) in zip(readers, left, strict=True):
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(target) as temporary:
            _write(temporary, reader, pipeline, scores, keep, mark, progress)
    return targets


class _Parquet:
    def __init__(self, path: Path, kinds: dict[str, arrow.Kind]) -> None:
        self._table = ParquetTable(path, kinds)
        self.rows: int | None = self._table.rows

    def __iter__(self) -> Iterator[Any]:
        yield from map(self._table.read, self._table.groups)


class _Csv:
    def __init__(self, path: Path, columns: dict[str, Any], keep: Sequence[str]) -> None:
        from pyarrow import csv

        self._path = path
        types = {name: kind for name, column in columns.items() if (kind := _csv_type(column))}
        self._options = {
            "read_options": csv.ReadOptions(block_size=_BLOCK),
            "convert_options": csv.ConvertOptions(
                include_columns=list(dict.fromkeys([*columns, *keep])),
                column_types=types,
                strings_can_be_null=True,
            ),
        }
        self.rows: int | None = None

    def __iter__(self) -> Iterator[Any]:
        import pyarrow as pa
        from pyarrow import csv

        try:
            with csv.open_csv(self._path, **self._options) as batches:
                for batch in batches:
                    yield pa.Table.from_batches([batch])
        except (pa.ArrowException, KeyError) as error:
            raise ValueError(
                f"{str(self._path)!r} should be a CSV file with the pipeline's columns. "
                f"Received: {error}"
            ) from error


def _csv_type(column: Any) -> Any:
    """Return the Arrow type that a column of CSV is read as, or None where its values tell it."""
    import pyarrow as pa

    if column.holds is arrow.categories:
        raise ValueError(
            f"Column {column.name!r} should hold lists, which CSV files don't. "
            "Received: a CSV file (give the lists a separator, and the column a `separator`)"
        )
    if column.holds is arrow.number:
        return pa.float64()
    if column.holds is not arrow.category:
        return pa.string()
    if column.vocabulary.kinds in (["booleans"], ("booleans",)):
        return pa.bool_()
    try:
        return {"string": pa.string(), "float64": pa.float64(), "int64": pa.int64()}[
            column.vocabulary.dtype
        ]
    except ValueError:
        return None


def _reader(file: Path, pipeline: Pipeline, keep: Sequence[str]) -> Any:
    if file.suffix == ".csv":
        return _Csv(file, pipeline.columns, keep)
    kinds: dict[str, arrow.Kind] = {name: _Any() for name in keep}
    kinds |= {name: column.holds for name, column in pipeline.columns.items()}
    return _Parquet(file, kinds)


def _write(
    path: Path,
    tables: Iterable[Any],
    pipeline: Pipeline,
    scores: Sequence[str],
    keep: Sequence[str],
    mark: bytes,
    progress: Any,
) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    writer = None
    try:
        for table in _parts(tables):
            frame = arrow.frame_of(table.select(list(pipeline.columns)))
            predicted = pipeline.predict(frame)
            scored = table.select(list(keep))
            for name in scores:
                scored = scored.append_column(name, pa.array(predicted[name].to_numpy()))
            if writer is None:
                schema = scored.schema.with_metadata({_MARK: mark})
                writer = parquet.ParquetWriter(path, schema)
            writer.write_table(scored.replace_schema_metadata(schema.metadata))
            progress.add(len(scored))
    finally:
        if writer is not None:
            writer.close()


def _parts(tables: Iterable[Any]) -> Iterator[Any]:
    """Yield the same rows in tables of `_ROWS`, but for the last: models compile for few sizes."""
    import pyarrow as pa

    waiting: list[Any] = []
    for table in tables:
        waiting.append(table)
        while sum(map(len, waiting)) >= _ROWS:
            whole = pa.concat_tables(waiting)
            yield whole[:_ROWS]
            waiting = [whole[_ROWS:]]
    if waiting and (sum(map(len, waiting)) or len(waiting) == 1):
        yield pa.concat_tables(waiting)


def _check_tasks(pipeline: Pipeline, tasks: Sequence[str] | None) -> list[str]:
    every = pipeline.model.task_names
    if tasks is None:
        return every
    names = checks.entries("tasks", tasks, "a list of tasks")
    if not names or not set(names) <= set(every):
        raise ValueError(f"`tasks` should be out of {every}. Received: {names}")
    return names


def _files(inputs: Any) -> list[Path]:
    given = [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs)
    files: list[Path] = []
    for path in map(Path, given):
        inside = [*path.rglob("*.parquet"), *path.rglob("*.csv")] if path.is_dir() else [path]
        if not inside or not path.exists():
            raise FileNotFoundError(
                f"`inputs` should lead to Parquet or CSV files. Received: {str(path)!r}"
            )
        files += sorted(inside)
    return files


def _targets(files: Sequence[Path], output: Path) -> list[Path]:
    if output.suffix == ".parquet":
        if len(files) > 1:
            raise ValueError(
                f"`output` should be a folder for {len(files)} files. Received: {str(output)!r}"
            )
        return [output]
    targets = [output / f"{file.stem}.parquet" for file in files]
    for target, file in zip(targets, files, strict=True):
        if targets.count(target) > 1 or target.absolute() == file.absolute():
            raise ValueError(
                "`inputs` should have names of their own, outside of `output`. "
                f"Received: {str(file)!r}, whose scores would be another file"
            )
    return targets


def _mark_of(path: Path) -> bytes | None:
    """Return of what a file of scores is made, None if it tells nothing."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        metadata: dict[bytes, bytes] | None = parquet.read_schema(path).metadata
    except (OSError, pa.ArrowException):
        return None
    return (metadata or {}).get(_MARK)
