"""STAR: one network for many scenarios, with shared weights and weights of each scenario."""

from __future__ import annotations

from typing import Any

from mtl.features import SparseFeat
from mtl.layers import DNN, PartitionedNormalization, StarDNN
from mtl.layers.logit_sum import LogitSum
from mtl.models.network import Network
from mtl.models.options import (
    Options,
    Towers,
    Units,
    Unpack,
    Widths,
    model,
    per_task,
)
from mtl.training import MultiTaskModel


@model(search={"star_dnn_units": Widths()})
def STAR(
    dnn_feature_columns: Any,
    *,
    scenario_feature: str,
    star_dnn_units: Units = (128, 64),
    auxiliary_dnn_units: Units = (32,),
    tower_dnn_units_lists: Towers = per_task(32, 16),
    **options: Unpack[Options],
) -> MultiTaskModel:
    """Build a star topology adaptive recommender: each scenario bends the weights that all share.

    For a row of scenario s, with the embedding e(s) and the other features x:

        h⁰ = PN_s(x), hˡ⁺¹ = f(hˡ (Wˡ ⊗ Wˡ_s) + bˡ + bˡ_s), ŷ = σ(m + a)

    m, the last of these layers, and a, an auxiliary network on e(s) ⊕ x, are logits. W_s starts
    as 1 and b_s as 0. PN_s is batch normalisation with moments of the rows of s, moving averages
    of its own, and the scale and shift γ ⊗ γ_s and β + β_s. `dnn_use_bn` puts it into every star
    layer, too. The equations are the paper's as its public descriptions have them.

    The paper has one task. Here the first layers serve all tasks, as a shared bottom does; each
    task has star layers of its own up to its logits, and its own auxiliary network. One task is
    the paper's network; no shared layers, `star_dnn_units=()`, is one for each task.

    A scenario outside [0, S) is served by the shared weights alone, on x normalised with the
    moments of all rows, unless rows with such ids are trained on: then they have weights of their
    own. A batch may mix scenarios, and should hold several rows of each that it has at all.

    Args:
        dnn_feature_columns: list of feature columns (see `mtl.features`).
        scenario_feature: str. Name of the `SparseFeat` whose id is the scenario; its vocabulary
            size is their number S. Parameters, and the arithmetic of a step, grow with S.
        star_dnn_units: list of int. Widths of the star layers that all tasks share.
            Defaults to (128, 64).
        auxiliary_dnn_units: list of int. Widths of each task's auxiliary network.
            Defaults to (32,).
        tower_dnn_units_lists: list of lists of int. Widths of each task's own star layers.
            Defaults to (32, 16) for every task.
        **options: what every model takes (see `mtl.models.options.Options`).

    References:
        - Sheng et al., One Model to Serve All: Star Topology Adaptive Recommender for
          Multi-Domain CTR Prediction, CIKM 2021
    """
    net = Network(dnn_feature_columns, tower_dnn_units_lists, **options)
    size = _number_of_scenarios(net, scenario_feature)
    others = [column.name for column in net.columns if column.name != scenario_feature]
    if not others:
        raise ValueError(
            "`dnn_feature_columns` of STAR should hold another feature than the scenario. "
            f"Received: {scenario_feature!r} alone"
        )
    x, s = net.encode(), net.ids(scenario_feature)
    normalized = PartitionedNormalization(size, name=net.layer_name("normalization"))
    h = normalized([net.select(x, others), s])
    h = StarDNN(size, star_dnn_units, **net.layer("star"))([h, s])
    outputs = []
    for k, task in enumerate(net.tasks):
        z = StarDNN(size, net.tower_units[k], **net.layer("tower", k))([h, s])
        m = StarDNN(size, [task.size], "linear", **net.named("logits", k))([z, s])
        a = DNN(auxiliary_dnn_units, **net.layer("auxiliary", k))(x)
        a = DNN([task.size], "linear", **net.named("auxiliary_logits", k))(a)
        outputs.append(LogitSum(**net.head(k))([m, a]))
    return net.model(outputs)


def _number_of_scenarios(net: Network, feature: Any) -> int:
    """Return the vocabulary size of the scenario's feature, or raise if it has no ids as such."""
    known = [c for c in net.columns if isinstance(c, SparseFeat) and not c.use_hash]
    sizes = [column.vocabulary_size for column in known if column.name == feature]
    if not sizes:
        raise ValueError(
            "`scenario_feature` should be the name of a SparseFeat without `use_hash`, out of "
            f"{[column.name for column in known]}. Received: {feature!r}"
        )
    return int(sizes[0])
