"""CGC: customized gate control, task-specific beside shared experts."""

from __future__ import annotations

from typing import Any

from mtl.layers import Extraction
from mtl.models.network import Network
from mtl.models.options import (
    Embeddings,
    GatedOptions,
    Groups,
    PositiveInt,
    Towers,
    Units,
    Unpack,
    Widths,
    model,
    per_task,
)
from mtl.training import MultiTaskModel


@model(
    search={
        "num_experts_specific": (2, 4, 8),
        "num_experts_shared": (2, 4, 8),
        "expert_dnn_units": Widths(),
    }
)
def CGC(
    dnn_feature_columns: Any,
    *,
    num_experts_specific: PositiveInt = 8,
    num_experts_shared: PositiveInt = 4,
    expert_dnn_units: Units = (64, 64),
    expert_features: Groups = None,
    embeddings: Embeddings = "shared",
    tower_dnn_units_lists: Towers = per_task(16, 16),
    **options: Unpack[GatedOptions],
) -> MultiTaskModel:
    """Build a customized gate control model: PLE with one level.

    Each task k has experts E_k of its own, all share E_s; gate k mixes [E_k, E_s] only.

    Args:
        dnn_feature_columns: list of feature columns (see `mtl.features`).
        num_experts_specific: int. Experts of each task. Defaults to 8.
        num_experts_shared: int. Experts that all tasks share. Defaults to 4.
        expert_dnn_units: list of int. Widths of every expert. Defaults to (64, 64).
        expert_features: dict from group name to list of feature names, "group_name" or None. Each
            task, and the shared part, has as many experts as above for each group, which see its
            features alone: a feature in no group reaches the gates only, for these see all
            features. "group_name" groups features by the `group_name` of their columns; numeric
            ones, which have none, are in "default_group". Defaults to None: every expert sees all
            features. Not with other `embeddings` than "shared".
        embeddings: str. "shared": one set of tables of embeddings, for all. "per_task": each task k
            has tables of its own, whose encoding x_k its experts and its gate read; the shared
            experts read the mean of them. "shared_and_per_task": these read
            an encoding by tables of their own. STEM's paper compares with such models, but leaves
            open what the gates read. Defaults to "shared".
        tower_dnn_units_lists: list of lists of int. Widths of each task's tower.
            Defaults to (16, 16) for every task.
        **options: what models with gates take (see `mtl.models.options.GatedOptions`).

    References:
        - Tang et al., Progressive Layered Extraction (PLE): A Novel Multi-Task Learning (MTL)
          Model for Personalized Recommendations, RecSys 2020
        - Su et al., STEM: Unleashing the Power of Embeddings for Multi-Task Recommendation,
          AAAI 2024, for `embeddings`
    """
    net = Network(dnn_feature_columns, tower_dnn_units_lists, **options)
    groups = net.groups(expert_features, expert_dnn_units, embeddings)
    gates = net.gates(num_experts_specific + num_experts_shared, groups)
    x = net.encode_paths(embeddings)
    z = Extraction(
        len(net.tasks),
        num_experts_specific,
        num_experts_shared,
        expert_dnn_units,
        subsets=groups,
        **gates,
        **net.layer("extraction_1"),
    )(x)
    return net.model(net.towers(z))
