"""ESMM: conversion rates learned over all impressions."""

from __future__ import annotations

from typing import Any

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
from mtl.training import MultiTaskModel


@model(
    search={"tower_dnn_units_lists": Widths(8)},
    funnel=True,
    defaults={"task_names": ("ctr", "ctcvr")},
)
def ESMM(
    dnn_feature_columns: Any,
    *,
    task_type: str = "binary",
    tower_dnn_units_lists: Towers = per_task(128, 128),
    **options: Unpack[Options],
) -> MultiTaskModel:
    """Build an entire space multi-task model: pCTCVR = pCTR · pCVR.

    Two towers over the shared encoding give pCTR = σ(t_1(x)) and pCVR = σ(t_2(x)). The model
    predicts pCTR and pCTCVR, and is trained on click and on click ∧ conversion, both over all
    impressions; pCVR, never trained directly, is its hidden task: `extract_task(model, "cvr")`
    gives it.

    At pCVR = 1 the loss of the product is flat in its logit. Where most clicks convert, large
    first steps can end there, for good: let the learning rate rise from 0 at first.

    Args:
        dnn_feature_columns: list of feature columns (see `mtl.features`).
        task_type: str. "binary", the only one there is.
        task_names: list of two str. The click task, then the click-and-conversion task.
            Defaults to ("ctr", "ctcvr").
        tower_dnn_units_lists: list of two lists of int. Widths of the CTR and the CVR tower.
            Defaults to (128, 128) for both.
        **options: what every model takes (see `mtl.models.options.Options`).

    Returns:
        A `MultiTaskModel`, which is a functional `keras.Model`, with the outputs pCTR and pCTCVR.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: an argument out of range, arguments that disagree, other than two binary
            tasks, or a task named "cvr", which is the hidden one.

    References:
        - Ma et al., Entire Space Multi-Task Model: An Effective Approach for Estimating
          Post-Click Conversion Rate, SIGIR 2018
    """
    if task_type != "binary":
        raise ValueError(f"`task_type` of ESMM should be 'binary'. Received: {task_type!r}")
    net = Network(dnn_feature_columns, tower_dnn_units_lists, **options)
    check_steps("ESMM", "two binary tasks: click, and click and conversion", net.tasks, count=2)
    check_hidden("ESMM", net.tasks, ["cvr"])
    x = net.encode()
    ctr = net.tower(0, x)
    cvr = net.tower(1, x, hidden="cvr")
    ctcvr = Chain(net.tasks[1].name, name=net.tasks[1].output_name)([ctr, cvr])
    return net.model([ctr, ctcvr, cvr])
