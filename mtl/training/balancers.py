"""A balancer's place in a model: whether it can serve it, and when it hears of an epoch's end."""

from __future__ import annotations

from typing import Any

import keras

from mtl import balancing
from mtl.training.objective import Objective
from mtl.training.steps import shared_positions


def checked_balancer(model: Any, balancer: Any, objective: Objective) -> Any:
    """Return a balancer that is ready for a model's tasks, or None.

    Args:
        model: MultiTaskModel.
        balancer: str, `mtl.balancing.Balancer` or None.
        objective: what the model is to minimise.

    Raises:
        TypeError: no balancer.
        ValueError: an unknown name, several replicas, a task without a loss, or, for a balancer
            of gradients, no shared parameters.
    """
    balancer = balancing.get(balancer)
    if balancer is None:
        return None
    if model.replicas > 1:
        raise ValueError(
            "`balancer` should be None under a distribution strategy. "
            f"Received: {type(balancer).__name__} with {model.replicas} replicas"
        )
    if objective.without_loss:
        raise ValueError(
            "`balancer` should be given with a loss for every task. "
            f"Received: no loss for {objective.without_loss}"
        )
    shapes: list[Any] = []
    if isinstance(balancer, balancing.GradientBalancer):
        shapes = [model.trainable_variables[i].shape for i, _ in shared_positions(model)]
    balancer.start(model.tasks, shapes)
    return balancer


class EndOfEpoch(keras.callbacks.Callback):
    """Tells a balancer of each epoch's end, before other callbacks save the model."""

    def __init__(self, balancer: Any) -> None:
        super().__init__()
        self._balancer = balancer

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Pass it on."""
        self._balancer.end_epoch()
