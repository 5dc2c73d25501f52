"""Training and scoring of one model, and of all of them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import keras

from mtl import models
from mtl.benchmark.recipes import Recipe
from mtl.data import MultiTaskData
from mtl.metrics import auc
from mtl.models.base import MultiTaskModel
from mtl.models.pace import count_parameters
from mtl.optimizers import LazyAdam

OPTIMIZERS = {"adam": keras.optimizers.Adam, "lazy_adam": LazyAdam}


@dataclass(frozen=True)
class Result:
    """What one trained model scored.

    Attributes:
        model: str. Name of the factory.
        seed: int. Seed of weights and shuffling.
        auc: dict from task name to the area under the ROC curve on the test rows.
        epochs: int. Epochs that were trained.
        parameters: int. Number of trainable parameters.
        seconds: float. Wall-clock time of building, training and scoring.
    """

    model: str
    seed: int
    auc: dict[str, float]
    epochs: int
    parameters: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the result as a plain dict."""
        return asdict(self)


def compare(
    data: MultiTaskData,
    recipe: Recipe,
    model_names: Sequence[str],
    seeds: Iterable[int],
    verbose: bool = True,
) -> list[Result]:
    """Train every model with every seed, and score it on the test rows.

    Args:
        data: a data set with binary tasks.
        recipe: sizes and training settings.
        model_names: names of factories in `mtl.models`.
        seeds: seeds of weights and shuffling; one run of each model per seed.
        verbose: bool. Whether to print a line per epoch. Defaults to True.

    Returns:
        A list of `Result`, seed by seed and model by model.
    """
    results = []
    for seed in seeds:
        for name in model_names:
            results.append(train(data, recipe, name, seed, verbose)[1])
            keras.backend.clear_session()
    return results


def train(
    data: MultiTaskData, recipe: Recipe, model_name: str, seed: int, verbose: bool = True
) -> tuple[MultiTaskModel, Result]:
    """Train one model and score it on the test rows.

    Args:
        data: a data set with binary tasks. Validation rows, if any, stop the training early.
        recipe: sizes and training settings.
        model_name: str. Name of a factory in `mtl.models`.
        seed: int. Seed of weights and shuffling.
        verbose: bool. Whether to print a line per epoch. Defaults to True.

    Returns:
        The trained model and its `Result`.
    """
    start = time.perf_counter()
    keras.utils.set_random_seed(seed)
    task_names = data.task_names
    if model_name == "ESMM":
        task_names = [data.task_names[position] for position in recipe.funnel]
    model = getattr(models, model_name)(
        data.feature_columns, task_names=task_names, seed=seed, **recipe.sizes[model_name]
    )
    model.compile(OPTIMIZERS[recipe.optimizer](recipe.learning_rate))
    callbacks: list[keras.callbacks.Callback] = [_Progress(model_name, seed)] if verbose else []
    if data.val is not None:
        callbacks.append(
            keras.callbacks.EarlyStopping(patience=recipe.patience, restore_best_weights=True)
        )
    history = model.fit(
        data.train[0],
        _by_name(data, data.train[1]),
        batch_size=recipe.batch_size,
        epochs=recipe.epochs,
        validation_data=data.val and (data.val[0], _by_name(data, data.val[1])),
        validation_batch_size=8192,
        callbacks=callbacks,
        verbose=0,
    )
    predictions = model.predict(data.test[0], batch_size=8192, verbose=0)
    labels = _by_name(data, data.test[1])
    scores = {
        name: auc(labels[name], predictions[task_names.index(name)]) for name in data.task_names
    }
    return model, Result(
        model=model_name,
        seed=seed,
        auc=scores,
        epochs=len(history.epoch),
        parameters=count_parameters(model.trainable_variables),
        seconds=round(time.perf_counter() - start, 2),
    )


def _by_name(data: MultiTaskData, labels: Sequence[Any]) -> dict[str, Any]:
    return dict(zip(data.task_names, labels, strict=True))


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
        validation = f"  validation loss {logs['val_loss']:.4f}" if "val_loss" in logs else ""
        seconds = time.perf_counter() - self._start
        print(
            f"{self._label}  epoch {epoch + 1:>3}  loss {logs['loss']:.4f}{validation}"
            f"  {seconds:5.1f} s",
            flush=True,
        )
