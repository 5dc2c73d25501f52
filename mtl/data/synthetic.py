"""What the synthetic data sets share: checks of their arguments, and the splits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mtl import checks
from mtl.data.dataset import SPLITS, MultiTaskData, take

_MIN_SAMPLES = 10  # so that a tenth of the rows is one row


def check_num_samples(value: Any) -> int:
    """Return `num_samples` as an int, or raise if it can't be split into 80, 10 and 10 %."""
    if checks.positive_int("num_samples", value) < _MIN_SAMPLES:
        raise ValueError(
            f"`num_samples` should be at least {_MIN_SAMPLES}, for rows in every split. "
            f"Received: {value!r}"
        )
    return int(value)


def check_correlation(name: str, value: Any) -> float:
    """Return `value` as a float, or raise unless it lies in [-1, 1]."""
    return checks.number_in(name, value, "a number in [-1, 1]", lambda x: -1 <= x <= 1)


def split_rows(
    x: dict[str, npt.NDArray[Any]],
    y: Sequence[npt.NDArray[Any]],
    truth: dict[str, npt.NDArray[Any]],
    feature_columns: list[Any],
    task_names: list[str],
    task_type: str,
) -> MultiTaskData:
    """Split rows into 80 % training, 10 % validation and 10 % test rows, in order.

    The rows of a synthetic set are drawn independently, so there is nothing to shuffle.

    Args:
        x: dict of (N, ...) arrays by feature.
        y: list of (N,) arrays by task.
        truth: dict of (N,) arrays by name.
        feature_columns: list of feature columns.
        task_names: list of str.
        task_type: str. The type of every task.

    Returns:
        A MultiTaskData; labels and truth are float32.
    """
    rows = len(y[0])
    tenth = rows // 10
    bounds = (0, rows - 2 * tenth, rows - tenth, rows)
    slices = {name: slice(bounds[i], bounds[i + 1]) for i, name in enumerate(SPLITS)}
    labels = [task.astype(np.float32) for task in y]
    known = {name: values.astype(np.float32) for name, values in truth.items()}
    splits = {name: take(x, labels, part) for name, part in slices.items()}
    return MultiTaskData(
        feature_columns=feature_columns,
        task_names=task_names,
        task_types=[task_type] * len(task_names),
        train=splits["train"],
        val=splits["val"],
        test=splits["test"],
        truth={
            name: {key: values[part] for key, values in known.items()}
            for name, part in slices.items()
        },
    )
