"""Chain: the probability of several steps in a row."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from mtl.layers.head import Head


@keras.saving.register_keras_serializable(package="mtl")
class Chain(Head):
    """The probability of two steps in a row: P(A and B) = P(A) · P(B | A).

    Args:
        task_name: str or None. Name of the task that this product predicts. Defaults to the
            layer's name.
        **kwargs: `name` of the Keras layer; `hidden` and `joint_losses` of `Head`.

    Call arguments:
        inputs: list of two tensors of shape `(B, 1)`: P(A), then P(B | A).

    Returns:
        A tensor of shape `(B, 1)`, float32.
    """

    # The second input is observed only where the first step was taken.
    conditional = True

    def __init__(self, task_name: str | None = None, **kwargs: Any) -> None:
        # float32 whatever the policy: products of small probabilities underflow in half precision.
        super().__init__(task_name, **{**kwargs, "dtype": "float32"})
        self.built = True

    def call(self, inputs: list[Any]) -> Any:
        """Return the product."""
        return ops.multiply(*inputs)

    def compute_output_shape(self, input_shape: list[Any]) -> Any:
        """Return `(B, 1)`."""
        return input_shape[0]
