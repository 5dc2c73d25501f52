"""The reference line of every table: boosted trees, one LightGBM model per task."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from mtl.benchmark.config import extra
from mtl.benchmark.runs import Result, in_units
from mtl.data import MultiTaskData
from mtl.features import SparseFeat, VarLenSparseFeat
from mtl.metrics import scores_of
from mtl.tasks import Task

SETTINGS: Mapping[str, Any] = {
    "num_leaves": 31,
    "learning_rate": 0.03,
    "rounds": 5000,
    "patience": 100,
    "categorical": True,  # else ids are numbers to the trees
    "min_data_in_leaf": 20,
    "feature_fraction": 1.0,
    "bagging_fraction": 1.0,
}
_OURS = {"rounds", "patience", "categorical"}  # what LightGBM is not told as a parameter
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


def draws(settings: Mapping[str, Any]) -> bool:
    """Return whether trees follow from the seed, as of parts of the features or the rows."""
    return any(settings[name] < 1 for name in ("feature_fraction", "bagging_fraction"))


def run(
    data: MultiTaskData,
    seed: int,
    settings: Mapping[str, Any] = SETTINGS,
    refit: bool = False,
) -> Result:
    """Train a model per task on the same features, and score it as the networks are.

    Rows without a label are left out, and so are sequences, which trees can't read. The number of
    trees is that of the least loss on the validation rows; without them, 500.

    Args:
        data: a data set of tasks of any type but multilabel.
        seed: int.
        settings: dict. All of `SETTINGS`. Defaults to these.
        refit: bool. Whether to grow as many trees anew, on training and validation rows together.
            Defaults to False.

    Returns:
        The scores, with trees as `epochs` and leaves as `parameters`.
    """
    columns = [c for c in data.feature_columns if not isinstance(c, VarLenSparseFeat)]
    categorical = [
        i for i, c in enumerate(columns) if settings["categorical"] and isinstance(c, SparseFeat)
    ]
    train, val, test, whole = (
        split and (np.column_stack([split[0][c.name] for c in columns]).astype("float64"), split[1])
        for split in (data.train, data.val, data.test, refit and data.refitted().train)
    )
    metrics, validation, trees, leaves = {}, {}, [], 0
    for k, task in enumerate(data.tasks):
        fit = partial(_fit, categorical=categorical, task=task, k=k, seed=seed, settings=settings)
        model = fit(train, val)
        trees.append(max(model.best_iteration, 0) or model.current_iteration())
        leaves += trees[-1] * model.num_model_per_iteration() * settings["num_leaves"]
        if val is not None and refit:
            model = fit(whole, None, rounds=trees[-1])
        elif val is not None:
            validation[task.name] = _scores(model, val, data, "val", k)
        metrics[task.name] = _scores(model, test, data, "test", k)
    return Result(metrics, validation or None, max(trees), leaves)


def _fit(
    train: Any,
    val: Any,
    categorical: list[int],
    task: Task,
    k: int,
    seed: int,
    settings: Mapping[str, Any],
    rounds: int = 500,
) -> Any:
    lightgbm = extra("lightgbm", "bench")
    parameters = {
        "objective": _OBJECTIVES[task.type],
        "bagging_freq": int(settings["bagging_fraction"] < 1),
        "seed": seed,
        "verbosity": -1,
        **{name: settings[name] for name in settings.keys() - _OURS},
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
        return lightgbm.train(parameters, rows, rounds)
    return lightgbm.train(
        parameters,
        rows,
        settings["rounds"],
        valid_sets=[dataset(val, rows)],
        callbacks=[lightgbm.early_stopping(settings["patience"], verbose=False)],
    )


def _scores(model: Any, rows: Any, data: MultiTaskData, split: str, k: int) -> dict[str, float]:
    x, y = rows
    task, predicted = data.tasks[k], np.asarray(model.predict(x))
    scores = scores_of(
        task, y[k], predicted.reshape(len(predicted), -1), groups=data.groups_of(split)
    )
    return in_units(data, task.name, {n: v for n, v in scores.items() if not np.isnan(v)})
