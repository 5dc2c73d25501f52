"""ŷ_k = σ(t_k(bottom(x)))."""

import numpy as np
import pytest
import reference as ref
import toy

from mtl.models import SharedBottom


@pytest.mark.parametrize(
    ("tasks", "units", "use_bn"), [(1, (), False), (2, (8,), True), (5, (8, 5), False)]
)
def test_predictions_follow_the_equation(tasks: int, units: tuple[int, ...], use_bn: bool) -> None:
    options = {"num_tasks": tasks, "bottom_dnn_units": units, "dnn_use_bn": use_bn}
    model = toy.randomize(toy.build("SharedBottom", **options))
    x, w = toy.features(), ref.weights(model)
    h = ref.dnn(w, "bottom", ref.encode(model, x))
    expected = [ref.tower(w, f"task_{k + 1}", h) for k in range(tasks)]
    toy.same(toy.outputs(model, x), expected, atol=1e-5, rtol=1e-5)


def test_heads_of_every_type_and_towers_of_different_shapes() -> None:
    types = ["binary", "regression", ("multiclass", 3), ("multilabel", 4)]
    towers = [[], [6], [5, 4], [3]]
    model = SharedBottom(
        toy.columns(),
        task_types=types,
        bottom_dnn_units=(8,),
        tower_dnn_units_lists=towers,
        dnn_activation="tanh",
    )
    toy.randomize(model)
    x, w = toy.features(), ref.weights(model)
    h = ref.dnn(w, "bottom", ref.encode(model, x), np.tanh)
    heads = [ref.sigmoid, lambda v: v, ref.softmax, ref.sigmoid]
    expected = [ref.tower(w, f"task_{k + 1}", h, head, np.tanh) for k, head in enumerate(heads)]
    assert [v.shape[1] for v in expected] == [1, 1, 3, 4]
    toy.same(toy.outputs(model, x), expected, atol=1e-5, rtol=1e-5)
