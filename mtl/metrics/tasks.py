"""Metrics of a model's tasks: which there are by type, and a table of all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mtl import checks
from mtl.metrics.amounts import normalized_gini, xauc
from mtl.metrics.arrays import (
    auc,
    check_all,
    expected_calibration_error,
    group_auc,
    labelled,
    log_loss,
    normalized_entropy,
    pcoc,
    weighted_mean,
)
from mtl.tasks import Task
from mtl.training import arrays
from mtl.training import labels as labels_of
from mtl.training.graph import maker
from mtl.training.model import MultiTaskModel


@dataclass(frozen=True)
class Headline:
    """The metric that stands for a type of task, where a single one does.

    Attributes:
        metric: str. Its column in `evaluate_tasks`.
        title: str. Its name for readers.
        sign: int. 1 where greater is better, -1 where smaller is.
        unitless: str. The column whose mean over tasks makes sense; greater is better.
    """

    metric: str
    title: str
    sign: int
    unitless: str


HEADLINES = {
    "binary": Headline("auc", "AUC", 1, "auc"),
    "regression": Headline("rmse", "RMSE", -1, "r2"),
    "multiclass": Headline("accuracy", "accuracy", 1, "accuracy"),
    "multilabel": Headline("auc", "mean AUC", 1, "auc"),
    "lifetime_value": Headline("gini", "normalised Gini", 1, "gini"),
}


def evaluate_tasks(
    model: MultiTaskModel,
    x: Any,
    y: Any,
    groups: Any = None,
    sample_weight: Any = None,
    batch_size: int = 8192,
) -> pd.DataFrame:
    """Predict once, and return a table of every metric of every task.

    | type of the task | columns |
    |---|---|
    | every | rows: those with a label and a weight above 0 |
    | binary | positive_rate, auc, group_auc, log_loss, normalized_entropy, ece, pcoc |
    | regression | mae, rmse, r2, xauc |
    | multiclass | auc (mean over classes, each against the rest), log_loss, accuracy |
    | multilabel | auc (mean over labels), log_loss and accuracy over all labels that are there |
    | lifetime_value | positive_rate, auc of P(value > 0), mae, rmse, r2, xauc, normalised gini |

    Models of a funnel have rows more, of their hidden conditional probabilities. An ESMM's
    `"cvr"`, P(conversion | click), is scored over clicked rows, where alone it can be observed,
    with the labels and weights of CTCVR; CTCVR itself is scored over all rows.

    Args:
        model: a model of `mtl.models`.
        x: dict or DataFrame of features, as in `fit`.
        y: list of label arrays in task order, or dict or DataFrame by task name. NaN is missing.
        groups: array `(N,)` of what to group by for group AUC, such as user ids, or None.
            Defaults to None: no such column.
        sample_weight: one array for every task, a list in task order, a dict by task name, or
            None. Defaults to None: 1 each.
        batch_size: int. Rows per step of the prediction. Defaults to 8192.

    Returns:
        A DataFrame with one row per task, by its name. NaN stands where a metric is not of the
        task's type, or not defined.

    Raises:
        TypeError: strings where numbers are expected, or inputs without names.
        ValueError: a missing feature or task, a wrong shape, labels that aren't of the task's
            type, predictions that are not finite, or a missing group.
    """
    labels, weights = labels_and_weights(model, y, sample_weight)
    conditionals = _conditionals(model)
    whole = model
    if conditionals:
        # One pass for all: pCTCVR / pCTR would lose the digits of small probabilities.
        x = arrays.check_inputs(model.feature_columns, x)
        heads = [conditional.head.output for conditional in conditionals]
        whole = model.beside([*model.outputs, *heads])
    predictions = checks.as_list(whole.predict(x, batch_size=batch_size, verbose=0))
    for conditional in conditionals:
        seen = np.ravel(labels[conditional.step]) == 1
        if conditional.without is not None:
            seen &= np.ravel(labels[conditional.without]) == 0
        labels.append(np.where(seen, np.ravel(labels[conditional.of]), np.nan))
        weights.append(weights[conditional.of])
    tasks = [*model.tasks, *(conditional.head.task for conditional in conditionals)]
    scored = list(zip(tasks, labels, predictions, weights, strict=True))
    rows = [scores_of(task, y, p, w, groups) for task, y, p, w in scored]
    return pd.DataFrame(rows, index=[task.name for task, *_ in scored])


def label_violations(model: MultiTaskModel, y: Any) -> pd.Series[int]:
    """Count the rows in which a step of a funnel was taken without the step that it needs.

    ESMM, ESCM2 and Funnel learn from nested labels: a conversion is a click, too. Such rows say
    that it isn't, and no prediction of theirs can.

    Args:
        model: a model of a funnel.
        y: labels, as in `evaluate_tasks`. A row that lacks one of the two labels doesn't count.

    Returns:
        A Series by task: the number of rows, for each step that needs another.

    Raises:
        TypeError: strings where numbers are expected.
        ValueError: a missing task, or a wrong shape.
    """
    labels = dict(zip(model.task_names, labels_and_weights(model, y, None)[0], strict=True))
    counts: dict[str, int] = {}
    for conditional in _conditionals(model):
        of, step = (model.task_names[place] for place in (conditional.of, conditional.step))
        # Of several ways the outermost comes first: the step that all of them need.
        counts.setdefault(of, int(np.sum((labels[of] == 1) & (labels[step] == 0))))
    return pd.Series(counts, name="violations", dtype="int64")


def scores_of(
    task: Task, y: Any, p: Any, sample_weight: Any = None, groups: Any = None
) -> dict[str, float]:
    """Return every metric of one task, by its name; see `evaluate_tasks`.

    Args:
        task: `mtl.tasks.Task`.
        y: array of N labels; NaN is missing.
        p: array of its predictions, `(N, size)`.
        sample_weight: array of N weights, or None. Defaults to None: 1 each.
        groups: array of N ids, for the group AUC, or None. Defaults to None.
    """
    return _SCORES[task.type](task, y, np.asarray(p), sample_weight, groups)


def labels_and_weights(
    model: MultiTaskModel, y: Any, sample_weight: Any, rows: int | None = None
) -> tuple[list[Any], list[Any]]:
    """Return each task's labels, and each task's weights or None, in task order.

    Args:
        model: a model of `mtl.models`.
        y: labels, in the forms that `fit` takes.
        sample_weight: weights, in the forms that `fit` takes, or None.
        rows: int or None. How many rows there should be. Defaults to None: any number.

    Raises:
        ValueError: labels or weights that aren't as many as the rows, or of unknown tasks.
    """
    labels = checks.as_list(labels_of.check_labels(model.tasks, y, rows=rows))
    weights = labels_of.check_sample_weights(model.tasks, sample_weight, len(labels[0]))
    if weights is None or len(model.tasks) == 1:
        weights = [weights] * len(model.tasks)
    return labels, weights


@dataclass(frozen=True)
class _Conditional:
    """A hidden P(of | step without another), the three of them as places of tasks."""

    head: Any
    of: int
    step: int
    without: int | None = None


def _conditionals(model: MultiTaskModel) -> list[_Conditional]:
    """Return the conditional probabilities of a funnel between tasks of the model."""
    found = []
    for layer in model.layers:
        for probability, *steps in layer.ways(layer.input) if hasattr(layer, "ways") else ():
            heads = [layer, *(maker(step) for step in steps if step is not None)]
            names = [head.task.name for head in heads]
            if set(names) <= set(model.task_names):
                places = map(model.task_names.index, names)
                found.append(_Conditional(maker(probability), *places))
    return found


def _binary(task: Task, y: Any, p: Any, w: Any, groups: Any) -> dict[str, float]:
    label, _, weight = labelled(y, p, w, name=f"y[{task.name!r}]")
    return {
        "rows": len(label),
        "positive_rate": weighted_mean(label, weight),
        "auc": auc(y, p, w),
        **({} if groups is None else {"group_auc": group_auc(y, p, groups, w)}),
        "log_loss": log_loss(y, p, w),
        "normalized_entropy": normalized_entropy(y, p, w),
        "ece": expected_calibration_error(y, p, w),
        "pcoc": pcoc(y, p, w),
    }


def _regression(task: Task, y: Any, p: Any, w: Any, _: Any) -> dict[str, float]:
    y, p, w = labelled(y, p, w, name=f"y[{task.name!r}]", binary=False)
    error, variance = (
        weighted_mean((y - p) ** 2, w),
        weighted_mean((y - weighted_mean(y, w)) ** 2, w),
    )
    return {
        "rows": len(y),
        "mae": weighted_mean(np.abs(y - p), w),
        "rmse": error**0.5,
        "r2": 1 - error / variance if variance else np.nan,
        "xauc": xauc(y, p, w),
    }


def _lifetime_value(task: Task, y: Any, p: Any, w: Any, _: Any) -> dict[str, float]:
    value, chance = p[:, 0], p[:, min(1, p.shape[1] - 1)]  # trees predict the value alone
    errors = _regression(task, y, value, w, _)
    name, y = f"y[{task.name!r}]", np.ravel(np.asarray(y, "float64"))
    check_all(name, y, ~(y < 0), "amounts of at least 0, or NaN where missing")
    positive, _, weight = labelled(np.where(np.isnan(y), y, y > 0), chance, w, name=name)
    return {
        "rows": errors.pop("rows"),
        "positive_rate": weighted_mean(positive, weight),
        "auc": auc(np.where(np.isnan(y), y, y > 0), chance, w),
        **errors,
        "gini": normalized_gini(y, value, w),
    }


def _multiclass(task: Task, y: Any, p: Any, w: Any, _: Any) -> dict[str, float]:
    name, y = f"y[{task.name!r}]", np.asarray(y, "float64")
    if y.ndim == 2 and y.shape[1] == task.size:  # one-hot
        y = np.where(np.isnan(y).any(axis=1), np.nan, y.argmax(axis=1))
    y = np.ravel(y)
    classes = np.arange(task.size)
    check_all(name, y, np.isin(y, classes) | np.isnan(y), f"classes from 0 to {task.size - 1}")
    known, right, weight = labelled(y, p.argmax(axis=1) == y, w, name=name, binary=False)
    one_hot = np.where(np.isnan(y)[:, None], np.nan, y[:, None] == classes)
    return {
        "rows": len(known),
        "auc": _macro_auc(one_hot, p, w),
        # Of the true class, whose label is 1.
        "log_loss": log_loss(
            np.where(np.isnan(y), np.nan, 1), p[np.arange(len(y)), np.nan_to_num(y).astype(int)], w
        ),
        "accuracy": weighted_mean(right, weight),
    }


def _multilabel(task: Task, y: Any, p: Any, w: Any, _: Any) -> dict[str, float]:
    name, y = f"y[{task.name!r}]", np.asarray(y, "float64")
    if y.shape != p.shape:
        raise ValueError(f"`{name}` should have shape {p.shape}. Received: {y.shape}")
    repeated = None if w is None else np.repeat(w, task.size)
    known, predicted, weight = labelled(y.ravel(), p.ravel() > 0.5, repeated, name=name)
    some = np.where(np.isnan(y).all(axis=1), np.nan, 1)
    return {
        "rows": len(labelled(some, p[:, 0], w)[0]),
        "auc": _macro_auc(y, p, w),
        "log_loss": log_loss(y.ravel(), p.ravel(), repeated),
        "accuracy": weighted_mean(known == predicted, weight),
    }


_SCORES: dict[str, Callable[..., dict[str, float]]] = {
    "binary": _binary,
    "regression": _regression,
    "multiclass": _multiclass,
    "multilabel": _multilabel,
    "lifetime_value": _lifetime_value,
}


def _macro_auc(y: np.ndarray, p: np.ndarray, w: Any) -> float:
    """Return the mean of the columns' AUCs that are defined."""
    values = np.array([auc(*columns, w) for columns in zip(y.T, p.T, strict=True)])
    values = values[~np.isnan(values)]
    return weighted_mean(values, np.ones(len(values)))
