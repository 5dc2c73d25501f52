"""SNR: sub-network routing, levels of sub-networks whose connections are learned."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from mtl import checks
from mtl.layers import Experts, Routing
from mtl.layers.connections import CONNECTIONS
from mtl.models.network import Network
from mtl.models.options import (
    Groups,
    NonNegativeFloat,
    Options,
    PositiveInt,
    Towers,
    Units,
    Unpack,
    Widths,
    model,
    per_task,
)
from mtl.training import MultiTaskModel

Connection = Annotated[Literal["trans", "aver"], checks.one_of(*CONNECTIONS)]


@model(search={"num_experts": (2, 4, 8), "expert_dnn_units": Widths()})
def SNR(
    dnn_feature_columns: Any,
    *,
    connection: Connection = "trans",
    num_levels: PositiveInt = 2,
    num_experts: PositiveInt = 4,
    expert_dnn_units: Units = (32,),
    expert_features: Groups = None,
    penalty: NonNegativeFloat = 1e-4,
    tower_dnn_units_lists: Towers = per_task(16, 8),
    **options: Unpack[Options],
) -> MultiTaskModel:
    """Build a sub-network routing model: levels of sub-networks, with gates between them.

    Sub-network e_j of level l gives uˡ_j = e_j(vˡ⁻¹_j), with v⁰_j = x, and input i of the next
    level, or of tower i after the last, is

        vˡ_i = Σ_j z_ij W_ij uˡ_j ("trans"), or Σ_j z_ij uˡ_j ("aver")

    where z, in [0, 1], is drawn anew for each step of training, from a hard concrete distribution
    whose parameters are learned, and fixed otherwise (see `mtl.layers.Routing`). The penalty on
    the number of open gates closes those that are of little use. ŷ_k = σ(t_k(vᴸ_k)).

    Equations and constants are as the model's public descriptions have them.

    Args:
        dnn_feature_columns: list of feature columns (see `mtl.features`).
        connection: str. "trans", a matrix W_ij for each connection, or "aver", none.
            Defaults to "trans".
        num_levels: int. Number L of levels. Defaults to 2.
        num_experts: int. Sub-networks in each level. Defaults to 4.
        expert_dnn_units: list of int. Widths of every sub-network. Defaults to (32,).
        expert_features: dict from group name to list of feature names, "group_name" or None. The
            first level has `num_experts` sub-networks for each group, which see its features
            alone. "group_name" groups features by the `group_name` of their columns; numeric ones,
            which have none, are in "default_group". Defaults to None: every sub-network of the
            first level sees all features.
        penalty: float. Weight of the number of open gates in the loss. Defaults to 1e-4.
        tower_dnn_units_lists: list of lists of int. Widths of each task's tower.
            Defaults to (16, 8) for every task.
        **options: what every model takes (see `mtl.models.options.Options`).

    References:
        - Ma et al., SNR: Sub-Network Routing for Flexible Parameter Sharing in Multi-Task
          Learning, AAAI 2019
    """
    net = Network(dnn_feature_columns, tower_dnn_units_lists, **options)
    groups = net.groups(expert_features, expert_dnn_units)
    v = net.encode()
    for level in range(1, num_levels + 1):
        u = Experts(
            [1] * num_experts,
            expert_dnn_units,
            subsets=groups if level == 1 else None,
            **net.layer(f"experts_{level}"),
        )(v)
        outputs = num_experts if level < num_levels else len(net.tasks)
        v = Routing(outputs, connection, penalty, **net.named(f"routing_{level}"))(u)
    return net.model(net.towers(v))
