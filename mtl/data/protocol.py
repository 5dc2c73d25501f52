"""Protocols: how a benchmark table of rows becomes a MultiTaskData."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mtl.data.dataset import MultiTaskData, take
from mtl.data.table import TableEncoder

PROTOCOLS = ("default", "reference")


def assemble(
    frame: pd.DataFrame,
    splits: Mapping[str, slice],
    labels: Mapping[str, npt.NDArray[np.bool_]],
    *,
    categorical: Sequence[str],
    numeric: Sequence[str],
    weight: str,
    encoder: Mapping[str, Any],
    protocol: str,
) -> MultiTaskData:
    """Encode a table by one of the two protocols.

    "default" is leak-free: vocabularies and scalings are fitted on the training rows only, and
    the column of sampling weights is no feature but comes as `sample_weight`. "reference" is how
    published tables were made: fitted on all rows, with the weights as a numeric feature.

    Args:
        frame: pd.DataFrame of N rows, all splits together.
        splits: dict of slices of the rows by split: "train", "test" and perhaps "val".
        labels: dict of (N,) bool arrays by task, in task order.
        categorical: list of str. Categorical features.
        numeric: list of str. Numeric features, `weight` among them.
        weight: str. The column of sampling weights (persons that a row stands for).
        encoder: dict. Settings of the `TableEncoder`.
        protocol: str. "default" or "reference".

    Returns:
        A MultiTaskData of binary tasks. Its `sample_weight` is divided by the training rows'
        mean, so that a weighted loss keeps the size of an unweighted one.
    """
    reference = protocol == "reference"
    if not reference:
        numeric = [name for name in numeric if name != weight]
    fitted = TableEncoder(categorical, numeric, **encoder)
    if reference:
        x = fitted.fit_transform(frame)
    else:
        x = fitted.fit(frame.iloc[splits["train"]]).transform(frame)
    y = [values.astype(np.float32) for values in labels.values()]
    parts = {name: take(x, y, rows) for name, rows in splits.items()}
    weights = frame[weight].to_numpy(np.float64)
    weights = (weights / weights[splits["train"]].mean()).astype(np.float32)
    return MultiTaskData(
        feature_columns=fitted.feature_columns,
        task_names=list(labels),
        task_types=["binary"] * len(labels),
        train=parts["train"],
        val=parts.get("val"),
        test=parts["test"],
        sample_weight=None if reference else {name: weights[r] for name, r in splits.items()},
    )
