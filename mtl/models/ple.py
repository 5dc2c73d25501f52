"""PLE: progressive layered extraction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mtl import checks
from mtl.layers import Extraction
from mtl.models.assembly import Plan, assemble
from mtl.models.groups import expert_subsets
from mtl.training.model import MultiTaskModel

_TOWERS = ((16, 16), (16, 16))


def PLE(
    dnn_feature_columns: Any,
    *,
    num_tasks: int | None = None,
    task_types: Sequence[Any] | None = None,
    task_names: Sequence[str] | None = None,
    num_levels: int = 2,
    num_experts_specific: int = 8,
    num_experts_shared: int = 4,
    expert_dnn_units: Sequence[int] = (64, 64),
    expert_features: Mapping[str, Sequence[str]] | str | None = None,
    gate_dnn_units: Sequence[int] | None = None,
    gate_temperature: float = 1.0,
    tower_dnn_units_lists: Sequence[Sequence[int]] = _TOWERS,
    dense_embedding_dim: int | None = None,
    l2_reg_embedding: float = 1e-5,
    l2_reg_dnn: float = 0,
    seed: int | None = 1024,
    dnn_dropout: float = 0,
    embedding_dropout: float = 0,
    dnn_activation: Any = "relu",
    dnn_use_bn: bool = False,
    name: str | None = None,
) -> MultiTaskModel:
    """Build a progressive layered extraction model: levels of CGC, with a shared path.

    Every level takes an input per task and a shared one (the first level x for all). The gate of
    task k is fed with task k's input and mixes [E_k, E_s]; the shared gate is fed with the shared
    input and mixes [E_1, …, E_T, E_s]. The last level has no shared gate.

    Args:
        dnn_feature_columns: list of feature columns (see `mtl.features`).
        num_tasks: int or None. Number of tasks; may be left out where another argument tells it.
        task_types: list or None. Per task "binary", "regression", `("multiclass", C)` or
            `("multilabel", C)`. Defaults to binary tasks.
        task_names: list of str or None. Any names; outputs carry them, made safe for backends.
            Defaults to "task_1", "task_2", ….
        num_levels: int. Number of extraction levels; 1 is CGC. Defaults to 2.
        num_experts_specific: int. Experts of each task. Defaults to 8.
        num_experts_shared: int. Experts that all tasks share. Defaults to 4.
        expert_dnn_units: list of int. Widths of every expert. Defaults to (64, 64).
        expert_features: dict from group name to list of feature names, "group_name" or None. At the
            first level each task, and the shared part, has as many experts as above for each
            group, which see its features alone: a feature in no group reaches the gates only, for
            these see all features. "group_name" groups features by the `group_name` of their
            columns; numeric ones, which have none, are in "default_group". Defaults to None:
            every expert sees all features.
        gate_dnn_units: list of int or None. Widths of a DNN in each gate before its softmax layer.
            Defaults to None: a linear gate, as in the paper.
        gate_temperature: float above 0. Divides the gates' logits. Defaults to 1.
        tower_dnn_units_lists: list of lists of int. Widths of each task's tower.
            Defaults to (16, 16) for every task.
        dense_embedding_dim: int or None. Size to which a linear map of its own takes each numeric
            feature. Defaults to None: the numbers as they are.
        l2_reg_embedding: float. L2 strength on the embeddings that a batch looks up.
            Defaults to 1e-5.
        l2_reg_dnn: float. L2 strength on the kernels of every DNN. Defaults to 0.
        seed: int or None. Seed of all weights and dropout. Defaults to 1024.
        dnn_dropout: float in [0, 1). Dropout of every DNN. Defaults to 0.
        embedding_dropout: float in [0, 1). Dropout of the encoded features. Defaults to 0.
        dnn_activation: str or function. Activation of every DNN. Defaults to "relu".
        dnn_use_bn: bool. Batch normalisation in every DNN. Defaults to False.
        name: str or None. Name of the model.

    Returns:
        A `MultiTaskModel`, which is a functional `keras.Model` with one output per task.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: an argument out of range, or arguments that disagree.

    References:
        - Tang et al., Progressive Layered Extraction (PLE): A Novel Multi-Task Learning (MTL)
          Model for Personalized Recommendations, RecSys 2020
    """
    plan = Plan(
        dnn_feature_columns,
        num_tasks,
        task_types,
        task_names,
        tower_dnn_units_lists,
        _TOWERS,
        dense_embedding_dim,
        l2_reg_embedding,
        l2_reg_dnn,
        seed,
        dnn_dropout,
        embedding_dropout,
        dnn_activation,
        dnn_use_bn,
        name,
    )
    num_levels = checks.positive_int("num_levels", num_levels)
    specific = checks.positive_int("num_experts_specific", num_experts_specific)
    shared = checks.positive_int("num_experts_shared", num_experts_shared)
    expert_units = checks.units("expert_dnn_units", expert_dnn_units)
    subsets = expert_subsets(plan, expert_features, expert_units)
    gate_units = checks.units("gate_dnn_units", gate_dnn_units)
    temperature = checks.positive_float("gate_temperature", gate_temperature)

    def body(x: Any) -> list[Any]:
        for level in range(1, num_levels + 1):
            x = Extraction(
                len(plan.tasks),
                specific,
                shared,
                expert_units,
                gate_units,
                temperature,
                shared_gate=level < num_levels,
                subsets=subsets if level == 1 else None,
                **plan.options(f"extraction_{level}"),
            )(x)
        return x  # type: ignore[no-any-return]

    return assemble(plan, body)
