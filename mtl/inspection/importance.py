"""Permutation importance: what a trained model's predictions owe to each feature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd

from mtl import checks
from mtl.features import VarLenSparseFeat
from mtl.inspection.gates import checked_inputs
from mtl.metrics import HEADLINES, scores_of
from mtl.metrics.tasks import labels_and_weights
from mtl.training.model import MultiTaskModel


def permutation_importance(
    model: MultiTaskModel,
    x: Any,
    y: Any,
    groups: Mapping[str, Sequence[str]] | None = None,
    *,
    sample_weight: Any = None,
    repeats: int = 5,
    seed: int = 0,
    batch_size: int = 8192,
    verbose: bool = True,
) -> pd.DataFrame:
    """Return how much worse each task gets if a feature's values are shuffled among the rows.

    ```python
    importance = permutation_importance(model, *data.test, groups={"job": ["class_worker", "wage"]})
    importance.pivot(index="feature", columns="task", values="importance")
    ```

    On rows that the model wasn't trained on it tells what the predictions rest on, not what could
    be learnt: of two features that say the same, each hides the other, unless a group shuffles
    them together.

    Args:
        model: a trained model.
        x: dict or DataFrame of inputs, N rows, as `predict` takes it.
        y: labels, as `fit` takes them. NaN is missing.
        groups: dict from a name to a list of features that are shuffled together, as whole rows;
            or None. Features that no group names are shuffled each for itself. Defaults to None.
        sample_weight: as `fit` takes it. Defaults to None: 1 each.
        repeats: int. Shuffles of each feature. Defaults to 5.
        seed: int. Seed of the shuffles, which are the same for every feature. Defaults to 0.
        batch_size: int. Rows per step of the prediction. Defaults to 8192.
        verbose: bool. Whether to show a bar of the predictions. Defaults to True.

    Returns:
        A DataFrame with one row per task and feature (or group): "task"; "feature"; "metric", the
        headline of the task's type (AUC, RMSE, accuracy or mean AUC), exact over all rows;
        "score", without shuffling; "importance", the mean over repeats of how much worse it gets,
        above 0 where the feature helps; and "std", the standard deviation over repeats. A sequence
        is shuffled with its length and weights, and those that share them together, as "a + b".
        NaN stands where a task's metric isn't defined, as AUC is for labels of one class.

    Raises:
        TypeError: an argument of a wrong type, or inputs that `predict` refuses.
        ValueError: no rows, a group of unknown features or of a part of those that share a length
            or weights, or data that `fit` refuses.

    References:
        - Breiman, Random Forests, Machine Learning 45, 2001, section 10
        - Fisher, Rudin and Dominici, All Models are Wrong, but Many are Useful, JMLR 20, 2019
    """
    repeats = checks.positive_int("repeats", repeats)
    batch_size = checks.positive_int("batch_size", batch_size)
    rng = np.random.default_rng(checks.non_negative_int("seed", seed))
    units = _units(model.feature_columns, groups)
    inputs = {
        # What became a tensor, as strings do, is shuffled as it was given.
        name: value if isinstance(value, np.ndarray) else np.asarray(x[name])
        for name, value in checked_inputs(model, x).items()
    }
    rows = len(next(iter(inputs.values())))
    if not rows:
        raise ValueError("`x` should hold at least one row. Received: 0 rows.")
    labels, weights = labels_and_weights(model, y, sample_weight, rows)
    headlines = [HEADLINES[task.type] for task in model.tasks]

    def scores(given: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.float64]:
        predictions = checks.as_list(model.predict(given, batch_size=batch_size, verbose=0))
        return np.array(
            [
                scores_of(task, label, p, weight)[headline.metric]
                for task, headline, label, p, weight in zip(
                    model.tasks, headlines, labels, predictions, weights, strict=True
                )
            ]
        )

    bar = keras.utils.Progbar(1 + len(units) * repeats, unit_name="prediction", verbose=verbose)
    base = scores(inputs)
    bar.add(1)
    orders = [rng.permutation(rows) for _ in range(repeats)]
    worse = np.zeros((len(units), repeats, len(model.tasks)))
    signs = np.array([headline.sign for headline in headlines])
    for i, names in enumerate(units.values()):
        for j, order in enumerate(orders):
            shuffled = {name: inputs[name][order] for name in names}
            worse[i, j] = signs * (base - scores({**inputs, **shuffled}))
            bar.add(1)
    mean, std = worse.mean(axis=1), worse.std(axis=1)
    return pd.DataFrame(
        [
            {
                "task": task.name,
                "feature": unit,
                "metric": headlines[k].title,
                "score": base[k],
                "importance": mean[i, k],
                "std": std[i, k],
            }
            for k, task in enumerate(model.tasks)
            for i, unit in enumerate(units)
        ]
    )


def _units(columns: Sequence[Any], groups: Any) -> dict[str, list[str]]:
    """Return the inputs that are shuffled together, by name."""
    inputs = {column.name: _inputs_of(column) for column in columns}
    if groups is not None and not isinstance(groups, Mapping):
        raise TypeError(
            f"`groups` should be a dict from name to list of features. Received: {groups!r}"
        )
    units: dict[str, list[str]] = {}
    grouped: set[str] = set()
    for name, features in (groups or {}).items():
        members = checks.entries(f"groups[{name!r}]", features, "a list of features")
        unknown = [feature for feature in members if feature not in inputs]
        if unknown or not members:
            raise ValueError(
                f"`groups[{name!r}]` should hold features out of {list(inputs)}. "
                f"Received: {unknown or members}"
            )
        units[name] = _together(f"groups[{name!r}]", inputs, members)
        grouped.update(members)
    for feature in inputs:
        if feature in grouped:
            continue
        sharing = _sharing(inputs, feature)
        name = " + ".join(sharing)
        if name in units:
            raise ValueError(
                f"`groups` should have no name of a feature outside of it. Received: {name!r}"
            )
        grouped.update(sharing)
        units[name] = _together("groups", inputs, sharing)
    return units


def _inputs_of(column: Any) -> list[str]:
    names = [column.name]
    if isinstance(column, VarLenSparseFeat):
        names += [name for name in (column.weight_name, column.length_name) if name is not None]
    return names


def _sharing(inputs: Mapping[str, list[str]], feature: str) -> list[str]:
    """Return the features that a feature shares inputs with, directly or by others, and itself."""
    found, names = {feature}, set(inputs[feature])
    while more := {f for f in inputs if f not in found and names & set(inputs[f])}:
        found |= more
        names.update(*(inputs[f] for f in more))
    return [f for f in inputs if f in found]


def _together(where: str, inputs: Mapping[str, list[str]], members: Sequence[str]) -> list[str]:
    """Return the inputs of features, of which none may be an input of other features, too."""
    for feature in members:
        absent = [f for f in _sharing(inputs, feature) if f not in members]
        if absent:
            raise ValueError(
                f"`{where}` should hold the sequences that share a length or weights together. "
                f"Received: {feature!r} without {absent}"
            )
    return list(dict.fromkeys(name for feature in members for name in inputs[feature]))
