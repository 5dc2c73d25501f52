"""AdaTT: experts of every task, fused by every task."""

from __future__ import annotations

from typing import Any

from mtl.layers import Fusion
from mtl.models.network import Network
from mtl.models.options import (
    GatedOptions,
    Groups,
    NonNegativeInt,
    Towers,
    Units,
    Unpack,
    Widths,
    model,
    per_task,
)
from mtl.names import distinct
from mtl.training import MultiTaskModel


@model(
    search={
        "num_experts_specific": (1, 2, 4),
        "num_experts_shared": (1, 2, 4),
        "expert_dnn_units": Widths(),
    }
)
def AdaTT(
    dnn_feature_columns: Any,
    *,
    num_experts_specific: NonNegativeInt = 2,
    num_experts_shared: NonNegativeInt = 1,
    expert_dnn_units: Units = (256, 128),
    expert_features: Groups = None,
    tower_dnn_units_lists: Towers = per_task(64, 32),
    **options: Unpack[GatedOptions],
) -> MultiTaskModel:
    """Build an adaptive task-to-task fusion network.

    Each task is a unit, and so is what they share. With f⁰_u = x for every unit u, and eˡ_i(fˡ⁻¹)
    the outputs of all experts of level l, each on the input of its own unit,

        fˡ_u = Σ_i (gˡ_u)_i eˡ_i + Σ_{i in u} (vˡ_u)_i eˡ_i,  gˡ_u = softmax(Wˡ_u fˡ⁻¹_u / τ)

    The first sum fuses the experts of all units; the second, the native residual, keeps a unit's
    own ones, by weights v that don't depend on the row: learned, or 1 where the unit has one
    expert. The shared unit fuses as well, but for the last level L, where it only supplies
    experts; ŷ_k = σ(t_k(fᴸ_k)).

    Args:
        dnn_feature_columns: list of feature columns (see `mtl.features`).
        num_experts_specific: int. Experts of each task; without any there is no residual, and one
            level is MMoE. Defaults to 2.
        num_experts_shared: int. Experts of the shared unit; 0 is AdaTT-sp, which has none.
            Defaults to 1.
        expert_dnn_units: list of int. Width of the experts of each level, which are of one layer:
            as many levels as widths. Defaults to (256, 128).
        expert_features: dict from group name to list of feature names, "group_name" or None. At the
            first level each unit has as many experts as above for each group, which see its
            features alone: a feature in no group reaches the gates only, for these see all
            features. "group_name" groups features by the `group_name` of their columns; numeric
            ones, which have none, are in "default_group". Defaults to None: every expert sees all
            features.
        tower_dnn_units_lists: list of lists of int. Widths of each task's tower.
            Defaults to (64, 32) for every task.
        **options: what models with gates take (see `mtl.models.options.GatedOptions`).

    References:
        - Li et al., AdaTT: Adaptive Task-to-Task Fusion Network for Multitask Learning in
          Recommendations, KDD 2023
    """
    if not expert_dnn_units:
        raise ValueError("`expert_dnn_units` should hold a width for each level. Received: none.")
    if not num_experts_specific + num_experts_shared:
        raise ValueError(
            "`num_experts_specific` or `num_experts_shared` should be positive. Received: 0 and 0"
        )
    net = Network(dnn_feature_columns, tower_dnn_units_lists, **options)
    groups = net.groups(expert_features, expert_dnn_units)
    units = tasks = [task.name for task in net.tasks]
    sizes = [num_experts_specific] * len(tasks)
    if num_experts_shared:
        units, sizes = [*tasks, distinct("shared", tasks)], [*sizes, num_experts_shared]
    gates = net.gates(sum(sizes))
    x = net.encode()
    for level, width in enumerate(expert_dnn_units, start=1):
        last = level == len(expert_dnn_units)
        x = Fusion(
            sizes,
            (width,),
            links=[
                ["own" if u == other else "other" for other in units]
                for u in (tasks if last else units)
            ],
            residual="native",
            names=units,
            **gates,
            subsets=groups if level == 1 else None,
            **net.layer(f"fusion_{level}"),
        )(x)
    return net.model(net.towers(x))
