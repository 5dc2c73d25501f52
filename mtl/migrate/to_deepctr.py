"""to_deepctr: our feature columns as DeepCTR's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras

from mtl.features import VarLenSparseFeat, check_columns
from mtl.migrate._deepctr import import_columns


def to_deepctr(feature_columns: Iterable[Any]) -> list[Any]:
    """Return feature columns as DeepCTR's classes, which its own models ask for.

    The other way needs no call: everything here takes DeepCTR's columns as they are. This needs
    the TensorFlow backend, as DeepCTR does.

    Example:
        ```python
        columns = to_deepctr(encoder.feature_columns)
        model = deepctr.models.MMOE(columns, task_names=["click", "like"])
        ```

    Args:
        feature_columns: list of feature columns.

    Returns:
        A list of DeepCTR's `SparseFeat`, `VarLenSparseFeat` and `DenseFeat`.

    Raises:
        ImportError: deepctr, or what it needs, is not installed.
        RuntimeError: the backend isn't TensorFlow.
        TypeError: an entry of `feature_columns` is no feature column.
        ValueError: a column is invalid, or names clash.
    """
    columns = check_columns(feature_columns)
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            "`to_deepctr` should be called on the TensorFlow backend: DeepCTR runs on no other. "
            f"Received: {keras.backend.backend()}"
        )
    try:
        deepctr = import_columns()
    except ModuleNotFoundError as error:
        raise ImportError(
            f"`to_deepctr` needs DeepCTR: pip install deepctr. Received: {error}"
        ) from error
    return [_convert(column, deepctr) for column in columns]


def _convert(column: Any, deepctr: Any) -> Any:
    if isinstance(column, VarLenSparseFeat):
        column = column._replace(sparsefeat=_convert(column.sparsefeat, deepctr))
    return getattr(deepctr, type(column).__name__)._make(column)
