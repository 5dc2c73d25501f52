"""The reference line of every table: boosted trees, one LightGBM model per task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mtl.benchmark.config import extra
from mtl.benchmark.runs import Result, in_units
from mtl.data import MultiTaskData
from mtl.features import SparseFeat
from mtl.metrics import scores_of
from mtl.tasks import Task

_LEAVES = 31
SETTINGS: Mapping[str, Any] = {
    "num_leaves": _LEAVES,
    "learning_rate": 0.03,
    "rounds": 5000,
    "patience": 100,
}
_OBJECTIVES = {
    "binary": "binary",
    "regression": "regression",
    "multiclass": "multiclass",
    "lifetime_value": "tweedie",  # whose values are 0 or above, too
}


def available() -> bool:
    """Return whether LightGBM is installed."""
    try:
        extra("lightgbm", "bench")
    except ModuleNotFoundError:
        return False
    return True


def run(data: MultiTaskData, seed: int) -> Result:
    """Train a model per task on the same features, and score it as the networks are.

    Categories are categorical features to the trees. Rows without a label are left out. The
    number of trees is that of the least loss on the validation rows; without them, 500.

    Args:
        data: a data set of tasks of any type but multilabel.
        seed: int.

    Returns:
        The scores, with trees as `epochs` and leaves as `parameters`.
    """
    names = [c.name for c in data.feature_columns]
    categorical = [i for i, c in enumerate(data.feature_columns) if isinstance(c, SparseFeat)]
    train, val, test = (
        split and (np.column_stack([split[0][name] for name in names]).astype("float64"), split[1])
        for split in (data.train, data.val, data.test)
    )
    metrics, validation, trees, leaves = {}, {}, [], 0
    for k, task in enumerate(data.tasks):
        model = _fit(train, val, categorical, task, k, seed)
        metrics[task.name] = in_units(data, task.name, _scores(model, test, task, k))
        if val is not None:
            validation[task.name] = in_units(data, task.name, _scores(model, val, task, k))
        trees.append(max(model.best_iteration, 0) or model.current_iteration())
        leaves += trees[-1] * model.num_model_per_iteration() * _LEAVES
    return Result(metrics, validation or None, max(trees), leaves)


def _fit(train: Any, val: Any, categorical: list[int], task: Task, k: int, seed: int) -> Any:
    lightgbm = extra("lightgbm", "bench")
    parameters = {
        "objective": _OBJECTIVES[task.type],
        "num_leaves": SETTINGS["num_leaves"],
        "learning_rate": SETTINGS["learning_rate"],
        "seed": seed,
        "verbosity": -1,
    }
    if task.type == "multiclass":
        parameters["num_class"] = task.size

    def dataset(split: Any, reference: Any = None) -> Any:
        x, y = split[0], np.ravel(split[1][k])
        known = ~np.isnan(y)
        return lightgbm.Dataset(
            x[known], y[known], reference=reference, categorical_feature=categorical
        )

    rows = dataset(train)
    if val is None:
        return lightgbm.train(parameters, rows, 500)
    return lightgbm.train(
        parameters,
        rows,
        SETTINGS["rounds"],
        valid_sets=[dataset(val, rows)],
        callbacks=[lightgbm.early_stopping(SETTINGS["patience"], verbose=False)],
    )


def _scores(model: Any, split: Any, task: Task, k: int) -> dict[str, float]:
    predicted = np.asarray(model.predict(split[0]))
    scores = scores_of(task, split[1][k], predicted.reshape(len(predicted), -1))
    return {name: value for name, value in scores.items() if not np.isnan(value)}
