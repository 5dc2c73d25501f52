"""CrossStitch: a network per task, stitched to the others after every layer."""

from __future__ import annotations

from typing import Any

from mtl.layers import CrossStitchUnit, Experts
from mtl.models.network import Network
from mtl.models.options import Options, Towers, Units, Unpack, Widths, model, per_task
from mtl.training import MultiTaskModel


@model(search={"column_dnn_units": Widths()})
def CrossStitch(
    dnn_feature_columns: Any,
    *,
    column_dnn_units: Units = (64, 32),
    per_channel: bool = False,
    tower_dnn_units_lists: Towers = per_task(16, 8),
    **options: Unpack[Options],
) -> MultiTaskModel:
    """Build a cross-stitch network: a column of layers per task, mixed after each layer.

    With h⁰_k = x, layer l of column k, a Dense layer dˡ_k, and the cross-stitch unit after it are

        hˡ_i = Σ_j αˡ_ij dˡ_j(hˡ⁻¹_j), ŷ_k = σ(t_k(hᴸ_k))

    where α starts with 0.9 for a task's own column, and 0.1 among the others. The columns start
    from random weights, where the paper has trained them apart first, and α learns at the rate of
    all weights, where the paper has a greater one.

    Args:
        dnn_feature_columns: list of feature columns (see `mtl.features`).
        column_dnn_units: list of int. Widths of every column's layers. Defaults to (64, 32).
        per_channel: bool. Whether each unit of a layer has an α of its own. Defaults to False.
        tower_dnn_units_lists: list of lists of int. Widths of each task's tower.
            Defaults to (16, 8) for every task.
        **options: what every model takes (see `mtl.models.options.Options`).

    References:
        - Misra et al., Cross-stitch Networks for Multi-task Learning, CVPR 2016
    """
    if not column_dnn_units:
        raise ValueError(
            "`column_dnn_units` should hold at least one width: a unit follows each layer. "
            "Received: none."
        )
    net = Network(dnn_feature_columns, tower_dnn_units_lists, **options)
    tasks, h = len(net.tasks), net.encode()
    for depth, width in enumerate(column_dnn_units):
        columns = Experts([1] * tasks, [width], **net.layer(f"columns_{depth}"))(h)
        name = net.layer_name(f"cross_stitch_{depth}")
        h = CrossStitchUnit(tasks, per_channel, name=name)(columns)
    return net.model(net.towers(h))
