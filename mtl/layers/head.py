"""Head: what the layers have in common that make a task's prediction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from mtl.probabilities import bounded_logits
from mtl.tasks import Task

_LEAST_SIGMA = 3e-4  # the square root of Keras' epsilon, as in the authors' code


def prediction(task: Task, logits: Any, training: bool | None) -> Any:
    """Return a task's prediction `(B, size)`, float32, of logits `(B, num_logits)`."""
    logits = ops.cast(logits, "float32")
    if task.type == "lifetime_value":
        return lifetime_value(logits, training)
    if training and task.type != "regression":
        logits = bounded_logits(logits, classes=task.type == "multiclass")
    return keras.activations.get(task.activation)(logits)


def lifetime_value(logits: Any, training: bool | None = None) -> Any:
    """Return the expected value, P(value > 0), μ and σ, `(B, 4)`, of logits `(B, 3)`.

    p = sigmoid(z_1), μ = z_2, σ = softplus(z_3) + 0.0003, E = p exp(μ + σ²/2).
    """
    z, mu, spread = ops.split(logits, 3, axis=-1)
    p = ops.sigmoid(bounded_logits(z) if training else z)
    sigma = ops.softplus(spread) + _LEAST_SIGMA
    # e^40 is beyond any value, and its square is a number, too.
    expected = p * ops.exp(ops.minimum(mu + ops.square(sigma) / 2, 40.0))
    return ops.concatenate([expected, p, mu, sigma], axis=-1)


class Head(keras.layers.Layer):
    """A layer whose output is the prediction of a task.

    A `MultiTaskModel` learns from its heads which tasks it has, and which losses over several of
    them are the model's own. These are part of a layer's configuration, so that a model that is
    cloned, saved or loaded keeps them.

    Args:
        task_name: str or None. The task's own name, any characters. Defaults to the layer's name.
        task_type: str. As in `mtl.tasks.Task`. Defaults to `"binary"`.
        num_outputs: int. Number of classes or labels. Defaults to 1: that of the others.
        hidden: bool. Whether the model keeps the task to itself. Defaults to False.
        joint_losses: list of `mtl.losses.JointLoss`, or their configurations. Losses that belong
            to the model, whatever it is compiled with. Defaults to none.
        **kwargs: `name`, `dtype`, `trainable` of the Keras layer.
    """

    def __init__(
        self,
        task_name: str | None = None,
        task_type: str = "binary",
        num_outputs: int = 1,
        hidden: bool = False,
        joint_losses: Sequence[Any] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        name = self.name if task_name is None else task_name
        self.task = Task(name, task_type, num_outputs, bool(hidden))
        self.joint_losses = [
            keras.saving.deserialize_keras_object(loss) if isinstance(loss, dict) else loss
            for loss in joint_losses
        ]

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that heads have in common, where they aren't the defaults."""
        config = {**super().get_config(), "task_name": self.task.name}
        if self.task.hidden:
            config["hidden"] = True
        if self.joint_losses:
            config["joint_losses"] = [
                keras.saving.serialize_keras_object(loss) for loss in self.joint_losses
            ]
        return config
