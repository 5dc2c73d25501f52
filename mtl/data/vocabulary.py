"""Vocabulary: the values of one categorical column and their ids."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

Category = bool | int | float | str
_EXACT = 2**53  # up to which floats hold every integer
KINDS = ("booleans", "integers", "floats", "strings")


@dataclass(frozen=True)
class Vocabulary:
    """The known values of a categorical column, in id order.

    Id 0 is the unknown row: any value that was not seen in fit, or too seldom, and a missing value
    (NaN, None, pd.NA) if that was so. Ids 1 to V are `categories` in sorted order; a missing value
    that was seen in fit is one more category, the last one. Values that are equal in Python (1, 1.0
    and True) are one category, so an integer column that became float because of a missing value
    still finds its ids; "1" and 1 are two. 0.1 in 32 bits and in 64 differ in Python, yet the one
    finds the id of the other if it has none of its own.

    Attributes:
        categories: tuple of bool, int, float and str. Sorted, numbers first, then strings; what
            `extended` adds comes behind, in an order of its own.
        missing: bool. Whether a missing value was seen (often enough).
        before: int or None. How many categories have ids below that of the missing value. Defaults
            to None: all.
    """

    categories: tuple[Category, ...]
    missing: bool
    before: int | None = None

    @property
    def size(self) -> int:
        """Number of ids, the unknown one included: the `vocabulary_size` of a `SparseFeat`."""
        return 1 + len(self.categories) + self.missing

    @property
    def dtype(self) -> str:
        """The type of a tensor of its values: "string", "float64", or, if need be, "int64".

        Floats hold missing values, and integers that arrive as floats.

        Raises:
            ValueError: no type holds all values.
        """
        if all(isinstance(value, str) for value in self.categories):
            return "string"
        whole = [value for value in self.categories if isinstance(value, int)]
        if all_numbers(self.categories) and all(abs(value) <= _EXACT for value in whole):
            return "float64"
        if len(whole) == len(self.categories) and all(abs(value) < 2**63 for value in whole):
            return "int64"
        raise ValueError(f"strings, or numbers of 64 bits. Received: {', '.join(self.kinds)}")

    @property
    def missing_id(self) -> int:
        """The id of a missing value: 0 if fit saw none."""
        return self._before + 1 if self.missing else 0

    @cached_property
    def entries(self) -> dict[Category, int]:
        """Every value that has an id, and its id: all that is needed to look values up.

        A fraction is there as it arrives in 32 bits, too, and one of 32 bits as it was written,
        unless that is a value of its own.
        """
        twins: dict[Category, int] = {}
        for value, i in self._ids.items():
            if kind_of(value) == "floats":
                with np.errstate(over="ignore"):
                    single = float(np.float32(value))
                if not single.is_integer():
                    twins |= {single: i, _decimal(value): i}
        return {**twins, **self._ids} if twins else self._ids

    @classmethod
    def fit(cls, name: str, column: pd.Series[Any], min_count: int = 1) -> Vocabulary:
        """Return the vocabulary of a column's values.

        Args:
            name: str. The column's name, for error messages.
            column: pd.Series of N strings, integers, floats, booleans or missing values.
            min_count: int. Rows that a value needs to be known. Defaults to 1.

        Raises:
            TypeError: the column holds something else.
        """
        nothing = cls((), False)
        return nothing.extended(nothing.count(name, column), min_count)

    def count(self, name: str, column: pd.Series[Any]) -> Counter[Any]:
        """Return how often a column holds each value that has no id, None for a missing one.

        Args:
            name: str. The column's name, for error messages.
            column: pd.Series of N strings, integers, floats, booleans or missing values.

        Raises:
            TypeError: the column holds something else.
        """
        codes, values = factorize(name, column)
        counts = _counts(codes, values)
        missing = counts.pop(None)
        ids = self._take(np.arange(len(values)), values)
        unknown = {value for value, i in zip(values, ids, strict=True) if not i}
        new = Counter({value: n for value, n in counts.items() if value in unknown})
        return new if self.missing else new + Counter({None: missing})

    def extended(self, counts: Mapping[Any, int], min_count: int) -> Vocabulary:
        """Return a vocabulary with new values behind the known ones, whose ids stay.

        Args:
            counts: what `count` returned, summed up.
            min_count: int. Rows that a value needs to be added.
        """
        new = [
            value
            for value, n in counts.items()
            if n >= min_count and value is not None and value not in self.entries
        ]
        categories = (*self.categories, *sorted(new, key=_order))
        if self.missing:
            return Vocabulary(categories, True, self._before)
        return Vocabulary(categories, counts.get(None, 0) >= min_count)

    @property
    def _before(self) -> int:
        return len(self.categories) if self.before is None else self.before

    def look_up(self, name: str, column: pd.Series[Any]) -> Found:
        """Return the ids of a column of N values, and what of it was not seen in fit.

        Args:
            name: str. The column's name, for error messages.
            column: pd.Series of N strings, integers, floats, booleans or missing values.

        Raises:
            TypeError: the column holds something else.
        """
        codes, values = factorize(name, column)
        return Found(self._take(codes, values), codes < 0, values, self._strange(values))

    @cached_property
    def kinds(self) -> list[str]:
        """What the known values are, out of booleans, integers, floats and strings."""
        return kinds_of(self.categories)

    def to_json(self) -> dict[str, Any]:
        """Return the vocabulary as a JSON-compatible dict."""
        moved = {"before": self._before} if self._before < len(self.categories) else {}
        return {"categories": list(self.categories), "missing": self.missing, **moved}

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> Vocabulary:
        """Return the vocabulary that `to_json` described; ValueError if it is damaged."""
        categories, missing = config["categories"], config["missing"]
        if not isinstance(missing, bool) or not isinstance(categories, list):
            raise ValueError("A vocabulary should have a list `categories` and a bool `missing`.")
        if not all(isinstance(value, Category) for value in categories):
            raise ValueError("`categories` should hold strings, numbers and booleans.")
        if len(set(categories)) < len(categories):
            raise ValueError("`categories` should differ from each other.")
        before = config.get("before")
        if before is not None and before not in range(len(categories)):
            raise ValueError("`before` should be a number of `categories`.")
        return cls(tuple(categories), missing, before)

    @cached_property
    def _ids(self) -> dict[Any, int]:
        # Kept, because it takes as long as the vocabulary is large, and a row to serve is short.
        shift = range(self._before, len(self.categories)) if self.missing else ()
        return {value: i + 1 + (i in shift) for i, value in enumerate(self.categories)}

    @cached_property
    def _numbers_as_text(self) -> set[str]:
        return {str(value) for value in self.categories if not isinstance(value, str)}

    @cached_property
    def _binary(self) -> bool:
        """Whether the known values are 0 and 1, which booleans are another form of."""
        return all(value in (0, 1) for value in self.categories)

    def _take(self, codes: npt.NDArray[np.intp], values: list[Any]) -> npt.NDArray[np.int32]:
        # Only the distinct values are looked up; the rows follow by one gather.
        ids = [self.entries.get(value, 0) for value in values]
        ids.append(self.missing_id)
        return np.asarray(ids, dtype=np.int32)[codes]

    def _strange(self, values: list[Any]) -> Category | None:
        """Return the first unknown value that is of no known kind, or known in another, or None."""
        if not self.categories:
            return None  # every value was rare: all are unknown, as `min_count` says
        # True equals 1 in Python, which means nothing where the known values are 1 to 10.
        equal = self._binary or "booleans" in self.kinds
        for value in values:
            unequal = isinstance(value, bool) and not equal
            known = value in self._ids and not unequal
            if not known and (not self._alike(value) or self._has_twin(value)):
                return value  # type: ignore[no-any-return]
        return None

    def _alike(self, value: Category) -> bool:
        kind = kind_of(value)
        # A column of floats holds whole ones, too.
        whole = kind == "integers" and isinstance(value, float) and "floats" in self.kinds
        return kind in self.kinds or whole

    def _has_twin(self, value: Category) -> bool:
        """Return whether the same text is known as a number, or the same number as text."""
        known = self._numbers_as_text if isinstance(value, str) else self._ids
        return str(value) in known


@dataclass(frozen=True)
class Found:
    """What a vocabulary tells of a column of N values.

    Attributes:
        ids: (N,) int32 array.
        missing: (N,) bool array. Which rows hold no value.
        values: list. The distinct values.
        strange: the first value of a kind that fit didn't see, or None.
    """

    ids: npt.NDArray[np.int32]
    missing: npt.NDArray[np.bool_]
    values: list[Any]
    strange: Category | None

    @property
    def unknown(self) -> npt.NDArray[np.bool_]:
        """Which rows hold a value without an id of its own."""
        unknown: npt.NDArray[np.bool_] = (self.ids == 0) & ~self.missing
        return unknown

    @property
    def kinds(self) -> list[str]:
        """What the values are, out of booleans, integers, floats and strings."""
        return kinds_of(self.values)


def _counts(codes: npt.NDArray[np.intp], values: list[Any]) -> Counter[Any]:
    """Return how many rows hold each value, None for a missing one."""
    # A missing value has code -1: the last entry.
    seen = np.bincount(codes % (len(values) + 1), minlength=len(values) + 1).tolist()
    counts: Counter[Any] = Counter()
    for value, count in zip([*values, None], seen, strict=True):
        counts[value] += count
    return counts


def factorize(name: str, column: pd.Series[Any]) -> tuple[npt.NDArray[np.intp], list[Any]]:
    """Return each row's index into the distinct values (-1: missing) and those values.

    Raises:
        TypeError: a value that is no category.
    """
    codes: Any
    values: Any
    if isinstance(column.dtype, pd.CategoricalDtype):
        codes, values = column.cat.codes.to_numpy(np.intp), column.cat.categories
        if len(values) > len(codes):  # a row to serve, with a million values in its dtype
            used, codes = np.unique(codes, return_inverse=True)
            absent = int(len(used) > 0 and used[0] < 0)
            codes, values = codes - absent, values[used[absent:]]
        else:
            used = np.flatnonzero(np.bincount(codes + 1, minlength=len(values) + 1)[1:])
            place = np.full(len(values) + 1, -1)
            place[used] = np.arange(len(used))
            codes, values = place[codes], values[used]
    else:
        try:
            codes, values = pd.factorize(column)
        except (TypeError, NotImplementedError):  # lists, dicts; the latter is pyarrow's
            values = column.dropna().tolist()
            plain = [v for v in values if not isinstance(v, Category)]
            raise _no_category(name, (plain or values)[0]) from None
    plain = [v.item() if isinstance(v, np.generic) else v for v in values.tolist()]
    if not all(issubclass(kind, Category) for kind in set(map(type, plain))):
        raise _no_category(name, next(v for v in plain if not isinstance(v, Category)))
    return np.asarray(codes, dtype=np.intp), plain


def _no_category(name: str, value: Any) -> TypeError:
    return TypeError(
        f"Categorical column {name!r} should hold strings, integers, floats or booleans. "
        f"Received: {value!r} of type {type(value).__name__}{advice(value)}"
    )


def advice(value: Any) -> str:
    """Return what to do with a value that is no category and no number, for an error message."""
    if isinstance(value, (datetime.date, datetime.time, datetime.timedelta, np.datetime64)):
        return " (list it among `times`, or take what matters of it: the days since a date)"
    if isinstance(value, (list, tuple, set, dict, np.ndarray)):
        return " (list it among `sequences`)"
    if isinstance(value, bytes):
        return " (decode it, such as by `.str.decode('utf-8')`)"
    if isinstance(value, (pd.Interval, pd.Period)):
        return " (as strings, it is a category: `.astype(str)`)"
    return ""


def kinds_of(values: Iterable[Category]) -> list[str]:
    """Return what values are, out of booleans, integers, floats and strings."""
    found = set(map(kind_of, values))
    return [kind for kind in KINDS if kind in found]


def kind_of(value: Category) -> str:
    """Return what a value is: one of booleans, integers, floats and strings."""
    if isinstance(value, str):
        return "strings"
    if isinstance(value, bool):
        return "booleans"
    return "integers" if isinstance(value, int) or value.is_integer() else "floats"


def _decimal(value: Any) -> Any:
    """Return what a fraction was written as, of 32 bits if it has no more than those."""
    if not isinstance(value, float) or value.is_integer():
        return value
    with np.errstate(over="ignore"):
        single = np.float32(value)
    # As a number of Python, for numpy would compare in 32 bits.
    return float(str(single)) if float(single) == value else value


def all_numbers(values: Iterable[Category | None]) -> bool:
    """Return whether no value is a string."""
    return not any(isinstance(value, str) for value in values)


def text_of(value: Category) -> str:
    """Return the text of a value, the same for values that are equal."""
    if isinstance(value, str):
        return value
    return str(_decimal(value) if kind_of(value) == "floats" else int(value))


def number_of(text: str) -> Category:
    """Return the number whose `text_of` a text is, or the text itself if there is none."""
    for parse in (int, float):
        try:
            number = parse(text)
        except ValueError:
            continue
        if text_of(number) == text and abs(number) < 2**64:
            return number
    return text


def _order(value: Category) -> tuple[bool, Category]:
    return isinstance(value, str), value
