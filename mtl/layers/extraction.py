"""Extraction: one level of CGC and PLE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from mtl import checks
from mtl.layers.dselect_k import gate_of
from mtl.layers.experts import Experts
from mtl.layers.gate import mix
from mtl.seeds import derive_seed


@keras.saving.register_keras_serializable(package="mtl")
class Extraction(keras.layers.Layer):
    """One extraction level: task-specific and shared experts, mixed by a gate per task.

    With the experts E_k of task k applied to the input of task k, and the shared experts E_s to
    the shared input, the output of task k is the mixture of [E_k, E_s] by a gate that is fed with
    the input of task k. If `shared_gate`, the level also gives a shared output, the mixture of
    all of [E_1, …, E_T, E_s] by a gate that is fed with the shared input.

    Args:
        num_tasks: int. Number T of tasks.
        num_experts_specific: int. Experts of each task.
        num_experts_shared: int. Shared experts.
        units: list of int. Widths of every expert.
        gate_units: list of int or None. Widths of the gates' DNN. Defaults to None.
        gate_temperature: float above 0. Divides the gates' logits. Defaults to 1.
        shared_gate: bool. Whether there is a shared output; the last level of PLE, and CGC, have
            none. Defaults to False.
        activation: str or function. Activation of experts and gates' DNN. Defaults to `"relu"`.
        l2_reg: float. L2 strength on the kernels. Defaults to 0.
        dropout: float in [0, 1). Dropout in experts and gates' DNN. Defaults to 0.
        use_bn: bool. Batch normalisation in experts and gates' DNN. Defaults to False.
        seed: int or None. Seed of weights and dropout. Defaults to None.
        subsets: dict or None. Columns of x by the subset's name, as in `Experts`: each task has
            `num_experts_specific` experts for every subset, and there are `num_experts_shared`
            shared ones for every subset. The gates see all of x. Defaults to None.
        gate: str. "softmax" for `Gate`, "dselect_k" for `DSelectK`. Defaults to `"softmax"`.
        num_selected: int or None. As in `DSelectK`, and for it alone. Defaults to None.
        entropy_weight: float. As in `DSelectK`, and for it alone. Defaults to 0.
        **kwargs: `name`, `dtype`, `trainable` of the Keras layer.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: an argument out of range, a list of inputs that isn't T + 1 long, or
            subsets without units or with a list of inputs.

    Call arguments:
        inputs: tensor of shape `(B, D)` that serves as every input (the first level), or a list
            of T + 1 such tensors: one per task, in task order, then the shared one.

    Returns:
        A list of T tensors of shape `(B, H)`, in task order, and the shared one if `shared_gate`.

    References:
        - Tang et al., Progressive Layered Extraction (PLE): A Novel Multi-Task Learning (MTL)
          Model for Personalized Recommendations, RecSys 2020
    """

    def __init__(
        self,
        num_tasks: int,
        num_experts_specific: int,
        num_experts_shared: int,
        units: Sequence[int],
        gate_units: Sequence[int] | None = None,
        gate_temperature: float = 1.0,
        shared_gate: bool = False,
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
        self.num_tasks = checks.positive_int("num_tasks", num_tasks)
        self.num_experts_specific = checks.positive_int(
            "num_experts_specific", num_experts_specific
        )
        self.num_experts_shared = checks.positive_int("num_experts_shared", num_experts_shared)
        self._gating: dict[str, Any] = {
            "gate": gate,
            "gate_units": list(checks.units("gate_units", gate_units)),
            "gate_temperature": checks.positive_float("gate_temperature", gate_temperature),
            "num_selected": checks.positive_int_or_none("num_selected", num_selected),
            "entropy_weight": checks.non_negative_float("entropy_weight", entropy_weight),
        }
        self.shared_gate = bool(shared_gate)
        self.seed = checks.seed("seed", seed)
        common = {
            "activation": activation,
            "l2_reg": l2_reg,
            "dropout": dropout,
            "use_bn": use_bn,
            "dtype": self.dtype_policy,
        }
        self.experts = Experts(
            [self.num_experts_specific] * self.num_tasks + [self.num_experts_shared],
            units,
            seed=derive_seed(self.seed, "experts"),
            subsets=subsets,
            name="experts",
            **common,
        )
        per_subset = len(self.experts.subsets) or 1
        self._specific = self.num_experts_specific * per_subset
        mixed = [self._specific + self.num_experts_shared * per_subset] * self.num_tasks
        if self.shared_gate:
            mixed.append(self.experts.num_experts)
        self.gates = [
            gate_of(
                size,
                seed=derive_seed(self.seed, "gate", k),
                name=f"gate_{k}" if k < self.num_tasks else "gate_shared",
                **self._gating,
                **common,
            )
            for k, size in enumerate(mixed)
        ]

    def build(self, input_shape: Any) -> None:
        """Build experts and gates."""
        shapes = self._per_input(input_shape, isinstance(input_shape[0], (list, tuple)))
        self.experts.build(input_shape)
        for gate, shape in zip(self.gates, shapes, strict=False):
            gate.build(shape)
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> list[Any]:
        """Return the tasks' outputs, and the shared one if there is a shared gate."""
        per_input = self._per_input(inputs, isinstance(inputs, (list, tuple)))
        experts = self.experts(inputs, training=training)  # (B, T * specific + shared, H)
        weights = [
            gate(x, training=training) for gate, x in zip(self.gates, per_input, strict=False)
        ]
        # Split, not sliced: a split's gradient is one concatenation, a slice's is padded.
        size = self._specific
        ends = [size * (k + 1) for k in range(self.num_tasks)]
        *specific, shared = ops.split(experts, ends, axis=1)
        outputs = []
        for own, weight in zip(specific, weights, strict=False):
            own_weight, shared_weight = ops.split(weight, [size], axis=1)
            outputs.append(mix(own, own_weight) + mix(shared, shared_weight))
        if self.shared_gate:
            outputs.append(mix(experts, weights[-1]))
        return outputs

    def _per_input(self, inputs: Any, is_list: bool) -> list[Any]:
        """Return T + 1 inputs (or shapes): the given ones, or the one repeated."""
        count = self.num_tasks + 1
        if not is_list:
            return [inputs] * count
        if len(inputs) != count:
            raise ValueError(
                f"Extraction should be called on one input, or on {count}: one per task and the "
                f"shared one. Received: {len(inputs)} inputs"
            )
        return list(inputs)

    def mixtures(self, tasks: Sequence[str], shared: str) -> list[tuple[str, list[str]]]:
        """Return a name for each gate, and for each of the experts that it mixes.

        Args:
            tasks: list of T names.
            shared: str. The name of the shared gate and experts.
        """
        subsets = list(self.experts.subsets) or [""]
        specific, common = self.num_experts_specific, self.num_experts_shared

        def names(bank: str, size: int) -> list[str]:
            groups = [f"{bank} {subset}".rstrip() for subset in subsets]
            return [f"{group} {i + 1}" for group in groups for i in range(size)]

        gates = [(task, [*names(task, specific), *names(shared, common)]) for task in tasks]
        if self.shared_gate:
            own = [name for task in tasks for name in names(task, specific)]
            gates.append((shared, [*own, *names(shared, common)]))
        return gates

    def inputs_of(self, output: int, inputs: Sequence[Any]) -> list[Any]:
        """Return those of a call's inputs that one of its outputs depends on.

        Args:
            output: int. Index of the output.
            inputs: the call's inputs: one, or one per task and the shared one.
        """
        if len(inputs) == 1 or output == self.num_tasks:
            return list(inputs)
        return [inputs[output], inputs[-1]]

    def shared_parts(self, tasks: Sequence[set[int]]) -> list[tuple[Any, np.ndarray | None]]:
        """Return the parameters that serve several tasks.

        Args:
            tasks: for each output, the tasks of the model that depend on it.

        Returns:
            A list of pairs: a trainable variable, and None or a mask of its shared entries.
        """
        of_shared = tasks[-1] if self.shared_gate else set()
        groups = [tasks[k] | of_shared for k in range(self.num_tasks)]
        groups.append(set().union(*tasks))
        serve_several = [len(group) > 1 for group in groups]
        parts: list[tuple[Any, np.ndarray | None]] = []
        for variable in self.experts.trainable_variables if any(serve_several) else []:
            rows = np.repeat(serve_several, self._rows_of_groups(variable))
            mask = rows.reshape(-1, *[1] * (len(variable.shape) - 1)).astype("float32")
            parts.append((variable, None if rows.all() else mask))
        for gate, served in zip(self.gates, tasks, strict=True):
            if len(served) > 1:
                parts += [(variable, None) for variable in gate.trainable_variables]
        return parts

    def config_of_task(self, task: int) -> dict[str, Any]:
        """Return the configuration of the same layer for one task, without a shared gate."""
        return {**self.get_config(), "num_tasks": 1, "shared_gate": False}

    def weights_of_task(self, task: int) -> list[np.ndarray]:
        """Return the weights of the layer that `config_of_task` describes.

        Args:
            task: int. Index of the task.

        Returns:
            A list of arrays, as `set_weights` takes it: the task's own experts and the shared ones,
            and the task's gate.
        """
        weights = []
        for value in self.experts.get_weights():
            parts = np.split(value, np.cumsum(self._rows_of_groups(value))[:-1])
            weights.append(np.concatenate([parts[task], parts[-1]]))
        return [*weights, *self.gates[task].get_weights()]

    def _rows_of_groups(self, weight: Any) -> np.ndarray:
        """Return how long each group's part of the experts' weight is.

        The first axis is (experts,), those of one subset or of all, or (experts * units,) in batch
        normalisation: in the order of the groups, and in proportion to their sizes.
        """
        sizes = np.array(self.experts.groups)
        rows: np.ndarray = sizes * (weight.shape[0] // sizes.sum())
        return rows

    def compute_output_shape(self, input_shape: Any) -> list[tuple[int | None, ...]]:
        """Return one `(B, H)` per output."""
        batch, _, width = self.experts.compute_output_shape(input_shape)
        return [(batch, width) for _ in self.gates]

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        experts = self.experts.get_config()
        return {
            **super().get_config(),
            "num_tasks": self.num_tasks,
            "num_experts_specific": self.num_experts_specific,
            "num_experts_shared": self.num_experts_shared,
            "shared_gate": self.shared_gate,
            **self._gating,
            **{key: experts[key] for key in ("units", "activation", "l2_reg", "dropout", "use_bn")},
            "seed": self.seed,
            "subsets": experts["subsets"],
        }
