"""Extraction: one level of CGC and PLE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from mtl import checks
from mtl.layers.fusion import Fusion
from mtl.layers.gate import mix
from mtl.names import distinct


@keras.saving.register_keras_serializable(package="mtl")
class Extraction(Fusion):
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
        num_tasks = checks.positive_int("num_tasks", num_tasks)
        specific = checks.positive_int("num_experts_specific", num_experts_specific)
        shared = checks.positive_int("num_experts_shared", num_experts_shared)
        links: list[list[str | None]] = [
            [*("own" if k == j else None for j in range(num_tasks)), "other"]
            for k in range(num_tasks)
        ]
        if shared_gate:
            links.append([*["other"] * num_tasks, "own"])
        super().__init__(
            [specific] * num_tasks + [shared],
            units,
            links,
            gate_units=gate_units,
            gate_temperature=gate_temperature,
            activation=activation,
            l2_reg=l2_reg,
            dropout=dropout,
            use_bn=use_bn,
            seed=seed,
            subsets=subsets,
            gate=gate,
            num_selected=num_selected,
            entropy_weight=entropy_weight,
            **kwargs,
        )
        self.num_tasks, self.shared_gate = num_tasks, bool(shared_gate)
        self.num_experts_specific, self.num_experts_shared = specific, shared

    def _gate_name(self, k: int) -> str:
        return "gate_shared" if k + 1 == len(self.num_experts) else f"gate_{k}"

    def call(self, inputs: Any, training: bool | None = None) -> list[Any]:
        """Return the tasks' outputs, and the shared one if there is a shared gate."""
        per_gate = self.gate_inputs(inputs)
        experts = self.experts(inputs, training=training)  # (B, T * specific + shared, H)
        weights = [gate(x, training=training) for gate, x in zip(self.gates, per_gate, strict=True)]
        # Split, not sliced: a split's gradient is one concatenation, a slice's is padded.
        size = len(self._columns[0])
        ends = [size * (k + 1) for k in range(self.num_tasks)]
        *specific, shared = ops.split(experts, ends, axis=1)
        outputs = []
        for own, weight in zip(specific, weights, strict=False):
            own_weight, shared_weight = ops.split(weight, [size], axis=1)
            outputs.append(mix(own, own_weight) + mix(shared, shared_weight))
        if self.shared_gate:
            outputs.append(mix(experts, weights[-1]))
        return outputs

    def mixtures(self, tasks: Sequence[str]) -> list[tuple[str, list[str]]]:
        """Return a name for each gate, and for each of the experts that it mixes.

        Args:
            tasks: list of str. Names of the model's tasks; where the layer serves another number
                of them, as in a model of one task out of several, they are "task_1", "task_2", ….
        """
        if len(tasks) != self.num_tasks:
            tasks = [f"task_{k + 1}" for k in range(self.num_tasks)]
        return self._mixtures([*tasks, distinct("shared", tasks)])

    def config_of_task(self, task: int) -> dict[str, Any]:
        """Return the configuration of the same layer for one task, without a shared gate."""
        return {**self.get_config(), "num_tasks": 1, "shared_gate": False}

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        config = super().get_config()
        for key in ("num_experts", "links", "residual", "names", "feature_gates"):
            del config[key]
        return {
            **config,
            "num_tasks": self.num_tasks,
            "num_experts_specific": self.num_experts_specific,
            "num_experts_shared": self.num_experts_shared,
            "shared_gate": self.shared_gate,
        }
