"""TimeColumn: dates and times, of which a model takes parts."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from mtl import checks
from mtl.data.arrow import Kind, time
from mtl.data.raw.base import Encoded, Learner, Options, RawColumn
from mtl.data.raw.numeric import NumericColumn
from mtl.features import SparseFeat

SECONDS_OF_DAY = 86_400
DAYS = "days"
MISSING = np.iinfo(np.int64).min  # as numpy has it
_ZONE = re.compile(r"([T ]\d\d[\d:.,]*) ?(Z|[+-]([01]\d|2[0-3])(:?[0-5]\d)?)$")


def _march_of(seconds: Any) -> tuple[Any, Any]:
    """Return the month, from 0 in March, and the day in it, from 0, by the Gregorian calendar."""
    # Years that begin in March have their leap day at the end, in eras of 400 years.
    day = (seconds // SECONDS_OF_DAY + 719_468) % 146_097
    year = (day - day // 1460 + day // 36_524 - day // 146_096) // 365
    day = day - (365 * year + year // 4 - year // 100)
    month = (5 * day + 2) // 153
    return month, day - (153 * month + 2) // 5


# By part: how many there are, and its number, from 0, of the seconds since 1970. They are written
# in operators alone, so that arrays and the tensors of graphs go through the same ones.
PARTS: dict[str, tuple[int, Callable[[Any], Any]]] = {
    "month": (12, lambda seconds: (_march_of(seconds)[0] + 2) % 12),
    "day": (31, lambda seconds: _march_of(seconds)[1]),
    "weekday": (7, lambda seconds: (seconds // SECONDS_OF_DAY + 3) % 7),
    "hour": (24, lambda seconds: seconds // 3600 % 24),
    "minute": (60, lambda seconds: seconds // 60 % 60),
}


def _parts(name: str, value: Any) -> list[str]:
    every = [*PARTS, DAYS]
    parts = checks.entries(name, value, f"a list out of {every}")
    if not parts or len(set(parts)) < len(parts) or not set(parts) <= set(every):
        raise ValueError(f"`{name}` should be a list out of {every}. Received: {value!r}")
    return parts


class TimeColumn(RawColumn):
    """A column of dates or times: ids of their parts, or the days since 1970 as a scaled number.

    Id 0 of a part is a missing time, and 1 is January, the first day, Monday, 0 o'clock, minute 0.
    Of times with a zone, it is the wall clock there that counts.

    Attributes:
        days: `NumericColumn` of the days since 1970, or None.
    """

    argument = "times"
    options: ClassVar[Options] = {
        "parts": (("weekday", "hour"), _parts),
        "embedding_dim": (4, checks.positive_int),
        **NumericColumn.options,
    }

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        super().__init__(name, settings)
        numeric = {key: settings[key] for key in NumericColumn.options}
        has_days = DAYS in settings["parts"]
        self.days = NumericColumn(f"{name}_{DAYS}", numeric) if has_days else None

    @property
    def inputs(self) -> list[str]:
        """An input for each part."""
        return [f"{self.name}_{part}" for part in self.settings["parts"]]

    @property
    def holds(self) -> Kind:
        """Timestamps, dates, or strings in the form of ISO 8601."""
        return time

    def learner(self, others: Mapping[str, Any], exact: bool) -> Learner:
        """Return what learns the scaling of the days; else there is nothing to learn."""
        return _Days(self, self.days.learner(others, exact) if self.days else None)

    def encode(self, column: pd.Series[Any]) -> Encoded:
        """Return (N,) int32 ids of the parts, and the days as float32, of N times."""
        times = seconds(self.name, column)
        missing = times == MISSING
        arrays: dict[str, npt.NDArray[Any]] = {}
        for part, name in zip(self.settings["parts"], self.inputs, strict=True):
            if part == DAYS and self.days is not None:
                arrays |= self.days.encode(_days(times)).arrays
            else:
                number = PARTS[part][1](times)
                arrays[name] = np.where(missing, 0, number + 1).astype(np.int32)
        return Encoded(arrays, missing, "" if missing.all() else self.fitted_on)

    @property
    def fitted_on(self) -> str:
        """Times."""
        return "times"

    @property
    def feature_columns(self) -> list[Any]:
        """A `SparseFeat` for each part, and a `DenseFeat` of the days."""
        dim = self.settings["embedding_dim"]
        sparse = [
            SparseFeat(name, 1 + PARTS[part][0], dim, dtype="int32")
            for part, name in zip(self.settings["parts"], self.inputs, strict=True)
            if part != DAYS
        ]
        return sparse + (self.days.feature_columns if self.days else [])

    def to_json(self) -> dict[str, Any]:
        """Return what was learnt of the days as a JSON-compatible dict."""
        return self.days.to_json() if self.days else {}

    def from_json(self, config: Mapping[str, Any], others: Mapping[str, RawColumn]) -> Any:
        """Return the column with the scaling of the days that `to_json` described."""
        return self.having(days=self.days.from_json(config, others) if self.days else None)


class _Days:
    """Learns of the days, where they are a part."""

    def __init__(self, column: TimeColumn, days: Learner | None) -> None:
        self._column, self._learner = column, days

    def add(self, column: pd.Series[Any]) -> None:
        times = seconds(self._column.name, column)
        if self._learner:
            self._learner.add(_days(times))

    def done(self) -> Any:
        return self._column.having(days=self._learner.done()) if self._learner else self._column


def seconds(name: str, column: pd.Series[Any]) -> npt.NDArray[np.int64]:
    """Return times as seconds since 1970, `MISSING` where there is none; fractions are cut off.

    Raises:
        TypeError: values that are no dates, no times and no strings.
        ValueError: strings that are no dates or times in the form of ISO 8601.
    """
    # As an array of numpy, Arrow's would be times of UTC.
    if isinstance(column.dtype, (pd.CategoricalDtype, pd.ArrowDtype)):
        column = column.astype(object)
    if column.dtype.kind != "M":
        for value in column.dropna():
            if not isinstance(value, (str, datetime.date, np.datetime64)):
                raise TypeError(
                    f"Time column {name!r} should hold dates, times or strings. "
                    f"Received: {value!r} of type {type(value).__name__} (seconds since 1970 are "
                    'times by `pd.to_datetime(…, unit="s")`)'
                )
        try:
            column = pd.to_datetime(column.astype(object).map(_clock), format="ISO8601")
        except ValueError as error:
            raise ValueError(
                f"Time column {name!r} should hold times such as '2024-05-31 13:45:00'. "
                f"Received: {error}"
            ) from error
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        column = column.dt.tz_localize(None)
    return column.to_numpy().astype("datetime64[s]").astype(np.int64)


def _clock(value: Any) -> Any:
    """Return a time without its zone, of which rows may have several, as in summer and winter."""
    if isinstance(value, str):
        return _ZONE.sub(r"\1", value)
    return value.replace(tzinfo=None) if isinstance(value, datetime.datetime) else value


def _days(times: npt.NDArray[np.int64]) -> pd.Series[Any]:
    return pd.Series(np.where(times == MISSING, np.nan, times / SECONDS_OF_DAY))
