"""Parquet files as one table, read a row group at a time; their footers are checked at once."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

_THREADS = 16  # that read footers


class Group(NamedTuple):
    """A row group: its file's place in the list, its number in the file, and its rows."""

    file: int
    number: int
    rows: int


@dataclass(frozen=True)
class _File:
    path: str
    stamp: tuple[int, int]  # size and time of the last change
    metadata: Any
    keys: dict[str, Any]  # of the folders that it lies in, as in day=2024-01-01


class ParquetTable:
    """Some columns of Parquet files.

    Args:
        path: str, path, or list of them. Files, folders (all `*.parquet` in them and below; folders
            named `key=value` give a column) or globs, such as "log/day=2024-01-*".
        columns: dict from column to a function of its Arrow type, which returns what is expected
            in words where the type doesn't do, and None where it does.
        empty: bool. Whether there may be no rows at all, which are then a group. Defaults to False.

    Attributes:
        groups: list of `Group`, in the order of the files' names.
        rows: int.

    Raises:
        FileNotFoundError: no such file, or none that matches.
        ImportError: pyarrow isn't installed.
        ValueError: a file that is no Parquet file or is damaged, a column that a file lacks or
            that has another type, or no rows at all. The message names the file.
    """

    def __init__(
        self, path: Any, columns: Mapping[str, Callable[[Any], str | None]], empty: bool = False
    ) -> None:
        import_pyarrow()
        paths = _found(path)
        keys = _partition_keys(paths)
        with ThreadPoolExecutor(min(_THREADS, len(paths))) as threads:
            self._files = list(threads.map(_opened, paths, keys))
        for file in self._files:
            _check_columns(file, columns)
        self._columns = list(columns)
        self.groups = [
            Group(i, number, rows)
            for i, file in enumerate(self._files)
            for number in range(file.metadata.num_row_groups)
            if (rows := file.metadata.row_group(number).num_rows)
        ]
        self.rows = sum(group.rows for group in self.groups)
        if not self.rows:
            self.groups = [Group(0, 0, 0)]
        if not self.rows and not empty:
            raise ValueError(f"`path` should hold at least one row. Received: {path!r} without any")

    def name_of(self, group: Group) -> str:
        """Return the path of a group's file."""
        return self._files[group.file].path

    def state(self) -> list[Any]:
        """Return what tells whether two tables have the same groups, for JSON."""
        names = [os.path.basename(file.path) for file in self._files]
        return [[names[group.file], group.number, group.rows] for group in self.groups]

    def read(self, group: Group) -> Any:
        """Return a row group as a `pyarrow.Table`.

        Raises:
            ValueError: the file is damaged, or has changed since the table was made.
        """
        pa = import_pyarrow()
        file = self._files[group.file]
        if not os.path.exists(file.path) or _stamp(file.path) != file.stamp:
            raise ValueError(
                f"{file.path!r} should stay as it was when the stream began. "
                "Received: a file that was changed or removed since"
            )
        stored = [name for name in self._columns if name not in file.keys]
        try:
            with pa.parquet.ParquetFile(file.path, metadata=file.metadata) as opened:
                if group.rows:
                    table = opened.read_row_group(group.number, stored, use_threads=False)
                else:
                    table = opened.schema_arrow.empty_table().select(stored)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(
                f"{file.path!r} should be a whole Parquet file. Received: a damaged row group "
                f"{group.number} ({error})"
            ) from error
        for name in self._columns:
            if name in file.keys:
                table = table.append_column(name, pa.array([file.keys[name]] * group.rows))
        return table


def import_pyarrow() -> Any:
    """Return pyarrow; ImportError names the extra if it isn't installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("Parquet files need pyarrow: pip install 'keras-mtl[parquet]'") from error
    return pyarrow


def _found(path: Any) -> list[str]:
    """Return the files that are meant, sorted."""
    given = [path] if isinstance(path, (str, os.PathLike)) else path
    if not isinstance(given, Iterable) or not all(isinstance(p, (str, os.PathLike)) for p in given):
        raise TypeError(f"`path` should be a path, a glob, or a list of them. Received: {path!r}")
    files: list[str] = []
    for one in map(os.fspath, given):
        matches = [one] if os.path.exists(one) else sorted(glob.glob(one, recursive=True))
        for match in matches:
            inside = Path(match).rglob("*.parquet") if os.path.isdir(match) else [match]
            # A folder may be named so, too, such as those that Spark writes.
            files += sorted(str(file) for file in inside if not os.path.isdir(file))
        if not matches:
            raise FileNotFoundError(f"`path` should lead to Parquet files. Received: {one!r}")
    if not files:
        raise FileNotFoundError(f"`path` should lead to Parquet files. Received: {path!r}")
    return list(dict.fromkeys(files))


def _partition_keys(paths: Sequence[str]) -> list[dict[str, Any]]:
    """Return the columns that each file's folders give: integers where all of a key's are."""
    found = [
        dict(part.split("=", 1) for part in Path(path).parts[:-1] if "=" in part) for path in paths
    ]
    whole = {
        key: all(keys.get(key, "").lstrip("-").isdigit() for keys in found)
        for keys in found
        for key in keys
    }
    return [{k: int(v) if whole[k] else v for k, v in keys.items()} for keys in found]


def _opened(path: str, keys: dict[str, Any]) -> _File:
    pa = import_pyarrow()
    stamp = _stamp(path)
    try:
        with pa.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            keys = {key: value for key, value in keys.items() if key not in names}
            return _File(path, stamp, file.metadata, keys)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"`path` should lead to Parquet files. Received: {path!r}, which is none, or damaged "
            f"({error})"
        ) from error


def _stamp(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def _check_columns(file: _File, columns: Mapping[str, Callable[[Any], str | None]]) -> None:
    pa = import_pyarrow()
    schema = file.metadata.schema.to_arrow_schema()
    for name, wrong in columns.items():
        places = schema.get_all_field_indices(name)
        if name in file.keys:
            kind = pa.array([file.keys[name]]).type
        elif len(places) == 1:
            kind = schema.field(places[0]).type
        else:
            raise ValueError(
                f"{file.path!r} should have one column {name!r}. Received: {len(places)} such "
                f"columns among {schema.names}"
            )
        if (expected := wrong(kind)) is not None:
            raise ValueError(
                f"Column {name!r} of {file.path!r} should hold {expected}. Received: {kind}"
            )
