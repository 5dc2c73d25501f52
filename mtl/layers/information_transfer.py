"""InformationTransfer: what one step of a sequence hands to the next."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from mtl import checks
from mtl.layers.gate import mix
from mtl.seeds import RandomNormal


@keras.saving.register_keras_serializable(package="mtl")
class InformationTransfer(keras.layers.Layer):
    """The adaptive information transfer of AITM, z = w_p · h_1 p + w_q · h_1 q.

    The score of each of the two vectors is that of itself alone, a_u = ⟨h_2 u, h_3 u⟩ / √H, and
    (w_p, w_q) = softmax(a_p, a_q): p and q don't attend to each other. h_1, h_2 and h_3 are
    linear maps without bias, one kernel side by side.

    Args:
        seed: int or None. Seed of the weights. Defaults to None.
        **kwargs: `name`, `dtype`, `trainable` of the Keras layer.

    Raises:
        ValueError: inputs of different widths.

    Call arguments:
        inputs: list of two tensors of shape `(B, H)`: p, what the step before hands on, and q, the
            step's own.

    Returns:
        A tensor of shape `(B, H)`.

    References:
        - Xi et al., Modeling the Sequential Dependence among Audience Multi-step Conversions with
          Multi-task Learning in Targeted Display Advertising, KDD 2021
    """

    def __init__(self, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seed = checks.seed("seed", seed)

    def build(self, input_shape: Any) -> None:
        """Create the kernel."""
        width = input_shape[0][-1]
        if any(shape[-1] != width for shape in input_shape):
            raise ValueError(
                "InformationTransfer should be called on two inputs of one width. "
                f"Received: inputs of shapes {input_shape}"
            )
        self.kernel = self.add_weight(
            name="kernel",
            shape=(width, 3 * width),
            initializer=RandomNormal(stddev=0.01, seed=self.seed),
        )
        self.built = True

    def call(self, inputs: list[Any]) -> Any:
        """Return the mixture."""
        maps = ops.split(ops.matmul(ops.stack(inputs, axis=1), self.kernel), 3, axis=-1)
        # In half precision sums of products overflow.
        wide = keras.backend.result_type(self.compute_dtype, "float32")
        query, key = (ops.cast(v, wide) for v in maps[1:])
        scores = ops.sum(query * key, axis=-1) / inputs[0].shape[-1] ** 0.5
        return mix(maps[0], ops.cast(ops.softmax(scores, axis=-1), self.compute_dtype))

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Return `(B, H)`."""
        return tuple(input_shape[0])

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "seed": self.seed}
