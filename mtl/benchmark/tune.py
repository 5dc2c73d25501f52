"""Search of a model's sizes and training settings, by its score on the validation rows.

The search space of every model is `space`. Test rows take no part in it.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mtl.benchmark.config import extra
from mtl.benchmark.recipes import Recipe, zoo
from mtl.benchmark.runs import train
from mtl.data import MultiTaskData
from mtl.data.files import atomic_path
from mtl.models.options import Widths

Settings = dict[str, Any]
_TOWERS = "tower_dnn_units_lists"


# What searches begin with. On Census-income one wide layer did best, with its weights averaged,
# much of the embedding dropped, and weights decayed strongly.
FIRST: Settings = {
    "width": 128,
    "layers": 1,
    "tower": 0,
    "dense_embedding_dim": 8,
    "dnn_dropout": 0.2,
    "embedding_dropout": 0.25,
    "dense_scaling": 0.0,
    "num_experts": 8,
    "num_experts_specific": 2,
    "num_experts_shared": 2,
    "learning_rate": 3.5e-3,
    "batch_size": 512,
    "schedule": "cosine",
    "weight_decay": 0.013,
    "ema": 0.99,
}


def space(trial: Any, model: str, num_tasks: int) -> tuple[Settings, Settings]:
    """Return the factory's options and the training settings that a trial tries.

    What is searched beside what all models have in common stands with each factory, in its
    `@model(search=…)`.

    Args:
        trial: Optuna's trial, which suggests values.
        model: str. Name of the factory.
        num_tasks: int.

    Returns:
        Two dicts: options of the factory, and settings of `Training`.
    """
    width = trial.suggest_categorical("width", [16, 32, 64, 128, 256])
    layers = trial.suggest_categorical("layers", [1, 2])
    tower = trial.suggest_categorical("tower", [0, 8, 16, 32])
    towers = [tower] if tower else []
    options: Settings = {
        _TOWERS: [towers] * num_tasks,
        "dense_embedding_dim": trial.suggest_categorical("dense_embedding_dim", [4, 8, 16]),
        "dnn_dropout": _short(trial.suggest_float("dnn_dropout", 0, 0.5, step=0.05)),
        "embedding_dropout": _short(trial.suggest_float("embedding_dropout", 0, 0.3, step=0.05)),
        "dense_scaling": trial.suggest_categorical("dense_scaling", [0.0, 6.0]),
    }
    for name, values in zoo()[model].search.items():
        if not isinstance(values, Widths):
            options[name] = trial.suggest_categorical(name, list(values))
            continue
        widths = [values.factor * width // 2**layer for layer in range(layers)]
        options[name] = [widths + towers] * num_tasks if name == _TOWERS else widths
    return options, {
        "learning_rate": _short(trial.suggest_float("learning_rate", 5e-4, 2e-2, log=True)),
        "batch_size": trial.suggest_categorical("batch_size", [512, 1024, 2048]),
        "schedule": trial.suggest_categorical("schedule", ["constant", "cosine"]),
        "weight_decay": _short(trial.suggest_float("weight_decay", 1e-4, 1e-1, log=True)),
        "ema": trial.suggest_categorical("ema", [0.0, 0.99, 0.999]),
    }


def first_of(model: str) -> Settings:
    """Return the trial that a model's search begins with: no search ends below it."""
    choices = {k: v for k, v in zoo()[model].search.items() if not isinstance(v, Widths)}
    fitting = {name: FIRST.get(name) for name in choices}
    return FIRST | {n: v if v in choices[n] else choices[n][0] for n, v in fitting.items()}


def _short(value: float) -> float:
    """Return two digits of a number: what was tried can be written down, and read."""
    return float(f"{value:.1e}")


def open_storage(url: str, attempts: int = 10) -> Any:
    """Open a study's data base, or make it.

    Processes that begin at once all try to make its tables, and all but one fail. They try again.
    """
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import IntegrityError, OperationalError

    try:
        return RDBStorage(url)
    except (IntegrityError, OperationalError):
        if attempts == 1:
            raise
    time.sleep(0.5)
    return open_storage(url, attempts - 1)


def tune(
    data: MultiTaskData,
    recipe: Recipe,
    model: str,
    trials: int,
    storage: str,
    study_name: str,
    about: Mapping[str, Any],
    path: Path,
) -> None:
    """Search until the study has a number of finished trials, and write the best one as TOML.

    Processes that name the same study share it, and a killed one goes on. A trial that is worse
    than the median of the earlier ones at the same epoch is given up.

    Args:
        data: a data set with validation rows.
        recipe: what the search starts from.
        model: str. Name of a factory.
        trials: int. Trials that the study should have when it is finished.
        storage: str. URL of the study's data base.
        study_name: str.
        about: dict. What the data set is. The study keeps it, and what of the recipe isn't
            searched, so that it goes on with no other.
        path: Path. The TOML file to write.

    Raises:
        ValueError: no validation rows, or a study of another data set or recipe.
        ModuleNotFoundError: without the extra `tune`.
    """
    optuna = extra("optuna", "tune")
    if data.val is None:
        raise ValueError("A search should have validation rows. Received: none in this data set")
    study = optuna.create_study(
        study_name=study_name,
        storage=open_storage(storage),
        direction="maximize",
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(multivariate=True, constant_liar=True),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=2),
    )
    tasks = len(recipe.task_names_of(model, data.task_names))
    first = space(optuna.trial.FixedTrial(first_of(model)), model, tasks)
    _check_study(study, {**about, "recipe": _not_searched(recipe, model, *first)})
    states = optuna.trial.TrialState
    ended = (states.COMPLETE, states.PRUNED)
    tried = recipe.training_of(model)

    def objective(trial: Any) -> float:
        options, settings = space(trial, model, tasks)
        reporter = _Reporter(trial)
        _, result = train(
            data,
            _with(recipe, model, options, {**settings, "monitor": "score"}),
            model,
            seed=trial.number,
            verbose=False,
            callbacks=[reporter],
        )
        keras.backend.clear_session()
        gc.collect()
        if reporter.hopeless:
            raise optuna.TrialPruned
        trial.set_user_attr("epochs", result.epochs)
        return reporter.best

    study.enqueue_trial(first_of(model), skip_if_exists=True)
    while len(study.get_trials(deepcopy=False, states=ended)) < trials:
        study.optimize(objective, n_trials=1)
    best = study.best_trial
    options, settings = space(optuna.trial.FixedTrial(best.params), model, tasks)
    settings |= {"epochs": tried.epochs, "patience": tried.patience, "monitor": "score"}
    head = (
        f"# {study_name}: the best of {trials} trials, number {best.number}, with a mean score of\n"
        f"# {best.value:.5f} on the validation rows. Written by `mtl.benchmark tune`.\n\n"
    )
    with atomic_path(path) as part:
        part.write_text(head + to_toml(model, options, settings), encoding="utf-8")
    print(f"{path}: trial {best.number}, validation score {best.value:.5f}")


def _not_searched(recipe: Recipe, model: str, options: Settings, settings: Settings) -> Settings:
    """Return what all trials have in common: the recipe without what `space` suggests."""
    given = {**recipe.sizes.get(model, {}), **recipe.training_of(model).identity()}
    return {k: v for k, v in given.items() if k not in {*options, *settings, "monitor"}}


def _check_study(study: Any, about: Mapping[str, Any]) -> None:
    """Note what a study is about, and refuse one that has been about something else."""
    about = json.loads(json.dumps(about))  # as the storage gives it back
    known = study.user_attrs.get("about")
    if known is None:
        study.set_user_attr("about", about)
    elif known != about:
        raise ValueError(
            f"The study {study.study_name!r} should go on with what it began with, {known}. "
            f"Received: {about}. Name another `--output` or `--storage`"
        )


def to_toml(model: str, options: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """Return the configuration that `mtl.benchmark` reads."""
    lines = [f"[models.{model}]", *(f"{key} = {_value(v)}" for key, v in options.items())]
    lines += ["", f"[models.{model}.training]"]
    return "\n".join([*lines, *(f"{key} = {_value(v)}" for key, v in settings.items())]) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_value, value))}]"
    return repr(value)


def _with(recipe: Recipe, model: str, options: Settings, settings: Settings) -> Recipe:
    sizes = {**recipe.sizes, model: {**recipe.sizes.get(model, {}), **options}}
    own = {**recipe.own_training.get(model, {}), **settings}
    return replace(recipe, sizes=sizes, own_training={**recipe.own_training, model: own})


class _Reporter(keras.callbacks.Callback):
    """Tells the study every epoch's score, and ends a trial that has no prospect."""

    def __init__(self, trial: Any) -> None:
        super().__init__()
        self._trial = trial
        self.best, self.hopeless = -np.inf, False

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        score = (logs or {})["val_score"]
        self.best = max(self.best, score)
        self._trial.report(score, epoch)
        if not np.isfinite(score) or self._trial.should_prune():
            self.hopeless = self.model.stop_training = True
