"""Arrays of numpy, pandas, pyarrow and plain Python, as numpy arrays in which NaN is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import pandas as pd


def by_name(argument: str, values: Any) -> Any:
    """Return a table (of pyarrow, or a DataFrame) as a mapping by column; else what was given.

    Args:
        argument: str. Name of the argument, for errors.
        values: anything.

    Raises:
        ValueError: a DataFrame or table that has a column twice.
    """
    if _of_pyarrow(values) and hasattr(values, "column_names"):
        names = list(values.column_names)
    elif isinstance(values, pd.DataFrame):
        names = list(values.columns)
    else:
        return values
    twice = sorted({str(name) for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"`{argument}` should have each column once. Received: {twice} twice")
    if isinstance(values, pd.DataFrame):
        return values
    return {name: values.column(i) for i, name in enumerate(names)}


def is_host_array(value: Any) -> bool:
    """Return whether `value` is made of numpy, pandas, pyarrow or plain Python (no tensor)."""
    kinds = (
        np.ndarray,
        np.generic,
        pd.Series,
        pd.Index,
        pd.DataFrame,
        pd.api.extensions.ExtensionArray,
        list,
        tuple,
        range,
    )
    return isinstance(value, kinds) or (_of_pyarrow(value) and hasattr(value, "to_pandas"))


def array_of(label: str, value: Any, pad: str = "") -> np.ndarray:
    """Return a numpy array; missing values, whatever their kind, are NaN.

    Args:
        label: str. What errors call it.
        value: an array in any of the forms of `is_host_array`, or a tensor.
        pad: str. What to do where rows differ in length, for the error. Defaults to "".

    Raises:
        TypeError: no array at all.
        ValueError: rows of different lengths.
    """
    if _of_pyarrow(value):
        value = value.to_pandas()
    if isinstance(value, np.ma.MaskedArray):
        masked = np.ma.getmaskarray(value)
        value = np.where(masked, np.nan, value.data) if masked.any() else value.data
    elif isinstance(value, (pd.Series, pd.Index, pd.api.extensions.ExtensionArray)):
        value = _of_pandas(value)
    elif not is_host_array(value):
        if not keras.ops.is_tensor(value) and not hasattr(value, "__array__"):
            raise TypeError(
                f"`{label}` should be an array with one entry per row. Received: {value!r}"
            )
        value = keras.ops.convert_to_numpy(value)
    try:
        array = np.asarray(value)
    except ValueError as error:  # lists of different lengths
        raise _ragged(label, [0 if row is None else np.size(row) for row in value], pad) from error
    if (
        array.dtype.kind == "O"
        and array.ndim == 1
        and any(map(_is_row, array[pd.notna(array)][:1]))
    ):
        lengths = {len(row) if _is_row(row) else 0 for row in array}
        if len(lengths) > 1:
            raise _ragged(label, lengths, pad)
        array = np.stack([np.asarray(row) for row in array])
    return array


def numbers(label: str, array: np.ndarray, finite: bool) -> np.ndarray:
    """Return an array of a numeric type, or raise.

    Args:
        label: str. What errors call it.
        array: a numpy array.
        finite: bool. Whether to refuse NaN, and what is infinite in float32.

    Raises:
        TypeError: no numbers.
        ValueError: numbers that aren't finite.
    """
    if array.dtype.kind == "O":
        try:
            array = np.where(pd.isna(array), np.nan, array).astype("float64")
        except (TypeError, ValueError) as error:
            raise TypeError(f"`{label}` should hold numbers. Received: {example(array)}") from error
    if array.dtype.kind not in "fiub":
        raise TypeError(f"`{label}` should hold numbers. Received: {example(array)}")
    if not finite or array.dtype.kind != "f":
        return array
    with np.errstate(over="ignore"):
        valid = np.isfinite(array.astype("float32", copy=False))
    if not valid.all():
        wrong = array[~valid]
        raise ValueError(
            f"`{label}` should hold finite numbers: fill missing values first. "
            f"Received: {wrong.size} values such as {wrong.flat[0]}"
        )
    return array


def shaped(label: str, array: np.ndarray, *shapes: tuple[int, ...]) -> np.ndarray:
    """Return an array with a last axis where it could be left out, which is a view, or raise.

    One shape whatever the form: `(N,)` beside `(N, 1)` broadcasts to `(N, N)`, and compiled
    functions take the one or the other.

    Args:
        label: str. What errors call it.
        array: a numpy array.
        *shapes: the shapes of a row; of one that ends with 1, this may be left out.

    Raises:
        ValueError: another shape.
    """
    for shape in shapes:
        if array.ndim and array.shape[1:] == shape:
            return array
        if array.ndim and shape[-1] == 1 and array.shape[1:] == shape[:-1]:
            return array[..., None]
    raise wrong_shape(label, array.shape, shapes)


def wrong_shape(
    label: str, shape: tuple[Any, ...], shapes: Sequence[tuple[int, ...]], hint: str = ""
) -> ValueError:
    """Return the error of an array of another shape than those that `shaped` takes."""
    allowed = {each for s in shapes for each in (s, s[:-1] if s[-1] == 1 else s)}
    expected = " or ".join(str(("N", *each)).replace("'", "") for each in sorted(allowed))
    return ValueError(f"`{label}` should have shape {expected}. Received: {shape}{hint}")


def example(array: np.ndarray) -> str:
    """Return an array's first value, for errors."""
    first = repr(array.flat[0]) if array.size else "an empty array"
    return f"{first} (dtype {array.dtype})"


def describe(value: Any) -> str:
    """Return a value's form, for errors."""
    shape = getattr(value, "shape", None)
    if shape is not None:
        return f"an array of shape {shape}"
    sized = isinstance(value, (list, tuple, Mapping))
    return f"{len(value)} entries" if sized else repr(value)


def _of_pandas(value: Any) -> Any:
    if not pd.api.types.is_extension_array_dtype(value.dtype):
        return value
    if pd.api.types.is_numeric_dtype(value.dtype) or pd.api.types.is_bool_dtype(value.dtype):
        missing = pd.isna(value)
        if missing.any():
            return np.asarray(value.to_numpy(dtype="float64", na_value=np.nan))
        # Without missing values nullable types are plain ones, in whose width ids keep their bits.
        kind = getattr(value.dtype, "numpy_dtype", None)
        return value.to_numpy(dtype=kind) if kind is not None else np.asarray(value)
    return value


def _of_pyarrow(value: Any) -> bool:
    return type(value).__module__.split(".")[0] == "pyarrow"


def _is_row(value: Any) -> bool:
    return isinstance(value, (list, tuple, np.ndarray))


def _ragged(label: str, lengths: Any, pad: str) -> ValueError:
    found = sorted({int(length) for length in lengths})
    return ValueError(
        f"`{label}` should hold lists of one length{pad}. Received: lists of {found} entries"
    )
