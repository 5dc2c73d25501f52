"""What is learnt of rows, a DataFrame or a row group at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import keras
import pandas as pd

from mtl.data.arrow import Kind, frame_of
from mtl.data.frames import check_frame
from mtl.data.parquet import ParquetTable
from mtl.data.raw import Learner, RawColumn


def learn(
    data: Any, columns: Mapping[str, RawColumn], learners: Mapping[str, Learner], verbose: int = 0
) -> dict[str, RawColumn]:
    """Return columns with what their learners learn of data; those without one stay.

    Args:
        data: pd.DataFrame, or the path or paths of Parquet files.
        columns: dict from name to column.
        learners: dict from name to what learns of it.
        verbose: int. 0 shows no progress of files. Defaults to 0.
    """
    kinds = {name: columns[name].holds for name in learners}
    for frame in _frames(data, kinds, verbose):
        for name, learner in learners.items():
            learner.add(frame[name])
    return {**columns, **{name: learner.done() for name, learner in learners.items()}}


def _frames(data: Any, kinds: Mapping[str, Kind], verbose: int) -> Iterator[pd.DataFrame]:
    """Yield a DataFrame, or the row groups of Parquet files as DataFrames of some columns."""
    if isinstance(data, pd.DataFrame):
        check_frame(data, list(kinds))
        yield data
        return
    table = ParquetTable(data, kinds)
    progress = keras.utils.Progbar(table.rows, verbose=verbose, unit_name="row")
    for group in table.groups:
        yield frame_of(table.read(group))
        progress.add(group.rows)
