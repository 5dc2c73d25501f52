"""Funnel: any number of steps, each learned over all impressions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from mtl import checks
from mtl.layers.chain import Chain
from mtl.models.network import Network
from mtl.models.options import (
    Options,
    Towers,
    Unpack,
    Widths,
    model,
    per_task,
)
from mtl.models.steps import check_hidden, check_steps
from mtl.tasks import Task
from mtl.training import MultiTaskModel

Parents = Mapping[str, str | Sequence[str]] | None


@model(search={"tower_dnn_units_lists": Widths(8)}, funnel=True)
def Funnel(
    dnn_feature_columns: Any,
    *,
    parents: Parents = None,
    tower_dnn_units_lists: Towers = per_task(128, 128),
    **options: Unpack[Options],
) -> MultiTaskModel:
    """Build an ESMM of any number of steps: impression → click → cart → buy, or a graph of them.

    P(k) = P(parent of k) · P(k | parent of k), P(k | parent of k) = σ(t_k(x)).

    Each task is one step, trained on whether it was reached, over all impressions: labels are
    nested, a step's label is 1 only where its parent's is (`mtl.metrics.label_violations` counts
    the others). Predictions are nested, too: no step is more probable than its parent. With two
    steps it is ESMM.

    A step may be reached through one parent or around it. `parents={"cart": "click", "buy":
    ["cart", "click"]}` is the graph of ESM²: who clicks puts into the cart or not, and buys after
    either.

        P(buy) = P(cart) · P(buy | cart) + (P(click) - P(cart)) · P(buy | click without cart)

    The conditional probabilities are hidden tasks, for `extract_task`: "buy|cart", and with
    several parents "buy|click, not cart". `mtl.metrics.evaluate_tasks` scores each over the rows
    that it is conditional on.

    Args:
        dnn_feature_columns: list of feature columns (see `mtl.features`).
        parents: dict from a step to the step before it, or to a list of such steps, each of which
            can be reached through the others alone; steps that are no keys follow upon the
            impression. Steps come after their parents in `task_names`. Defaults to None: each
            task is the parent of the next.
        tower_dnn_units_lists: list of lists of int. Widths of the tower of each step; a step with
            several parents has a tower of these widths for each.
            Defaults to (128, 128) for every step.
        **options: what every model takes (see `mtl.models.options.Options`).

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: an argument out of range, arguments that disagree, tasks that aren't binary,
            parents that don't come before their step, or a task with the name of a hidden one.

    References:
        - Ma et al., Entire Space Multi-Task Model: An Effective Approach for Estimating
          Post-Click Conversion Rate, SIGIR 2018
        - Wen et al., Entire Space Multi-Task Modeling via Post-Click Behavior Decomposition for
          Conversion Rate Prediction, SIGIR 2020
    """
    net = Network(dnn_feature_columns, tower_dnn_units_lists, **options)
    check_steps("Funnel", "binary tasks, one per step", net.tasks)
    before = _steps_before(net.tasks, parents)
    hidden = [_conditionals(net.tasks, k, steps) for k, steps in enumerate(before)]
    check_hidden("Funnel", net.tasks, [name for names in hidden for name in names])
    x = net.encode()
    p, conditionals = [], []
    for k, task in enumerate(net.tasks):
        if not before[k]:
            p.append(net.tower(k, x))
            continue
        c = [net.tower(k, x, hidden=name, number=i) for i, name in enumerate(hidden[k])]
        p.append(Chain(task.name, name=task.output_name)([*(p[step] for step in before[k]), *c]))
        conditionals += c
    return net.model([*p, *conditionals])


def _conditionals(tasks: Sequence[Task], k: int, before: Sequence[int]) -> list[str]:
    """Return the names of the conditional probabilities of a step, by its parents."""
    names = [tasks[step].name for step in before]
    parents = [f"{outer}, not {inner}" for outer, inner in pairwise(names)] + names[-1:]
    return [f"{tasks[k].name}|{parent}" for parent in parents]


def _steps_before(tasks: Sequence[Task], parents: Parents) -> list[list[int]]:
    """Return the parents of each step by their index, the outermost first."""
    names = [task.name for task in tasks]
    if parents is None:
        return [[k - 1] if k else [] for k in range(len(names))]
    if not isinstance(parents, Mapping):
        raise TypeError(
            f"`parents` should be a dict from task to task or list of tasks. Received: {parents!r}"
        )
    if unknown := [name for name in parents if name not in names]:
        raise ValueError(f"`parents` should be of tasks out of {names}. Received: {unknown[0]!r}")
    before: list[list[int]] = []
    for k, name in enumerate(names):
        argument, given = f"parents[{name!r}]", parents.get(name, ())
        given = [given] if isinstance(given, str) else given
        given = checks.entries(argument, given, "a task or a list of tasks")
        for parent in given:
            if parent not in names[:k]:  # so that no step leads back to itself
                raise ValueError(
                    f"`{argument}` should name tasks that come before it, out of {names[:k]}. "
                    f"Received: {parent!r}"
                )
        steps = sorted({names.index(parent) for parent in given})
        for outer, inner in pairwise(steps):
            if not _is_within(inner, outer, before):
                raise ValueError(
                    f"`{argument}` should hold several tasks only if each is reached through the "
                    f"others alone. Received: {given!r}, of which {names[inner]!r} is reached "
                    f"without {names[outer]!r}"
                )
        before.append(steps)
    return before


def _is_within(step: int, outer: int, before: Sequence[Sequence[int]]) -> bool:
    """Return whether a step is reached through another alone; none is within itself."""
    while before[step]:
        step = before[step][0]  # which the step's other parents lie within
        if step == outer:
            return True
    return False
