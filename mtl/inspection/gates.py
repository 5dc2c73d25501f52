"""Gates: how a model mixes its experts, for any input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import pandas as pd

from mtl import checks
from mtl.names import distinct
from mtl.training import arrays
from mtl.training.graph import reached
from mtl.training.model import MultiTaskModel

# By level (1 is the lowest) and task; a gate that serves several tasks is "shared".
Weights = dict[tuple[int, str], pd.DataFrame]


def gate_weights(model: MultiTaskModel, x: Any, batch_size: int = 8192) -> Weights:
    """Return the weights that each gate gives its experts, row by row.

    ```python
    weights = gate_weights(ple, x_test)
    weights[2, "income"]["shared 1"]  # one weight per row of x_test
    ```

    Args:
        model: a model with gates, such as MMoE, PLE or STEM, trained or loaded, or what
            `extract_task` made of one.
        x: dict or DataFrame of inputs, N rows, as `predict` takes it.
        batch_size: int. Rows at once. Defaults to 8192.

    Returns:
        A dict from `(level, gate)` to a DataFrame `(N, E)` whose rows sum to 1, or less of a gate
        that selects among a number of experts other than 2, 4, 8, …. Levels count from
        1. A gate has the name of its task; the gate of MoE and those of PLE that feed the next
        level's shared experts are `"shared"`. Columns are experts, which count from 1: "expert 1",
        … in MoE and MMoE; the task's own and the shared ones, "income 1", …, "shared 1", …, in CGC
        and PLE; the groups of `expert_features` come between, "user 1", …, "income user 1", ….
        AdaTT, STEM and HoME are named alike, a gate and experts of HoME by their group of tasks.
        A task of the name "shared" makes the other "shared_". In a CGC or PLE that `extract_task`
        made, the tasks of the levels below the last are "task_1", "task_2", …. Native residuals
        and self-gates, which come on top of a gate's weights, aren't among them.

    Raises:
        TypeError: inputs that `predict` refuses, or a data set.
        ValueError: a model without gates, or inputs that `predict` refuses.
    """
    return GateProbe(model)(x, batch_size)


def expert_utilization(model: MultiTaskModel, x: Any, batch_size: int = 8192) -> pd.DataFrame:
    """Return how much each gate uses each of its experts: the weights' mean and spread.

    Args:
        model: a model with gates.
        x: dict or DataFrame of inputs.
        batch_size: int. Rows at once. Defaults to 8192.

    Returns:
        A DataFrame with one row per gate and expert: "level", "gate" and "expert", named as in
        `gate_weights`; "mean" and "std", over the rows of x. The means of a gate sum to 1.

    Raises:
        TypeError: inputs that `predict` refuses, or a data set.
        ValueError: a model without gates, or inputs that `predict` refuses.

    References:
        - Tang et al., Progressive Layered Extraction (PLE): A Novel Multi-Task Learning (MTL)
          Model for Personalized Recommendations, RecSys 2020, section 4.4: expert utilization
    """
    tables = [
        pd.DataFrame(
            {
                "level": level,
                "gate": gate,
                "expert": weights.columns,
                "mean": weights.mean().to_numpy(),
                "std": weights.std(ddof=0).to_numpy(),
            }
        )
        for (level, gate), weights in gate_weights(model, x, batch_size).items()
    ]
    return pd.concat(tables, ignore_index=True)


def gate_entropy(weights: Weights) -> pd.Series[float]:
    """Return how evenly each gate mixes its E experts, H = mean over rows of -Σ g log g / log E.

    Args:
        weights: what `gate_weights` returned.

    Returns:
        A Series with the index (level, gate): 1 where every row weighs all experts alike, 0 where
        every row reads a single one; NaN for a gate of one expert, which has nothing to decide.
    """
    entropy = {}
    for key, table in weights.items():
        g = table.to_numpy("float64")
        rows = -(g * np.log(np.where(g > 0, g, 1))).sum(axis=1)
        entropy[key] = rows.mean() / np.log(g.shape[1]) if g.shape[1] > 1 else np.nan
    index = pd.MultiIndex.from_tuples(entropy, names=["level", "gate"])
    return pd.Series(list(entropy.values()), index, name="entropy")


def dead_experts(weights: Weights, threshold: float = 0.01) -> list[tuple[int, str]]:
    """Return the experts that no gate uses.

    An expert is dead if each gate that mixes it gives it, on average over the rows, less than
    `threshold / E`: a hundredth, by default, of what an even mixture of the gate's E experts
    would.

    Args:
        weights: what `gate_weights` returned.
        threshold: float above 0. Defaults to 0.01.

    Returns:
        A list of (level, expert), named as in `gate_weights`.
    """
    threshold = checks.positive_float("threshold", threshold)
    alive: dict[tuple[int, str], bool] = {}
    for (level, _), table in weights.items():
        for expert, mean in table.mean().items():
            key = (level, str(expert))
            alive[key] = alive.get(key, False) or mean >= threshold / table.shape[1]
    return [key for key, used in alive.items() if not used]


class GateProbe:
    """The gates of a model as one function of its inputs.

    It shares the model's layers, and so follows its weights. It leaves the trainer of the model,
    and the random state of the program, as they are.

    Args:
        model: a model with gates.

    Raises:
        ValueError: a model without gates.
    """

    def __init__(self, model: MultiTaskModel) -> None:
        gates = _gates_of(model)
        if not gates:
            raise ValueError(
                "`model` should have gates, as MMoE and PLE do. "
                f"Received: {model.name!r} without any"
            )
        self._source = model
        self._experts = {key: labels for key, (_, labels) in gates.items()}
        self._model = model.beside([tensor for tensor, _ in gates.values()])

    @property
    def gates(self) -> list[tuple[int, str]]:
        """Level and name of each gate."""
        return list(self._experts)

    def __call__(self, x: Any, batch_size: int = 8192) -> Weights:
        """Return the weights of all gates; see `gate_weights`."""
        batch_size = checks.positive_int("batch_size", batch_size)
        inputs = checked_inputs(self._source, x)
        rows = len(next(iter(inputs.values())))
        parts = []
        for start in range(0, max(rows, 1), batch_size):
            batch = {name: value[start : start + batch_size] for name, value in inputs.items()}
            # Not `predict`: on torch its data loader draws from the generator that shuffles.
            parts.append(keras.tree.flatten(self._model.predict_on_batch(batch)))
        index = x.index if isinstance(x, pd.DataFrame) else None
        return {
            key: pd.DataFrame(np.concatenate(values).astype("float32"), index, labels)
            for (key, labels), values in zip(
                self._experts.items(), zip(*parts, strict=True), strict=True
            )
        }


def checked_inputs(model: MultiTaskModel, x: Any) -> dict[str, Any]:
    """Return the arrays that the model needs, by input name; see `mtl.training.arrays`."""
    if not isinstance(x, (Mapping, pd.DataFrame)):
        raise TypeError(
            "`x` should be a dict or DataFrame from feature name to array. "
            f"Received: {type(x).__name__}"
        )
    return arrays.check_inputs(model.feature_columns, x)  # type: ignore[no-any-return]


def _gates_of(model: MultiTaskModel) -> dict[tuple[int, str], tuple[Any, list[str]]]:
    """Return the output of each gate, by level and name, and the names of the experts it mixes."""
    reach = _read_by(model)
    found: dict[tuple[int, str], tuple[Any, list[str]]] = {}
    level = 0
    for layer in model.layers:
        if hasattr(layer, "mixtures"):  # a level of experts and their gates
            level += 1
            inputs = layer.gate_inputs(layer.input)
            outputs = _Gates(layer.gates, name=f"{layer.name}_gates")(inputs)
            mixtures = layer.mixtures(model.task_names)
            for (name, experts), weights in zip(mixtures, outputs, strict=True):
                found[level, name] = (weights, experts)
        elif getattr(layer, "weighs_experts", False):
            users = [task for task, layers in reach.items() if id(layer) in layers]
            name = users[0] if len(users) == 1 else distinct("shared", model.task_names)
            name = getattr(layer, "task_name", None) or name
            found[1, name] = (layer.output, _experts_beside(model, layer))
    return found


def _read_by(model: MultiTaskModel) -> dict[str, set[int]]:
    """Return the layers, by id, that each task reads itself and not through another task."""
    heads = {id(layer): layer for layer in model.layers if hasattr(layer, "task")}
    every = {i: {id(layer) for layer, _ in reached(head.output)} for i, head in heads.items()}
    own: dict[str, set[int]] = {}
    for i, head in heads.items():
        through = (every[j] for j in every[i] & heads.keys() - {i})
        own.setdefault(head.task.name, set()).update(every[i].difference(*through))
    return own


def _experts_beside(model: MultiTaskModel, gate: Any) -> list[str]:
    """Return the names of the experts that a gate of its own weighs."""
    return next(
        layer.expert_names
        for layer in model.layers
        if hasattr(layer, "expert_names") and layer.num_experts == gate.num_experts
    )


class _Gates(keras.layers.Layer):
    """The gates of a level, without its experts."""

    def __init__(self, gates: list[Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gates = gates

    def call(self, inputs: list[Any]) -> list[Any]:
        return [gate(x) for gate, x in zip(self.gates, inputs, strict=True)]
