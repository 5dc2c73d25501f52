"""MoE: a mixture of experts with one gate for all tasks."""

from __future__ import annotations

from typing import Any

from mtl.layers import Experts
from mtl.layers.dselect_k import gate_of
from mtl.layers.gate import mix
from mtl.models.network import Network
from mtl.models.options import (
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


@model(search={"num_experts": (4, 8, 16), "expert_dnn_units": Widths()})
def MoE(
    dnn_feature_columns: Any,
    *,
    num_experts: PositiveInt = 4,
    expert_dnn_units: Units = (32, 32),
    expert_features: Groups = None,
    tower_dnn_units_lists: Towers = per_task(16, 8),
    **options: Unpack[GatedOptions],
) -> MultiTaskModel:
    """Build a one-gate mixture of experts (OMoE): all tasks share the mixture.

    g = softmax(W x / τ), z = Σ_i g_i e_i(x), ŷ_k = σ(t_k(z)).

    Args:
        dnn_feature_columns: list of feature columns (see `mtl.features`).
        num_experts: int. Number of experts; with `expert_features`, of each group. Defaults to 4.
        expert_dnn_units: list of int. Widths of every expert. Defaults to (32, 32).
        expert_features: dict from group name to list of feature names, "group_name" or None. Each
            group has `num_experts` experts of its own, which see its features alone: a feature in
            no group reaches the gates only, for these see all features. "group_name" groups
            features by the `group_name` of their columns; numeric ones, which have none, are in
            "default_group". Defaults to None: every expert sees all features.
        tower_dnn_units_lists: list of lists of int. Widths of each task's tower.
            Defaults to (16, 8) for every task.
        **options: what models with gates take (see `mtl.models.options.GatedOptions`).

    References:
        - Jacobs et al., Adaptive Mixtures of Local Experts, Neural Computation 1991
        - The OMoE baseline of Ma et al., KDD 2018 (see `MMoE`)
    """
    net = Network(dnn_feature_columns, tower_dnn_units_lists, **options)
    groups = net.groups(expert_features, expert_dnn_units)
    gates = net.gates(num_experts, groups)
    x = net.encode()
    experts = Experts(num_experts, expert_dnn_units, subsets=groups, **net.layer("experts"))
    gate = gate_of(experts.num_experts, **gates, **net.layer("gate"))
    z = mix(experts(x), gate(x))
    return net.model(net.towers([z] * len(net.tasks)))
