"""DSelectK: a gate that selects k experts, and is differentiable all the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from mtl import checks, rows
from mtl.layers.gate import Gate, Gating
from mtl.seeds import RandomUniform, derive_seed

GATES = ("softmax", "dselect_k")
_LEAST = 1e-3  # weight of all experts, below which the penalty grows no further


def gate_of(
    num_experts: int,
    gate: str,
    gate_units: Sequence[int] | None,
    gate_temperature: float,
    num_selected: int | None,
    entropy_weight: float,
    **options: Any,
) -> Gating:
    """Return a `Gate` ("softmax") or a `DSelectK` ("dselect_k").

    Args:
        num_experts: int. Number of experts to weigh.
        gate: str. One of `GATES`.
        gate_units: list of int or None. Widths of the gate's DNN.
        gate_temperature: float above 0. Its `temperature`.
        num_selected: int or None. As in `DSelectK`, and of it alone.
        entropy_weight: float. As in `DSelectK`, and of it alone.
        **options: what both take besides.
    """
    check_gate(num_experts, gate, num_selected, entropy_weight)
    if gate == "softmax":
        return Gate(num_experts, gate_units, gate_temperature, **options)
    return DSelectK(
        num_experts, num_selected, gate_units, gate_temperature, entropy_weight, **options
    )


def check_gate(
    num_experts: int, gate: str, num_selected: int | None, entropy_weight: float
) -> None:
    """Raise unless there is such a gate over so many experts; arguments as in `gate_of`."""
    if checks.one_of(*GATES)("gate", gate) == "softmax":
        for name, value in (("num_selected", num_selected), ("entropy_weight", entropy_weight)):
            if value:
                raise ValueError(
                    f"`{name}` should be given with gate='dselect_k' alone. Received: {value!r}"
                )
    elif num_selected is not None and num_selected > num_experts:
        raise ValueError(
            f"`num_selected` should be at most {num_experts}, the number of experts that a gate "
            f"weighs. Received: {num_selected}"
        )


@keras.saving.register_keras_serializable(package="mtl")
class DSelectK(Gating):
    """A DSelect-k gate: g = Σ_j softmax(w)_j r_j, where each of k selectors r_j chooses an expert.

    A selector writes the number of an expert, which counts from 0, in m = ⌈log2 E⌉ bits:

        r_j(e) = Π_b S(z_jb) if bit b of e is 1, else 1 - S(z_jb)

    with the smooth step S(z) = -2 (z/γ)³ + 3/2 z/γ + 1/2, which from z = -γ/2 down is 0, and from
    z = γ/2 up is 1. Where all z are that far, r_j is one expert and g has k non-zeros at most.

    The gate is one per example: z and w are linear in h, the input or a DNN of it. (The paper has
    a static gate, too, whose z and w are parameters, the same for every example.) Two penalties are
    added to the loss, as means over the rows of the batch, where the authors' code has sums:

    - λ Σ_j Σ_e -r_j(e) log r_j(e), the entropy, so that selectors come to choose.
    - Σ_j 1 / Σ_e r_j(e), where E is no power of two: bits that write the number of no expert have
      weight that g lacks. The penalty doesn't grow beyond 1000, which it does in the paper.

    Args:
        num_experts: int. Number E of experts to weigh.
        num_selected: int or None. Number k of selectors. Defaults to None: 2, or 1 of one expert.
        units: list of int or None. Widths of a DNN before z and w. Defaults to None.
        temperature: float above 0. The γ of the smooth step. Defaults to 1.
        entropy_weight: float. The λ of the entropy. Defaults to 0.
        activation: str or function. Activation of the DNN. Defaults to `"relu"`.
        l2_reg: float. L2 strength on the DNN's kernels. Defaults to 0.
        dropout: float in [0, 1). Dropout of the DNN. Defaults to 0.
        use_bn: bool. Batch normalisation in the DNN. Defaults to False.
        seed: int or None. Seed of weights and dropout. Defaults to None.
        **kwargs: `name`, `dtype`, `trainable` of the Keras layer.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: an argument out of range, or more selectors than experts.

    Call arguments:
        inputs: tensor of shape `(B, D)`.

    Returns:
        A tensor of shape `(B, E)`, not negative, each row summing to 1, or to less where a selector
        gives weight to the number of no expert.

    References:
        - Hazimeh et al., DSelect-k: Differentiable Selection in the Mixture of Experts with
          Applications to Multi-Task Learning, NeurIPS 2021
    """

    def __init__(
        self,
        num_experts: int,
        num_selected: int | None = None,
        units: Sequence[int] | None = None,
        temperature: float = 1.0,
        entropy_weight: float = 0,
        activation: Any = "relu",
        l2_reg: float = 0,
        dropout: float = 0,
        use_bn: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        dnn = {"activation": activation, "l2_reg": l2_reg, "dropout": dropout, "use_bn": use_bn}
        super().__init__(num_experts, units, temperature, seed, dnn, **kwargs)
        k = checks.positive_int_or_none("num_selected", num_selected)
        self.entropy_weight = checks.non_negative_float("entropy_weight", entropy_weight)
        check_gate(self.num_experts, "dselect_k", k, self.entropy_weight)
        self.num_selected = k or min(2, self.num_experts)
        self._bits = (self.num_experts - 1).bit_length()
        # One expert needs no bits, one selector no share: such a layer would never be trained.
        self.selectors = self.shares = None
        if self._bits:
            width = self.num_selected * self._bits
            self.selectors = self._uniform("selectors", width, self.temperature / 100)
        if self.num_selected > 1:
            self.shares = self._uniform("shares", self.num_selected, 0.05)

    def _uniform(self, name: str, width: int, limit: float) -> keras.layers.Dense:
        kernel = RandomUniform(-limit, limit, seed=derive_seed(self.seed, name))
        return keras.layers.Dense(
            width, kernel_initializer=kernel, dtype=self.dtype_policy, name=name
        )

    def _linear(self) -> list[keras.layers.Layer]:
        return [layer for layer in (self.selectors, self.shares) if layer is not None]

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return the experts' weights."""
        h = self.dnn(inputs, training=training)
        selected = self._selected(h)
        self._penalize(selected)
        if self.shares is None:
            weights = selected[:, 0]
        else:
            shares = ops.softmax(self._wide(self.shares(h)), axis=-1)
            weights = ops.sum(ops.expand_dims(shares, -1) * selected, axis=1)
        return ops.cast(weights, self.compute_dtype)

    def _selected(self, h: Any) -> Any:
        """Return the selectors' choices, r `(B, k, E)`."""
        if self.selectors is None:
            return ops.expand_dims(ops.ones_like(self._wide(h[:, :1])), -1)
        z = ops.reshape(self._wide(self.selectors(h)), (-1, self.num_selected, self._bits))
        z = ops.clip(z / self.temperature, -0.5, 0.5)
        step = z * (1.5 - 2 * ops.square(z)) + 0.5
        selected = ops.ones_like(step[:, :, :1])
        for b in range(self._bits):  # the numbers without this bit, then those with it
            on = step[:, :, b : b + 1]
            selected = ops.concatenate([selected * (1 - on), selected * on], axis=-1)
        return selected[:, :, : self.num_experts]

    def _penalize(self, selected: Any) -> None:
        number = ops.cast(rows.count(selected), selected.dtype)
        if self.entropy_weight:
            entropy = -ops.sum(rows.only_real(selected * ops.log(selected + 1e-6)))
            self.add_loss(ops.divide_no_nan(self.entropy_weight * entropy, number))
        if self.num_experts < 2**self._bits:
            known = ops.maximum(ops.sum(selected, axis=-1), _LEAST)
            self.add_loss(ops.divide_no_nan(ops.sum(rows.only_real(1 / known)), number))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "num_selected": self.num_selected,
            "entropy_weight": self.entropy_weight,
        }
