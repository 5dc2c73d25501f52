"""Gradient conflict: whether tasks pull the shared parameters the same way."""

from __future__ import annotations

import itertools
import math
from typing import Any

import keras
import numpy as np
import pandas as pd

from mtl import checks
from mtl.inspection.gates import checked_inputs
from mtl.training import steps
from mtl.training.model import MultiTaskModel


def gradient_conflict(
    model: MultiTaskModel, x: Any, y: Any, sample_weight: Any = None, batch_size: int = 1024
) -> pd.DataFrame:
    """Return the cosine between the tasks' gradients on the shared parameters.

    With g_k the gradient of task k's loss on `model.shared_variables`, averaged over batches:
    cos(g_i, g_j) = g_i · g_j / (|g_i| |g_j|). Below 0 a step for one task makes the other worse.

    Args:
        model: a compiled model of at least two tasks.
        x: dict or DataFrame of inputs, as `fit` takes it.
        y: labels, as `fit` takes them.
        sample_weight: as `fit` takes it. Defaults to None.
        batch_size: int. The most rows per gradient: as many as in training tell what happens in
            training, since the noise in gradients of fewer rows hides their angle. The rows are
            split evenly. Defaults to 1024.

    Returns:
        A symmetric DataFrame `(T, T)` by task name: the mean of the cosine over the batches in
        which neither gradient is zero (as where all labels of a task are missing), NaN if there
        are none.

    Raises:
        TypeError: data that `fit` refuses, or a data set.
        ValueError: a model of one task, or data that `fit` refuses.

    References:
        - Yu et al., Gradient Surgery for Multi-Task Learning, NeurIPS 2020
    """
    if len(model.tasks) < 2:
        raise ValueError(
            f"`model` should have at least two tasks. Received: {model.task_names} alone"
        )
    batch_size = checks.positive_int("batch_size", batch_size)
    inputs = checked_inputs(model, x)
    rows = len(next(iter(inputs.values())))
    if rows == 0:
        raise ValueError("`x` should hold at least one row. Received: 0 rows.")
    _, labels, weights = model.checked_data(inputs, y, sample_weight)
    products = steps.gradient_products(model)
    total = np.zeros((len(model.tasks),) * 2)
    count = np.zeros_like(total)
    bounds = np.linspace(0, rows, math.ceil(rows / batch_size) + 1).astype(int)
    for start, end in itertools.pairwise(bounds):
        batch = _slice((inputs, labels, weights), start, end)
        gram = products(*batch).astype("float64")
        norms = np.sqrt(np.diag(gram))
        scale = np.outer(norms, norms)
        known = scale > 0
        total[known] += np.clip(gram[known] / scale[known], -1, 1)
        count += known
    cosines = np.full_like(total, np.nan)
    np.divide(total, count, out=cosines, where=count > 0)
    return pd.DataFrame(cosines, model.task_names, model.task_names)


def _slice(data: Any, start: int, end: int) -> Any:
    return keras.tree.map_structure(lambda array: None if array is None else array[start:end], data)
