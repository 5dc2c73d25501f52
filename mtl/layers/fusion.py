"""Fusion: banks of experts, and gates that each mix the experts of some banks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from mtl import checks
from mtl.layers.dselect_k import gate_of
from mtl.layers.experts import Experts
from mtl.layers.feature_gate import FeatureGate
from mtl.layers.gate import Gate
from mtl.layers.level import Level
from mtl.seeds import derive_seed, glorot

Links = Sequence[Sequence[str | None]]


@keras.saving.register_keras_serializable(package="mtl")
class Fusion(Level):
    """One level of a network of experts: each gate k mixes the experts of the banks it reads.

    With e_i expert i on the input of its bank, and u_k the input of gate k,

        z_k = Σ_i (g_ki + r_ki) e_i,  g_k = softmax(W_k u_k / τ)

    g_k has a weight for each expert of the banks that gate k reads, and r_k, the residual, one for
    each expert of the gate's own bank. A row of `links` says how gate k reads each bank: "own";
    "other"; "stopped", which is mixed alike but learns nothing from gate k; None, not at all.

    Args:
        num_experts: list of int. Number of experts of each of the B banks; a bank may have none.
        units: list of int. Widths of every expert.
        links: list of lists, `links[k][b]`: how gate k reads bank b. One bank is its own.
        residual: str or None. `"native"`: r_k = v_k, learned weights that are the same for every
            row, and 1 where there is one expert. `"self"`: r_k = softmax(V_k u_k), a self-gate, or
            σ(V_k u_k) where there is one expert. Defaults to None: r = 0.
        names: list of str or None. Names of the banks, for `mtl.inspection`; a gate has its own
            bank's. Defaults to "bank 1", "bank 2", ….
        feature_gates: list of two ints, or None. Number and rank of the pairs by which a
            `FeatureGate` of each expert weighs what it reads. Defaults to None: experts read the
            input of their bank as it is.
        gate_units: list of int or None. Widths of the gates' DNN. Defaults to None.
        gate_temperature: float above 0. Divides the gates' logits. Defaults to 1.
        activation: str or function. Activation of experts and gates' DNN. Defaults to `"relu"`.
        l2_reg: float. L2 strength on the kernels. Defaults to 0.
        dropout: float in [0, 1). Dropout in experts and gates' DNN. Defaults to 0.
        use_bn: bool. Batch normalisation in experts and gates' DNN. Defaults to False.
        seed: int or None. Seed of weights and dropout. Defaults to None.
        subsets: dict or None. Columns of x by the subset's name, as in `Experts`: each bank has as
            many experts as above for every subset. The gates see all of x. Defaults to None.
        gate: str. "softmax" for `Gate`, "dselect_k" for `DSelectK`. Defaults to `"softmax"`.
        num_selected: int or None. As in `DSelectK`, and for it alone. Defaults to None.
        entropy_weight: float. As in `DSelectK`, and for it alone. Defaults to 0.
        **kwargs: `name`, `dtype`, `trainable` of the Keras layer.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: an argument out of range, another number of inputs, or subsets without units or
            with a list of inputs.

    Call arguments:
        inputs: tensor of shape `(B, D)` that all banks and gates read, or a list of such tensors:
            one for each bank, which its gate reads too, or one for each bank and then one for each
            gate.

    Returns:
        A list of tensors of shape `(B, H)`, one for each gate.
    """

    def __init__(
        self,
        num_experts: Sequence[int],
        units: Sequence[int],
        links: Links,
        residual: str | None = None,
        names: Sequence[str] | None = None,
        feature_gates: Sequence[int] | None = None,
        gate_units: Sequence[int] | None = None,
        gate_temperature: float = 1.0,
        activation: Any = "relu",
        l2_reg: float = 0,
        dropout: float = 0,
        use_bn: bool = False,
        seed: int | None = None,
        subsets: Mapping[str, Sequence[int]] | None = None,
        gate: str = "softmax",
        num_selected: int | None = None,
        entropy_weight: float = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_experts = tuple(
            checks.non_negative_int(f"num_experts[{b}]", size) for b, size in enumerate(num_experts)
        )
        self.links = _check_links(links, self.num_experts)
        self.residual = checks.one_of(None, "native", "self")("residual", residual)
        self.names = _check_names(names, len(self.num_experts))
        self._gating: dict[str, Any] = {
            "gate": gate,
            "gate_units": list(checks.units("gate_units", gate_units)),
            "gate_temperature": checks.positive_float("gate_temperature", gate_temperature),
            "num_selected": checks.positive_int_or_none("num_selected", num_selected),
            "entropy_weight": checks.non_negative_float("entropy_weight", entropy_weight),
        }
        self.feature_gates = checks.units("feature_gates", feature_gates)
        if len(self.feature_gates) not in (0, 2):
            raise ValueError(
                "`feature_gates` should be a number of pairs and their rank, or None. "
                f"Received: {feature_gates!r}"
            )
        if self.feature_gates and subsets:
            raise ValueError(
                "`subsets` should be None with `feature_gates`, by which each expert chooses what "
                f"it sees. Received: {subsets!r}"
            )
        self.seed = checks.seed("seed", seed)
        common = {
            "activation": activation,
            "l2_reg": l2_reg,
            "dropout": dropout,
            "use_bn": use_bn,
            "dtype": self.dtype_policy,
        }
        self.experts = Experts(
            [size for size in self.num_experts if size],
            units,
            seed=derive_seed(self.seed, "experts"),
            subsets=subsets,
            name="experts",
            **common,
        )
        sizes = np.array(self.num_experts) * (len(self.experts.subsets) or 1)
        self._feature_gate = None
        if self.feature_gates:
            pairs, rank = self.feature_gates
            self._feature_gate = FeatureGate(
                [int(size) for size in sizes if size],
                pairs,
                rank,
                seed=derive_seed(self.seed, "feature_gate"),
                dtype=self.dtype_policy,
                name="feature_gate",
            )
        ends = np.cumsum(sizes)
        self._columns = [np.arange(end - size, end) for size, end in zip(sizes, ends, strict=True)]
        self._own = [row.index("own") for row in self.links]
        self.gates = [
            gate_of(
                len(self._mixed_by(k)),
                seed=derive_seed(self.seed, "gate", k),
                name=self._gate_name(k),
                **self._gating,
                **common,
            )
            for k in range(len(self.links))
        ]
        # By gate; None where there are no experts of its own.
        self._self_gates = [
            self._self_gate(k, len(self._columns[own]))
            for k, own in enumerate(self._own)
            if self.residual == "self"
        ]
        stopped = np.zeros((len(self.links), self.experts.num_experts), "float32")
        for k, row in enumerate(self.links):
            for link, columns in zip(row, self._columns, strict=True):
                stopped[k, columns] = link == "stopped"
        self._stopped = stopped

    def _gate_name(self, k: int) -> str:
        return f"gate_{k}"

    def _self_gate(self, k: int, size: int) -> Any:
        common = {"dtype": self.dtype_policy, "name": f"self_gate_{k}"}
        seed = derive_seed(self.seed, "self_gate", k)
        if size != 1:
            return Gate(size, seed=seed, **common) if size else None
        # A softmax of one would be 1, whatever the input.
        return keras.layers.Dense(
            1, "sigmoid", use_bias=False, kernel_initializer=glorot(seed), **common
        )

    def _mixed_by(self, k: int) -> np.ndarray:
        """Return which of all experts gate k mixes."""
        return np.concatenate([self._columns[b] for b in self._banks_of(k)])

    def build(self, input_shape: Any) -> None:
        """Build experts and gates, and create the residual's weights."""
        is_list = isinstance(input_shape[0], (list, tuple))
        banks, gates = self._per_part(input_shape, is_list)
        seen = banks if is_list else input_shape
        if self._feature_gate is not None:
            self._feature_gate.build(seen)
            seen = self._feature_gate.compute_output_shape(seen)
        self.experts.build(seen)
        for layers in (self.gates, self._self_gates):
            for layer, shape in zip(layers, gates, strict=False):
                if layer is not None:
                    layer.build(shape)
        # By gate; None where there is nothing to learn.
        self._native = [
            self._add_native(k, len(self._columns[own]))
            for k, own in enumerate(self._own)
            if self.residual == "native"
        ]
        self.built = True

    def _add_native(self, k: int, size: int) -> Any:
        if size < 2:
            return None

        def initialize(shape: tuple[int, ...], dtype: Any = None) -> Any:
            rng = np.random.default_rng(derive_seed(self.seed, "native", k))
            values = rng.uniform(-(size**-0.5), size**-0.5, shape)
            return ops.convert_to_tensor(values.astype("float32"), dtype)

        return self.add_weight(name=f"native_kernel_{k}", shape=(1, size), initializer=initialize)

    def call(self, inputs: Any, training: bool | None = None) -> list[Any]:
        """Return the gates' mixtures."""
        is_list = isinstance(inputs, (list, tuple))
        banks, gates = self._per_part(inputs, is_list)
        seen = banks if is_list else inputs
        if self._feature_gate is not None:
            seen = self._feature_gate(seen)
        experts = self.experts(seen, training=training)  # (B, E, H)
        # One product with a row of weights per gate, zeros included, is several times faster than
        # a mixture per gate: it reads the experts once.
        weights = ops.stack([self._weights(k, u, training) for k, u in enumerate(gates)], axis=1)
        if self._stopped.any():
            stopped = ops.convert_to_tensor(self._stopped, weights.dtype)
            mixed = ops.matmul(weights * (1 - stopped), experts)
            mixed += ops.matmul(weights * stopped, ops.stop_gradient(experts))
        else:
            mixed = ops.matmul(weights, experts)
        return list(ops.unstack(mixed, axis=1))

    def _weights(self, k: int, u: Any, training: bool | None) -> Any:
        """Return gate k's weights of all experts, `(B, E)`."""
        weights = self._spread(self.gates[k](u, training=training), self._mixed_by(k))
        own = self._columns[self._own[k]]
        if self.residual is None or not len(own):
            return weights
        if self.residual == "self":
            residual = self._self_gates[k](u)
        elif self._native[k] is not None:
            residual = ops.convert_to_tensor(self._native[k])
        else:
            residual = ops.ones((1, 1), weights.dtype)
        return weights + self._spread(residual, own)

    def _spread(self, weights: Any, columns: np.ndarray) -> Any:
        """Return weights of some experts as weights of all: zero for the others."""
        if len(columns) == self.experts.num_experts:
            return weights
        places = np.eye(self.experts.num_experts, dtype="float32")[columns]
        return ops.matmul(weights, ops.convert_to_tensor(places, weights.dtype))

    def _per_part(self, inputs: Any, is_list: bool) -> tuple[list[Any], list[Any]]:
        """Return the inputs (or shapes) of the banks that have experts, and those of the gates."""
        banks, gates = len(self.num_experts), len(self.links)
        if not is_list:
            return [inputs], [inputs] * gates
        if len(inputs) not in (banks, banks + gates):
            raise ValueError(
                f"{type(self).__name__} should be called on one input, or on {banks}: one per "
                f"bank of experts (and {gates} more if the gates have inputs of their own). "
                f"Received: {len(inputs)} inputs"
            )
        own = list(inputs[banks:]) or [inputs[b] for b in self._own]
        return [x for x, size in zip(inputs, self.num_experts, strict=False) if size], own

    def compute_output_shape(self, input_shape: Any) -> list[tuple[int | None, ...]]:
        """Return one `(B, H)` per gate."""
        is_list = isinstance(input_shape[0], (list, tuple))
        banks, gates = self._per_part(input_shape, is_list)
        seen = banks if is_list else input_shape
        if self._feature_gate is not None:
            seen = self._feature_gate.compute_output_shape(seen)
        batch, _, width = self.experts.compute_output_shape(seen)
        return [(batch, width) for _ in gates]

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        experts = self.experts.get_config()
        return {
            **super().get_config(),
            "num_experts": list(self.num_experts),
            "links": [list(row) for row in self.links],
            "residual": self.residual,
            "names": list(self.names) if self.names else None,
            "feature_gates": list(self.feature_gates) or None,
            **self._gating,
            **{
                key: experts[key]
                for key in ("units", "activation", "l2_reg", "dropout", "use_bn", "subsets")
            },
            "seed": self.seed,
        }


def _check_links(links: Any, num_experts: Sequence[int]) -> list[list[str | None]]:
    rows = [list(row) for row in checks.entries("links", links, "a list of lists, one per gate")]
    kind = checks.one_of("own", "other", "stopped", None)
    for k, row in enumerate(rows):
        if len(row) != len(num_experts) or row.count("own") != 1:
            raise ValueError(
                f"`links[{k}]` should have one entry per bank, of which there are "
                f"{len(num_experts)}, and one of them should be 'own'. Received: {row}"
            )
        for b, link in enumerate(row):
            kind(f"links[{k}][{b}]", link)
        if not sum(size for size, link in zip(num_experts, row, strict=True) if link):
            raise ValueError(
                f"`num_experts` should give gate {k} an expert to mix. "
                f"Received: {list(num_experts)}, and links {row}"
            )
    return rows


def _check_names(names: Any, banks: int) -> list[str] | None:
    if names is None:
        return None
    checked = checks.entries("names", names, "a list of strings, or None")
    if len(checked) != banks or not all(isinstance(name, str) for name in checked):
        raise ValueError(f"`names` should hold a string for each bank. Received: {names!r}")
    return checked
