"""What users pass as features, checked and put into the form that the model takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
import pandas as pd
from keras import ops

from mtl.features import DenseFeat, VarLenSparseFeat, model_inputs
from mtl.layers.hashing import to_int32
from mtl.training import host

_INT32 = np.iinfo(np.int32)
_WIDE = ("int64", "uint32", "uint64")
# It hashes as 0 does, whatever the vocabulary, and is no padding in sequences.
NO_PADDING = 2126943072
MAP_STRINGS = (
    "map strings to ids with mtl.data.TableEncoder, or use a string column with use_hash=True"
)


class Inputs:
    """The inputs of a model, and the check of what is given for them.

    It holds nothing but names and types, so that data sets can take it to other processes.

    Args:
        columns: the model's feature columns.

    Attributes:
        specs: list of `mtl.features.Input`.
        hashed: set of the names of hashed ids.
        numbers: set of the names of numbers.
        free: set of the names of numbers that may be NaN or infinite.
    """

    def __init__(self, columns: Iterable[Any]) -> None:
        columns = list(columns)
        self.specs = model_inputs(columns)
        self.hashed: set[str] = set()
        self.numbers: set[str] = set()
        self.free: set[str] = set()
        self._pads: dict[str, str] = {}
        for column in columns:
            if isinstance(column, DenseFeat):
                self.numbers.add(column.name)
                self._pads[column.name] = f": its dimension, {column.dimension}"
                if column.transform_fn is not None:
                    self.free.add(column.name)
            elif column.use_hash:
                self.hashed.add(column.name)
            if isinstance(column, VarLenSparseFeat):
                for name in filter(None, (column.name, column.weight_name)):
                    self._pads[name] = f": pad to maxlen {column.maxlen}"
                if column.weight_name:
                    self.numbers.add(column.weight_name)

    def narrow(self, name: str, ids: Any) -> Any:
        """Return ids of one input in 32 bits, without wrapping; see `check_inputs`."""
        if isinstance(ids, np.ndarray):
            return _ids(f"x[{name!r}]", ids, "int32", name in self.hashed)
        return _narrow(ids, name in self.hashed)

    def check(self, x: Any) -> Any:
        """Return the arrays that the model needs; see `check_inputs`."""
        x = host.by_name("x", x)
        if isinstance(x, (list, tuple, np.ndarray, pd.Series)):
            raise TypeError(
                "`x` should be a dict from feature name to array. "
                f"Received: {host.describe(x)} of type {type(x).__name__}"
            )
        if not isinstance(x, (Mapping, pd.DataFrame)):
            return x
        self.check_names(x)
        arrays = {spec.name: self._checked(spec, x[spec.name]) for spec in self.specs}
        _check_rows(arrays)
        return arrays

    def check_names(self, x: Any) -> None:
        """Raise a ValueError if a mapping or DataFrame lacks an input."""
        missing = [spec.name for spec in self.specs if spec.name not in x]
        if missing:
            raise ValueError(
                f"`x` should hold every feature. Missing: {missing}. Received: {list(x)}"
            )

    def _checked(self, spec: Any, value: Any) -> Any:
        name, label = spec.name, f"x[{spec.name!r}]"
        if not host.is_host_array(value):
            if not hasattr(value, "shape") or not hasattr(value, "dtype"):
                raise TypeError(
                    f"`{label}` should be an array with one entry per row. Received: {value!r}"
                )
            single = spec.shape == (1,) and len(value.shape) == 1
            return ops.reshape(value, (-1, 1)) if single else value
        value = host.array_of(label, value, self._pads.get(name, ""))
        if spec.dtype == "string":
            _check_strings(label, value)
        elif name in self.numbers:
            value = host.numbers(label, value, finite=name not in self.free)
            value = value.astype(spec.dtype, copy=False)
        else:
            value = _ids(label, value, spec.dtype, name in self.hashed)
        value = host.shaped(label, value, spec.shape)
        return _as_tensor(value) if spec.dtype == "string" else value


def check_inputs(columns: Iterable[Any], x: Any) -> Any:
    """Return the arrays that the model needs, by input name, in the dtypes that it takes.

    Args:
        columns: the model's feature columns.
        x: dict, DataFrame or pyarrow table from input name to array. More entries than needed are
            left out. Data sets, generators and `PyDataset`s are returned as they are.

    Returns:
        A dict from input name to array, or `x` itself. Single columns have shape `(N, 1)`.

    Raises:
        TypeError: strings where numbers are expected, a value that is no array, or a list of
            arrays without names.
        ValueError: a missing feature, a wrong shape, rows of different lengths, fractional ids,
            NaN or infinite values, or a DataFrame with a column twice.
    """
    return Inputs(columns).check(x)


def _ids(label: str, array: np.ndarray, dtype: str, hashed: bool) -> np.ndarray:
    if array.dtype.kind == "O":
        kind = pd.api.types.infer_dtype(array.ravel())  # missing values aside
        if kind in ("integer", "integer-na"):
            missing = pd.isna(array)
            array = np.where(missing, np.nan, array).astype("float64" if missing.any() else "int64")
    if array.dtype.kind == "f":
        if not (np.isfinite(array).all() and (array == np.floor(array)).all()):
            wrong = array[~(np.isfinite(array) & (array == np.floor(array)))]
            raise ValueError(
                f"`{label}` should hold integer ids. Received: values such as {wrong.flat[0]}"
            )
        # Beyond 64 bits the cast would be undefined; this is beyond every vocabulary, too.
        array = np.clip(array, -(2.0**62), 2.0**62).astype("int64")
    if array.dtype.kind not in "iub":
        raise TypeError(
            f"`{label}` should hold integer ids ({MAP_STRINGS}). Received: {host.example(array)}"
        )
    wide = array.dtype.itemsize >= 4 and array.dtype != np.int32
    if dtype == "int32" and wide and array.size and _outside(array):
        # A plain cast would wrap into the vocabulary. -1 is outside it; hashing keeps all bits.
        longs = array.astype("int64")
        beyond = (array < _INT32.min) | (array > _INT32.max)
        array = np.where(beyond, _fold(longs) if hashed else -1, longs)
    return array.astype(dtype, copy=False)


def _outside(array: np.ndarray) -> bool:
    """Return whether integers, of which there are some, don't all fit into 32 bits."""
    return bool(array.min() < _INT32.min or array.max() > _INT32.max)


def _fold(wide: np.ndarray) -> np.ndarray:
    """Fold 64-bit ids into 32 bits as `mtl.layers.hashing.to_int32` does."""
    low = (wide & 0xFFFFFFFF).astype("uint32").astype("int32")
    folded: np.ndarray = low ^ (wide >> 32).astype("int32")
    return np.where(folded == 0, NO_PADDING, folded).astype("int64")


def _narrow(ids: Any, hashed: bool) -> Any:
    """Return a tensor of ids as int32, as `check_inputs` does with arrays; others as they are."""
    dtype = keras.backend.standardize_dtype(ids.dtype)
    if dtype not in _WIDE:
        return ids
    low = ops.cast(ids, "int32")
    fits = ops.equal(ops.cast(low, dtype), ids)
    if dtype != "int64":
        fits = ops.logical_and(fits, low >= 0)
    other = ops.full_like(low, -1)
    if hashed:
        folded = to_int32(ids)
        other = ops.where(ops.equal(folded, 0), ops.full_like(folded, NO_PADDING), folded)
    return ops.where(fits, low, other)


def _check_strings(label: str, array: np.ndarray) -> None:
    if array.dtype.kind not in "OUST":
        raise TypeError(f"`{label}` should hold strings. Received: {host.example(array)}")
    if array.dtype.kind == "O" and not all(isinstance(v, (str, bytes)) for v in array.flat):
        wrong = next(v for v in array.flat if not isinstance(v, (str, bytes)))
        raise TypeError(f"`{label}` should hold strings. Received: {wrong!r}")


def _as_tensor(strings: np.ndarray) -> Any:
    """Return a TensorFlow tensor: of strings in numpy, Keras takes one-dimensional ones only."""
    import tensorflow as tf

    return tf.constant(strings.astype(object), tf.string)


def _check_rows(arrays: Mapping[str, Any]) -> None:
    rows = {name: value.shape[0] for name, value in arrays.items() if hasattr(value, "shape")}
    if len(set(rows.values())) > 1:
        raise ValueError(f"`x` should hold arrays of equal length. Received: {rows}")
