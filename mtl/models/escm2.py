"""ESCM²: a conversion rate whose own loss stands for all impressions."""

from __future__ import annotations

from typing import Annotated, Any

from mtl import checks
from mtl.layers import Experts
from mtl.layers.chain import Chain
from mtl.layers.dselect_k import gate_of
from mtl.layers.gate import mix
from mtl.losses import ESTIMATORS, ConversionRisk
from mtl.models.network import Network
from mtl.models.options import (
    GatedOptions,
    Groups,
    NonNegativeFloat,
    PositiveInt,
    PositiveShare,
    Towers,
    Units,
    Unpack,
    Widths,
    model,
    per_task,
)
from mtl.models.steps import check_hidden, check_steps
from mtl.training import MultiTaskModel

Estimator = Annotated[str, checks.one_of(*ESTIMATORS)]
# What an estimator needs beside pCVR: a hidden task and its type.
_OTHERS = {"dr": ("imputation", "regression"), "dcmt": ("counterfactual", "binary")}


@model(
    search={"num_experts": (4, 8, 16), "expert_dnn_units": Widths()},
    funnel=True,
    defaults={"task_names": ("ctr", "ctcvr")},
)
def ESCM2(
    dnn_feature_columns: Any,
    *,
    estimator: Estimator = "ips",
    risk_weight: NonNegativeFloat = 0.1,
    min_propensity: PositiveShare = 0.05,
    joint: bool = True,
    counterfactual_weight: NonNegativeFloat = 1e-3,
    num_experts: PositiveInt = 4,
    expert_dnn_units: Units = (32, 32),
    expert_features: Groups = None,
    tower_dnn_units_lists: Towers = per_task(16, 8),
    **options: Unpack[GatedOptions],
) -> MultiTaskModel:
    """Build an entire space counterfactual multi-task model.

    ESMM on an MMoE, with a loss of pCVR itself that stands for all impressions, though only clicked
    ones tell of conversions: each weighs 1 / pCTR. With click o, conversion r, p = pCTR, q = pCVR:

        L = CE(o, p) + λ_c · R(q) + λ_g · CE(o r, p q)

    R is one of the estimators of `mtl.losses.ConversionRisk`, which the model owns, whatever it is
    compiled with; λ_g is the weight of the second task, as in
    `compile(loss_weights={"ctcvr": 0.5})`. Towers of pCTR, pCVR and of what the estimator needs
    have a gate each over the shared experts.

    The tasks are those of ESMM, click and click ∧ conversion, and so are the labels. (R needs no
    conversion label where nobody clicked; CE(o r, p q) takes a 0 there.) Hidden tasks are "cvr",
    "imputation" (with "dr"; ê is its softplus) and "counterfactual" (with "dcmt"; q*).

    "dcmt" is the risk of DCMT, as its public implementations have it, on this model.

    Args:
        dnn_feature_columns: list of feature columns (see `mtl.features`).
        task_names: list of two str. The click task, then the click-and-conversion task.
            Defaults to ("ctr", "ctcvr").
        estimator: str. "ips" (inverse propensity), "snips" (self-normalised), "dr" (doubly robust)
            or "dcmt" (with a counterfactual conversion rate over the rows without a click).
            Defaults to "ips".
        risk_weight: float. λ_c; the paper's best values lie in (0, 0.1]. Defaults to 0.1.
        min_propensity: float in (0, 1]. Below it a pCTR weighs no more; 1 leaves all clicked rows
            unweighted. Defaults to 0.05.
        joint: bool. Whether with "dr" both of its terms train both q and ê, as in the paper, which
            makes rates below 1/2 too high (see `mtl.losses.ConversionRisk`). Otherwise the first
            trains q, on which its gradient is that of "ips", as ê is a tower of its own; the
            second trains ê, and through it the experts. Defaults to True.
        counterfactual_weight: float. Weight of |1 - (q + q*)| with "dcmt". Defaults to 0.001.
        num_experts: int. Number of experts; with `expert_features`, of each group. Defaults to 4.
        expert_dnn_units: list of int. Widths of every expert. Defaults to (32, 32).
        expert_features: dict from group name to list of feature names, "group_name" or None. As in
            `MMoE`. Defaults to None: every expert sees all features.
        tower_dnn_units_lists: list of two lists of int. Widths of the CTR tower, and of the
            others. Defaults to (16, 8) for both.
        **options: what models with gates take (see `mtl.models.options.GatedOptions`).

    Returns:
        A `MultiTaskModel`, which is a functional `keras.Model`, with the outputs pCTR and pCTCVR.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: an argument out of range, arguments that disagree, other than two binary
            tasks, or a task with the name of a hidden one.

    References:
        - Wang et al., ESCM²: Entire Space Counterfactual Multi-Task Model for Post-Click
          Conversion Rate Estimation, SIGIR 2022
        - Zhu et al., DCMT: A Direct Entire-Space Causal Multi-Task Framework for Post-Click
          Conversion Estimation, ICDE 2023
    """
    net = Network(dnn_feature_columns, tower_dnn_units_lists, **options)
    check_steps("ESCM2", "two binary tasks: click, and click and conversion", net.tasks, count=2)
    other, other_type = _OTHERS.get(estimator, (None, ""))
    check_hidden("ESCM2", net.tasks, ["cvr", other] if other else ["cvr"])
    groups = net.groups(expert_features, expert_dnn_units)
    gates = net.gates(num_experts, groups)
    x = net.encode()
    experts = Experts(num_experts, expert_dnn_units, subsets=groups, **net.layer("experts"))
    e = experts(x)

    def mixed(tower: str) -> Any:
        gate = gate_of(experts.num_experts, **gates, **net.layer(f"gate_{tower}"))
        return mix(e, gate(x))

    ctr = net.tower(0, mixed("ctr"))
    cvr = net.tower(1, mixed("cvr"), hidden="cvr")
    click, conversion = net.tasks
    ctcvr = Chain(conversion.name, name=conversion.output_name)([ctr, cvr])
    outputs = [ctr, ctcvr, cvr]
    if other:
        outputs.append(net.tower(1, mixed(other), hidden=other, hidden_type=other_type, number=1))
    risk = ConversionRisk(
        click.name,
        conversion.name,
        "cvr",
        other,
        estimator,
        min_propensity,
        joint,
        counterfactual_weight,
        risk_weight,
    )
    return net.model(outputs, losses=[risk])
