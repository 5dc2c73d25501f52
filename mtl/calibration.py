"""Calibration after training: predicted probabilities that agree with observed rates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from mtl import checks
from mtl.layers import Isotonic, Platt
from mtl.layers.calibrators import HIGHEST, LOWEST
from mtl.metrics import labelled, labels_and_weights
from mtl.tasks import Task
from mtl.training.model import MultiTaskModel

__all__ = ["calibrate"]


def calibrate(
    model: MultiTaskModel,
    x: Any,
    y: Any,
    method: str = "platt",
    sample_weight: Any = None,
    batch_size: int = 8192,
) -> MultiTaskModel:
    """Return a copy of a model whose binary tasks are calibrated on held-out data.

    Each gets a layer that maps its prediction, `mtl.layers.Platt` or `mtl.layers.Isotonic`, under
    the task's output name; `get_layer` finds it. The model predicts, saves, exports and is taken
    apart as any other. Weights are copied: what is trained later in one of the two models doesn't
    reach the other. Tasks of other types, and an ESMM's hidden pCVR, stay as they are. The two
    tasks of an ESMM are calibrated each on its own, so pCTCVR may then exceed pCTR.

    Platt scaling has two parameters per task and keeps the ranking (or reverses it, if that is
    worse than chance). Isotonic regression fits any non-decreasing map: it needs more rows, ties
    some predictions, and predicts 0 or 1 at the ends where it saw one class alone.

    Example:
        ```python
        calibrated = mtl.calibration.calibrate(model, x_val, y_val, method="isotonic")
        calibrated.predict(x_test)
        ```

    Args:
        model: a model of `mtl.models`, trained.
        x: dict or DataFrame of features, as in `fit`. Rows that the model was not trained on.
        y: list of label arrays in task order, or dict or DataFrame by task name. NaN is missing.
        method: str. `"platt"` or `"isotonic"`. Defaults to `"platt"`.
        sample_weight: one array for every task, a list in task order, a dict by task name, or
            None. Defaults to None: 1 each.
        batch_size: int. Rows per step of the prediction. Defaults to 8192.

    Returns:
        A `MultiTaskModel` with the tasks of `model`; not compiled.

    Raises:
        TypeError: strings where numbers are expected, or inputs without names.
        ValueError: an unknown method, a model without a binary task, a binary task without
            labels of both classes, or arrays that `fit` would refuse.

    References:
        - Platt, Probabilistic Outputs for Support Vector Machines and Comparisons to Regularized
          Likelihood Methods, 1999
        - Zadrozny and Elkan, Transforming Classifier Scores into Accurate Multiclass Probability
          Estimates, KDD 2002
    """
    if method not in _METHODS:
        raise ValueError(f"`method` should be one of {sorted(_METHODS)}. Received: {method!r}")
    if all(task.type != "binary" for task in model.tasks):
        raise ValueError(
            "`model` should have a binary task. "
            f"Received: {[(task.name, task.type) for task in model.tasks]}"
        )
    labels, weights = labels_and_weights(model, y, sample_weight)
    predictions = checks.as_list(model.predict(x, batch_size=batch_size, verbose=0))
    calibrators = {}
    for task, *columns in zip(model.tasks, labels, predictions, weights, strict=True):
        if task.type == "binary":
            label, p, weight = labelled(*columns, name=f"y[{task.name!r}]")
            classes = np.unique(label)
            if len(classes) < 2:
                raise ValueError(
                    f"`y[{task.name!r}]` should hold both classes to calibrate on. "
                    f"Received: {len(label)} labelled rows, of the classes {classes.tolist()}"
                )
            calibrators[task.name] = _METHODS[method](task, label, p, weight)
    copy = _renamed(model, {task.output_name for task in model.tasks if task.name in calibrators})
    outputs = [
        calibrators[task.name](output) if task.name in calibrators else output
        for task, output in zip(model.tasks, copy.outputs, strict=True)
    ]
    outputs += copy.hidden_outputs
    return MultiTaskModel(copy.input, outputs, name=f"{model.name}_calibrated")


def _platt(task: Task, y: np.ndarray, p: np.ndarray, weight: np.ndarray) -> Platt:
    """Fit by maximum likelihood, on targets that Platt keeps from 0 and 1.

    Without those, no slope would be steep enough for classes that the predictions tell apart.
    """
    p = np.clip(p, LOWEST, HIGHEST)
    logits = np.log(p) - np.log1p(-p)
    positives = np.count_nonzero(y)
    target = np.where(y == 1, (positives + 1) / (positives + 2), 1 / (len(y) - positives + 2))
    # scikit-learn takes classes only: each row is there as both, weighted by its target.
    fitted = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(
        np.tile(logits, 2)[:, None],
        np.repeat([1, 0], len(y)),
        np.concatenate([weight * target, weight * (1 - target)]),
    )
    layer = Platt(task.name, name=task.output_name)
    layer.build((None, 1))
    layer.set_weights([fitted.coef_[0, 0], fitted.intercept_[0]])
    return layer


def _isotonic(task: Task, y: np.ndarray, p: np.ndarray, weight: np.ndarray) -> Isotonic:
    fitted = IsotonicRegression(y_min=0, y_max=1).fit(np.clip(p, LOWEST, HIGHEST), y, weight)
    x, y = fitted.X_thresholds_, fitted.y_thresholds_
    if len(x) == 1:  # a constant
        x, y = np.append(x, x + 1), np.repeat(y, 2)
    layer = Isotonic(len(x), task.name, name=task.output_name)
    layer.build((None, 1))
    layer.set_weights([x, y])
    return layer


_METHODS: dict[str, Callable[..., Any]] = {"isotonic": _isotonic, "platt": _platt}


def _renamed(model: MultiTaskModel, names: set[str]) -> MultiTaskModel:
    """Return a copy of a model whose layers of these names leave them to others."""
    taken = {layer.name for layer in model.layers}

    def clone(layer: Any) -> Any:
        config = layer.get_config()
        if layer.name in names:
            config["name"] += "_uncalibrated"
            while config["name"] in taken:
                config["name"] += "_"
        return type(layer).from_config(config)

    # Of a model that isn't compiled, for an optimizer would be copied as well.
    outputs = [*model.outputs, *model.hidden_outputs]
    bare = MultiTaskModel(model.input, outputs, name=model.name)
    copy = keras.models.clone_model(bare, clone_function=clone)
    copy.set_weights(model.get_weights())
    return copy  # type: ignore[no-any-return]
