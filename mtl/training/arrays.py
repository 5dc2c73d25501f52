"""What users pass to fit, evaluate and predict, checked and put into the model's structure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import pandas as pd

from mtl import checks
from mtl.features import DenseFeat, VarLenSparseFeat, model_inputs
from mtl.tasks import Task
from mtl.training.spread import known_entries

_INT32 = np.iinfo(np.int32)


def check_inputs(columns: Iterable[Any], x: Any) -> Any:
    """Return the arrays that the model needs, by input name, in the dtypes that it takes.

    Args:
        columns: the model's feature columns.
        x: dict (or DataFrame) from input name to array. More entries than needed are left out.
            Data sets, generators and `PyDataset`s are returned as they are.

    Returns:
        A dict from input name to array, or `x` itself.

    Raises:
        TypeError: strings where numbers are expected, or a list of arrays without names.
        ValueError: a missing feature, a wrong shape, fractional ids, NaN or infinite values.
    """
    if isinstance(x, (list, tuple, np.ndarray)):
        raise TypeError(
            "`x` should be a dict from feature name to array. "
            f"Received: {_describe(x)} of type {type(x).__name__}"
        )
    if not isinstance(x, (Mapping, pd.DataFrame)):
        return x
    columns = list(columns)
    specs = model_inputs(columns)
    missing = [spec.name for spec in specs if spec.name not in x]
    if missing:
        raise ValueError(f"`x` should hold every feature. Missing: {missing}. Received: {list(x)}")
    numbers, hashed, free = set(), set(), set()
    for column in columns:
        if isinstance(column, DenseFeat):
            numbers.add(column.name)
            if column.transform_fn is not None:
                free.add(column.name)
        elif column.use_hash:
            hashed.add(column.name)
        if isinstance(column, VarLenSparseFeat) and column.weight_name:
            numbers.add(column.weight_name)
    arrays = {}
    for spec in specs:
        value = x[spec.name]
        if is_host_array(value):
            label = f"x[{spec.name!r}]"
            value = np.asarray(value)
            if spec.dtype == "string":
                _check_strings(label, value)
            elif spec.name in numbers:
                value = _numbers(label, value, finite=spec.name not in free).astype(
                    spec.dtype, copy=False
                )
            else:
                value = _ids(label, value, spec.dtype, spec.name in hashed)
            _check_shape(label, value, spec.shape)
            if spec.dtype == "string":
                value = _as_tensor(value)
        arrays[spec.name] = value
    _check_rows(arrays)
    return arrays


def check_labels(tasks: Sequence[Task], y: Any) -> Any:
    """Return labels in task order.

    Args:
        tasks: the model's tasks.
        y: list in task order, dict or DataFrame by task name, one array for a single task, or
            None. Each label array has shape `(N,)`, `(N, 1)` or, for several classes or labels,
            `(N, size)`.

    Returns:
        A list of arrays, one array for a single task, or None.

    Raises:
        TypeError: labels that are no numbers.
        ValueError: a missing task, a wrong number of arrays, a wrong shape, infinite labels, or
            missing ones in an array of integers.
    """
    if y is None:
        return None
    labels = _in_task_order(tasks, "y", y)
    checked = []
    for task, label in zip(tasks, labels, strict=True):
        if is_host_array(label):
            label = _label(f"y[{task.name!r}]", label)
            if label.dtype == np.float64:
                label = label.astype(np.float32)
            _check_shape(f"y[{task.name!r}]", label, (task.size,), (1,))
        checked.append(label)
    return checked if len(tasks) > 1 else checked[0]


def check_sample_weights(tasks: Sequence[Task], sample_weight: Any, rows: int | None) -> Any:
    """Return one array of sample weights per task, or None.

    Args:
        tasks: the model's tasks.
        sample_weight: one array for every task, a list in task order, a dict by task name, or
            None. Tasks that a dict or list leaves out weigh 1.
        rows: int or None. Number of rows, for the tasks that are left out.

    Returns:
        A list of arrays, one array for a single task, or None.
    """
    if sample_weight is None:
        return None
    if isinstance(sample_weight, Mapping):
        weights = known_entries(tasks, "sample_weight", sample_weight)
    elif isinstance(sample_weight, (list, tuple)):
        weights = _in_task_order(tasks, "sample_weight", sample_weight)
    else:
        weights = [sample_weight] * len(tasks)
    checked = []
    for task, weight in zip(tasks, weights, strict=True):
        if weight is None:
            weight = np.ones(rows or 0, "float32")
        elif is_host_array(weight):
            label = f"sample_weight[{task.name!r}]"
            weight = _numbers(label, np.asarray(weight), finite=True).astype("float32", copy=False)
            _check_shape(label, weight, (1,))
            if weight.size and weight.min() < 0:
                raise ValueError(
                    f"`{label}` should hold weights of at least 0. Received: {weight.min()}"
                )
        checked.append(weight)
    return checked if len(tasks) > 1 else checked[0]


def any_missing(labels: Any) -> bool:
    """Return whether checked labels, in any structure, hold a NaN; tensors count as if they did."""
    for label in keras.tree.flatten(labels):
        if label is None:
            continue
        if not isinstance(label, np.ndarray) or (label.dtype.kind == "f" and np.isnan(label).any()):
            return True
    return False


def weights_of_classes(labels: np.ndarray, class_weight: Mapping[int, float]) -> np.ndarray:
    """Return the weight of each row's class; 1 for classes without one.

    Args:
        labels: checked labels of one task, class numbers; NaN is missing.
        class_weight: dict from class to weight.
    """
    weights = np.ones(len(labels), "float32")
    for label, weight in class_weight.items():
        weights[labels.reshape(-1) == label] = weight
    return weights


def check_some_labels(tasks: Sequence[Task], argument: str, labels: Any) -> None:
    """Raise a ValueError if a task has no label at all in checked labels.

    Args:
        tasks: the model's tasks.
        argument: str. Name of the argument, for errors.
        labels: what `check_labels` returned.
    """
    for task, label in zip(tasks, checks.as_list(labels), strict=False):
        if isinstance(label, np.ndarray) and label.dtype.kind == "f" and np.isnan(label).all():
            raise ValueError(
                f"`{argument}` should hold at least one label of every task. "
                f"Received: {label.size} missing labels (NaN) of {task.name!r}, and no other"
            )


def is_host_array(value: Any) -> bool:
    """Return whether `value` is made of numpy, pandas or plain Python (and not a tensor)."""
    return isinstance(
        value,
        (
            np.ndarray,
            np.generic,
            pd.Series,
            pd.Index,
            pd.api.extensions.ExtensionArray,
            list,
            tuple,
            range,
        ),
    )


def _in_task_order(tasks: Sequence[Task], argument: str, values: Any) -> list[Any]:
    names = [task.name for task in tasks]
    if isinstance(values, (Mapping, pd.DataFrame)):
        missing = [t.name for t in tasks if t.name not in values and t.output_name not in values]
        if missing:
            raise ValueError(
                f"`{argument}` should hold every task of {names}. Missing: {missing}. "
                f"Received: {list(values)}"
            )
        return [values[t.name] if t.name in values else values[t.output_name] for t in tasks]
    if isinstance(values, (list, tuple)) and not (len(tasks) == 1 and _is_scalar_list(values)):
        if len(values) != len(tasks):
            raise ValueError(
                f"`{argument}` should have one array per task {names}. "
                f"Received: {len(values)} arrays for {len(tasks)} tasks."
            )
        return list(values)
    if len(tasks) == 1:
        return [values]
    raise ValueError(
        f"`{argument}` should be a list with one array per task, or a dict by task name, for the "
        f"tasks {names}. Received: {_describe(values)}"
    )


def _label(name: str, label: Any) -> np.ndarray:
    dtype: Any = getattr(label, "dtype", None)
    if pd.api.types.is_extension_array_dtype(dtype) and pd.isna(label).any():
        raise ValueError(
            f"`{name}` should be of a plain float type where labels are missing (as NaN), "
            f"by astype('float32'). Received: missing labels in {dtype}"
        )
    array = _numbers(name, np.asarray(label), finite=False)
    if array.dtype.kind == "i" and array.dtype.itemsize >= 4 and array.size:
        lowest = np.iinfo(array.dtype).min
        if array.min() == lowest:
            raise ValueError(
                f"`{name}` should be of a float type where labels are missing (as NaN). "
                f"Received: {lowest}, which is what NaN becomes in {array.dtype}"
            )
    if array.dtype.kind == "f" and np.isinf(array).any():
        wrong = array[np.isinf(array)]
        raise ValueError(
            f"`{name}` should hold finite labels, or NaN for missing ones. "
            f"Received: {wrong.size} values such as {wrong.flat[0]}"
        )
    return array


def _is_scalar_list(values: Sequence[Any]) -> bool:
    return len(values) > 0 and np.isscalar(values[0])


def _numbers(label: str, array: np.ndarray, finite: bool) -> np.ndarray:
    if array.dtype.kind == "O":
        try:
            array = array.astype("float64")
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"`{label}` should hold numbers. Received: {_example(array)}"
            ) from error
    if array.dtype.kind not in "fiub":
        raise TypeError(f"`{label}` should hold numbers. Received: {_example(array)}")
    if finite and array.dtype.kind == "f" and not np.isfinite(array).all():
        wrong = array[~np.isfinite(array)]
        raise ValueError(
            f"`{label}` should hold finite numbers: fill missing values first. "
            f"Received: {wrong.size} values such as {wrong.flat[0]}"
        )
    return array


def _ids(label: str, array: np.ndarray, dtype: str, hashed: bool) -> np.ndarray:
    if array.dtype.kind == "O" and pd.api.types.infer_dtype(array.ravel()) == "integer":
        array = array.astype("int64")
    if array.dtype.kind == "f":
        if not (np.isfinite(array).all() and (array == np.floor(array)).all()):
            wrong = array[~(np.isfinite(array) & (array == np.floor(array)))]
            raise ValueError(
                f"`{label}` should hold integer ids. Received: values such as {wrong.flat[0]}"
            )
        array = array.astype("int64")
    if array.dtype.kind not in "iub":
        raise TypeError(
            f"`{label}` should hold integer ids (map strings to ids with mtl.data.TableEncoder, or "
            f"use a string column with use_hash=True). Received: {_example(array)}"
        )
    if dtype == "int32" and array.dtype.itemsize >= 4 and array.dtype != np.int32 and array.size:
        outside = (array < _INT32.min) | (array > _INT32.max)
        if outside.any():
            # A plain cast would wrap into the vocabulary. -1 is outside it; hashing keeps all bits.
            wide = array.astype("int64")
            array = np.where(outside, _fold(wide) if hashed else -1, wide)
    return array.astype(dtype, copy=False)


def _fold(wide: np.ndarray) -> np.ndarray:
    """Fold 64-bit ids into 32 bits as `mtl.layers.hashing.to_int32` does."""
    low = (wide & 0xFFFFFFFF).astype("uint32").astype("int32")
    folded: np.ndarray = low ^ (wide >> 32).astype("int32")
    # 0 would be padding in a sequence; this id hashes as it does, whatever the vocabulary.
    return np.where(folded == 0, 2126943072, folded).astype("int64")


def _check_strings(label: str, array: np.ndarray) -> None:
    if array.dtype.kind not in "OUST":
        raise TypeError(f"`{label}` should hold strings. Received: {_example(array)}")
    if array.dtype.kind == "O" and not all(isinstance(v, (str, bytes)) for v in array.flat):
        wrong = next(v for v in array.flat if not isinstance(v, (str, bytes)))
        raise TypeError(f"`{label}` should hold strings. Received: {wrong!r}")


def _as_tensor(strings: np.ndarray) -> Any:
    """Return a TensorFlow tensor: of strings in numpy, Keras takes one-dimensional ones only."""
    import tensorflow as tf

    return tf.constant(strings.astype(object), tf.string)


def _check_shape(label: str, array: np.ndarray, *shapes: tuple[int, ...]) -> None:
    allowed = {shape for s in shapes for shape in (s, s[:-1] if s[-1] == 1 else s)}
    if array.ndim == 0 or array.shape[1:] not in allowed:
        expected = " or ".join(str(("N", *shape)).replace("'", "") for shape in sorted(allowed))
        raise ValueError(f"`{label}` should have shape {expected}. Received: {array.shape}")


def _check_rows(arrays: Mapping[str, Any]) -> None:
    rows = {name: value.shape[0] for name, value in arrays.items() if hasattr(value, "shape")}
    if len(set(rows.values())) > 1:
        raise ValueError(f"`x` should hold arrays of equal length. Received: {rows}")


def _example(array: np.ndarray) -> str:
    example = repr(array.flat[0]) if array.size else "an empty array"
    return f"{example} (dtype {array.dtype})"


def _describe(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"an array of shape {shape}" if shape is not None else f"{len(value)} entries"
