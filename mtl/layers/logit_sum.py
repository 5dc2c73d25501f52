"""LogitSum: the prediction of a task from several networks' logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from mtl.layers.head import Head, prediction


@keras.saving.register_keras_serializable(package="mtl")
class LogitSum(Head):
    """The head of a task on logits that add up: ŷ = σ(Σ_i l_i), σ as in `Tower`.

    Args:
        task_name: str or None. The task's own name. Defaults to the layer's name.
        task_type: str. As in `Tower`. Defaults to `"binary"`.
        num_outputs: int. As in `Tower`. Defaults to 1.
        **kwargs: `name` of the Keras layer; `hidden` and `joint_losses` of `Head`.

    Call arguments:
        inputs: list of tensors of shape `(B, num_outputs)`.

    Returns:
        A tensor of shape `(B, num_outputs)`, float32.
    """

    def __init__(
        self,
        task_name: str | None = None,
        task_type: str = "binary",
        num_outputs: int = 1,
        **kwargs: Any,
    ) -> None:
        # float32 whatever the policy, as all predictions.
        super().__init__(task_name, task_type, num_outputs, **{**kwargs, "dtype": "float32"})
        self.built = True

    def call(self, inputs: Sequence[Any], training: bool | None = None) -> Any:
        """Return the task's prediction."""
        logits = sum(ops.cast(one, "float32") for one in inputs)
        return prediction(self.task, logits, training)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return `(B, num_outputs)`."""
        return input_shape[0]

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "task_type": self.task.type,
            "num_outputs": self.task.size,
        }
