"""AITM: each step of a funnel is told what the step before it knows."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from mtl.layers import DNN, InformationTransfer
from mtl.losses import OrderPenalty
from mtl.models.network import Network
from mtl.models.options import (
    NonNegativeFloat,
    Options,
    Towers,
    Units,
    Unpack,
    Widths,
    model,
    per_task,
)
from mtl.models.steps import check_steps
from mtl.training import MultiTaskModel


@model(search={"bottom_dnn_units": Widths(4)}, funnel=True)
def AITM(
    dnn_feature_columns: Any,
    *,
    bottom_dnn_units: Units = (128, 64, 32),
    share_transfer: bool = True,
    calibrator_weight: NonNegativeFloat = 0.6,
    tower_dnn_units_lists: Towers = per_task(),
    **options: Unpack[Options],
) -> MultiTaskModel:
    """Build an adaptive information transfer multi-task model, for steps in their order.

    Step t has a network of its own, q_t = f_t(x), and from the second on mixes it with what the
    step before hands on, p = g_t(z_{t-1}), by weights of the row:

        z_1 = q_1,  z_t = w_p · h_1 p + w_q · h_1 q_t,  (w_p, w_q) = softmax(a_p, a_q),
        a_u = ⟨h_2 u, h_3 u⟩ / √H,  ŷ_t = σ(t_t(z_t))

    ŷ_t is the probability of the steps 1 to t together, and the labels are those of ESMM: a step's
    label is 1 only where the label of the one before is. The calibrator holds predictions to that
    order; it is the model's own loss, whatever it is compiled with:

        L = Σ_t CE(y_t, ŷ_t) + α Σ_{t≥2} mean(max(0, ŷ_t - ŷ_{t-1}))

    The authors drop units at rates of 0.1, 0.3 and 0.3 by depth, where `dnn_dropout` is one rate,
    and rows that contradict the order of the steps.

    Args:
        dnn_feature_columns: list of feature columns (see `mtl.features`).
        bottom_dnn_units: list of int. Widths of each f_t; the last is H, the width of g_t, one
            layer. Defaults to (128, 64, 32).
        share_transfer: bool. Whether all transitions have the same h_1, h_2 and h_3, as in the
            authors' code. Defaults to True.
        calibrator_weight: float. α, the weight of the calibrator. Defaults to 0.6.
        tower_dnn_units_lists: list of lists of int. Widths of each task's tower.
            Defaults to none: a linear layer alone, as in the authors' code.
        **options: what every model takes (see `mtl.models.options.Options`).

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: an argument out of range, arguments that disagree, or tasks that aren't binary.

    References:
        - Xi et al., Modeling the Sequential Dependence among Audience Multi-step Conversions with
          Multi-task Learning in Targeted Display Advertising, KDD 2021
    """
    net = Network(dnn_feature_columns, tower_dnn_units_lists, **options)
    check_steps("AITM", "binary tasks, one per step", net.tasks)

    def transfer(k: int) -> InformationTransfer:
        own = net.layer("transfer", None if share_transfer else k)
        return InformationTransfer(own["seed"], name=own["name"])

    x = net.encode()
    shared = transfer(1) if share_transfer and len(net.tasks) > 1 else None
    z: list[Any] = []
    for k in range(len(net.tasks)):
        q = DNN(bottom_dnn_units, **net.layer("bottom", k))(x)
        if k:
            p = DNN([q.shape[-1]], **net.layer("information", k))(z[-1])
            q = (shared or transfer(k))([p, q])
        z.append(q)
    calibrator = [
        OrderPenalty(
            earlier.name, later.name, calibrator_weight, name=f"calibrator_{later.output_name}"
        )
        for earlier, later in pairwise(net.tasks)
        if calibrator_weight
    ]
    return net.model(net.towers(z), losses=calibrator)
