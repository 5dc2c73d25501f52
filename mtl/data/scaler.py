"""Scaler: the fitted scaling of one numeric column."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mtl.data.vocabulary import advice

SCALINGS = ("minmax", "standard", "robust", "log", "none")
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Scaler:
    """(value - shift) / scale, with missing values replaced by the training mean first.

    Attributes:
        mean: float. Mean of the training column's present values, in the column's unit.
        shift: float. Its minimum ("minmax"), its mean ("standard", "log"), its median ("robust")
            or 0 ("none").
        scale: float. Its range ("minmax"), its population standard deviation ("standard", "log"),
            its interquartile range ("robust"; the deviation where half of the values are equal)
            or 1 ("none"). 0 marks a column that was constant in training: it tells nothing, so
            every value of it becomes 0, in other frames too.
        log: bool. Whether sign(value) · log(1 + |value|) takes the value's place, in shift and
            scale as well ("log").
        low: float or None. The least value of the training column, in the unit of `shift`, that
            lesser ones become; None lets them be.
        high: float or None. The greatest one.
    """

    mean: float
    shift: float
    scale: float
    log: bool = False
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(
        cls,
        scaling: str,
        mean: float,
        low: float,
        high: float,
        center: float,
        deviation: float,
        quartiles: Any,
    ) -> Scaler:
        """Return the scaler that follows from what is known of a column's present values.

        Args:
            scaling: str. One of `SCALINGS`.
            mean: float. Their mean.
            low: float. The least of them; with "log" of their logarithms, as all that follows.
            high: float. The greatest.
            center: float. The mean.
            deviation: float. The population standard deviation.
            quartiles: three float, for "robust".
        """
        log = scaling == "log"
        if scaling == "none":
            return cls(mean, 0.0, 1.0)
        if low == high:
            # Not std == 0: rounding can leave a constant column a tiny deviation.
            return cls(mean, low, 0.0, log)
        if scaling == "minmax":
            return cls(mean, low, high - low)
        if scaling == "robust":
            first, median, third = map(float, quartiles)
            return cls(mean, median, third - first or deviation)
        return cls(mean, center, deviation, log)

    def to_json(self) -> dict[str, Any]:
        """Return the scaler as a JSON-compatible dict."""
        return {field: value for field, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> Scaler:
        """Return the scaler that `to_json` described; ValueError if it is damaged."""
        fields = ["mean", "shift", "scale", *(("low", "high") if "low" in config else ())]
        values = [config[field] for field in fields]
        log = config.get("log", False)
        if not all(
            isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v)
            for v in values
        ):
            names = ", ".join(f"`{field}`" for field in fields)
            raise ValueError(f"{names} should be numbers. Received: {values}")
        if not isinstance(log, bool):
            raise ValueError(f"`log` should be a bool. Received: {log!r}")
        return cls(log=log, **dict(zip(fields, map(float, values), strict=True)))

    def transform(self, name: str, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        """Return the (N,) float32 scaled values of a column of N values (see `to_float64`).

        Raises:
            ValueError: a value that float32 can't hold after scaling.
        """
        if self.scale == 0:
            return np.zeros(len(values), dtype=np.float32)
        values = np.where(np.isnan(values), self.mean, values)
        received = values
        if self.log:
            values = signed_log(values)
        if self.low is not None:
            values = np.clip(values, self.low, self.high)
        with np.errstate(over="ignore"):
            scaled = ((values - self.shift) / self.scale).astype(np.float32)
        if not np.isfinite(scaled).all():
            raise ValueError(
                f"Numeric column {name!r} should fit float32 after scaling. "
                f"Received: {received[~np.isfinite(scaled)][0]}"
            )
        return scaled


def signed_log(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return sign(v) · log(1 + |v|)."""
    return np.sign(values) * np.log1p(np.abs(values))


def to_float64(name: str, column: pd.Series[Any]) -> npt.NDArray[np.float64]:
    """Return a column of N numbers, booleans or missing values as (N,) floats, NaN where missing.

    Args:
        name: str. The column's name, for error messages.
        column: pd.Series of N numbers, booleans or missing values.

    Raises:
        TypeError: the column holds something else.
        ValueError: an infinite value, or one beyond float32's range.
    """
    dtype = column.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        dtype = dtype.categories.dtype
    if not pd.api.types.is_numeric_dtype(dtype) or pd.api.types.is_complex_dtype(dtype):
        _check_numbers(name, column)
    if getattr(dtype, "kind", "") in "mM":  # without a value, whose missing ones are numbers
        raise TypeError(
            f"Numeric column {name!r} should hold numbers. Received: a column of dtype {dtype}"
        )
    values: npt.NDArray[np.float64] = column.to_numpy(dtype=np.float64, na_value=np.nan)
    too_large = np.abs(values) > _LARGEST
    if too_large.any():
        raise ValueError(
            f"Numeric column {name!r} should hold finite numbers within float32's range. "
            f"Received: {values[too_large][0]}"
        )
    return values


def _check_numbers(name: str, column: pd.Series[Any]) -> None:
    """Raise unless a column of no numeric dtype holds plain numbers after all."""
    for value in column.dropna():  # not its distinct values: those of lists can't be told
        if not isinstance(value, (numbers.Real, Decimal, np.bool_)):
            raise TypeError(
                f"Numeric column {name!r} should hold numbers. "
                f"Received: {value!r} of type {type(value).__name__}{advice(value)}"
            )
