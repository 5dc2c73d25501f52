"""A table of the user's own, as a MultiTaskData, by a configuration."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mtl import checks
from mtl.benchmark.config import Section, anything, boolean, extra, settings, text, within
from mtl.checks import one_of
from mtl.data import MultiTaskData, TableEncoder
from mtl.data.dataset import SPLITS, take
from mtl.data.vocabulary import Vocabulary

Array = npt.NDArray[Any]


def load_table(path: str | Path, config: Section) -> MultiTaskData:
    """Load a table, split it, and encode it with what its training rows tell.

    ```toml
    [columns]                  # the arguments of mtl.data.TableEncoder
    categorical = ["city", "device"]
    encoding = "piecewise_linear"
    [columns.numeric]          # a list of names, or a table of settings by name
    age = {}
    spent_before = { scaling = "log" }

    [tasks]                    # the label columns; an empty cell is a missing label
    bought = "binary"          # 0 and 1, false and true, or two values and which one is positive:
    churned = { type = "binary", positive = "yes" }
    reason = "multiclass"      # its classes are the values of the training rows
    spent = { type = "regression", standardize = true }  # trained so; its errors are unscaled
    worth = "lifetime_value"   # amounts, of which many are 0

    [split]                    # "random" (with a seed), "ordered" (the last rows are the test
    method = "random"          # rows) or "column" (which holds train, val and test)
    validation = 0.1
    test = 0.1
    seed = 0
    ```

    Args:
        path: str or Path. A .parquet or .csv file.
        config: the configuration; `columns`, `tasks` and `split` are read, and nothing else.

    Returns:
        A MultiTaskData. Labels are NaN where missing; so is a class that no training row has.

    Raises:
        FileNotFoundError: there is no such table.
        ValueError: a key that is unknown, absent or wrong, which is named, or a table that does
            not hold what the keys say.
        ModuleNotFoundError: a .parquet file without the extra `bench`.
    """
    columns, tasks, split = (config.section(key) for key in ("columns", "tasks", "split"))
    encoder = _encoder(columns)
    readers = _task_readers(tasks)
    rows_of = _splitter(split)
    for name in readers:
        if name in encoder.settings:
            raise ValueError(f"`{tasks.name(name)}` should be no feature. Received: a label")
    frame = read_table(path)
    needed = [*encoder.settings, *readers]
    for name in needed:
        if name not in frame.columns:
            where = tasks.name(name) if name in readers else columns.name(name)
            raise ValueError(
                f"`{where}` should be a column of the table. Received: no such column in "
                f"{list(frame.columns)}"
            )
    rows = rows_of(frame)
    labels, types, scales = {}, [], {}
    for name, reader in readers.items():
        labels[name], kind, scale = reader(frame[name], rows["train"])
        types.append(kind)
        if scale is not None:
            scales[name] = scale
    with within(columns.where):
        x = encoder.fit(frame.iloc[rows["train"]]).transform(frame)
    parts = {part: take(x, list(labels.values()), index) for part, index in rows.items()}
    return MultiTaskData(
        feature_columns=encoder.feature_columns,
        task_names=list(readers),
        task_types=types,
        train=parts["train"],
        val=parts.get("val"),
        test=parts["test"],
        label_scale=scales or None,
    )


def read_table(path: str | Path) -> pd.DataFrame:
    """Return the table of a .parquet or .csv file."""
    path = Path(path)
    if path.suffix not in (".parquet", ".csv"):
        raise ValueError(f"`--table` should be a .parquet or .csv file. Received: {path}")
    if not path.is_file():
        raise FileNotFoundError(f"`--table` should be a file. Received: {path}")
    if path.suffix == ".csv":
        return pd.read_csv(path)
    extra("pyarrow", "bench")
    return pd.read_parquet(path)


def _encoder(section: Section) -> TableEncoder:
    arguments = settings(section, dict.fromkeys(signature(TableEncoder).parameters, anything))
    with within(section.where):
        return TableEncoder(**{"categorical": (), **arguments})


# A column and the training rows, to labels, their type, and what they were divided by or None.
Reader = Callable[["pd.Series[Any]", Array], tuple[Array, Any, float | None]]


def _task_readers(section: Section) -> dict[str, Reader]:
    readers = {}
    for name, value in section.rest().items():
        own = Section({"type": value} if isinstance(value, str) else value, section.name(name))
        kind = own.take("type", one_of(*_READERS))
        readers[name] = _READERS[kind](own)
        own.close()
    if not readers:
        raise ValueError("`tasks` should name a label column. Received: none")
    return readers


def _binary(section: Section) -> Reader:
    positive = section.take("positive", anything, None)
    where = section.where

    def read(column: pd.Series[Any], _: Array) -> tuple[Array, Any, float | None]:
        known = column.notna().to_numpy()
        if positive is not None:
            found = column[known].unique().tolist()
            if positive not in found:
                raise ValueError(
                    f"`{where}.positive` should be a value of the column. "
                    f"Received: {positive!r}, and values {found[:10]}"
                )
            values = (column == positive).to_numpy(bool, na_value=False).astype("float32")
        else:
            values = _numbers(where, column)
            wrong = values[known & (values != 0) & (values != 1)]
            if len(wrong):
                raise ValueError(
                    f"`{where}` should hold 0 and 1, or say which value is `positive`. "
                    f"Received: {wrong[0]}"
                )
        return np.where(known, values, np.nan).astype("float32"), "binary", None

    return read


def _regression(section: Section) -> Reader:
    standardize = section.take("standardize", boolean, False)
    where = section.where

    def read(column: pd.Series[Any], train: Array) -> tuple[Array, Any, float | None]:
        values, spread = _numbers(where, column).astype("float64"), None
        if standardize:
            own = values[train][~np.isnan(values[train])]
            spread = float(own.std()) if len(own) else 0.0
            if not spread:
                raise ValueError(
                    f"`{where}.standardize` should be false for a column without spread in the "
                    "training rows. Received: true"
                )
            values = (values - own.mean()) / spread
        return values.astype("float32"), "regression", spread

    return read


def _lifetime_value(section: Section) -> Reader:
    where = section.where

    def read(column: pd.Series[Any], train: Array) -> tuple[Array, Any, float | None]:
        values = _numbers(where, column)
        if (values < 0).any():
            raise ValueError(
                f"`{where}` should hold amounts of at least 0. Received: {np.nanmin(values)}"
            )
        return values.astype("float32"), "lifetime_value", None

    return read


def _multiclass(section: Section) -> Reader:
    where = section.where

    def read(column: pd.Series[Any], train: Array) -> tuple[Array, Any, float | None]:
        known = Vocabulary.fit(where, column.iloc[train].dropna())
        if len(known.categories) < 2:
            raise ValueError(
                f"`{where}` should have two or more classes in the training rows. "
                f"Received: {list(known.categories)}"
            )
        classes = known.look_up(where, column).ids.astype("float32") - 1
        unseen = (classes < 0) & column.notna().to_numpy()
        if unseen.any():
            warnings.warn(
                f"{int(unseen.sum())} rows have a class of `{where}` that no training row has: "
                "their labels count as missing.",
                stacklevel=2,
            )
        labels = np.where(classes < 0, np.nan, classes).astype("float32")
        return labels, ("multiclass", len(known.categories)), None

    return read


_READERS: dict[str, Callable[[Section], Reader]] = {
    "binary": _binary,
    "regression": _regression,
    "multiclass": _multiclass,
    "lifetime_value": _lifetime_value,
}


def _numbers(where: str, column: pd.Series[Any]) -> Array:
    try:
        values: Array = column.to_numpy("float64", na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`{where}` should hold numbers. Received: {error}") from error
    if np.isinf(values).any():
        raise ValueError(f"`{where}` should hold finite numbers. Received: an infinite one")
    return values


def _splitter(section: Section) -> Callable[[pd.DataFrame], dict[str, Array]]:
    method = section.take("method", one_of("random", "ordered", "column"), "random")
    if method == "column":
        name = section.take("column", text)
        section.close()
        return lambda frame: _split_by_column(section, name, frame)
    validation = section.take("validation", checks.rate, 0.1)
    test = section.take("test", checks.rate, 0.1)
    seed = section.take("seed", checks.non_negative_int, 0) if method == "random" else None
    section.close()
    if not test:
        raise ValueError(f"`{section.name('test')}` should be above 0. Received: {test}")
    if validation + test >= 1:
        raise ValueError(
            f"`{section.name('validation')}` and `{section.name('test')}` should leave rows to "
            f"train on. Received: {validation} and {test}"
        )

    def rows_of(frame: pd.DataFrame) -> dict[str, Array]:
        count = len(frame)
        order = np.arange(count)
        if seed is not None:
            order = np.random.default_rng(seed).permutation(count)
        last, middle = count - round(test * count), count - round((validation + test) * count)
        parts = {"train": order[:middle], "val": order[middle:last], "test": order[last:]}
        return _not_empty(section, parts)

    return rows_of


def _split_by_column(section: Section, name: str, frame: pd.DataFrame) -> dict[str, Array]:
    if name not in frame.columns:
        raise ValueError(
            f"`{section.name('column')}` should be a column of the table. Received: {name!r}"
        )
    values = frame[name]
    strange = values[~values.isin(SPLITS)]
    if len(strange):
        raise ValueError(
            f"`{section.name('column')}` should be a column of {', '.join(SPLITS)}. "
            f"Received: {strange.iloc[0]!r} in {name!r}"
        )
    parts = {part: np.flatnonzero(values == part) for part in SPLITS}
    return _not_empty(section, parts)


def _not_empty(section: Section, parts: dict[str, Array]) -> dict[str, Array]:
    """Return the parts that have rows; only validation rows may be none."""
    for part in ("train", "test"):
        if not len(parts[part]):
            raise ValueError(f"`{section.where}` should leave {part} rows. Received: none")
    return {part: rows for part, rows in parts.items() if len(rows)}
