"""What an encoder learns of files, a row group at a time, in memory that rows don't fill."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import pandas as pd

from mtl.data.arrow import category, frame_of, number
from mtl.data.frames import check_frame
from mtl.data.parquet import ParquetTable
from mtl.data.scaler import Scaler, signed_log, to_float64
from mtl.data.vocabulary import Vocabulary
from mtl.encodings import BY_NAME

_PRECISION = 4096  # of the sketch: a rank is off by 7e-4 at most, in 99 of 100 columns
_POINTS = 10_001  # that stand for a column's values where bins are chosen


def learn(
    path: Any,
    categorical: Sequence[str],
    numeric: Sequence[str],
    settings: Mapping[str, Mapping[str, Any]],
    verbose: int,
) -> tuple[dict[str, Vocabulary], dict[str, Scaler], dict[str, Any]]:
    """Return vocabularies, scalers and encodings by column; see `TableEncoder.fit_parquet`."""
    running = {
        name: _Running(name, settings[name]["scaling"], bool(settings[name]["encoding"]))
        for name in numeric
    }
    empty = Vocabulary((), False)
    counts: dict[str, Counter[Any]] = {name: Counter() for name in categorical}
    for frame in frames_of(path, categorical, numeric, verbose):
        for name in categorical:
            counts[name] += empty.count(name, frame[name])
        for name, column in running.items():
            column.add(frame[name])
    scalers = {name: column.scaler() for name, column in running.items()}
    encodings = {
        name: BY_NAME[settings[name]["encoding"]].fit(
            scalers[name].transform(name, column.sample()), settings[name]["bins"]
        )
        for name, column in running.items()
        if settings[name]["encoding"]
    }
    vocabularies = {
        name: empty.extended(counts[name], settings[name]["min_count"]) for name in categorical
    }
    return vocabularies, scalers, encodings


def frames_of(
    data: Any, categorical: Sequence[str], numeric: Sequence[str] = (), verbose: int = 0
) -> Iterator[pd.DataFrame]:
    """Yield a DataFrame, or the row groups of Parquet files as DataFrames of some columns."""
    if isinstance(data, pd.DataFrame):
        check_frame(data, [*categorical, *numeric])
        yield data
        return
    kinds = {**dict.fromkeys(categorical, category), **dict.fromkeys(numeric, number)}
    table = ParquetTable(data, kinds)
    progress = keras.utils.Progbar(table.rows, verbose=verbose, unit_name="row")
    for group in table.groups:
        yield frame_of(table.read(group))
        progress.add(group.rows)


class _Running:
    """Moments and quantiles of a column of numbers.

    Means and deviations are exact up to rounding; quantiles are those of a KLL sketch.

    Args:
        name: str. The column's name, for error messages.
        scaling: str. One of `mtl.data.scaler.SCALINGS`.
        quantiles: bool. Whether the column's encoding needs quantiles.

    Raises:
        ImportError: quantiles are needed, and datasketches isn't installed.
    """

    def __init__(self, name: str, scaling: str, quantiles: bool) -> None:
        self._name, self._scaling = name, scaling
        self._count = 0
        self._mean = self._center = self._squares = 0.0
        self._low, self._high = np.inf, -np.inf
        self._sketch: Any = _sketch() if quantiles or scaling == "robust" else None

    def add(self, column: pd.Series[Any]) -> None:
        """Take notice of some rows; raises as `Scaler.fit`."""
        values = to_float64(self._name, column)
        values = values[~np.isnan(values)]
        if not len(values):
            return
        self._count += len(values)
        share = len(values) / self._count
        self._mean += share * (float(values.mean()) - self._mean)
        if self._sketch is not None:
            self._sketch.update(values)
        if self._scaling == "log":
            values = signed_log(values)
        self._low = min(self._low, float(values.min()))
        self._high = max(self._high, float(values.max()))
        # Chan's update of the sum of squared deviations.
        apart = float(values.mean()) - self._center
        self._squares += float(values.var()) * len(values)
        self._squares += apart**2 * share * (self._count - len(values))
        self._center += share * apart

    def scaler(self) -> Scaler:
        """Return the scaler of all rows; ValueError if there was no value."""
        if not self._count:
            raise ValueError(
                f"Numeric column {self._name!r} should hold at least one value in the training "
                "files. Received: missing values only."
            )
        deviation = (self._squares / self._count) ** 0.5
        quartiles = self._quantiles([0.25, 0.5, 0.75]) if self._scaling == "robust" else ()
        return Scaler.of(
            self._scaling, self._mean, self._low, self._high, self._center, deviation, quartiles
        )

    def sample(self) -> pd.Series[Any]:
        """Return values that stand for the column: its quantiles at even steps."""
        return pd.Series(self._quantiles(np.linspace(0, 1, _POINTS).tolist()))

    def _quantiles(self, ranks: list[float]) -> Any:
        return self._sketch.get_quantiles(ranks)


def _sketch() -> Any:
    try:
        from datasketches import kll_doubles_sketch
    except ImportError as error:
        raise ImportError(
            "Quantiles of files need datasketches: pip install 'keras-mtl[parquet]'"
        ) from error
    return kll_doubles_sketch(_PRECISION)
