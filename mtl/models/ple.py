"""PLE: progressive layered extraction."""

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
def PLE(
    dnn_feature_columns: Any,
    *,
    num_levels: PositiveInt = 2,
    num_experts_specific: PositiveInt = 8,
    num_experts_shared: PositiveInt = 4,
    expert_dnn_units: Units = (64, 64),
    expert_features: Groups = None,
    embeddings: Embeddings = "shared",
    tower_dnn_units_lists: Towers = per_task(16, 16),
    **options: Unpack[GatedOptions],
) -> MultiTaskModel:
    """Build a progressive layered extraction model: levels of CGC, with a shared path.

    With x⁰_k = x⁰_s = x, level l has experts E_k on the input of task k and E_s on the shared one:

        xˡ_k = g_k(xˡ⁻¹_k) · [E_k(xˡ⁻¹_k), E_s(xˡ⁻¹_s)]
        xˡ_s = g_s(xˡ⁻¹_s) · [E_1(xˡ⁻¹_1), …, E_T(xˡ⁻¹_T), E_s(xˡ⁻¹_s)]

    with gates g(x) = softmax(W x / τ). The last level L has no x_s, and ŷ_k = σ(t_k(xᴸ_k)).

    Args:
        dnn_feature_columns: list of feature columns (see `mtl.features`).
        num_levels: int. Number L of extraction levels; 1 is CGC. Defaults to 2.
        num_experts_specific: int. Experts of each task. Defaults to 8.
        num_experts_shared: int. Experts that all tasks share. Defaults to 4.
        expert_dnn_units: list of int. Widths of every expert. Defaults to (64, 64).
        expert_features: dict from group name to list of feature names, "group_name" or None. At the
            first level each task, and the shared part, has as many experts as above for each
            group, which see its features alone: a feature in no group reaches the gates only, for
            these see all features. "group_name" groups features by the `group_name` of their
            columns; numeric ones, which have none, are in "default_group". Defaults to None:
            every expert sees all features. Not with other `embeddings` than "shared".
        embeddings: str. "shared": one set of tables of embeddings, for all. "per_task": each task k
            has tables of its own, whose encoding x_k its experts and its gate read; the shared
            experts and the shared gate read the mean of them. "shared_and_per_task": these read
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
    gates = net.gates(
        num_experts_specific + num_experts_shared, groups if num_levels == 1 else None
    )
    x = net.encode_paths(embeddings)
    for level in range(1, num_levels + 1):
        x = Extraction(
            len(net.tasks),
            num_experts_specific,
            num_experts_shared,
            expert_dnn_units,
            shared_gate=level < num_levels,
            subsets=groups if level == 1 else None,
            **gates,
            **net.layer(f"extraction_{level}"),
        )(x)
    return net.model(net.towers(x))
