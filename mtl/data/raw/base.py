"""RawColumn: what the kinds of columns have in common."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from mtl.data.arrow import Kind
from mtl.data.vocabulary import Found

# By name of a setting: its default, and its check.
Options = Mapping[str, tuple[Any, Callable[[str, Any], Any]]]


class Learner(Protocol):
    """What learns of a column, some rows at a time."""

    def add(self, column: pd.Series[Any]) -> None:
        """Take notice of some rows."""

    def done(self) -> Any:
        """Return the `RawColumn` that knows what was learnt."""


@dataclass(frozen=True)
class Encoded:
    """What a column of N rows became.

    Attributes:
        arrays: dict of arrays of N rows, by the name of the model's input.
        missing: (N,) bool array. Which rows hold no value.
        received: str. The kinds of the values, in words.
        found: what a vocabulary tells of the values; None of those that need none.
    """

    arrays: dict[str, npt.NDArray[Any]]
    missing: npt.NDArray[np.bool_]
    received: str
    found: Found | None = None

    @property
    def shares(self) -> tuple[float, float]:
        """The shares of unknown values and of missing rows; NaN where there is none to know."""
        unknown = np.array([]) if self.found is None else self.found.unknown
        return _share(unknown), _share(self.missing)


class RawColumn(ABC):
    """One column of a table. It doesn't change: learning makes a new one.

    Args:
        name: str. The column's name.
        settings: dict. A value for each of `options`.
    """

    argument: ClassVar[str]  # of TableEncoder, which lists such columns
    options: ClassVar[Options]

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        self.name, self.settings = name, dict(settings)

    @property
    def inputs(self) -> list[str]:
        """The names of the model's inputs that the column becomes."""
        return [self.name]

    def having(self, **learnt: Any) -> Any:
        """Return the column with other attributes."""
        other = copy.copy(self)
        other.__dict__.update(learnt)
        return other

    @property
    @abstractmethod
    def holds(self) -> Kind:
        """What such a column of an Arrow table should hold."""

    @abstractmethod
    def learner(self, others: Mapping[str, Any], exact: bool) -> Learner:
        """Return what learns of the column from nothing.

        Args:
            others: dict from column to the learners that there are already.
            exact: bool. Whether rows fit into memory. If not, quantiles are those of a sketch.
        """

    def extender(self, others: Mapping[str, Any], min_count: int | None) -> Learner | None:
        """Return what learns new values behind the known ones; None where there is nothing to."""
        return None

    @abstractmethod
    def encode(self, column: pd.Series[Any]) -> Encoded:
        """Return what a column of N rows becomes.

        Raises:
            TypeError: values that the column can't hold.
            ValueError: infinite numbers.
        """

    @property
    @abstractmethod
    def fitted_on(self) -> str:
        """The kinds of the values that fit saw, in words."""

    @property
    @abstractmethod
    def feature_columns(self) -> list[Any]:
        """The features that the column becomes."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return what was learnt as a JSON-compatible dict, without the settings."""

    @abstractmethod
    def from_json(self, config: Mapping[str, Any], others: Mapping[str, RawColumn]) -> Any:
        """Return the column with what `to_json` described.

        Raises:
            KeyError, TypeError or ValueError: a damaged description.
        """

    def __str__(self) -> str:
        return self.name


def _share(rows: npt.NDArray[Any]) -> float:
    return float(rows.mean()) if len(rows) else float("nan")
