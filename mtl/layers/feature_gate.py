"""FeatureGate: for each expert, its own view of what it reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from mtl import checks
from mtl.layers.experts import matmul_groups
from mtl.seeds import derive_seed, glorot


@keras.saving.register_keras_serializable(package="mtl")
class FeatureGate(keras.layers.Layer):
    """E feature gates: expert e reads v ⊗ F_e(v) in place of v.

        F_e(v) = Σ_j softmax(W_e v)_j · 2σ(A_ej B_ej v)

    A pair of matrices of low rank, B_ej to `rank` dimensions and A_ej back to those of v, weighs
    each feature by a number in (0, 2); of `num_pairs` such weights each expert takes the mean that
    its softmax gives. With A = 0, F = 1.

    Args:
        num_experts: list of int. Number of experts of each group; a group has one input.
        num_pairs: int. Number of pairs (A, B) of each expert.
        rank: int. Their rank.
        seed: int or None. Seed of the weights. Defaults to None.
        **kwargs: `name`, `dtype`, `trainable` of the Keras layer.

    Call arguments:
        inputs: tensor of shape `(B, D)` that all experts share, or a list of such tensors, one per
            group.

    Returns:
        A list of E tensors of shape `(B, D)`: an input for each expert.
    """

    def __init__(
        self,
        num_experts: Sequence[int],
        num_pairs: int,
        rank: int,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_experts = checks.units("num_experts", num_experts)
        self.num_pairs = checks.positive_int("num_pairs", num_pairs)
        self.rank = checks.positive_int("rank", rank)
        self.seed = checks.seed("seed", seed)

    def build(self, input_shape: Any) -> None:
        """Create the stacked weights."""
        is_list = isinstance(input_shape[0], (list, tuple))
        width = (input_shape[0] if is_list else input_shape)[-1]
        if self.num_pairs > 1:
            self._mix = self._add_kernel("mix", (width, self.num_pairs), 1)
        self._down = self._add_kernel("down", (width, self.rank), self.num_pairs)
        self._up = self._add_kernel("up", (self.rank, width), self.num_pairs)
        self.built = True

    def _add_kernel(self, name: str, shape: tuple[int, int], pairs: int) -> Any:
        """Create a matrix for each pair of each expert, `(E, pairs, in, out)`, by its own seed."""

        def initialize(whole: tuple[int, ...], dtype: Any = None) -> Any:
            seeds = [
                derive_seed(self.seed, name, e, j) for e in range(whole[0]) for j in range(pairs)
            ]
            kernels = np.stack([glorot(seed).draw(shape) for seed in seeds])
            return ops.convert_to_tensor(kernels.reshape(whole), dtype)

        experts = sum(self.num_experts)
        return self.add_weight(
            name=f"{name}_kernel", shape=(experts, pairs, *shape), initializer=initialize
        )

    def call(self, inputs: Any) -> list[Any]:
        """Return each expert's input."""
        experts, pairs = sum(self.num_experts), self.num_pairs
        low = self._project(inputs, self._down, self.rank)
        up = ops.reshape(self._up, (experts * pairs, self.rank, -1))
        up = [ops.squeeze(matrix, 0) for matrix in ops.split(up, experts * pairs, axis=0)]
        shares = None
        if pairs > 1:
            scores = ops.concatenate(self._project(inputs, self._mix, pairs), axis=1)
            wide = keras.backend.result_type(self.compute_dtype, "float32")
            shares = ops.softmax(ops.reshape(ops.cast(scores, wide), (-1, experts, pairs)), axis=-1)
            shares = ops.reshape(ops.cast(shares, self.compute_dtype), (-1, experts * pairs))
            shares = ops.split(shares, experts * pairs, axis=1)
        # Pair by pair: as one product of stacks, which is as large, it takes five times as long.
        weights = [2 * ops.sigmoid(ops.matmul(v, a)) for v, a in zip(low, up, strict=True)]
        if shares is not None:
            weights = [w * share for w, share in zip(weights, shares, strict=True)]
        gates = [sum(weights[e * pairs : (e + 1) * pairs]) for e in range(experts)]
        return [v * gate for v, gate in zip(self._per_expert(inputs), gates, strict=True)]

    def _project(self, inputs: Any, kernel: Any, width: int) -> list[Any]:
        """Return each group's input times its experts' matrices, `(B, width)` by expert and pair.

        Of a matrix for all pairs of an expert there is one for the expert.
        """
        experts, pairs, rows, out = kernel.shape
        flat = ops.reshape(ops.transpose(kernel, (0, 2, 1, 3)), (experts, rows, pairs * out))
        groups = self.num_experts if isinstance(inputs, (list, tuple)) else (experts,)
        parts: list[Any] = []
        for product, size in zip(matmul_groups(inputs, flat, groups), groups, strict=True):
            number = size * pairs * out // width
            parts += ops.split(ops.reshape(product, (-1, number * width)), number, axis=1)
        return parts

    def _per_expert(self, inputs: Any) -> list[Any]:
        if not isinstance(inputs, (list, tuple)):
            return [inputs] * sum(self.num_experts)
        return [v for v, size in zip(inputs, self.num_experts, strict=True) for _ in range(size)]

    def compute_output_shape(self, input_shape: Any) -> list[tuple[int | None, ...]]:
        """Return `(B, D)` for each expert."""
        is_list = isinstance(input_shape[0], (list, tuple))
        return [tuple(input_shape[0] if is_list else input_shape)] * sum(self.num_experts)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "num_experts": list(self.num_experts),
            "num_pairs": self.num_pairs,
            "rank": self.rank,
            "seed": self.seed,
        }
