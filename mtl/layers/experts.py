"""Experts: many DNNs of one shape as one stack of weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import keras
import numpy as np
from keras import ops

from mtl import checks
from mtl.layers.dropout import Dropout
from mtl.layers.normalization import BatchNormalization
from mtl.seeds import derive_seed, glorot


@keras.saving.register_keras_serializable(package="mtl")
class Experts(keras.layers.Layer):
    """E expert DNNs of equal shape, e_1(x) … e_E(x).

    The experts are stacked: one kernel `(E, in, out)` per depth, so that experts which share
    their input need one matmul. Each expert starts from a seed of its own, with the spread that
    a Dense layer of its size has. Layers are as in `DNN`.

    Args:
        num_experts: int or list of int. Number of experts. A list makes groups of experts: the
            layer is then called on a list of inputs, one per group.
        units: list of int. Width of each layer of an expert; with an empty list every expert is
            the identity.
        activation: str or function. Activation after each layer. Defaults to `"relu"`.
        l2_reg: float. L2 strength on the kernels. Defaults to 0.
        dropout: float in [0, 1). Share of units that are dropped in training. Defaults to 0.
        use_bn: bool. Whether to normalise before the activation. Defaults to False.
        seed: int or None. Seed of weights and dropout. Defaults to None.
        subsets: dict or None. Columns of x, as a list of int by the subset's name. Instead of
            experts that see x, there are as many for each subset, and they see its columns
            alone. Defaults to None.
        **kwargs: `name`, `dtype`, `trainable` of the Keras layer.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: an argument out of range, subsets without units, or inputs that don't match
            the groups or the subsets.

    Call arguments:
        inputs: tensor of shape `(B, D)` that all experts share, or, without subsets, a list of
            such tensors, one per group, or one per expert.

    Returns:
        A tensor of shape `(B, E, H)`, H the last width; the groups' experts in order, and within
        a group the subsets' experts in order.
    """

    def __init__(
        self,
        num_experts: int | Sequence[int],
        units: Sequence[int],
        activation: Any = "relu",
        l2_reg: float = 0,
        dropout: float = 0,
        use_bn: bool = False,
        seed: int | None = None,
        subsets: Mapping[str, Sequence[int]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if isinstance(num_experts, (list, tuple)):
            self.groups = checks.units("num_experts", num_experts)
        else:
            self.groups = (checks.positive_int("num_experts", num_experts),)
        self.units = checks.units("units", units)
        self.subsets = _check_subsets(subsets)
        if self.subsets and not self.units:
            raise ValueError(
                "`units` should hold at least one width with `subsets`, which are of different "
                f"widths themselves. Received: {units!r}"
            )
        self.num_experts = sum(self.groups) * (len(self.subsets) or 1)
        self.activation = keras.activations.get(checks.activation("activation", activation))
        self.l2_reg = checks.non_negative_float("l2_reg", l2_reg)
        self.dropout = checks.rate("dropout", dropout)
        self.use_bn = bool(use_bn)
        self.seed = checks.seed("seed", seed)
        depths = range(len(self.units))
        # Normalisation is per unit of each expert: over the last axis of (B, E * out).
        self._norms = [
            BatchNormalization(dtype=self.dtype_policy, name=f"bn_{i}")
            for i in depths
            if self.use_bn
        ]
        self._dropouts = [
            Dropout(
                self.dropout,
                seed=derive_seed(self.seed, "dropout", i),
                dtype=self.dtype_policy,
                name=f"dropout_{i}",
            )
            for i in depths
            if self.dropout
        ]

    def build(self, input_shape: Any) -> None:
        """Create the stacked weights."""
        width = self._check_inputs(input_shape)
        self._kernels, self._biases = [], []
        for depth, out in enumerate(self.units):
            if depth or not self.subsets:
                experts = range(self.num_experts)
                kernel = self._add_kernel(f"kernel_{depth}", depth, experts, width, out)
            else:
                kernel = [
                    self._add_kernel(f"kernel_0_{i}", 0, self._experts_of(i), len(columns), out)
                    for i, columns in enumerate(self.subsets.values())
                ]
            self._kernels.append(kernel)
            self._biases.append(
                self.add_weight(
                    name=f"bias_{depth}", shape=(self.num_experts, out), initializer="zeros"
                )
            )
            if self.use_bn:
                self._norms[depth].build((None, self.num_experts * out))
            width = out
        self.built = True

    def _add_kernel(
        self, name: str, depth: int, experts: Sequence[int], width: int, out: int
    ) -> Any:
        def initialize(shape: tuple[int, ...], dtype: Any = None) -> Any:
            # Expert by expert: Keras would count the expert axis of a 3-D kernel as receptive
            # field, and shrink its spread by the square root of the number of experts.
            seeds = [derive_seed(self.seed, "kernel", depth, e) for e in experts]
            kernels = np.stack([glorot(seed).draw(shape[1:]) for seed in seeds])
            return ops.convert_to_tensor(kernels, dtype)

        return self.add_weight(
            name=name,
            shape=(len(experts), width, out),
            initializer=initialize,
            regularizer=keras.regularizers.L2(self.l2_reg) if self.l2_reg else None,
        )

    def _experts_of(self, subset: int) -> list[int]:
        subsets = np.arange(len(self.subsets))
        seen = np.concatenate([np.repeat(subsets, size) for size in self.groups])
        return np.flatnonzero(seen == subset).tolist()

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return all experts' outputs."""
        if isinstance(inputs, (list, tuple)):
            self._check_inputs([tuple(x.shape) for x in inputs])
        if not self.units:
            return self._identity(inputs)
        x = self._finish(self._first(inputs), 0, training)
        for depth in range(1, len(self.units)):
            x = ops.einsum("bei,eio->beo", x, self._kernels[depth])
            x = self._finish(x, depth, training)
        return x

    def _first(self, inputs: Any) -> Any:
        if self.subsets:
            return self._first_by_subset(inputs)
        kernel = ops.convert_to_tensor(self._kernels[0])
        products = matmul_groups(inputs, kernel, self._sizes(inputs))
        return products[0] if len(products) == 1 else ops.concatenate(products, axis=1)

    def _sizes(self, inputs: Any) -> Sequence[int]:
        """Return how many experts each input serves."""
        inputs = checks.as_list(inputs)
        if len(inputs) == 1:
            return (self.num_experts,)
        return self.groups if len(inputs) == len(self.groups) else (1,) * self.num_experts

    def _first_by_subset(self, x: Any) -> Any:
        outputs = []
        for columns, kernel in zip(self.subsets.values(), self._kernels[0], strict=True):
            seen = ops.take(x, np.array(columns, "int32"), axis=1)
            outputs.append(_matmul_stack(seen, ops.convert_to_tensor(kernel)))
        if len(self.groups) > 1:
            ends = np.cumsum(self.groups[:-1]).tolist()
            by_group = zip(*(ops.split(output, ends, axis=1) for output in outputs), strict=True)
            outputs = list(chain.from_iterable(by_group))
        return ops.concatenate(outputs, axis=1)

    def _finish(self, x: Any, depth: int, training: bool | None) -> Any:
        x = x + self._biases[depth]
        if self.use_bn:
            flat = ops.reshape(x, (-1, self.num_experts * self.units[depth]))
            flat = self._norms[depth](flat, training=training)
            x = ops.reshape(flat, (-1, self.num_experts, self.units[depth]))
        x = self.activation(x)
        return self._dropouts[depth](x, training=training) if self.dropout else x

    def _identity(self, inputs: Any) -> Any:
        outputs = [
            ops.repeat(ops.expand_dims(x, 1), size, axis=1)
            for x, size in zip(checks.as_list(inputs), self._sizes(inputs), strict=True)
        ]
        return outputs[0] if len(outputs) == 1 else ops.concatenate(outputs, axis=1)

    @property
    def expert_names(self) -> list[str]:
        """A name for each expert: "expert 1", …, or the subset's name and a number."""
        size = sum(self.groups)
        return [f"{name} {i + 1}" for name in self.subsets or ["expert"] for i in range(size)]

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Return `(B, E, H)`."""
        width = self._check_inputs(input_shape)
        first = input_shape[0] if isinstance(input_shape[0], (list, tuple)) else input_shape
        return (first[0], self.num_experts, self.units[-1] if self.units else width)

    def _check_inputs(self, input_shape: Any) -> int:
        """Return the width of the inputs, all groups alike."""
        one = not isinstance(input_shape[0], (list, tuple))
        if self.subsets:
            needed = 1 + max(map(max, self.subsets.values()))
            if not one or input_shape[-1] < needed:
                raise ValueError(
                    f"Experts with `subsets` should be called on one input of at least {needed} "
                    f"columns. Received: inputs of shapes {input_shape}"
                )
        if one:
            return int(input_shape[-1])
        widths = {int(shape[-1]) for shape in input_shape}
        if len(input_shape) not in (len(self.groups), self.num_experts) or len(widths) != 1:
            raise ValueError(
                f"Experts should be called on one input, or on {len(self.groups)} of one width: "
                f"one per group (or per expert). Received: inputs of shapes {input_shape}"
            )
        return widths.pop()

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "num_experts": list(self.groups) if len(self.groups) > 1 else self.groups[0],
            "units": list(self.units),
            "activation": keras.activations.serialize(self.activation),
            "l2_reg": self.l2_reg,
            "dropout": self.dropout,
            "use_bn": self.use_bn,
            "seed": self.seed,
            "subsets": {name: list(columns) for name, columns in self.subsets.items()} or None,
        }


def _check_subsets(subsets: Any) -> dict[str, list[int]]:
    if subsets is None:
        return {}
    named = isinstance(subsets, Mapping) and all(isinstance(name, str) for name in subsets)
    if not named or not subsets:
        raise TypeError(
            f"`subsets` should be a dict from name to list of columns, or None. Received: {subsets}"
        )
    checked = {}
    for name, columns in subsets.items():
        argument = f"subsets[{name!r}]"
        checked[name] = [checks.non_negative_int(argument, column) for column in columns]
        if not columns or len(set(columns)) < len(columns):
            raise ValueError(f"`{argument}` should hold columns, each once. Received: {columns}")
    return checked


def matmul_groups(inputs: Any, kernel: Any, groups: Sequence[int]) -> list[Any]:
    """Return products with the E kernels `(E, in, out)`, as a list of `(B, size, out)` by group.

    Args:
        inputs: tensor of shape `(B, in)`, or a list of such tensors, one per group.
        kernel: tensor of shape `(E, in, out)`.
        groups: how many of the kernels each group has.
    """
    inputs = checks.as_list(inputs)
    if len(inputs) == 1:
        return [_matmul_stack(inputs[0], kernel)]
    # Split, not sliced: a split's gradient is one concatenation, a slice's is padded.
    kernels = ops.split(kernel, np.cumsum(groups[:-1]).tolist(), axis=0)
    return [_matmul_stack(x, own) for x, own in zip(inputs, kernels, strict=True)]


def _matmul_stack(x: Any, kernel: Any) -> Any:
    """Return `(B, E, out)`: one matmul of x `(B, in)` with the E kernels `(E, in, out)`."""
    experts, width, out = kernel.shape
    flat = ops.reshape(ops.transpose(kernel, (1, 0, 2)), (width, experts * out))
    return ops.reshape(ops.matmul(x, flat), (-1, experts, out))
