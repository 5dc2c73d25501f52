"""A model as somebody would add it: what follows is all of it, and all there is to do.

Importing this lists it in `mtl.models`, as an import there would. The tests of what every model
does, the benchmark and its tuner then find it.
"""

from typing import Any

from keras import ops

import mtl.models
from mtl.layers import DNN
from mtl.models.network import Network
from mtl.models.options import Options, Towers, Units, Unpack, Widths, model, per_task
from mtl.training import MultiTaskModel


@model(search={"own_dnn_units": Widths(), "common_dnn_units": Widths(4)})
def Newcomer(
    dnn_feature_columns: Any,
    *,
    own_dnn_units: Units = (16,),
    common_dnn_units: Units = (64, 16),
    tower_dnn_units_lists: Towers = per_task(8, 4),
    **options: Unpack[Options],
) -> MultiTaskModel:
    """Build a network with a part that is common and parts that are a task's own, side by side.

    ŷ_k = σ(t_k(c(x) ; o_k(x))).

    Args:
        dnn_feature_columns: list of feature columns (see `mtl.features`).
        own_dnn_units: list of int. Widths of each task's own DNN. Defaults to (16,).
        common_dnn_units: list of int. Widths of the common DNN. Defaults to (64, 16).
        tower_dnn_units_lists: list of lists of int. Widths of each task's tower.
            Defaults to (8, 4) for every task.
        **options: what every model takes (see `mtl.models.options.Options`).
    """
    net = Network(dnn_feature_columns, tower_dnn_units_lists, **options)
    x = net.encode()
    common = DNN(common_dnn_units, **net.layer("common"))(x)
    own = [DNN(own_dnn_units, **net.layer("own", k))(x) for k in range(len(net.tasks))]
    return net.model(net.towers([ops.concatenate([common, o], axis=-1) for o in own]))


mtl.models.Newcomer = Newcomer  # type: ignore[attr-defined]
if "Newcomer" not in mtl.models.__all__:
    mtl.models.__all__.insert(-2, "Newcomer")
