"""Connections between networks that stand side by side: each output mixes all inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from mtl import checks
from mtl.layers.dropout import LogisticNoise
from mtl.layers.level import shared_rows
from mtl.seeds import derive_seed, glorot

CONNECTIONS = ("trans", "aver")
# The hard concrete distribution: its temperature, and the interval that it is stretched to.
_BETA, _GAMMA, _ZETA = 0.9, -0.1, 1.1


class Connections(keras.layers.Layer):
    """What connections have in common: the first axis of each of their weights is the outputs'.

    Args:
        num_outputs: int. Number I of outputs.
        **kwargs: `name`, `dtype`, `trainable` of the Keras layer.
    """

    def __init__(self, num_outputs: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_outputs = checks.positive_int("num_outputs", num_outputs)

    def inputs_of(self, output: int, inputs: Sequence[Any]) -> list[Any]:
        """Return those of a call's inputs that one of its outputs depends on: all."""
        return list(inputs)

    def shared_parts(self, tasks: Sequence[set[int]]) -> list[tuple[Any, np.ndarray | None]]:
        """Return the parameters that serve several tasks.

        Args:
            tasks: for each output, the tasks of the model that depend on it.

        Returns:
            A list of pairs: a trainable variable, and None or a mask of its shared entries.
        """
        rows = np.array([len(served) > 1 for served in tasks])
        return [shared_rows(v, rows) for v in self.trainable_variables] if rows.any() else []

    def config_of_task(self, task: int) -> dict[str, Any]:
        """Return the configuration of the same layer for one task."""
        return {**self.get_config(), "num_outputs": 1}

    def weights_of_task(self, task: int) -> list[np.ndarray]:
        """Return the weights of the layer that `config_of_task` describes."""
        return [value[task : task + 1] for value in self.get_weights()]

    def compute_output_shape(self, input_shape: Any) -> list[tuple[int | None, ...]]:
        """Return one `(B, H)` per output."""
        return [(input_shape[0], input_shape[2])] * self.num_outputs

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "num_outputs": self.num_outputs}


@keras.saving.register_keras_serializable(package="mtl")
class CrossStitchUnit(Connections):
    """A cross-stitch unit: x_i ← Σ_j α_ij x_j, over columns x_1, …, x_J.

    It starts with α_ii = 0.9 and α_ij = 0.1 / (J - 1).

    Args:
        num_outputs: int. Number of columns that are given out, from the first on.
        per_channel: bool. Whether each channel has an α of its own. Defaults to False.
        **kwargs: `name`, `dtype`, `trainable` of the Keras layer.

    Call arguments:
        inputs: tensor of shape `(B, J, H)`, J columns of width H.

    Returns:
        A list of tensors of shape `(B, H)`, one per output.

    References:
        - Misra et al., Cross-stitch Networks for Multi-task Learning, CVPR 2016
    """

    def __init__(self, num_outputs: int, per_channel: bool = False, **kwargs: Any) -> None:
        super().__init__(num_outputs, **kwargs)
        self.per_channel = bool(per_channel)

    def build(self, input_shape: Any) -> None:
        """Create α."""
        _, columns, width = input_shape
        others = 0.1 / max(columns - 1, 1)
        own = 0.9 if columns > 1 else 1.0
        start = np.where(np.eye(self.num_outputs, columns), own, others).astype("float32")

        def initialize(shape: tuple[int, ...], dtype: Any = None) -> Any:
            values = start.reshape(*start.shape, *[1] * self.per_channel)
            return ops.convert_to_tensor(np.broadcast_to(values, shape), dtype)

        shape = (*start.shape, *[width] * self.per_channel)
        self.alpha = self.add_weight(name="alpha", shape=shape, initializer=initialize)
        self.built = True

    def call(self, inputs: Any) -> list[Any]:
        """Return the stitched columns."""
        alpha = ops.convert_to_tensor(self.alpha)
        if self.per_channel:
            stitched = ops.sum(alpha * ops.expand_dims(inputs, 1), axis=2)
        else:
            stitched = ops.matmul(alpha, inputs)
        return list(ops.unstack(stitched, self.num_outputs, axis=1))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "per_channel": self.per_channel}


@keras.saving.register_keras_serializable(package="mtl")
class Routing(Connections):
    """Connections with gates that come to be open or closed: v_i = Σ_j z_ij W_ij u_j.

    The gates z are hard concrete: with noise u ~ U(0, 1), drawn anew for each step of training,

        s = σ((ln u - ln(1 - u) + a) / β), z = clip(s (ζ - γ) + γ, 0, 1)

    and otherwise z = clip(σ(a) (ζ - γ) + γ, 0, 1), for a learned a, `log_alpha`, and β = 0.9,
    γ = -0.1, ζ = 1.1. The number of open gates that is to be expected, Σ_ij P(z_ij > 0) =
    Σ_ij σ(a_ij - β ln(-γ / ζ)), times `penalty`, is added to the loss.

    Args:
        num_outputs: int. Number of outputs.
        connection: str. `"trans"`, with matrices W; or `"aver"`, v_i = Σ_j z_ij u_j.
            Defaults to `"trans"`.
        penalty: float. Weight of the penalty. Defaults to 1e-4.
        seed: int or None. Seed of the matrices and the noise. Defaults to None.
        **kwargs: `name`, `dtype`, `trainable` of the Keras layer.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: an argument out of range.

    Call arguments:
        inputs: tensor of shape `(B, J, H)`, the outputs u of J sub-networks.

    Returns:
        A list of tensors v of shape `(B, H)`, one per output.

    References:
        - Ma et al., SNR: Sub-Network Routing for Flexible Parameter Sharing in Multi-Task
          Learning, AAAI 2019
        - Louizos et al., Learning Sparse Neural Networks through L0 Regularization, ICLR 2018
    """

    def __init__(
        self,
        num_outputs: int,
        connection: str = "trans",
        penalty: float = 1e-4,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_outputs, **kwargs)
        self.connection = checks.one_of(*CONNECTIONS)("connection", connection)
        self.penalty = checks.non_negative_float("penalty", penalty)
        self.seed = checks.seed("seed", seed)
        # Gates are computed in the variables' precision, whatever the policy.
        self.noise = LogisticNoise(
            derive_seed(self.seed, "noise"), dtype=self.variable_dtype, name="noise"
        )

    def build(self, input_shape: Any) -> None:
        """Create the matrices and `log_alpha`."""
        _, inputs, width = input_shape

        def initialize(shape: tuple[int, ...], dtype: Any = None) -> Any:
            # The matrices of an output are one Dense layer on all inputs side by side.
            seeds = [derive_seed(self.seed, "kernel", i) for i in range(self.num_outputs)]
            kernels = [glorot(seed).draw((inputs * width, width)) for seed in seeds]
            return ops.convert_to_tensor(np.reshape(kernels, shape), dtype)

        gates = (self.num_outputs, inputs)
        if self.connection == "trans":
            self.kernel = self.add_weight(
                name="kernel", shape=(*gates, width, width), initializer=initialize
            )
        self.log_alpha = self.add_weight(
            name="log_alpha", shape=gates, initializer="zeros", autocast=False
        )
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> list[Any]:
        """Return the routed inputs of the next level."""
        log_alpha = ops.convert_to_tensor(self.log_alpha)
        if self.penalty:
            opened = ops.sigmoid(log_alpha - _BETA * math.log(-_GAMMA / _ZETA))
            self.add_loss(self.penalty * ops.sum(opened))
        z = ops.cast(self._gates(log_alpha, training), self.compute_dtype)
        if self.connection == "aver":
            v = ops.matmul(z, inputs)
        else:
            kernel = self.kernel * ops.reshape(z, (*z.shape, 1, 1))
            v = ops.einsum("bjh,ijho->bio", inputs, kernel)
        return list(ops.unstack(v, self.num_outputs, axis=1))

    def _gates(self, log_alpha: Any, training: bool | None) -> Any:
        if training:
            log_alpha = self.noise(log_alpha, training=True) / _BETA
        return ops.clip(ops.sigmoid(log_alpha) * (_ZETA - _GAMMA) + _GAMMA, 0, 1)

    def gates(self) -> np.ndarray:
        """Return the gates z `(I, J)` outside of training: 0 where one is closed."""
        z = self._gates(ops.convert_to_tensor(self.log_alpha), training=False)
        return ops.convert_to_numpy(z)  # type: ignore[no-any-return]

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "connection": self.connection,
            "penalty": self.penalty,
            "seed": self.seed,
        }
