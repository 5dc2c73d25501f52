"""Training and scoring of one model."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from mtl import checks
from mtl.benchmark.config import within
from mtl.benchmark.recipes import Recipe, Training, zoo
from mtl.data import MultiTaskData
from mtl.metrics import HEADLINES, evaluate_tasks, scores_of
from mtl.optimizers import LazyAdam
from mtl.training.model import MultiTaskModel
from mtl.training.pace import count_parameters

_ERRORS = ("mae", "rmse")  # what has the unit of the label


@dataclass(frozen=True)
class Result:
    """What was trained, and what it scored.

    Attributes:
        metrics: dict by task of dicts by metric: `mtl.metrics.evaluate_tasks` on the test rows,
            errors in the unit of the label before it was scaled.
        validation: dict as `metrics` on the validation rows, or None if there are none.
        epochs: int. Epochs that were trained; trees of LightGBM.
        parameters: int. Number of trainable parameters; leaves of LightGBM.
    """

    metrics: dict[str, dict[str, float]]
    validation: dict[str, dict[str, float]] | None
    epochs: int
    parameters: int


def train(
    data: MultiTaskData,
    recipe: Recipe,
    model_name: str,
    seed: int,
    balancer: str | None = None,
    verbose: bool = True,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> tuple[MultiTaskModel, Result]:
    """Train one model and score it on the test rows.

    Args:
        data: a data set. Validation rows, if any, stop the training early.
        recipe: sizes and training settings.
        model_name: str. Name of a factory in `mtl.models`.
        seed: int. Seed of weights and shuffling.
        balancer: str or None. Name of a balancer in `mtl.balancing`. Defaults to None.
        verbose: bool. Whether to print a line per epoch. Defaults to True.
        callbacks: list of Keras callbacks, which see `val_score` if the recipe monitors it.
            Defaults to none.

    Returns:
        The trained model and its `Result`.

    Raises:
        ValueError: a model that the recipe doesn't fit.
    """
    keras.utils.set_random_seed(seed)
    data = given(data, recipe)
    model = build(data, recipe, model_name, seed)
    training = recipe.training_of(model_name)
    if training.refit:
        data = data.refitted()
    steps = training.epochs * math.ceil(len(data.train[1][0]) / training.batch_size)
    model.compile(_optimizer(training, steps), balancer=balancer)
    # The score's callback predicts the validation rows itself: no second pass over them.
    val = data.val if training.monitor == "loss" else None
    history = model.fit(
        data.train[0],
        _by_name(data, data.train[1]),
        batch_size=training.batch_size,
        epochs=training.epochs,
        validation_data=val and (val[0], _by_name(data, val[1])),
        validation_batch_size=8192,
        callbacks=[
            *_callbacks(data, training),
            *callbacks,
            *([_Progress(model_name, seed)] if verbose else []),
        ],
        verbose=0,
    )
    return model, Result(
        metrics=_metrics(model, data, "test"),
        validation=data.val and _metrics(model, data, "val"),
        epochs=len(history.epoch),
        parameters=count_parameters(model.trainable_variables),
    )


def given(data: MultiTaskData, recipe: Recipe) -> MultiTaskData:
    """Return the data that networks are given; ValueError if it lacks what is left out."""
    with within("networks"):
        return data.without(recipe.leave_out)


def build(data: MultiTaskData, recipe: Recipe, model_name: str, seed: int) -> MultiTaskModel:
    """Return an untrained model of a recipe; see `train`."""
    types = dict(zip(data.task_names, data.task_types, strict=True))
    names = recipe.task_names_of(model_name, data.task_names)
    sizes = recipe.sizes.get(model_name, {})
    with within(f"models.{model_name}"):
        model: MultiTaskModel = zoo()[model_name](
            data.feature_columns,
            seed=seed,
            task_names=names,
            task_types=[types[name] for name in names],
            **sizes,
        )
    return model


def _optimizer(training: Training, steps: int) -> keras.optimizers.Optimizer:
    rate: Any = training.learning_rate
    if training.schedule == "cosine" or training.warmup:
        rising = int(training.warmup * steps)
        rate = keras.optimizers.schedules.CosineDecay(
            0.0 if rising else rate,
            steps - rising,
            alpha=0.0 if training.schedule == "cosine" else 1.0,  # the share that it falls to
            warmup_target=rate if rising else None,
            warmup_steps=rising,
        )
    options: dict[str, Any] = {"weight_decay": training.weight_decay or None}
    if training.optimizer == "lazy_adam":
        return LazyAdam(rate, **options)
    if training.ema:
        options |= {"use_ema": True, "ema_momentum": training.ema}
    return keras.optimizers.Adam(rate, **options)


def _callbacks(data: MultiTaskData, training: Training) -> list[keras.callbacks.Callback]:
    callbacks: list[keras.callbacks.Callback] = []
    if training.ema:  # first, so that the others see the averages
        callbacks.append(keras.callbacks.SwapEMAWeights(swap_on_epoch=True))
    if data.val is not None:
        score = training.monitor == "score"
        if score:
            callbacks.append(ValidationScore(data.val[0], _by_name(data, data.val[1])))
        callbacks.append(
            keras.callbacks.EarlyStopping(
                monitor=f"val_{training.monitor}",
                mode="max" if score else "min",
                patience=training.patience,
                restore_best_weights=True,
            )
        )
    return callbacks


def _metrics(model: MultiTaskModel, data: MultiTaskData, split: str) -> dict[str, dict[str, float]]:
    x, y = getattr(data, split)
    table = evaluate_tasks(model, x, _by_name(data, y), groups=data.groups_of(split))
    return {
        str(task): in_units(data, str(task), {str(n): v for n, v in scores.dropna().items()})
        for task, scores in table.iterrows()
    }


def in_units(data: MultiTaskData, task: str, scores: Mapping[str, float]) -> dict[str, float]:
    """Return a task's scores with its errors in the label's own unit, not in that it trains in."""
    scale = (data.label_scale or {}).get(task, 1.0)
    return {name: value * (scale if name in _ERRORS else 1) for name, value in scores.items()}


def _by_name(data: MultiTaskData, labels: Sequence[Any]) -> dict[str, Any]:
    return dict(zip(data.task_names, labels, strict=True))


class ValidationScore(keras.callbacks.Callback):
    """Logs `val_score`: the mean over tasks of the AUC (R² for regressions) on validation rows.

    Args:
        x: dict of features.
        y: dict of labels by task name.
    """

    def __init__(self, x: Any, y: dict[str, Any]) -> None:
        super().__init__()
        self._x, self._y = x, y

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Predict the validation rows and score them."""
        outputs = checks.as_list(self.model.predict(self._x, batch_size=8192, verbose=0))
        scores = [
            scores_of(task, self._y[task.name], output)[HEADLINES[task.type].unitless]
            for task, output in zip(self.model.tasks, outputs, strict=True)
        ]
        if logs is not None:
            logs["val_score"] = float(np.mean(scores))


class _Progress(keras.callbacks.Callback):
    """Prints a line per epoch."""

    def __init__(self, model_name: str, seed: int) -> None:
        super().__init__()
        self._label = f"{model_name:<12} seed {seed}"
        self._start = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = logs or {}
        names = {"val_loss": "validation loss", "val_score": "validation score"}
        validation = "".join(f"  {t} {logs[n]:.4f}" for n, t in names.items() if n in logs)
        seconds = time.perf_counter() - self._start
        print(
            f"{self._label}  epoch {epoch + 1:>3}  loss {logs['loss']:.4f}{validation}"
            f"  {seconds:5.1f} s",
            flush=True,
        )
