"""HoME: a hierarchy of experts, of groups of tasks and of tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keras import ops

from mtl import checks
from mtl.layers import Fusion
from mtl.models.network import Network
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
        "num_experts_group": (1, 2, 4),
        "num_experts_shared": (1, 2, 4),
        "expert_dnn_units": Widths(),
    }
)
def HoME(
    dnn_feature_columns: Any,
    *,
    task_groups: Mapping[str, Sequence[str]] | None = None,
    num_experts_specific: PositiveInt = 2,
    num_experts_group: PositiveInt = 2,
    num_experts_shared: PositiveInt = 2,
    expert_dnn_units: Units = (64, 32),
    feature_gate_pairs: PositiveInt = 2,
    feature_gate_rank: PositiveInt = 16,
    tower_dnn_units_lists: Towers = per_task(32, 16),
    **options: Unpack[GatedOptions],
) -> MultiTaskModel:
    """Build a hierarchy of multi-gate experts: first for groups of tasks, then for tasks.

    Every expert is e(v) = Swish(BN(W (v ⊗ F(v)))), where the feature gate F, of its own, weighs
    what it reads by pairs of matrices of low rank (A_j, B_j): F(v) = Σ_j softmax(V v)_j ·
    2σ(A_j B_j v). The experts of group m, E_m, and the shared ones, E_s, make the meta level:

        z_m = g_m(x) · [E_m(x), E_s(x)] + s_m(x) · E_m(x)
        z_s = g_s(x) · [E_1(x), …, E_M(x), E_s(x)] + s_s(x) · E_s(x)

    The task level has experts of tasks, E_k, and again of groups and shared ones. For task k of
    group m, with u = z_m ; z_s:

        h_k = g_k(u) · [E_k(z_m), E'_m(z_m), E'_s(z_s)] + s_k(u) · E_k(z_m),  ŷ_k = σ(t_k(h_k))

    with gates g(u) = softmax(W u / τ). The self-gates s, linear, are a softmax as well, or σ for a
    single expert: what is a group's or a task's own keeps a way past the gates. The equations are
    the paper's as its public descriptions have them.

    Args:
        dnn_feature_columns: list of feature columns (see `mtl.features`).
        task_groups: dict from group to list of names of tasks, each task in one group. Group tasks
            that have much in common, such as those of watching and those of interacting. Defaults
            to None: one group, "all", of all tasks.
        num_experts_specific: int. Experts of each task. Defaults to 2.
        num_experts_group: int. Experts of each group, at each level. Defaults to 2.
        num_experts_shared: int. Experts that all tasks share, at each level. Defaults to 2.
        expert_dnn_units: list of int. Widths of every expert. Each layer is normalised over the
            batch, then goes through Swish, whatever `dnn_use_bn` and `dnn_activation`, which are
            for the towers; so are those of a gate's DNN. Defaults to (64, 32).
        feature_gate_pairs: int. Number of pairs (A, B) in each feature gate. Defaults to 2.
        feature_gate_rank: int. Their rank. Defaults to 16.
        tower_dnn_units_lists: list of lists of int. Widths of each task's tower.
            Defaults to (32, 16) for every task.
        **options: what models with gates take (see `mtl.models.options.GatedOptions`).

    References:
        - Wang et al., HoME: Hierarchy of Multi-Gate Experts for Multi-Task Learning at Kuaishou,
          KDD 2025
    """
    if not expert_dnn_units:
        raise ValueError("`expert_dnn_units` should hold at least one width. Received: none.")
    net = Network(dnn_feature_columns, tower_dnn_units_lists, **options)
    gates = net.gates(num_experts_group + num_experts_shared)
    tasks = [task.name for task in net.tasks]
    members = _checked_groups(task_groups, tasks)
    groups: list[str] = []
    for group in members:
        groups.append(distinct(group, [*tasks, *groups]))
    shared = distinct("shared", [*tasks, *groups])
    group_of = {task: m for m, names in enumerate(members.values()) for task in names}

    def level(name: str, sizes: list[int], links: list[list[str | None]], banks: list[str]) -> Any:
        return Fusion(
            sizes,
            expert_dnn_units,
            links,
            residual="self",
            names=banks,
            feature_gates=(feature_gate_pairs, feature_gate_rank),
            **gates,
            **{**net.layer(name), "activation": "swish", "use_bn": True},
        )

    of_groups = [num_experts_group] * len(groups)
    x = net.encode()
    meta: list[list[str | None]] = [
        [*("own" if m == g else None for m in groups), "other"] for g in groups
    ]
    meta.append([*["other"] * len(groups), "own"])
    *z, z_s = level("meta", [*of_groups, num_experts_shared], meta, [*groups, shared])(x)

    links: list[list[str | None]] = [
        [
            *("own" if task == t else None for t in tasks),
            *("other" if group_of[task] == m else None for m in range(len(groups))),
            "other",
        ]
        for task in tasks
    ]
    u = [ops.concatenate([z_m, z_s], axis=-1) for z_m in z]
    h = level(
        "task",
        [*[num_experts_specific] * len(tasks), *of_groups, num_experts_shared],
        links,
        [*tasks, *groups, shared],
    )([*(z[group_of[t]] for t in tasks), *z, z_s, *(u[group_of[t]] for t in tasks)])
    return net.model(net.towers(h))


def _checked_groups(task_groups: Any, tasks: Sequence[str]) -> dict[str, list[str]]:
    if task_groups is None:
        return {"all": list(tasks)}
    expected = "a dict from group to list of names of tasks, or None"
    if not isinstance(task_groups, Mapping) or not all(isinstance(g, str) for g in task_groups):
        raise TypeError(f"`task_groups` should be {expected}. Received: {task_groups!r}")
    group_of: dict[str, str] = {}
    groups = {}
    for group, names in task_groups.items():
        argument = f"task_groups[{group!r}]"
        groups[group] = checks.entries(argument, names, "a list of names of tasks")
        if not groups[group]:
            raise ValueError(f"`{argument}` should hold at least one task. Received: none.")
        for name in groups[group]:
            if name not in tasks:
                raise ValueError(
                    f"`{argument}` should hold names of tasks out of {list(tasks)}. "
                    f"Received: {name!r}"
                )
            if name in group_of:
                raise ValueError(
                    f"`task_groups` should hold each task once. Received: {name!r} in "
                    f"{group_of[name]!r} and {group!r}"
                )
            group_of[name] = group
    if missing := [name for name in tasks if name not in group_of]:
        raise ValueError(
            f"`task_groups` should hold each task once. Received: no group for {missing}"
        )
    return groups
