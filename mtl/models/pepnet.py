"""PEPNet: embeddings and units scaled by what is known of the scenario and the person."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from mtl import checks
from mtl.layers import GatedDNN
from mtl.models.network import Network
from mtl.models.options import (
    Options,
    Towers,
    UnitsOrNone,
    Unpack,
    Widths,
    model,
    per_task,
)
from mtl.training import MultiTaskModel


@model(
    search={"tower_dnn_units_lists": Widths(4), "gate_position": ("input", "output")},
    any_of=("scenario_feature", "prior_features"),
)
def PEPNet(
    dnn_feature_columns: Any,
    *,
    scenario_feature: str | None = None,
    prior_features: Sequence[str] | None = None,
    priors_in_input: bool = True,
    gate_position: Annotated[str, checks.one_of("input", "output")] = "input",
    gate_dnn_units: UnitsOrNone = None,
    tower_dnn_units_lists: Towers = per_task(128, 64),
    **options: Unpack[Options],
) -> MultiTaskModel:
    """Build a parameter and embedding personalised network: gates scale what each row reads.

    A gate of v, with a number from 0 to 2 for each unit, is γ(v) = 2 σ(W' relu(W v + b) + b').
    With the scenario's columns d of x, and those of the priors r:

        EPNet: O = γ(d ⊕ sg(x)) ⊗ x
        PPNet: h⁰_k = O, hˡ⁺¹_k = f((γˡ_k(r ⊕ sg(O)) ⊗ hˡ_k) Wˡ_k + bˡ_k), ŷ_k = σ(hᴸ_k)

    where the last layer L is the one to the logits, and f there the identity: a gate scales the
    input of every layer. The gradient sg() is stopped: x and O learn from what is scaled alone,
    the tables of the scenario and the priors through the gates as well.

    Args:
        dnn_feature_columns: list of feature columns (see `mtl.features`).
        scenario_feature: str or None. Name of the feature that EPNet's gate sees. Defaults to
            None: no EPNet, O = x.
        prior_features: list of str or None. Names of the features that PPNet's gates see, such as
            the ids of user, item and author. Defaults to None: no PPNet, h_k is a DNN. At least
            one of the two must be given.
        priors_in_input: bool. Whether these features are in x, too. Defaults to True.
        gate_position: str. "input", or "output" for POSO's gates in place of PPNet's: they see
            the priors alone, and scale the output of each of a tower's DNN layers,
            hˡ⁺¹_k = γˡ_k(r) ⊗ f(hˡ_k Wˡ_k + bˡ_k), so that O isn't scaled again. Without
            priors it says nothing. Defaults to "input".
        gate_dnn_units: list of int or None. Widths of the hidden layers in each gate. Defaults to
            None: one, as wide as what the gate scales, as in the paper.
        tower_dnn_units_lists: list of lists of int. Widths of each task's DNN h_k.
            Defaults to (128, 64) for every task.
        **options: what every model takes (see `mtl.models.options.Options`).

    References:
        - Chang et al., PEPNet: Parameter and Embedding Personalized Network for Infusing with
          Personalized Prior Information, KDD 2023
        - Dai et al., POSO: Personalized Cold Start Modules for Large-scale Recommender Systems,
          arXiv 2108.04690
    """
    net = Network(dnn_feature_columns, tower_dnn_units_lists, **options)
    scenario, priors = _checked(net, scenario_feature, prior_features)
    main = [c.name for c in net.columns if c.name not in {*scenario, *priors}]
    if not (main or priors_in_input):
        raise ValueError(
            "`priors_in_input` should be True where every feature is the scenario or a prior. "
            f"Received: {priors_in_input}"
        )
    if priors and gate_position == "output" and not all(net.tower_units):
        raise ValueError(
            "`tower_dnn_units_lists` should hold at least one width per task where "
            f"`gate_position` is 'output'. Received: {net.tower_units}"
        )
    x = net.encode()
    o = x if priors_in_input else net.select(x, main)
    if scenario:
        epnet = GatedDNN(gate_units=gate_dnn_units, **net.layer("epnet"))
        o = epnet([o, net.select(x, scenario)])
    if not priors:
        return net.model(net.towers([o] * len(net.tasks)))
    r, outputs = net.select(x, priors), []
    for k, units in enumerate(net.tower_units):
        ppnet = GatedDNN(units, gate_position, gate_dnn_units, **net.layer("ppnet", k))
        outputs.append(net.tower(k, ppnet([o, r]), units=()))
    return net.model(outputs)


def _checked(net: Network, scenario: Any, priors: Any) -> tuple[list[str], list[str]]:
    """Return the names of the scenario's and the priors' features; none where they are None."""
    names = [] if scenario is None else net.check_features("scenario_feature", [scenario])
    return names, [] if priors is None else net.check_features("prior_features", priors)
