"""STEM: tables of embeddings for each task, beside shared ones."""

from __future__ import annotations

from typing import Any

from mtl.layers import Fusion
from mtl.models.network import Network, add
from mtl.models.options import (
    GatedOptions,
    PositiveInt,
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
        "num_experts_shared": (2, 4, 8),
        "expert_dnn_units": Widths(),
    },
    defaults={"gate_dnn_units": (128, 64)},
)
def STEM(
    dnn_feature_columns: Any,
    *,
    num_levels: PositiveInt = 1,
    num_experts_specific: PositiveInt = 1,
    num_experts_shared: PositiveInt = 8,
    expert_dnn_units: Units = (512, 512, 512),
    tower_dnn_units_lists: Towers = per_task(128, 64),
    **options: Unpack[GatedOptions],
) -> MultiTaskModel:
    """Build a network of shared and task-specific embeddings (STEM-Net).

    There are T + 1 sets of embedding tables: x_k is encoded by those of task k, x_s by the shared
    ones. Experts E_k read x_k, experts E_s read x_s, and each task's gate mixes all of them:

        z_k = g_k(x_k + x_s) · [sg(E_1), …, E_k, …, sg(E_T), E_s],  ŷ_k = σ(t_k(z_k))

    with gates g(u) = softmax(W h(u) / τ) of a DNN h. sg stops the gradient: a task sees what the
    others have learned, but only its own loss trains its tables and experts. The gates read a
    task's own and the shared encoding alone, so that nothing passes by them either.

    With more levels there is a shared gate, g_s(x_s), at all but the last one. It stops the
    gradient to every task's experts, too. In the authors' code it doesn't, and from the second
    level on each task trains the others' tables by way of it, against the paper's principle.

    The tables take T + 1 times the memory of those of the other models.

    Args:
        dnn_feature_columns: list of feature columns (see `mtl.features`).
        num_levels: int. Number of levels. Defaults to 1.
        num_experts_specific: int. Experts of each task. Defaults to 1.
        num_experts_shared: int. Experts that all tasks share. Defaults to 8.
        expert_dnn_units: list of int. Widths of every expert. Defaults to (512, 512, 512).
        gate_dnn_units: list of int or None. Widths of a DNN in each gate before its softmax layer,
            which has no bias. Defaults to (128, 64); None makes the gates linear.
        tower_dnn_units_lists: list of lists of int. Widths of each task's tower.
            Defaults to (128, 64) for every task.
        **options: what models with gates take (see `mtl.models.options.GatedOptions`).

    References:
        - Su et al., STEM: Unleashing the Power of Embeddings for Multi-Task Recommendation,
          AAAI 2024
    """
    net = Network(dnn_feature_columns, tower_dnn_units_lists, **options)
    tasks = [task.name for task in net.tasks]
    shared = distinct("shared", tasks)
    units = [*tasks, shared]
    gates = net.gates(len(tasks) * num_experts_specific + num_experts_shared)
    x = [*(net.encode(k=k) for k in range(len(tasks))), net.encode()]
    for level in range(1, num_levels + 1):
        last = level == num_levels
        *own, common = x
        gate_inputs = [add(x_k, common) for x_k in own] + ([] if last else [common])
        x = Fusion(
            [num_experts_specific] * len(tasks) + [num_experts_shared],
            expert_dnn_units,
            links=[
                ["own" if b == u else "other" if b == shared else "stopped" for b in units]
                for u in (tasks if last else units)
            ],
            names=units,
            **gates,
            **net.layer(f"fusion_{level}"),
        )([*x, *gate_inputs])
    return net.model(net.towers(x))
