"""NumericColumn: numbers that are scaled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from mtl import checks
from mtl.data.arrow import Kind, number
from mtl.data.raw.base import Encoded, Options, RawColumn
from mtl.data.scaler import SCALINGS, Scaler, signed_log, to_float64
from mtl.encodings import BY_NAME
from mtl.features import DenseFeat

_PRECISION = 4096  # of the sketch: a rank is off by 7e-4 at most, in 99 of 100 columns
_POINTS = 10_001  # that stand for a column's values where bins are chosen


class NumericColumn(RawColumn):
    """A column of numbers: one scaled number per row.

    Attributes:
        scaler: `Scaler`.
        encoding: what the model makes of the scaled number (see `mtl.encodings`), or None.
    """

    argument = "numeric"
    options: ClassVar[Options] = {
        "scaling": ("minmax", checks.one_of(*SCALINGS)),
        "encoding": (None, checks.one_of(None, *BY_NAME)),
        "bins": (32, checks.positive_int),
        "min_share": (0.0, checks.rate),
        "clip": (False, checks.boolean),
    }
    scaler: Scaler
    encoding: Any = None

    @property
    def holds(self) -> Kind:
        """Numbers."""
        return number

    def learner(self, others: Mapping[str, Any], exact: bool) -> _Moments:
        """Return what learns the column's moments and quantiles."""
        return _Moments(self, exact)

    def encode(self, column: pd.Series[Any]) -> Encoded:
        """Return the (N,) float32 scaled numbers of a column of N values."""
        values = to_float64(self.name, column)
        missing, scaled = np.isnan(values), self.scaler.transform(self.name, values)
        return Encoded({self.name: scaled}, missing, "" if missing.all() else self.fitted_on)

    @property
    def fitted_on(self) -> str:
        """Numbers."""
        return "numbers"

    @property
    def feature_columns(self) -> list[Any]:
        """One `DenseFeat`."""
        return [DenseFeat(self.name, 1, transform_fn=self.encoding)]

    def to_json(self) -> dict[str, Any]:
        """Return the scaler, and the encoding's edges, as a JSON-compatible dict."""
        edges = {"edges": self.encoding.edges} if self.encoding else {}
        return {**self.scaler.to_json(), **edges}

    def from_json(self, config: Mapping[str, Any], others: Mapping[str, RawColumn]) -> Any:
        """Return the column with the scaler and the encoding that `to_json` described."""
        kind = self.settings["encoding"]
        encoding = BY_NAME[kind](config["edges"]) if kind else None
        return self.having(scaler=Scaler.from_json(config), encoding=encoding)


class _Moments:
    """Moments and quantiles of a column of numbers.

    Args:
        column: `NumericColumn`.
        exact: bool. Whether quantiles are those of all values, which are kept, or of a sketch.

    Raises:
        ImportError: a sketch is needed, and datasketches isn't installed.
    """

    def __init__(self, column: NumericColumn, exact: bool) -> None:
        self._column, self._scaling = column, column.settings["scaling"]
        self._count = 0
        self._mean = self._center = self._squares = 0.0
        self._low, self._high = np.inf, -np.inf
        self._quantiles: Any = None
        if column.settings["encoding"] or self._scaling == "robust":
            self._quantiles = _Values() if exact else _Sketch()

    def add(self, column: pd.Series[Any]) -> None:
        """Take notice of some rows; raises as `to_float64`."""
        values = to_float64(self._column.name, column)
        if self._quantiles:
            self._quantiles.add(values)
        values = values[~np.isnan(values)]
        if not len(values):
            return
        self._count += len(values)
        share = len(values) / self._count
        self._mean += share * (float(values.mean()) - self._mean)
        if self._scaling == "log":
            values = signed_log(values)
        self._low = min(self._low, float(values.min()))
        self._high = max(self._high, float(values.max()))
        # Chan's update of the sum of squared deviations.
        apart = float(values.mean()) - self._center
        self._squares += float(values.var()) * len(values)
        self._squares += apart**2 * share * (self._count - len(values))
        self._center += share * apart

    def done(self) -> NumericColumn:
        """Return the column with the scaler of all rows; ValueError if there was no value."""
        name, settings = self._column.name, self._column.settings
        if not self._count:
            raise ValueError(
                f"Numeric column {name!r} should hold at least one value in the training rows. "
                "Received: missing values only."
            )
        deviation = (self._squares / self._count) ** 0.5
        quartiles = self._quantiles.at([0.25, 0.5, 0.75]) if self._scaling == "robust" else ()
        scaler = Scaler.of(
            self._scaling, self._mean, self._low, self._high, self._center, deviation, quartiles
        )
        if settings["clip"]:
            scaler = replace(scaler, low=self._low, high=self._high)
        encoding = None
        if settings["encoding"]:
            sample = scaler.transform(name, np.asarray(self._quantiles.sample()))
            share = settings["min_share"]
            encoding = BY_NAME[settings["encoding"]].fit(sample, settings["bins"], min_share=share)
        return self._column.having(scaler=scaler, encoding=encoding)  # type: ignore[no-any-return]


class _Values:
    """Quantiles of values in memory."""

    def __init__(self) -> None:
        self._parts: list[npt.NDArray[np.float64]] = []

    def add(self, values: npt.NDArray[np.float64]) -> None:
        self._parts.append(values)

    def at(self, ranks: list[float]) -> Any:
        return np.nanquantile(self.sample(), ranks)

    def sample(self) -> Any:
        """Return values that stand for the column: all of them."""
        return np.concatenate(self._parts)


class _Sketch:
    """Quantiles of values that are not kept."""

    def __init__(self) -> None:
        try:
            from datasketches import kll_doubles_sketch
        except ImportError as error:
            raise ImportError(
                "Quantiles of files need datasketches: pip install 'keras-mtl[parquet]'"
            ) from error
        self._sketch = kll_doubles_sketch(_PRECISION)

    def add(self, values: npt.NDArray[np.float64]) -> None:
        self._sketch.update(values[~np.isnan(values)])

    def at(self, ranks: list[float]) -> Any:
        return self._sketch.get_quantiles(ranks)

    def sample(self) -> Any:
        """Return values that stand for the column: its quantiles at even steps."""
        return self.at(np.linspace(0, 1, _POINTS).tolist())
