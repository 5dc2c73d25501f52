"""What is private in Keras' trainer and models, each thing in a function of its own.

Keras promises none of it, so nothing else reaches for it. When a release of Keras breaks one of
these, its docstring says what it is for; the tests run with the oldest and the newest Keras.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import keras
from keras.src.trainers.data_adapters import get_data_adapter
from keras.src.trainers.data_adapters.data_adapter import DataAdapter
from keras.src.utils import rng_utils

__all__ = ["DataAdapter"]  # what Keras' trainer draws batches from, of whatever kind the data are


def set_objective(model: Any, objective: Any) -> None:
    """Put an `Objective` in the place of the loss container, which keeps no losses apart."""
    model._compile_loss = objective


def objective_of(model: Any) -> Any:
    """Return what `set_objective` put, or Keras' own container before `compile`."""
    return model._compile_loss


def compiled_metrics(model: Any) -> Any:
    """Return the container of the metrics given to `compile`, or None."""
    return model._compile_metrics


def metrics_by_task(compiled: Any) -> list[tuple[bool, list[list[Any]]]]:
    """Return, for plain and for weighted metrics, those of each output, to update them apart."""
    kinds = ((False, compiled._flat_metrics), (True, compiled._flat_weighted_metrics))
    # Keras 3.8 keeps no entries where no metric is given.
    return [(kind, [list(entry.metrics) if entry else [] for entry in of]) for kind, of in kinds]


def function_of(metric: Any) -> Any:
    """Return the function of a user that Keras made a metric of, with its arguments, or None."""
    if type(metric) is not keras.metrics.MeanMetricWrapper:
        return None
    return partial(metric._fn, **metric._fn_kwargs)


def mode_of(metric: Any) -> str | None:
    """Return "max" for a metric of which more is better, "min" for others, or None: unknown."""
    return {"up": "max", "down": "min"}.get(getattr(metric, "_direction", ""))


def rises(metric: Any) -> None:
    """Mark a metric as one of which more is better, for callbacks that watch it."""
    metric._direction = "up"


def adapter_of(*data: Any, **options: Any) -> Any:
    """Return the `DataAdapter` of some data, as Keras' trainer makes it.

    Under several processes Keras takes what it could cut up itself, and nothing else.
    """
    distribution = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        return get_data_adapter(*data, **options)
    finally:
        keras.distribution.set_distribution(distribution)


def count_rows_of_loss(model: Any, mean: Any) -> None:
    """Put a metric in the place of the mean of the total loss, the first of a model's metrics."""
    model._loss_tracker = mean


def random_seed() -> int | None:
    """Return what `keras.utils.set_random_seed` was given, or None."""
    return rng_utils.get_random_seed()  # type: ignore[no-any-return]


def additional_loss(model: Any, loss: Any) -> Any:
    """Return a loss of `add_loss` or a regulariser, scaled for TensorFlow's replicas."""
    return model._aggregate_additional_loss(loss)


def replace_layer(model: Any, before: Any, after: Any) -> None:
    """Track a layer that is no part of the graph, so that it is trained and saved with the model.

    Either may be None. On Keras 3.8 the layers of a functional model are a list that its tracker
    doesn't keep.
    """
    if before is not None:
        model._tracker.untrack(before)
    layers = [layer for layer in model._layers if layer not in (before, after)]
    if after is not None:
        layers.append(after)
    if layers != list(model._layers):
        model._layers = layers
