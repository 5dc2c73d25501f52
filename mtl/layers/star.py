"""Star topology: a network of shared weights, bent for each scenario."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from mtl import checks
from mtl.layers.dnn import DNN
from mtl.layers.dropout import Dropout
from mtl.rows import only_real, replicas_sum
from mtl.seeds import derive_seed, glorot


def rows_of(ids: Any, num_scenarios: int) -> Any:
    """Return which row of a scenario's parameters each row of a batch reads, `(B,)`.

    Args:
        ids: integer tensor `(B, 1)`.
        num_scenarios: int. Ids outside [0, num_scenarios) read one more row, the last.
    """
    ids = ids[:, 0]
    known = ops.logical_and(ids >= 0, ids < num_scenarios)
    return ops.cast(ops.where(known, ids, num_scenarios), "int32")


@keras.saving.register_keras_serializable(package="mtl")
class PartitionedNormalization(keras.layers.Layer):
    """Batch normalisation by scenario: each has moments and moving averages of its own.

    A row x of scenario s becomes

        (γ ⊗ γ_s) ⊗ (x − μ_s) / √(σ²_s + ε) + β + β_s

    with the moments of the batch's rows of s in training, and otherwise their moving averages,
    which a batch without rows of s leaves as they are. γ_s starts as 1, β_s as 0. Ids outside
    [0, num_scenarios) have γ_s and β_s of their own, and the moments of all rows.

    Args:
        num_scenarios: int. Number S of scenarios.
        momentum: float in [0, 1). Of the moving averages, per batch. Defaults to 0.99.
        epsilon: float above 0. Added to the variance. Defaults to 1e-3.
        **kwargs: `name`, `dtype`, `trainable` of the Keras layer.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: an argument out of range.

    Call arguments:
        inputs: list of two tensors: x `(B, D)`, and ids of scenarios `(B, 1)`.

    Returns:
        A tensor of shape `(B, D)`.

    References:
        - Sheng et al., One Model to Serve All: Star Topology Adaptive Recommender for
          Multi-Domain CTR Prediction, CIKM 2021
    """

    def __init__(
        self, num_scenarios: int, momentum: float = 0.99, epsilon: float = 1e-3, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.num_scenarios = checks.positive_int("num_scenarios", num_scenarios)
        self.momentum = checks.rate("momentum", momentum)
        self.epsilon = checks.positive_float("epsilon", epsilon)

    def build(self, input_shape: Any) -> None:
        """Create scales, shifts and moving averages."""
        width = input_shape[0][-1]
        own = (self.num_scenarios + 1, width)
        # Not cast: as in Keras' BatchNormalization, half precision is too little for moments.
        options: dict[str, Any] = {"initializer": "zeros", "autocast": False}
        self.gamma = self.add_weight(
            **{**options, "initializer": "ones"}, name="gamma", shape=own[1:]
        )
        self.beta = self.add_weight(**options, name="beta", shape=own[1:])
        # γ_s − 1: see StarDense.
        self.scenario_gamma = self.add_weight(**options, name="scenario_gamma", shape=own)
        self.scenario_beta = self.add_weight(**options, name="scenario_beta", shape=own)
        options["trainable"] = False
        self.moving_mean = self.add_weight(**options, name="moving_mean", shape=own)
        self.moving_variance = self.add_weight(
            **{**options, "initializer": "ones"}, name="moving_variance", shape=own
        )
        self.built = True

    def call(self, inputs: Sequence[Any], training: bool | None = None) -> Any:
        """Return the normalised rows."""
        x = ops.cast(inputs[0], self.variable_dtype)
        rows = rows_of(inputs[1], self.num_scenarios)
        mean, variance = self.moving_mean, self.moving_variance
        if training and self.trainable:
            mean, variance = self._moments(x, rows)
        scale = self.gamma * (1 + self.scenario_gamma) * ops.rsqrt(variance + self.epsilon)
        shift = self.beta + self.scenario_beta
        mean, scale, shift = (ops.take(value, rows, axis=0) for value in (mean, scale, shift))
        return ops.cast((x - mean) * scale + shift, self.compute_dtype)

    def _moments(self, x: Any, rows: Any) -> tuple[Any, Any]:
        """Return the batch's moments by scenario `(S + 1, D)`, and average them in."""
        size = self.num_scenarios + 1

        def sum_by_scenario(values: Any) -> Any:
            return replicas_sum(ops.segment_sum(only_real(values), rows, num_segments=size))

        counts = sum_by_scenario(ops.ones_like(x[:, :1]))
        share = ops.maximum(counts, 1)
        mean = sum_by_scenario(x) / share
        variance = sum_by_scenario(ops.square(x - ops.take(mean, rows, axis=0))) / share
        # Of all rows, from those of the scenarios: variance within, and between.
        share = counts / ops.maximum(ops.sum(counts), 1)
        all_mean = ops.sum(share * mean, axis=0)
        all_variance = ops.sum(share * (variance + ops.square(mean - all_mean)), axis=0)
        unknown = ops.expand_dims(ops.arange(size) == self.num_scenarios, -1)
        mean = ops.where(unknown, all_mean, mean)
        variance = ops.where(unknown, all_variance, variance)
        seen = ops.logical_or(counts > 0, unknown)
        for moving, now in ((self.moving_mean, mean), (self.moving_variance, variance)):
            before = ops.convert_to_tensor(moving)
            averaged = self.momentum * before + (1 - self.momentum) * now
            moving.assign(ops.where(seen, averaged, before))
        return mean, variance

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Return `(B, D)`."""
        return tuple(input_shape[0])

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "num_scenarios": self.num_scenarios,
            "momentum": self.momentum,
            "epsilon": self.epsilon,
        }


@keras.saving.register_keras_serializable(package="mtl")
class StarDense(keras.layers.Layer):
    """A fully connected layer of shared and of a scenario's weights: x (W ⊗ W_s) + b + b_s.

    W_s starts as 1 and b_s as 0, so that all scenarios start as the shared layer. Ids outside
    [0, num_scenarios) have a W_s and b_s of their own, which stay the shared layer unless rows
    with such ids are trained on.

    Args:
        num_scenarios: int. Number S of scenarios.
        units: int. Width of the layer.
        l2_reg: float. L2 strength on W and on W_s − 1. Defaults to 0.
        seed: int or None. Seed of W. Defaults to None.
        **kwargs: `name`, `dtype`, `trainable` of the Keras layer.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: an argument out of range.

    Call arguments:
        inputs: list of two tensors: x `(B, D)`, and ids of scenarios `(B, 1)`.

    Returns:
        A tensor of shape `(B, units)`.

    References:
        - Sheng et al., One Model to Serve All: Star Topology Adaptive Recommender for
          Multi-Domain CTR Prediction, CIKM 2021
    """

    def __init__(
        self,
        num_scenarios: int,
        units: int,
        l2_reg: float = 0,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_scenarios = checks.positive_int("num_scenarios", num_scenarios)
        self.units = checks.positive_int("units", units)
        self.l2_reg = checks.non_negative_float("l2_reg", l2_reg)
        self.seed = checks.seed("seed", seed)

    def build(self, input_shape: Any) -> None:
        """Create the shared weights and those of the scenarios."""
        own, shape = self.num_scenarios + 1, (input_shape[0][-1], self.units)
        l2 = keras.regularizers.L2(self.l2_reg) if self.l2_reg else None
        self.kernel = self.add_weight(
            name="kernel", shape=shape, initializer=glorot(self.seed), regularizer=l2
        )
        self.bias = self.add_weight(name="bias", shape=shape[1:], initializer="zeros")
        # W_s − 1, so that a penalty and weight decay pull a scenario to the shared layer.
        self.scenario_factor = self.add_weight(
            name="scenario_factor", shape=(own, *shape), initializer="zeros", regularizer=l2
        )
        self.scenario_bias = self.add_weight(
            name="scenario_bias", shape=(own, self.units), initializer="zeros"
        )
        self.built = True

    def call(self, inputs: Sequence[Any], training: bool | None = None) -> Any:
        """Return what each row's own scenario makes of it."""
        x, ids = inputs
        rows = rows_of(ids, self.num_scenarios)
        kernel = ops.convert_to_tensor(self.kernel)
        # Every row times every scenario's kernel, and then its own picked: of 1024 rows on JAX's
        # CPU, with gradients, 64 → 64 units take 1.0, 3.1 and 12 ms with 3, 10 and 50 scenarios,
        # and 256 → 128 units 9, 24 and 260. A loop over the scenarios takes 1.8, 4.5, 45 and 9,
        # 27, 315; one product with a one-hot 1.3, 4.0, 19 and 10, 49, 257; kernels gathered for
        # each row, of B times the layer's size, 15, 15, 4.4 and 149, 154, 301.
        every = ops.einsum("bd,sdh->bsh", x, kernel + kernel * self.scenario_factor)
        picked = ops.take_along_axis(every, ops.reshape(rows, (-1, 1, 1)), axis=1)[:, 0]
        return picked + ops.take(self.bias + self.scenario_bias, rows, axis=0)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Return `(B, units)`."""
        return (input_shape[0][0], self.units)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "num_scenarios": self.num_scenarios,
            "units": self.units,
            "l2_reg": self.l2_reg,
            "seed": self.seed,
        }


@keras.saving.register_keras_serializable(package="mtl")
class StarDNN(DNN):
    """A `DNN` in star topology.

    Each layer is `StarDense` → `PartitionedNormalization` (if `use_bn`) → activation → Dropout.

    Args:
        num_scenarios: int. Number S of scenarios.
        units: list of int. Width of each layer. Defaults to `()`, the identity.
        activation: str or function. Activation after each layer. Defaults to `"relu"`.
        l2_reg: float. L2 strength on W and on W_s − 1. Defaults to 0.
        dropout: float in [0, 1). Share of units that are dropped in training. Defaults to 0.
        use_bn: bool. Whether to normalise before the activation, by scenario. Defaults to False.
        seed: int or None. Seed of weights and dropout. Defaults to None.
        **kwargs: `name`, `dtype`, `trainable` of the Keras layer.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: an argument out of range.

    Call arguments:
        inputs: list of two tensors: x `(B, D)`, and ids of scenarios `(B, 1)`.

    Returns:
        A tensor of shape `(B, units[-1])`, or x if there are no units.

    References:
        - Sheng et al., One Model to Serve All: Star Topology Adaptive Recommender for
          Multi-Domain CTR Prediction, CIKM 2021
    """

    def __init__(
        self,
        num_scenarios: int,
        units: Sequence[int] = (),
        activation: Any = "relu",
        l2_reg: float = 0,
        dropout: float = 0,
        use_bn: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.num_scenarios = checks.positive_int("num_scenarios", num_scenarios)
        super().__init__(units, activation, l2_reg, dropout, use_bn, seed, **kwargs)

    def _dense(self, depth: int, width: int) -> StarDense:
        return StarDense(
            self.num_scenarios,
            width,
            self.l2_reg,
            derive_seed(self.seed, "kernel", depth),
            name=f"dense_{depth}",
            dtype=self.dtype_policy,
        )

    def _norm(self, name: str) -> PartitionedNormalization:
        return PartitionedNormalization(self.num_scenarios, name=name, dtype=self.dtype_policy)

    def build(self, input_shape: Any) -> None:
        """Build every sublayer."""
        x, ids = input_shape
        for layer in self._stack:
            seen = [x, ids] if isinstance(layer, _BY_SCENARIO) else x
            layer.build(seen)
            x = layer.compute_output_shape(seen)
        self.built = True

    def call(self, inputs: Sequence[Any], training: bool | None = None) -> Any:
        """Apply the layers in turn."""
        x, ids = inputs
        for layer in self._stack:
            seen = [x, ids] if isinstance(layer, _BY_SCENARIO) else x
            trains = isinstance(layer, (PartitionedNormalization, Dropout))
            x = layer(seen, training=training) if trains else layer(seen)
        return x

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Return `(B, units[-1])`, or the shape of x if there are no units."""
        return super().compute_output_shape(input_shape[0])

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "num_scenarios": self.num_scenarios}


_BY_SCENARIO = (StarDense, PartitionedNormalization)
