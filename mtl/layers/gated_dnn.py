"""GatedDNN: a DNN whose units are scaled, row by row, by what is known of the row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from mtl import checks
from mtl.layers.dnn import DNN
from mtl.seeds import derive_seed, glorot


@keras.saving.register_keras_serializable(package="mtl")
class GatedDNN(keras.layers.Layer):
    """A DNN of x with gates that see v: PEPNet's, or POSO's.

    A gate of u has a number from 0 to 2 for each unit of u:

        gate(u) = 2 σ(W' relu(W u + b) + b')

    `position="input"`, as in PEPNet, gates the input of every layer, and of what comes after the
    last one; the gates see v and x, but x learns nothing through them:

        h⁰ = δ⁰ ⊗ x, hˡ⁺¹ = δˡ⁺¹ ⊗ f(hˡ W + b), δˡ = gateˡ(v ⊕ sg(x))

    Without units that is δ⁰ ⊗ x. `position="output"`, as in POSO, gates the output of every
    layer, so that x itself isn't gated, and the gates see v alone: δˡ = gateˡ(v).

    Args:
        units: list of int. Width of each layer. Defaults to `()`.
        position: str. `"input"` or `"output"`. Defaults to `"input"`.
        gate_units: list of int or None. Widths of a gate's hidden layers. Defaults to None: one
            layer, as wide as what the gate scales.
        activation: str or function. Activation f after each layer, and in the gates' hidden
            layers. Defaults to `"relu"`.
        l2_reg: float. L2 strength on the kernels of layers and gates' hidden layers.
            Defaults to 0.
        dropout: float in [0, 1). Dropout after the same layers. Defaults to 0.
        use_bn: bool. Batch normalisation in the same layers. Defaults to False.
        seed: int or None. Seed of weights and dropout. Defaults to None.
        **kwargs: `name`, `dtype`, `trainable` of the Keras layer.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: an argument out of range.

    Call arguments:
        inputs: list of two tensors: x `(B, D)`, and v `(B, V)`.

    Returns:
        A tensor of shape `(B, units[-1])`, or `(B, D)` if there are no units.

    References:
        - Chang et al., PEPNet: Parameter and Embedding Personalized Network for Infusing with
          Personalized Prior Information, KDD 2023
        - Dai et al., POSO: Personalized Cold Start Modules for Large-scale Recommender Systems,
          arXiv 2108.04690
    """

    def __init__(
        self,
        units: Sequence[int] = (),
        position: str = "input",
        gate_units: Sequence[int] | None = None,
        activation: Any = "relu",
        l2_reg: float = 0,
        dropout: float = 0,
        use_bn: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.position = checks.one_of("input", "output")("position", position)
        self.gate_units = checks.units("gate_units", gate_units)
        self.seed = checks.seed("seed", seed)
        self._options = {
            "activation": activation,
            "l2_reg": l2_reg,
            "dropout": dropout,
            "use_bn": use_bn,
            "dtype": self.dtype_policy,
        }
        self.dnn = DNN(units, seed=derive_seed(self.seed, "dnn"), name="dnn", **self._options)

    def build(self, input_shape: Any) -> None:
        """Build the DNN, and a gate for each of its inputs or outputs."""
        x, v = (shape[-1] for shape in input_shape)
        seen = v + x if self.position == "input" else v
        self.dnn.build(input_shape[0])
        widths = [x, *self.dnn.units] if self.position == "input" else self.dnn.units
        # Flat lists, as in DNN.
        self._hidden, self._scores = [], []
        for i, width in enumerate(widths):
            hidden = DNN(
                self.gate_units or (width,),
                seed=derive_seed(self.seed, "hidden", i),
                name=f"gate_{i}",
                **self._options,
            )
            scores = keras.layers.Dense(
                width,
                activation="sigmoid",
                kernel_initializer=glorot(derive_seed(self.seed, "scores", i)),
                dtype=self.dtype_policy,
                name=f"scores_{i}",
            )
            hidden.build((None, seen))
            scores.build(hidden.compute_output_shape((None, seen)))
            self._hidden.append(hidden)
            self._scores.append(scores)
        self.built = True

    def call(self, inputs: Sequence[Any], training: bool | None = None) -> Any:
        """Return the gated DNN's output."""
        x, v = inputs
        if self.position == "input":
            v = ops.concatenate([v, ops.stop_gradient(x)], axis=-1)
        # Twice the sigmoid: a gate that knows nothing leaves its unit as it is.
        gates = [
            2 * scores(hidden(v, training=training))
            for hidden, scores in zip(self._hidden, self._scores, strict=True)
        ]
        if self.position == "input":
            x = gates.pop(0) * x
        for depth, gate in enumerate(gates):
            x = gate * self.dnn.step(depth, x, training)
        return x

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Return `(B, units[-1])`, or the shape of x if there are no units."""
        return self.dnn.compute_output_shape(input_shape[0])

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        dnn = self.dnn.get_config()
        return {
            **super().get_config(),
            "position": self.position,
            "gate_units": list(self.gate_units),
            **{key: dnn[key] for key in ("units", "activation", "l2_reg", "dropout", "use_bn")},
            "seed": self.seed,
        }
