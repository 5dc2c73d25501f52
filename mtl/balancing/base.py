"""What every balancer is: a layer that holds its state, and rules for weights and gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from mtl.tasks import Task


class Balancer(keras.layers.Layer):
    """Balances the losses of a model's tasks in training; see `mtl.balancing`.

    A layer only in that Keras keeps, saves and hands on its variables: nobody calls it. In
    evaluation the losses are summed as without it.

    Subclasses implement `weights`, and where they need them, `build`, `penalty` and `observe`.

    Args:
        **kwargs: `name` of the Keras layer.
    """

    def start(self, tasks: Sequence[Task]) -> None:
        """Create the state for these tasks.

        Args:
            tasks: the model's tasks, in order.

        Raises:
            ValueError: there is only one task, or another number than before.
        """
        if len(tasks) < 2:
            raise ValueError(
                f"`balancer` should be given to a model of several tasks. "
                f"Received: {type(self).__name__} for the single task {tasks[0].name!r}"
            )
        if not self.built:
            self.tasks = tuple(tasks)
            self.build((len(tasks),))
            self.built = True
        elif tuple(tasks) != self.tasks:
            raise ValueError(
                f"`balancer` should be a new one for every model. Received: a {type(self).__name__} "
                f"of the tasks {[task.name for task in self.tasks]}"
            )

    def weights_of(self, losses: Any) -> Any:
        """Return the weights `(T,)` of the tasks' losses `(T,)` in the sum that is minimised.

        No gradient flows through them unless the method learns them so.
        """
        return ops.ones_like(losses)

    def penalty(self) -> Any:
        """Return a scalar to add to the weighted sum; 0 for most methods."""
        return 0.0

    def observe(self, losses: Any) -> None:
        """Take notice of the losses `(T,)` of a training step, to change the state."""


class GradientBalancer(Balancer):
    """Balances by the tasks' gradients on the shared parameters of a model.

    With g_k the gradient of task k's loss on `model.shared_variables`, every method here makes
    d = Σ_k c_k g_k with coefficients that depend on the inner products g_i · g_j alone. The other
    parameters, embeddings among them, receive the gradient of the sum of losses, weighted by
    `weights_of`.
    """

    def coefficients(self, gram: Any, losses: Any) -> Any:
        """Return the coefficients c.

        Args:
            gram: tensor of shape `(T, T)`, float32. Inner products of the tasks' gradients.
            losses: tensor of shape `(T,)`, float32. The tasks' losses.

        Returns:
            A tensor of shape `(T,)`.
        """
        raise NotImplementedError
