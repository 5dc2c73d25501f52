"""DNN: the fully connected block of bottoms, gates and towers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from mtl import checks
from mtl.layers.dropout import Dropout
from mtl.layers.normalization import BatchNormalization
from mtl.seeds import derive_seed, glorot


@keras.saving.register_keras_serializable(package="mtl")
class DNN(keras.layers.Layer):
    """A stack of fully connected layers.

    Each layer is Dense → BatchNormalization (if `use_bn`) → activation → Dropout.
    An empty list of units is the identity.

    Args:
        units: list of int. Width of each layer. Defaults to `()`, the identity.
        activation: str or function. Activation after each layer. Defaults to `"relu"`.
        l2_reg: float. L2 strength on the kernels. Defaults to 0.
        dropout: float in [0, 1). Share of units that are dropped in training. Defaults to 0.
        use_bn: bool. Whether to normalise before the activation. Defaults to False.
        seed: int or None. Seed of weights and dropout. Defaults to None.
        **kwargs: `name`, `dtype`, `trainable` of the Keras layer.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: an argument out of range.

    Call arguments:
        inputs: tensor of shape `(B, D)`.

    Returns:
        A tensor of shape `(B, units[-1])`, or `inputs` if there are no units.
    """

    def __init__(
        self,
        units: Sequence[int] = (),
        activation: Any = "relu",
        l2_reg: float = 0,
        dropout: float = 0,
        use_bn: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.units = checks.units("units", units)
        self.activation = keras.activations.get(checks.activation("activation", activation))
        self.l2_reg = checks.non_negative_float("l2_reg", l2_reg)
        self.dropout = checks.rate("dropout", dropout)
        self.use_bn = bool(use_bn)
        self.seed = checks.seed("seed", seed)
        # One flat list, because Keras has not always saved layers in nested lists.
        self._stack = [
            layer for depth, width in enumerate(self.units) for layer in self._block(depth, width)
        ]

    def _block(self, depth: int, width: int) -> list[keras.layers.Layer]:
        block = [self._dense(depth, width)]
        if self.use_bn:
            block.append(self._norm(f"bn_{depth}"))
        common = {"dtype": self.dtype_policy}
        block.append(keras.layers.Activation(self.activation, name=f"activation_{depth}", **common))
        if self.dropout:
            seed = derive_seed(self.seed, "dropout", depth)
            block.append(Dropout(self.dropout, seed=seed, name=f"dropout_{depth}", **common))
        return block

    def _dense(self, depth: int, width: int) -> keras.layers.Layer:
        return keras.layers.Dense(
            width,
            kernel_initializer=glorot(derive_seed(self.seed, "kernel", depth)),
            kernel_regularizer=keras.regularizers.L2(self.l2_reg) if self.l2_reg else None,
            name=f"dense_{depth}",
            dtype=self.dtype_policy,
        )

    def _norm(self, name: str) -> keras.layers.Layer:
        return BatchNormalization(name=name, dtype=self.dtype_policy)

    def build(self, input_shape: Any) -> None:
        """Build every sublayer."""
        for layer in self._stack:
            layer.build(input_shape)
            input_shape = layer.compute_output_shape(input_shape)
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Apply the layers in turn."""
        x = inputs
        for depth in range(len(self.units)):
            x = self.step(depth, x, training)
        return x

    def step(self, depth: int, x: Any, training: bool | None = None) -> Any:
        """Apply the layer of one depth."""
        size = len(self._stack) // len(self.units)
        for layer in self._stack[depth * size : (depth + 1) * size]:
            if isinstance(layer, (keras.layers.BatchNormalization, Dropout)):
                x = layer(x, training=training)
            else:
                x = layer(x)
        return x

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Return `(B, units[-1])`, or the input's shape if there are no units."""
        return (*input_shape[:-1], self.units[-1]) if self.units else tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "units": list(self.units),
            "activation": keras.activations.serialize(self.activation),
            "l2_reg": self.l2_reg,
            "dropout": self.dropout,
            "use_bn": self.use_bn,
            "seed": self.seed,
        }
