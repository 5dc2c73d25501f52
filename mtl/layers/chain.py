"""Chain: the probability of a step of a funnel, from the steps before it."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from mtl.layers.head import Head
from mtl.probabilities import bounded_product


@keras.saving.register_keras_serializable(package="mtl")
class Chain(Head):
    """The probability of a step that is reached through others.

    Through one step: P(A and B) = P(A) · P(B | A). Through several, each of which lies within the
    one before, A_1 ⊃ A_2 ⊃ … ⊃ A_m, it is a sum over disjoint rows, with P(A_{m+1}) = 0:

        P(B) = Σ_i (P(A_i) - P(A_{i+1})) · P(B | A_i without A_{i+1})

    Args:
        task_name: str or None. Name of the task that it predicts. Defaults to the layer's name.
        **kwargs: `name` of the Keras layer; `hidden` and `joint_losses` of `Head`.

    Call arguments:
        inputs: list of 2m tensors of shape `(B, 1)`: P(A_1), …, P(A_m), then the conditional
            probability of each.

    Returns:
        A tensor of shape `(B, 1)`, float32.
    """

    def __init__(self, task_name: str | None = None, **kwargs: Any) -> None:
        # float32 whatever the policy: products of small probabilities underflow in half precision.
        super().__init__(task_name, **{**kwargs, "dtype": "float32"})
        self.built = True

    def ways(self, inputs: list[Any]) -> list[tuple[Any, Any, Any | None]]:
        """Return the ways to this step, the outermost first.

        Returns:
            A list of triples: the conditional probability, the step that it is conditional on,
            and the step that is not to be taken, or None. It can be observed on these rows alone.
        """
        steps = inputs[: len(inputs) // 2]
        return list(zip(inputs[len(steps) :], steps, [*steps[1:], None], strict=True))

    def call(self, inputs: list[Any], training: bool | None = None) -> Any:
        """Return the sum over the ways."""
        # As products: sums of logs would lose digits, and a step could come out above the one
        # before it, for no more range: what comes out is a float32 all the same.
        terms = [
            conditional * (step if without is None else step - without)
            for conditional, step, without in self.ways(inputs)
        ]
        p = sum(terms[1:], terms[0])
        if len(terms) > 1:
            p = ops.minimum(p, inputs[0])  # but for rounding, it is below
        return bounded_product(p, inputs[0]) if training else p

    def compute_output_shape(self, input_shape: list[Any]) -> Any:
        """Return `(B, 1)`."""
        return input_shape[0]
