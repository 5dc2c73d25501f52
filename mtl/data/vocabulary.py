"""Vocabulary: the values of one categorical column and their ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

Category = bool | int | float | str


@dataclass(frozen=True)
class Vocabulary:
    """The known values of a categorical column, in id order.

    Id 0 is the unknown row: any value that was not seen in fit, or too seldom, and a missing value
    (NaN, None, pd.NA) if that was so. Ids 1 to V are `categories` in sorted order; a missing value
    that was seen in fit is one more category, the last one. Values that are equal in Python (1, 1.0
    and True) are one category, so an integer column that became float because of a missing value
    still finds its ids; "1" and 1 are two.

    Attributes:
        categories: tuple of bool, int, float and str. Sorted: numbers first, then strings.
        missing: bool. Whether a missing value was seen in fit (often enough).
    """

    categories: tuple[Category, ...]
    missing: bool

    @property
    def size(self) -> int:
        """Number of ids, the unknown one included: the `vocabulary_size` of a `SparseFeat`."""
        return 1 + len(self.categories) + self.missing

    @classmethod
    def fit(
        cls, name: str, column: pd.Series[Any], min_count: int = 1
    ) -> tuple[Vocabulary, npt.NDArray[np.int32]]:
        """Collect the values of a column.

        Args:
            name: str. The column's name, for error messages.
            column: pd.Series of N strings, integers, floats, booleans or missing values.
            min_count: int. Rows that a value needs to be known. Defaults to 1.

        Returns:
            The vocabulary, and the (N,) int32 ids of the column itself.

        Raises:
            TypeError: the column holds something else.
        """
        codes, values = _factorize(name, column)
        # A missing value has code -1: the last entry.
        seen = np.bincount(codes % (len(values) + 1), minlength=len(values) + 1)
        counts: dict[Any, int] = {}
        for value, count in zip(values, seen[:-1].tolist(), strict=True):
            if count:
                counts[value] = counts.get(value, 0) + count
        for value in counts:
            if not isinstance(value, Category):
                raise TypeError(
                    f"Categorical column {name!r} should hold strings, integers, floats or "
                    f"booleans. Received: {value!r} of type {type(value).__name__}"
                )
        known = (value for value, count in counts.items() if count >= min_count)
        vocabulary = cls(tuple(sorted(known, key=_order)), bool(seen[-1] >= min_count))
        return vocabulary, vocabulary._take(codes, values)

    def ids(self, name: str, column: pd.Series[Any]) -> npt.NDArray[np.int32]:
        """Return the (N,) int32 ids of a column of N values."""
        return self._take(*_factorize(name, column))

    def to_json(self) -> dict[str, Any]:
        """Return the vocabulary as a JSON-compatible dict."""
        return {"categories": list(self.categories), "missing": self.missing}

    @classmethod
    def from_json(cls, config: dict[str, Any]) -> Vocabulary:
        """Return the vocabulary that `to_json` described; ValueError if it is damaged."""
        categories, missing = config["categories"], config["missing"]
        if not isinstance(missing, bool) or not isinstance(categories, list):
            raise ValueError("A vocabulary should have a list `categories` and a bool `missing`.")
        if not all(isinstance(value, Category) for value in categories):
            raise ValueError("`categories` should hold strings, numbers and booleans.")
        if len(set(categories)) < len(categories):
            raise ValueError("`categories` should differ from each other.")
        return cls(tuple(categories), missing)

    def _take(self, codes: npt.NDArray[np.intp], values: list[Any]) -> npt.NDArray[np.int32]:
        # Only the distinct values are looked up; the rows follow by one gather.
        known = {value: i + 1 for i, value in enumerate(self.categories)}
        ids = [known.get(value, 0) for value in values]
        ids.append(self.size - 1 if self.missing else 0)
        return np.asarray(ids, dtype=np.int32)[codes]


def _factorize(name: str, column: pd.Series[Any]) -> tuple[npt.NDArray[np.intp], list[Any]]:
    """Return each row's index into the distinct values (-1: missing) and those values."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        codes: Any = column.cat.codes
        values: Any = column.cat.categories
    else:
        try:
            codes, values = pd.factorize(column)
        except TypeError as error:
            raise TypeError(
                f"Categorical column {name!r} should hold strings, integers, floats or booleans. "
                f"Received: {error}"
            ) from error
    plain = [v.item() if isinstance(v, np.generic) else v for v in values.tolist()]
    return np.asarray(codes, dtype=np.intp), plain


def _order(value: Category) -> tuple[bool, Category]:
    return isinstance(value, str), value
