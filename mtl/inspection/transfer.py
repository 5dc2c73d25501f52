"""Negative transfer: tasks that a multi-task model serves worse than a model of their own."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pandas as pd
from scipy import stats

from mtl import checks
from mtl.metrics import HEADLINES, scores_of
from mtl.tasks import PerTask, Task
from mtl.training import labels as labels_of
from mtl.training import spread
from mtl.training.pace import count_parameters

_ENOUGH = 3  # pairs; two have a test without power


def negative_transfer(
    factory: Callable[..., Any],
    feature_columns: Sequence[Any],
    train: tuple[Any, ...],
    test: tuple[Any, Any],
    *,
    options: Mapping[str, Any] | None = None,
    compile: Mapping[str, Any] | None = None,
    fit: Mapping[str, Any] | None = None,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    metric: Callable[[Any, Any], float] | None = None,
    confidence: float = 0.95,
    verbose: bool = False,
) -> pd.DataFrame:
    """Compare a multi-task model with single-task models of the same size, on held-out rows.

    ```python
    table = negative_transfer(
        MMoE,
        data.feature_columns,
        data.train,
        data.test,
        options={"task_names": data.task_names, "num_experts": 8},
        compile={"optimizer": "adam"},
        fit={"batch_size": 1024, "epochs": 3},
    )
    table[table["negative"]]  # the tasks that are shown to be better off alone
    ```

    The single-task model of a task comes from the same factory, with the task's own tower. Having
    lost the other tasks' towers, gates and experts, it would be smaller: the widths of its experts
    (of its bottom, in SharedBottom) are multiplied by the factor that brings its number of
    trainable parameters nearest to the multi-task model's. Each seed trains every model once, so
    that there are `len(seeds) * (T + 1)` runs; the interval is Student's t for the mean of the
    seeds' differences. Sets the global random seed.

    Args:
        factory: a factory of `mtl.models` with experts or a bottom to widen, such as MMoE or PLE.
        feature_columns: list of feature columns.
        train: `(x, y)` or `(x, y, sample_weight)`, in the forms that `fit` takes.
        test: `(x, y)`. Rows to score on; those whose label is NaN are left out.
        options: dict. The factory's other arguments, such as `task_names`. Defaults to None.
        compile: dict. Arguments of `compile`; optimizers and the like are copied for each run, and
            a single-task model gets its task's part, without `loss_weights` and `balancer`.
            Defaults to None.
        fit: dict. Further arguments of `fit`, `validation_data` among them. Defaults to None.
        seeds: list of int, at least two. Seeds of weights and shuffling. Defaults to 0 to 4.
        metric: function of labels `(N, 1)` and predictions `(N, size)` to a float, the greater the
            better; or None: by the task's type AUC, minus the root mean squared error, accuracy,
            or the mean of the labels' AUC. Defaults to None.
        confidence: float in (0, 1). Level of the interval. Defaults to 0.95.
        verbose: bool. Whether to show a bar of the runs. Defaults to False.

    Returns:
        A DataFrame with one row per task: "metric", its name; "single" and "multi", means over
        seeds; "difference", multi - single; "ci_low" and "ci_high", its interval; "verdict",
        "worse" or "better" together where the interval excludes 0, and otherwise "unclear", or
        "too few seeds" below three, with which hardly any difference is told from chance;
        "negative", whether it is "worse" (False is no proof that nothing is: see the interval);
        "parameters_single" and "parameters_multi"; "seeds", their number.

    Raises:
        TypeError: an argument of a wrong type, or data that `fit` refuses.
        ValueError: a single task, fewer than two seeds, a factory without experts or bottom, or
            data that `fit` refuses.

    References:
        - Tang et al., Progressive Layered Extraction (PLE): A Novel Multi-Task Learning (MTL)
          Model for Personalized Recommendations, RecSys 2020, section 3: the seesaw phenomenon
    """
    options = dict(options or {})
    seeds = [checks.non_negative_int(f"seeds[{i}]", seed) for i, seed in enumerate(seeds)]
    if len(set(seeds)) < max(len(seeds), 2):
        raise ValueError(f"`seeds` should hold two or more different seeds. Received: {seeds}")
    if not 0 < checks.number("confidence", confidence, "a number between 0 and 1") < 1:
        raise ValueError(f"`confidence` should lie between 0 and 1. Received: {confidence!r}")
    model = factory(feature_columns, **options)
    tasks, size = model.tasks, _size(model)
    if len(tasks) < 2:
        raise ValueError(f"`options` should make several tasks. Received: {model.task_names} alone")
    single_options = alone(factory, feature_columns, options, tasks, size)
    setting = _Setting(factory, feature_columns, tasks, train, compile or {}, fit or {})
    x_test, labels = test[0], labels_of.check_labels(tasks, test[1])
    single, multi = np.zeros((2, len(tasks), len(seeds)))
    sizes = [0] * len(tasks)
    runs = len(seeds) * (1 + len(tasks))
    bar = keras.utils.Progbar(runs, unit_name="run", verbose=int(verbose))
    for column, seed in enumerate(seeds):
        model = setting.run(options, seed)
        bar.add(1)
        for k, predictions in enumerate(model.predict(x_test, verbose=0)):
            multi[k, column] = _score(tasks[k], labels[k], predictions, metric)
        for k, task in enumerate(tasks):
            model = setting.run(single_options[k], seed, k)
            predictions = model.predict(x_test, verbose=0)
            single[k, column] = _score(task, labels[k], predictions, metric)
            sizes[k] = _size(model)
            bar.add(1)
    intervals = [interval(differences, confidence) for differences in multi - single]
    name = getattr(metric, "__name__", "metric")
    return pd.DataFrame(
        {
            "metric": [_title(task) if metric is None else name for task in tasks],
            "single": single.mean(axis=1),
            "multi": multi.mean(axis=1),
            "difference": [one.mean for one in intervals],
            "ci_low": [one.low for one in intervals],
            "ci_high": [one.high for one in intervals],
            "verdict": [one.verdict for one in intervals],
            "negative": [one.verdict == "worse" for one in intervals],
            "parameters_single": sizes,
            "parameters_multi": size,
            "seeds": len(seeds),
        },
        index=pd.Index([task.name for task in tasks], name="task"),
    )


@dataclass(frozen=True)
class Interval:
    """The mean of paired differences, how far chance may have moved it, and what that tells.

    Attributes:
        mean: float. Above 0 is better.
        low: float. NaN for a single pair.
        high: float. NaN for a single pair.
        pairs: int. How many differences there were.
    """

    mean: float
    low: float
    high: float
    pairs: int

    @property
    def verdict(self) -> str:
        """What the interval tells: "worse", "better", "unclear", or "too few seeds".

        That nothing was found is no finding: with two pairs, a difference has to be thirteen
        times its standard error.
        """
        if self.high < 0:
            return "worse"
        if self.low > 0:
            return "better"
        return "unclear" if self.pairs >= _ENOUGH else "too few seeds"


def interval(differences: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return Student's interval for the mean of one or more paired differences."""
    values = np.asarray(differences, "float64")
    mean, pairs = float(values.mean()), len(values)
    if pairs < 2:
        return Interval(mean, math.nan, math.nan, pairs)
    error = values.std(ddof=1) / math.sqrt(pairs)
    half = float(stats.t.ppf((1 + confidence) / 2, pairs - 1) * error)
    return Interval(mean, mean - half, mean + half, pairs)


def alone(
    factory: Callable[..., Any],
    columns: Sequence[Any],
    options: Mapping[str, Any],
    tasks: Sequence[Task],
    size: int,
) -> list[dict[str, Any]]:
    """Return the factory's arguments for a model of each task alone, of a number of parameters."""
    every, widths = [], {}
    for k in range(len(tasks)):
        own = _options_of(options, tasks, k)
        form = repr((own["task_types"], own.get("tower_dnn_units_lists")))
        if form not in widths:
            widths[form] = _same_size(factory, columns, own, size)
        every.append({**own, **widths[form]})
    return every


def _options_of(options: Mapping[str, Any], tasks: Sequence[Task], k: int) -> dict[str, Any]:
    """Return the factory's arguments for task k alone."""
    task = tasks[k]
    sized = task.type in ("multiclass", "multilabel")
    own = {
        **options,
        "num_tasks": 1,
        "task_names": [task.name],
        "task_types": [(task.type, task.size) if sized else task.type],
    }
    if "tower_dnn_units_lists" in options:
        towers = options["tower_dnn_units_lists"]
        own["tower_dnn_units_lists"] = [towers[0 if isinstance(towers, PerTask) else k]]
    return own


def _same_size(
    factory: Callable[..., Any], columns: Sequence[Any], options: dict[str, Any], size: int
) -> dict[str, Any]:
    """Return the widths, by the name of their option, whose model is nearest in size."""
    parameters = inspect.signature(factory).parameters
    # What makes a model larger or smaller, whatever its number of tasks.
    names = [n for n in parameters if n.endswith("_dnn_units") and not n.startswith("gate_")]
    if not names:
        raise ValueError(
            "`factory` should be one with experts or a bottom to widen, such as MMoE or PLE. "
            f"Received: {getattr(factory, '__name__', factory)}"
        )
    units = {n: checks.units(n, options.get(n, parameters[n].default)) for n in names}
    if not units[names[0]]:
        return {}
    start = units[names[0]][0]

    def widened(first: int) -> dict[str, Any]:
        return {n: [max(1, round(unit * first / start)) for unit in units[n]] for n in names}

    def excess(first: int) -> int:
        return _size(factory(columns, **{**options, **widened(first)})) - size

    below, above = 0, start
    excesses = {below: -size, above: excess(above)}
    while excesses[above] < 0:
        below, above = above, 2 * above
        excesses[above] = excess(above)
    while above - below > 1:
        middle = (below + above) // 2
        excesses[middle] = excess(middle)
        below, above = (middle, above) if excesses[middle] < 0 else (below, middle)
    return widened(below if below and -excesses[below] < excesses[above] else above)


@dataclass(frozen=True)
class _Setting:
    """What all runs share."""

    factory: Callable[..., Any]
    columns: Sequence[Any]
    tasks: Sequence[Task]
    train: tuple[Any, ...]
    compile: Mapping[str, Any]
    fit: Mapping[str, Any]

    def run(self, options: Mapping[str, Any], seed: int, k: int | None = None) -> Any:
        """Return a trained model of all tasks, or of task k."""
        keras.utils.set_random_seed(seed)
        model = self.factory(self.columns, **{**options, "seed": seed})
        model.compile(**_compile_options(self.compile, self.tasks, k))
        x, y, weights = self._data(self.train, k)
        more = {"verbose": 0, **self.fit}
        by_class = labels_of.check_class_weights(self.tasks, more.get("class_weight"))
        if by_class is not None and k is not None:
            more["class_weight"] = by_class[k]
        if isinstance(more.get("validation_data"), (list, tuple)):
            more["validation_data"] = self._data(more["validation_data"], k)
        model.fit(x, y, sample_weight=weights, **more)
        return model

    def _data(self, data: Any, k: int | None) -> tuple[Any, Any, Any]:
        """Return inputs, labels and sample weights of all tasks, or of task k."""
        x, y, *rest = data
        labels = labels_of.check_labels(self.tasks, y)
        weights = labels_of.check_sample_weights(
            self.tasks, rest[0] if rest else None, len(labels[0])
        )
        if k is None:
            return x, labels, weights
        return x, labels[k], weights and weights[k]


def _compile_options(
    compile: Mapping[str, Any], tasks: Sequence[Task], k: int | None
) -> dict[str, Any]:
    """Return fresh arguments of `compile` for all tasks, or for task k."""
    options = {name: keras.tree.map_structure(_fresh, value) for name, value in compile.items()}
    if k is None:
        return options
    for name in ("loss_weights", "balancer"):
        options.pop(name, None)
    if "loss" in options:
        options["loss"] = spread.spread_losses(tasks, options["loss"])[k]
    for name in ("metrics", "weighted_metrics"):
        if options.get(name) is not None:
            options[name] = spread.metric_lists(tasks, name, options[name])[k]
    return options


def _fresh(value: Any) -> Any:
    """Return a copy of an optimizer, metric or loss: its state belongs to one model."""
    return type(value).from_config(value.get_config()) if hasattr(value, "get_config") else value


def _title(task: Task) -> str:
    headline = HEADLINES[task.type]
    return headline.title if headline.sign > 0 else f"-{headline.title}"


def _score(task: Task, labels: Any, predictions: Any, metric: Any) -> float:
    """Return a score, the greater the better, on the rows whose label is known."""
    if metric is None:
        headline = HEADLINES[task.type]
        return headline.sign * scores_of(task, labels, predictions)[headline.metric]
    labels = np.asarray(labels).reshape(len(predictions), -1)
    rows = ~np.isnan(labels).any(axis=1)
    return float(metric(labels[rows], np.asarray(predictions)[rows]))


def _size(model: Any) -> int:
    """Return the number of trainable parameters."""
    return count_parameters(model.trainable_variables)
