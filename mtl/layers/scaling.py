"""Scaling: a learned weight for each number that a network reads."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from mtl import checks


@keras.saving.register_keras_serializable(package="mtl")
class Scaling(keras.layers.Layer):
    """Multiplies each column by a learned number: y = x ⊗ (1 + rate · w), with w = 0 at first.

    A network that reads y can fade out what tells nothing at all before its first kernel has
    unlearned it, entry by entry: soft feature selection. An optimizer like Adam, whose steps don't
    depend on the size of gradients, moves 1 + rate · w by `rate` times its learning rate.

    Args:
        rate: float above 0. How many times as fast as other weights the numbers are learned.
            Defaults to 6, as in the paper.
        skip: int. How many columns at the beginning stay as they are, such as embeddings, whose
            sizes are learned anyway. Defaults to 0.
        **kwargs: `name`, `dtype`, `trainable` of the Keras layer.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: an argument out of range, or no column beyond those to skip.

    Call arguments:
        inputs: tensor of shape `(B, D)`.

    Returns:
        A tensor of shape `(B, D)`.

    References:
        - Holzmüller et al., Better by Default: Strong Pre-Tuned MLPs and Boosted Trees on Tabular
          Data, NeurIPS 2024, the scaling layer of RealMLP, there with a learning rate of its own
    """

    def __init__(self, rate: float = 6.0, skip: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate = checks.positive_float("rate", rate)
        self.skip = checks.non_negative_int("skip", skip)

    def build(self, input_shape: Any) -> None:
        """Create a weight for each column."""
        width = input_shape[-1] - self.skip
        if width < 1:
            raise ValueError(
                f"`skip` should be less than the {input_shape[-1]} columns. Received: {self.skip}"
            )
        self.scale = self.add_weight(name="scale", shape=(width,), initializer="zeros")
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Return the scaled columns."""
        return inputs * (1 + ops.pad(self.rate * self.scale, [[self.skip, 0]]))

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Return `(B, D)`."""
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "rate": self.rate, "skip": self.skip}
