"""Scoring of files of raw rows, a part at a time."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
_CSV = re.compile(r"\.(?i:csv)(\.gz|\.bz2)?$")
_FILE = re.compile(rf"\.(?i:parquet)$|{_CSV.pattern}")


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

    In CSV, missing values are what pandas takes for them, such as an empty field or NA, and columns
    to keep are strings, as they stand there.

    Args:
        folder: str or path. What `Pipeline.save` wrote.
        inputs: str, path, or list of them. Parquet files, CSV files (`.csv`, also in `.gz` and
            `.bz2`), or folders of such.
        output: str or path. A file that ends in ".parquet", for one file; else a folder, in which
            a file has the name of its input, below the same folders if it was found in one.
        tasks: list of str, or None. The tasks to score. Defaults to None: all.
        columns: list of str. Columns of the input to keep beside the scores. Defaults to none.
        verbose: int. 0 shows no progress. Defaults to 1.

    Returns:
        The list of the files of scores, in the order of the inputs.

    Raises:
        FileNotFoundError: no such folder or file.
        ImportError: pyarrow isn't installed.
        ValueError: no pipeline, an unknown task, files of one name, an output among the inputs, a
            damaged file, or a column that is absent, of a wrong type, or named as the scores are.
    """
    import_pyarrow()
    pipeline = Pipeline.load(folder)
    names = _check_tasks(pipeline, tasks)
    keep = list(dict.fromkeys(checks.entries("columns", columns, "a list of column names")))
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
    targets = _targets(_files(inputs, Path(output)), Path(output))
    digest = hashlib.sha256((Path(folder) / MANIFEST).read_bytes()).hexdigest()
    marks = [
        json.dumps([digest, file.stat().st_size, file.stat().st_mtime_ns, scores, keep]).encode()
        for file in targets
    ]
    left = [
        (file, target, mark)
        for (file, target), mark in zip(targets.items(), marks, strict=True)
        if _mark_of(target) != mark
    ]
    readers = [_reader(file, pipeline, keep) for file, *_ in left]  # errors before any work
    rows = [reader.rows for reader in readers]
    total = None if None in rows else sum(rows)
    progress = keras.utils.Progbar(total, verbose=verbose if left else 0, unit_name="row")
    for reader, (_, target, mark) in zip(readers, left, strict=True):
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(target) as temporary:
            _write(temporary, reader, pipeline, scores, keep, mark, progress)
    return list(targets.values())


# What reads a file has tables of the columns to keep, and behind them those of the pipeline.


class _Parquet:
    def __init__(self, path: Path, columns: dict[str, Any], keep: Sequence[str]) -> None:
        kinds: dict[str, arrow.Kind] = {name: _Any() for name in keep}
        kinds |= {name: column.holds for name, column in columns.items()}
        self.path, self._names = path, [*keep, *columns]
        self._table = ParquetTable(path, kinds, empty=True)
        self.rows: int | None = self._table.rows

    def __iter__(self) -> Iterator[Any]:
        for group in self._table.groups:
            yield self._table.read(group).select(self._names)


class _Csv:
    def __init__(self, path: Path, columns: dict[str, Any], keep: Sequence[str]) -> None:
        import pyarrow as pa
        from pyarrow import csv

        types = {name: kind for name, column in columns.items() if (kind := _csv_type(column))}
        self.path, self._names = path, [*keep, *columns]
        # Behind `keep`, by place: a column that is kept, too, is read as a string.
        self._casts = {
            len(keep) + i: types[name]
            for i, name in enumerate(columns)
            if name in keep and name in types
        }
        missing = csv.ConvertOptions().null_values
        self._options = {
            "read_options": csv.ReadOptions(block_size=_BLOCK),
            "parse_options": csv.ParseOptions(newlines_in_values=True),
            "convert_options": csv.ConvertOptions(
                include_columns=list(dict.fromkeys(self._names)),
                column_types={**types, **dict.fromkeys(keep, pa.string())},
                strings_can_be_null=True,
                null_values=[*missing, "None", "<NA>"],  # as pandas has them
            ),
        }
        self.rows: int | None = None

    def __iter__(self) -> Iterator[Any]:
        import pyarrow as pa
        from pyarrow import csv

        try:
            with csv.open_csv(self.path, **self._options) as batches:
                yield self._table(batches.schema.empty_table())  # in case that there are no rows
                for batch in batches:
                    yield self._table(pa.Table.from_batches([batch]))
        except (pa.ArrowException, KeyError) as error:
            raise ValueError(
                f"{str(self.path)!r} should be a CSV file with the pipeline's columns. "
                f"Received: {error}"
            ) from error

    def _table(self, read: Any) -> Any:
        table = read.select(self._names)
        for place, kind in self._casts.items():
            name = self._names[place]
            table = table.set_column(place, name, read[name].cast(kind))
        return table


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
    return (_Csv if _CSV.search(file.name) else _Parquet)(file, pipeline.columns, keep)


def _write(
    path: Path,
    reader: Any,
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
        for table in _parts(reader):
            places = range(table.num_columns)
            try:
                predicted = pipeline.predict(arrow.frame_of(table.select(places[len(keep) :])))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{str(reader.path)!r} can't be scored: {error}") from error
            scored = table.select(places[: len(keep)])
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
    yield pa.concat_tables(waiting)


def _check_tasks(pipeline: Pipeline, tasks: Sequence[str] | None) -> list[str]:
    every = pipeline.model.task_names
    if tasks is None:
        return every
    names = checks.entries("tasks", tasks, "a list of tasks")
    if not names or not set(names) <= set(every):
        raise ValueError(f"`tasks` should be out of {every}. Received: {names}")
    return names


def _files(inputs: Any, output: Path) -> dict[Path, Path]:
    """Return the files that are meant, and where each lies below the folder it was found in."""
    given = [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs)
    files: dict[Path, Path] = {}
    for path in map(Path, given):
        found = {path: Path(path.name)} if path.is_file() else {}
        if path.is_dir():
            if output.resolve().is_relative_to(path.resolve()):
                raise ValueError(
                    f"`output` should lie outside of {str(path)!r}, whose files are scored. "
                    f"Received: {str(output)!r}"
                )
            inside = sorted(f for f in path.rglob("*") if _FILE.search(f.name) and f.is_file())
            found = {file: file.relative_to(path) for file in inside}
        if not found:
            raise FileNotFoundError(
                f"`inputs` should lead to Parquet or CSV files. Received: {str(path)!r}"
            )
        files |= found
    return files


def _targets(files: Mapping[Path, Path], output: Path) -> dict[Path, Path]:
    """Return the file of scores of each file."""
    if output.suffix == ".parquet":
        if len(files) > 1:
            raise ValueError(
                f"`output` should be a folder for {len(files)} files. Received: {str(output)!r}"
            )
        targets = dict.fromkeys(files, output)
    else:
        targets = {
            file: output / place.with_name(f"{_FILE.sub('', place.name)}.parquet")
            for file, place in files.items()
        }
    taken = Counter(target.resolve() for target in targets.values())
    for file, target in targets.items():
        if taken[target.resolve()] > 1 or target.resolve() in map(Path.resolve, targets):
            raise ValueError(
                "`inputs` should have names of their own, other than those of `output`. "
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
