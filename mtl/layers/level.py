"""Level: what a level of banks of experts and gates tells of itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from mtl.layers.experts import Experts


def shared_rows(variable: Any, rows: np.ndarray) -> tuple[Any, np.ndarray | None]:
    """Return a variable and a mask of some rows of its first axis, as `shared_parts` has it."""
    mask = rows.reshape(-1, *[1] * (len(variable.shape) - 1)).astype("float32")
    return variable, None if rows.all() else mask


class Level(keras.layers.Layer):
    """Experts in banks, and gates that each read some banks; `Fusion` makes and mixes them.

    It answers the questions of `mtl.inspection`, `extract_task` and balancers: the experts' names,
    which inputs and tasks a part depends on, and what of it one task needs.
    """

    num_experts: tuple[int, ...]
    links: list[list[str | None]]
    residual: str | None
    names: list[str] | None
    experts: Experts
    gates: list[Any]
    _own: list[int]  # the bank of each gate
    _native: list[Any]
    _self_gates: list[Any]
    _feature_gate: Any

    def _per_part(self, inputs: Any, is_list: bool) -> tuple[list[Any], list[Any]]:
        raise NotImplementedError

    def _banks_of(self, k: int, stopped: bool = True) -> list[int]:
        """Return the banks that gate k reads, or those alone that learn from it."""
        unread = {None} if stopped else {None, "stopped"}
        return [b for b, link in enumerate(self.links[k]) if link not in unread]

    def mixtures(self, tasks: Sequence[str]) -> list[tuple[str, list[str]]]:
        """Return a name for each gate, and for each of the experts that it mixes.

        Args:
            tasks: list of str. Names of the model's tasks, for layers that know no others.
        """
        return self._mixtures(self.names or [f"bank {b + 1}" for b in range(len(self.num_experts))])

    def _mixtures(self, names: Sequence[str]) -> list[tuple[str, list[str]]]:
        subsets = list(self.experts.subsets) or [""]
        experts = [
            [f"{name} {subset}".rstrip() + f" {i + 1}" for subset in subsets for i in range(size)]
            for name, size in zip(names, self.num_experts, strict=True)
        ]
        return [
            (names[own], [expert for b in self._banks_of(k) for expert in experts[b]])
            for k, own in enumerate(self._own)
        ]

    def gate_inputs(self, inputs: Any) -> list[Any]:
        """Return which of a call's inputs each gate reads."""
        return self._per_part(inputs, isinstance(inputs, (list, tuple)))[1]

    def inputs_of(self, output: int, inputs: Sequence[Any]) -> list[Any]:
        """Return those of a call's inputs that one of its outputs depends on.

        Args:
            output: int. Index of the output.
            inputs: list. The call's inputs.
        """
        return self._inputs_of(output, inputs, self._banks_of(output))

    def trained_inputs_of(self, output: int, inputs: Sequence[Any]) -> list[Any]:
        """Return those of a call's inputs that one of its outputs sends a gradient; see above."""
        return self._inputs_of(output, inputs, self._banks_of(output, stopped=False))

    def _inputs_of(self, output: int, inputs: Sequence[Any], banks: list[int]) -> list[Any]:
        if len(inputs) == 1:
            return list(inputs)
        own = len(self.num_experts) + output
        return [*(inputs[b] for b in banks), *inputs[own : own + 1]]

    def shared_parts(self, tasks: Sequence[set[int]]) -> list[tuple[Any, np.ndarray | None]]:
        """Return the parameters that serve several tasks.

        Args:
            tasks: for each output, the tasks of the model that train it.

        Returns:
            A list of pairs: a trainable variable, and None or a mask of its shared entries.
        """
        served: list[set[int]] = [set() for _ in self.num_experts]
        for k, users in enumerate(tasks):
            for b in self._banks_of(k, stopped=False):
                served[b] |= users
        several = [len(users) > 1 for users in served]
        parts: list[tuple[Any, np.ndarray | None]] = []
        if any(several):
            stacked = [v for layer in self._stacks() for v in layer.trainable_variables]
            parts += [shared_rows(v, np.repeat(several, self._rows_of_banks(v))) for v in stacked]
        for k, users in enumerate(tasks):
            if len(users) > 1:
                parts += [(variable, None) for variable in self._of_gate(k) if variable.trainable]
        return parts

    def _stacks(self) -> list[Any]:
        """Return the layers whose weights are stacked by expert."""
        return [layer for layer in (self.experts, self._feature_gate) if layer is not None]

    def _of_gate(self, k: int) -> list[Any]:
        """Return the variables of gate k alone."""
        native = [self._native[k]] if self.residual == "native" else []
        own = [self._self_gates[k]] if self.residual == "self" else []
        layers = [self.gates[k], *(layer for layer in own if layer is not None)]
        return [
            *(variable for variable in native if variable is not None),
            *(variable for layer in layers for variable in layer.weights),
        ]

    def config_of_task(self, task: int) -> dict[str, Any]:
        """Return the configuration of the same layer for one gate, without what it doesn't read."""
        banks = self._banks_of(task)
        return {
            **self.get_config(),
            "num_experts": [self.num_experts[b] for b in banks],
            "links": [[self.links[task][b] for b in banks]],
            "names": [self.names[b] for b in banks] if self.names else None,
        }

    def weights_of_task(self, task: int) -> list[np.ndarray]:
        """Return the weights of the layer that `config_of_task` describes.

        Args:
            task: int. Index of the gate.

        Returns:
            A list of arrays, as `set_weights` takes it.
        """
        stacked = []
        for value in (value for layer in self._stacks() for value in layer.get_weights()):
            parts = np.split(value, np.cumsum(self._rows_of_banks(value))[:-1])
            stacked.append(np.concatenate([parts[b] for b in self._banks_of(task)]))
        own = self._of_gate(task)
        # Keras lists a layer's own weights before those of the layers in it.
        first = sum("native" in variable.name for variable in own)
        values = [ops.convert_to_numpy(variable) for variable in own]
        return [*values[:first], *stacked, *values[first:]]

    def _rows_of_banks(self, weight: Any) -> np.ndarray:
        """Return how long each bank's part of the experts' weight is.

        The first axis is (experts,), those of one subset or of all, or (experts * units,) in batch
        normalisation: in the order of the banks, and in proportion to their sizes.
        """
        sizes = np.array(self.num_experts)
        rows: np.ndarray = sizes * (weight.shape[0] // sizes.sum())
        return rows
