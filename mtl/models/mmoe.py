"""MMoE: a mixture of experts with a gate per task."""

from __future__ import annotations

from typing import Any

from mtl.layers import Experts
from mtl.layers.dselect_k import gate_of
from mtl.layers.gate import mix
from mtl.models.network import Network, add
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


@model(search={"num_experts": (4, 8, 16), "expert_dnn_units": Widths()})
def MMoE(
    dnn_feature_columns: Any,
    *,
    num_experts: PositiveInt = 4,
    expert_dnn_units: Units = (32, 32),
    expert_features: Groups = None,
    embeddings: Embeddings = "shared",
    tower_dnn_units_lists: Towers = per_task(16, 8),
    **options: Unpack[GatedOptions],
) -> MultiTaskModel:
    """Build a multi-gate mixture of experts: each task mixes the shared experts in its own way.

    g^k = softmax(W_k x / τ), z_k = Σ_i g^k_i e_i(x), ŷ_k = σ(t_k(z_k)).

    Args:
        dnn_feature_columns: list of feature columns (see `mtl.features`).
        num_experts: int. Number of experts; with `expert_features`, of each group. Defaults to 4.
        expert_dnn_units: list of int. Widths of every expert. Defaults to (32, 32).
        expert_features: dict from group name to list of feature names, "group_name" or None. Each
            group has `num_experts` experts of its own, which see its features alone: a feature in
            no group reaches the gates only, for these see all features. "group_name" groups
            features by the `group_name` of their columns; numeric ones, which have none, are in
            "default_group". Defaults to None: every expert sees all features.
        embeddings: str. "shared": one set of tables of embeddings, for all. "per_task": each task k
            has tables of its own, whose encoding x_k stands in place of x in its equation: its gate
            reads it, and so do the experts, which stay common to all, for this task.
            "shared_and_per_task": x_k is the sum of a task's own and a shared encoding, as for the
            gates of STEM. STEM's paper compares with such models, but leaves open how they use
            their tables. Defaults to "shared".
        tower_dnn_units_lists: list of lists of int. Widths of each task's tower.
            Defaults to (16, 8) for every task.
        **options: what models with gates take (see `mtl.models.options.GatedOptions`).

    References:
        - Ma et al., Modeling Task Relationships in Multi-task Learning with Multi-gate
          Mixture-of-Experts, KDD 2018
        - Su et al., STEM: Unleashing the Power of Embeddings for Multi-Task Recommendation,
          AAAI 2024, for `embeddings`
    """
    net = Network(dnn_feature_columns, tower_dnn_units_lists, **options)
    groups = net.groups(expert_features, expert_dnn_units)
    gates = net.gates(num_experts, groups)
    x = net.encode_paths(embeddings)
    experts = Experts(num_experts, expert_dnn_units, subsets=groups, **net.layer("experts"))
    if embeddings == "shared":
        x, e = [x] * len(net.tasks), [experts(x)] * len(net.tasks)
    else:
        *x, common = x
        if embeddings == "shared_and_per_task":
            x = [add(x_k, common) for x_k in x]
        e = [experts(x_k) for x_k in x]
    z = []
    for k in range(len(net.tasks)):
        gate = gate_of(experts.num_experts, **gates, **net.layer("gate", k))
        z.append(mix(e[k], gate(x[k])))
    return net.model(net.towers(z))
