"""Which way a task's log should go, for callbacks that watch it in the mode "auto"."""

from __future__ import annotations

from typing import Any

import keras

from mtl.training import internals
from mtl.training.callbacks import with_callbacks


class _Directions(keras.callbacks.Callback):
    """Tells watching callbacks their mode: of several outputs, Keras doesn't know the logs.

    It does so at the end of an epoch, when the metrics exist.

    Args:
        watching: list of callbacks that watch a log and have no mode yet.
    """

    def __init__(self, watching: list[Any]) -> None:
        super().__init__()
        self._watching = watching

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        modes = modes_of(self.model)
        for callback in self._watching:
            callback.mode = modes.get(callback.monitor.removeprefix("val_"), callback.mode)


def with_directions(callbacks: Any) -> Any:
    """Return the callbacks of `fit`, told by name which logs are better when they are greater."""
    made = isinstance(callbacks, keras.callbacks.CallbackList)
    every = callbacks.callbacks if made else keras.tree.flatten(callbacks)
    # Those that have chosen, as all do at once in Keras 3.8, keep to it.
    watching = [
        c for c in every if getattr(c, "mode", "") == "auto" and getattr(c, "monitor_op", 0) is None
    ]
    return with_callbacks(callbacks, first=_Directions(watching)) if watching else callbacks


def modes_of(model: Any) -> dict[str, str]:
    """Return "min" or "max" by the name of a log, as far as the metrics tell."""
    objective, compiled = internals.objective_of(model), internals.compiled_metrics(model)
    means = [m for m in objective.metrics if isinstance(m, keras.metrics.Mean)]
    modes = dict.fromkeys((mean.name for mean in means), "min")
    names = [f"{task.output_name}_" for task in model.tasks] if len(model.tasks) > 1 else [""]
    for _, by_task in internals.metrics_by_task(compiled) if compiled is not None else ():
        for name, metrics in zip(names, by_task, strict=bool(by_task)):
            for metric in metrics:
                if mode := internals.mode_of(metric):
                    modes[f"{name}{metric.name}"] = modes[f"{name}weighted_{metric.name}"] = mode
    return modes
