"""Shared-Bottom: one network for all tasks, then a tower each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mtl import checks
from mtl.layers import DNN
from mtl.models.assembly import Plan, assemble
from mtl.models.base import MultiTaskModel

_TOWERS = ((64, 32), (64, 32))


def SharedBottom(
    dnn_feature_columns: Any,
    *,
    num_tasks: int | None = None,
    task_types: Sequence[Any] | None = None,
    task_names: Sequence[str] | None = None,
    bottom_dnn_units: Sequence[int] = (128, 128),
    tower_dnn_units_lists: Sequence[Sequence[int]] = _TOWERS,
    l2_reg_embedding: float = 1e-5,
    l2_reg_dnn: float = 0,
    seed: int | None = 1024,
    dnn_dropout: float = 0,
    dnn_activation: Any = "relu",
    dnn_use_bn: bool = False,
    name: str | None = None,
) -> MultiTaskModel:
    """Build a Shared-Bottom model: h = bottom(x), ŷ_k = σ(t_k(h)).

    Args:
        dnn_feature_columns: list of feature columns (see `mtl.features`).
        num_tasks: int or None. Number of tasks; may be left out where another argument tells it.
        task_types: list or None. Per task "binary", "regression", `("multiclass", C)` or
            `("multilabel", C)`. Defaults to binary tasks.
        task_names: list of str or None. Any names; outputs carry them, made safe for backends.
            Defaults to "task_1", "task_2", ….
        bottom_dnn_units: list of int. Widths of the shared bottom. Defaults to (128, 128).
        tower_dnn_units_lists: list of lists of int. Widths of each task's tower.
            Defaults to (64, 32) for every task.
        l2_reg_embedding: float. L2 strength on the embeddings that a batch looks up.
            Defaults to 1e-5.
        l2_reg_dnn: float. L2 strength on the kernels of every DNN. Defaults to 0.
        seed: int or None. Seed of all weights and dropout. Defaults to 1024.
        dnn_dropout: float in [0, 1). Dropout of every DNN. Defaults to 0.
        dnn_activation: str or function. Activation of every DNN. Defaults to "relu".
        dnn_use_bn: bool. Batch normalisation in every DNN. Defaults to False.
        name: str or None. Name of the model.

    Returns:
        A `MultiTaskModel`, which is a functional `keras.Model` with one output per task.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: an argument out of range, or arguments that disagree.

    References:
        - Caruana, Multitask Learning, Machine Learning 1997
    """
    plan = Plan(
        dnn_feature_columns,
        num_tasks,
        task_types,
        task_names,
        tower_dnn_units_lists,
        _TOWERS,
        l2_reg_embedding,
        l2_reg_dnn,
        seed,
        dnn_dropout,
        dnn_activation,
        dnn_use_bn,
        name,
    )
    bottom_units = checks.units("bottom_dnn_units", bottom_dnn_units)

    def body(x: Any) -> list[Any]:
        h = DNN(bottom_units, **plan.options("bottom"))(x)
        return [h for _ in plan.tasks]

    return assemble(plan, body)
