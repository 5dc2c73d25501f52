"""Checks and concatenation of DataFrames."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from mtl import checks


def column_names(argument: str, names: Any) -> list[str]:
    """Return `names` as a list of str that can name features, or raise."""
    columns = checks.entries(argument, names, "a list of column names", Iterable)
    for name in columns:
        if not isinstance(name, str) or not name or "/" in name:
            raise ValueError(
                f"`{argument}` should hold non-empty strings without '/'. Received: {name!r}"
            )
    return columns


def check_frame(frame: Any, names: Sequence[str]) -> None:
    """Raise unless `frame` is a DataFrame with each of the columns once."""
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f"`frame` should be a pandas DataFrame. Received: {type(frame).__name__}")
    for name in names:
        count = int((frame.columns == name).sum())
        if count != 1:
            raise ValueError(
                f"`frame` should have one column {name!r}. Received: {count} such columns "
                f"among {[str(column) for column in frame.columns]}"
            )


def stack(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Concatenate frames of the same columns, keeping categorical columns categorical.

    Plain `pd.concat` turns categorical columns with different categories into strings, which
    costs seconds on the Census-income files. The united categories leak nothing: an encoder
    learns from the rows that it is fitted on, not from the dtype.

    Args:
        frames: list of pd.DataFrame.

    Returns:
        One pd.DataFrame of all rows, in order.
    """
    columns = {}
    for name in frames[0].columns:
        parts = [frame[name] for frame in frames]
        if isinstance(parts[0].dtype, pd.CategoricalDtype):
            columns[name] = pd.Series(pd.api.types.union_categoricals(parts))
        else:
            columns[name] = pd.concat(parts, ignore_index=True)
    return pd.DataFrame(columns)
