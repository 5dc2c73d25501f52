"""DBMTL: tasks that learn from other tasks, along a graph of which depends on which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any

from keras import ops

from mtl import checks
from mtl.layers import DNN, Experts
from mtl.layers.dselect_k import gate_of
from mtl.layers.gate import mix
from mtl.models.network import Network
from mtl.models.options import (
    GatedOptions,
    Groups,
    PositiveIntOrNone,
    Towers,
    Units,
    Unpack,
    Widths,
    model,
    per_task,
)
from mtl.training import MultiTaskModel


@model(search={"bottom_dnn_units": Widths(8)})
def DBMTL(
    dnn_feature_columns: Any,
    *,
    relations: Mapping[str, Sequence[str]] | None = None,
    bottom_dnn_units: Units = (256, 128),
    num_experts: PositiveIntOrNone = None,
    expert_features: Groups = None,
    tower_dnn_units_lists: Towers = per_task(64, 32),
    relation_dnn_units: Units = (32,),
    **options: Unpack[GatedOptions],
) -> MultiTaskModel:
    """Build a deep Bayesian multi-target model: P(y_1, …, y_T | x) = Π_k P(y_k | y_U(k), x).

    The tasks are the nodes of a directed graph without cycles, in which U(k) are the tasks
    upstream of task k. What one tells another is a hidden vector r, not a prediction:

        h_k = t_k(b_k(x)), r_k = g_k(h_k ⊕ r_u for u in U(k)), or h_k if U(k) is empty
        ŷ_k = σ(w_k · r_k + c_k)

    with DNNs t_k and g_k of each task, and a bottom b that all share, or a mixture of experts.
    Without relations that is `SharedBottom`, or `MMoE`.

    Args:
        dnn_feature_columns: list of feature columns (see `mtl.features`).
        relations: dict from task name to list of names of the tasks upstream of it. A task that
            isn't a key has none; {} is no relations. Defaults to None: each task has all those
            before it upstream, the chain rule of probability.
        bottom_dnn_units: list of int. Widths of the bottom's DNN or, with `num_experts`, of every
            expert. Defaults to (256, 128).
        num_experts: int or None. Number of experts, mixed by a gate per task, in place of one
            bottom; with `expert_features`, of each group. Defaults to None: one bottom.
        expert_features: dict from group name to list of feature names, "group_name" or None. Each
            group has `num_experts` experts of its own, as in `MMoE`. Defaults to None: every
            expert sees all features.
        tower_dnn_units_lists: list of lists of int. Widths of each task's DNN t_k.
            Defaults to (64, 32) for every task.
        relation_dnn_units: list of int. Widths of each DNN g_k. Defaults to (32,).
        **options: what models with gates take (see `mtl.models.options.GatedOptions`).

    References:
        - Wang et al., Deep Bayesian Multi-Target Learning for Recommender Systems,
          arXiv 1902.09154
    """
    net = Network(dnn_feature_columns, tower_dnn_units_lists, **options)
    upstream = _checked([task.name for task in net.tasks], relations)
    groups = net.groups(expert_features, bottom_dnn_units)
    if num_experts is None and (groups or options["gate"] != "softmax"):
        raise ValueError(
            "`num_experts` should be given with `expert_features` and `gate`. Received: None"
        )
    x, tasks = net.encode(), range(len(net.tasks))
    if num_experts is None:
        b = [DNN(bottom_dnn_units, **net.layer("bottom"))(x)] * len(tasks)
    else:
        gates = net.gates(num_experts, groups)
        experts = Experts(num_experts, bottom_dnn_units, subsets=groups, **net.layer("experts"))
        e, b = experts(x), []
        for k, task in enumerate(net.tasks):
            gate = gate_of(
                experts.num_experts, task_name=task.name, **gates, **net.layer("gate", k)
            )
            b.append(mix(e, gate(x)))
    r = [DNN(net.tower_units[k], **net.layer("hidden", k))(b[k]) for k in tasks]
    for k, sources in upstream.items():
        if sources:
            known = ops.concatenate([r[k], *(r[u] for u in sources)], axis=-1)
            r[k] = DNN(relation_dnn_units, **net.layer("relation", k))(known)
    return net.model([net.tower(k, r[k], units=()) for k in tasks])


def _checked(tasks: list[str], relations: Any) -> dict[int, list[int]]:
    """Return the tasks upstream of each, all by index, upstream tasks first."""
    if relations is None:
        return {k: list(range(k)) for k in range(len(tasks))}
    if not isinstance(relations, Mapping):
        raise TypeError(
            "`relations` should be a dict from task name to list of names of tasks, or None. "
            f"Received: {relations!r}"
        )
    graph: dict[str, list[str]] = {task: [] for task in tasks}
    for task, names in relations.items():
        argument = f"relations[{task!r}]"
        graph[task] = checks.entries(argument, names, f"a list of names of tasks out of {tasks}")
        if unknown := [name for name in (task, *graph[task]) if name not in tasks]:
            raise ValueError(
                f"`{argument}` should hold names of tasks out of {tasks}. Received: {unknown[0]!r}"
            )
        if len(set(graph[task])) < len(graph[task]):
            raise ValueError(f"`{argument}` should hold each task once. Received: {names}")
    try:
        order = [tasks.index(task) for task in TopologicalSorter(graph).static_order()]
    except CycleError as error:
        cycle = " → ".join(map(repr, error.args[1]))
        raise ValueError(f"`relations` should have no cycle. Received: {cycle}") from error
    # In the order of the tasks, so that it doesn't matter in which they are listed.
    return {k: sorted(tasks.index(name) for name in graph[tasks[k]]) for k in order}
