"""Many named columns as a few matrices on the way through the data pipeline.

Every named array costs a slice, a copy and a tensor per batch, which for small models is more
than the step itself (less so on JAX). Packed on the host once, and unpacked in the graph,
where slices are free, dozens of inputs cost as much as two.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

_PREFIX = "mtl/packed/"
_BLOCK = 2048  # rows


def pack(x: Any, length: int | None = None) -> Any:
    """Join the single-column arrays of one dtype into one matrix, with the names as its key.

    Args:
        x: dict from input name to array, or anything else.
        length: int or None. The last row is repeated until there are so many. Defaults to None.

    Returns:
        A dict with one matrix `(N, columns)` per dtype beside the arrays of other shapes; `x`
        itself if it is no dict.
    """
    if not isinstance(x, dict):
        return x
    columns: dict[str, list[str]] = {}
    for name, value in x.items():
        numeric = isinstance(value, np.ndarray) and value.dtype.kind in "fiu"
        if numeric and value.shape[1:] in ((), (1,)):
            columns.setdefault(value.dtype.name, []).append(name)
    packed = dict(x)
    for names in columns.values():
        if len(names) > 1:
            matrix = _beside([packed.pop(name).reshape(-1) for name in names], length)
            packed[_PREFIX + "/".join(names)] = matrix
    return {name: _longer(value, length) for name, value in packed.items()}


def _beside(columns: list[Any], length: int | None) -> Any:
    """Return columns as one matrix, written by blocks that a core's cache holds."""
    rows = len(columns[0])
    matrix = np.empty((length or rows, len(columns)), columns[0].dtype)
    for start in range(0, rows, _BLOCK):
        block = slice(start, min(start + _BLOCK, rows))
        for k, column in enumerate(columns):
            matrix[block, k] = column[block]
    return _filled_up(matrix, rows)


def _longer(value: Any, length: int | None) -> Any:
    """Return an array in C order, its last row repeated up to a length."""
    if not isinstance(value, np.ndarray):
        return value
    if length is None or length == len(value):
        return np.ascontiguousarray(value)
    longer = np.empty((length, *value.shape[1:]), value.dtype)
    longer[: len(value)] = value
    return _filled_up(longer, len(value))


def _filled_up(values: Any, rows: int) -> Any:
    """Return an array after repeating the last of its first rows to the end."""
    if len(values) > rows:
        values[rows:] = values[rows - 1]
    return values


def packed(x: Any) -> bool:
    """Return whether `pack` made this of several arrays."""
    return isinstance(x, dict) and any(name.startswith(_PREFIX) for name in x)


def unpack(x: dict[str, Any]) -> dict[str, Any]:
    """Return the named tensors `(B, 1)` of what `pack` made; other entries as they are."""
    named: dict[str, Any] = {}
    for key, value in x.items():
        if key.startswith(_PREFIX):
            names = key[len(_PREFIX) :].split("/")
            named.update(zip(names, ops.split(value, len(names), axis=1), strict=True))
        else:
            named[key] = value
    return named
