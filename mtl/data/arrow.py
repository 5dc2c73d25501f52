"""Columns of Arrow tables as what models and encoders take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from mtl.columns import DenseFeat, VarLenSparseFeat
from mtl.features import model_inputs, sparse_part


class Kind:
    """What a column should hold: called with an Arrow type, it says so if the type doesn't do."""

    expected = ""

    def takes(self, kind: Any) -> bool:
        """Return whether a column of this Arrow type will do."""
        raise NotImplementedError

    def __call__(self, kind: Any) -> str | None:
        """Return what is expected, in words, of a column of another type; None of a right one."""
        return None if self.takes(kind) else self.expected

    def array(self, column: Any) -> np.ndarray:
        """Return a `pyarrow.ChunkedArray` of N values as an array of N rows."""
        raise NotImplementedError


class _Number(Kind):
    expected = "numbers"

    def takes(self, kind: Any) -> bool:
        return _is_number(kind)

    def array(self, column: Any) -> np.ndarray:
        """Return float32 values; null is NaN."""
        return np.asarray(_cast(column, "float32"))


class _Numbers(_Number):
    expected = "numbers, or lists of them"

    def takes(self, kind: Any) -> bool:
        return _is_number(kind) or (_is_list(kind) and _is_number(kind.value_type))

    def array(self, column: Any) -> np.ndarray:
        """Return float32 values `(N,)`, or `(N, size)` of lists that are all of one size."""
        if not _is_list(column.type):
            return super().array(column)
        lengths, values = _lists(column)
        sizes = np.unique(lengths)
        if len(sizes) > 1:
            raise ValueError(f"Lists of labels should be of one length. Received: {sizes.tolist()}")
        return np.asarray(_cast(values, "float32")).reshape(len(lengths), -1)


class _Ids(Kind):
    expected = "integers"

    def takes(self, kind: Any) -> bool:
        return bool(_types().is_integer(kind))

    def array(self, column: Any) -> np.ndarray:
        """Return integers, or floats if there are nulls, which models refuse by name."""
        return np.asarray(column)


class _Category(Kind):
    expected = "strings, numbers or booleans"

    def takes(self, kind: Any) -> bool:
        types = _types()
        value = kind.value_type if types.is_dictionary(kind) else kind
        return types.is_string(value) or types.is_large_string(value) or _is_number(value)


class _Sequence(Kind):
    """Lists of ids or numbers, padded with 0; of longer ones the last entries."""

    def __init__(self, maxlen: int, inner: Kind) -> None:
        self.maxlen, self._inner = maxlen, inner
        self.expected = f"lists of {inner.expected}"

    def takes(self, kind: Any) -> bool:
        return _is_list(kind) and self._inner.takes(kind.value_type)

    def array(self, column: Any) -> np.ndarray:
        """Return `(N, maxlen)` values."""
        lengths, flat = _lists(column)
        return pad(lengths, self._inner.array(flat), self.maxlen)


class _Vector(_Number):
    """Lists of a fixed number of numbers."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.expected = f"lists of {size} numbers"

    def takes(self, kind: Any) -> bool:
        return _is_list(kind) and _is_number(kind.value_type)

    def array(self, column: Any) -> np.ndarray:
        """Return `(N, size)` float32 values."""
        lengths, flat = _lists(column)
        if (lengths != self._size).any():
            wrong = lengths[lengths != self._size][0]
            raise ValueError(f"There should be {self.expected}. Received: a list of {wrong}")
        return super().array(flat).reshape(-1, self._size)


class _Categories(Kind):
    expected = "lists of strings, numbers or booleans"

    def takes(self, kind: Any) -> bool:
        return _is_list(kind) and category.takes(kind.value_type)


class _Text(_Category):
    expected = "strings"

    def takes(self, kind: Any) -> bool:
        return super().takes(kind) and not _is_number(kind)


class _Time(_Text):
    expected = "timestamps, dates or strings"

    def takes(self, kind: Any) -> bool:
        return super().takes(kind) or _types().is_timestamp(kind) or _types().is_date(kind)


number, numbers, ids, category = _Number(), _Numbers(), _Ids(), _Category()
categories, text, time = _Categories(), _Text(), _Time()


class Features:
    """The columns that feature columns need, and how they become inputs.

    Args:
        columns: list of checked feature columns.

    Attributes:
        kinds: dict from column to its `Kind`.

    Raises:
        ValueError: a feature of strings.
    """

    def __init__(self, columns: Sequence[Any]) -> None:
        self.kinds: dict[str, Kind] = {}
        self._lengths: dict[str, tuple[str, int]] = {}
        self._weights: set[str] = set()
        for column in columns:
            if isinstance(column, DenseFeat):
                size = column.dimension
                self.kinds[column.name] = number if size == 1 else _Vector(size)
            elif sparse_part(column).dtype == "string":
                raise ValueError(
                    "`encoder` should be a TableEncoder where files hold strings. "
                    f"Received: the feature column {column.name!r} of strings"
                )
            elif isinstance(column, VarLenSparseFeat):
                self.kinds[column.name] = _Sequence(column.maxlen, ids)
                if column.weight_name:
                    self.kinds[column.weight_name] = _Sequence(column.maxlen, number)
                    self._weights.add(column.weight_name)
                if column.length_name:
                    self._lengths[column.length_name] = column.name, column.maxlen
            else:
                self.kinds[column.name] = ids
        self._names = [spec.name for spec in model_inputs(columns)]

    def arrays(self, table: Any) -> dict[str, np.ndarray]:
        """Return the inputs of a `pyarrow.Table`, by name."""
        found = {name: _named(name, kind, table[name]) for name, kind in self.kinds.items()}
        for name in self._weights:
            found[name] = found[name][..., None]
        for name, (sequence, maxlen) in self._lengths.items():
            found[name] = np.minimum(_lists(table[sequence])[0], maxlen)
        return {name: found[name] for name in self._names}


def pad(lengths: np.ndarray, values: np.ndarray, maxlen: int) -> np.ndarray:
    """Return `(N, maxlen)` values of lists: the last entries of each, then zeros.

    Args:
        lengths: (N,) integer array. How many values each list has.
        values: array of all lists' values.
        maxlen: int. The most entries that are kept.
    """
    kept = np.minimum(lengths, maxlen)
    first = np.cumsum(lengths) - kept
    within = np.arange(kept.sum()) - np.repeat(np.cumsum(kept) - kept, kept)
    padded = np.zeros((len(lengths), maxlen), values.dtype)
    padded[np.repeat(np.arange(len(lengths)), kept), within] = values[
        np.repeat(first, kept) + within
    ]
    return padded


def frame_of(table: Any) -> pd.DataFrame:
    """Return a `pyarrow.Table` as a DataFrame for a `TableEncoder`: strings are looked up once."""
    import pyarrow as pa

    # As floats, large integers beside a null would lose digits.
    whole = {pa.int64(): pd.Int64Dtype(), pa.uint64(): pd.UInt64Dtype()}
    return pd.DataFrame(
        {
            name: table[name].to_pandas(
                strings_to_categorical=True,
                types_mapper=whole.get if table[name].null_count else None,
            )
            for name in table.column_names
        }
    )


def _named(name: str, kind: Kind, column: Any) -> np.ndarray:
    try:
        return kind.array(column)
    except (TypeError, ValueError) as error:
        raise ValueError(f"Column {name!r}: {error}") from error


def _types() -> Any:
    from pyarrow import types

    return types


def _is_number(kind: Any) -> bool:
    types = _types()
    checks = (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal)
    return any(check(kind) for check in checks)


def _is_list(kind: Any) -> bool:
    types = _types()
    return any(
        check(kind) for check in (types.is_list, types.is_large_list, types.is_fixed_size_list)
    )


def _cast(column: Any, kind: str) -> Any:
    from pyarrow import compute

    if _types().is_boolean(column.type):
        column = compute.cast(column, "int8")
    return compute.cast(column, kind, safe=False)


def _lists(column: Any) -> tuple[np.ndarray, Any]:
    """Return the lengths of a column's lists, of which null is an empty one, and their entries."""
    from pyarrow import compute

    lengths = np.asarray(compute.fill_null(compute.list_value_length(column), 0))
    return lengths, compute.list_flatten(column)
