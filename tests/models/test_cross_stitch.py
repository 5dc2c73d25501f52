"""h_i = Σ_j α_ij d_j(h_j): a column per task, stitched to the others after each layer."""

from typing import Any

import keras
import numpy as np
import pytest
import reference as ref
import toy
from grads import by_path

from mtl.models import extract_task

X = toy.features()


def build(tasks: int = 2, **options: Any) -> Any:
    return toy.randomize(toy.build("CrossStitch", tasks, **options))


def with_alphas(model: Any, alpha: Any) -> Any:
    for layer in model.layers:
        if layer.name.startswith("cross_stitch"):
            layer.alpha.assign(alpha)
    return model


def reference(model: Any, tasks: int) -> list[np.ndarray]:
    w, h, depth = ref.weights(model), [ref.encode(model, X)] * tasks, 0
    while f"columns_{depth}/kernel_0" in w:
        d, alpha = ref.experts(w, f"columns_{depth}", h), w[f"cross_stitch_{depth}/alpha"]
        h = [sum(alpha[i, j] * d[j] for j in range(tasks)) for i in range(tasks)]
        depth += 1
    return [ref.tower(w, f"task_{k + 1}", h[k]) for k in range(tasks)]


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize(("tasks", "units"), [(1, (8,)), (2, (8, 5)), (3, (4, 4, 6))])
def test_predictions_follow_the_equation(tasks: int, units: Any, per_channel: bool) -> None:
    model = build(tasks, column_dnn_units=units, per_channel=per_channel)
    toy.same(toy.outputs(model, X), reference(model, tasks), atol=1e-5, rtol=1e-5)


def test_columns_of_an_identity_are_networks_of_their_own() -> None:
    model = with_alphas(build(3), np.eye(3))
    w, v = ref.weights(model), ref.encode(model, X)
    for k, output in enumerate(toy.outputs(model, X)):
        h = v
        for depth in range(2):
            h = ref.relu(h @ w[f"columns_{depth}/kernel_0"][k] + w[f"columns_{depth}/bias_0"][k])
        toy.same([output], [ref.tower(w, f"task_{k + 1}", h)], atol=1e-5, rtol=1e-5)
        found = by_path(model, lambda y, k=k: keras.ops.sum(y[k]), X)
        for depth in range(2):
            rows = found[f"columns_{depth}/kernel_0"].any(axis=(1, 2))
            np.testing.assert_array_equal(rows, np.arange(3) == k)


def test_columns_of_a_mean_are_equal() -> None:
    model = with_alphas(build(4), np.full((4, 4), 0.25))
    columns = model.get_layer("cross_stitch_1").output
    columns = keras.Model(model.input, columns).predict_on_batch(X)
    for column in columns[1:]:
        np.testing.assert_allclose(column, columns[0], rtol=1e-6)


def test_a_task_that_takes_from_another_is_not_taken_from() -> None:
    model = with_alphas(build(2), [[0.5, 0.5], [0.0, 1.0]])  # task 1 sees both columns
    for k, seen in enumerate(([True, True], [False, True])):
        found = by_path(model, lambda y, k=k: keras.ops.sum(y[k]), X)
        assert found["columns_0/kernel_0"].any(axis=(1, 2)).tolist() == seen


def test_fresh_columns_differ_and_alphas_start_near_a_tasks_own() -> None:
    w = ref.weights(toy.build("CrossStitch", 3))
    for depth in range(2):
        kernel = w[f"columns_{depth}/kernel_0"]
        assert np.abs(kernel[0] - kernel[1]).max() > 1e-2
        expected = np.full((3, 3), 0.05) + 0.85 * np.eye(3)
        np.testing.assert_allclose(w[f"cross_stitch_{depth}/alpha"], expected, rtol=1e-6)


def test_columns_and_all_stitches_but_the_last_are_shared() -> None:
    model = toy.build("CrossStitch", 2)
    shared = {weight.path for weight in model.shared_variables}
    assert {"columns_0/kernel_0", "columns_1/bias_0", "cross_stitch_0/alpha"} <= shared
    assert "cross_stitch_1/alpha" not in shared  # each row makes the input of one tower


def test_a_task_keeps_its_row_of_the_last_stitch() -> None:
    model = build(3, per_channel=True)
    part = extract_task(model, "task_3")
    assert part.get_layer("cross_stitch_1").alpha.shape == (1, 3, 5)
    toy.same(toy.outputs(part, X), toy.outputs(model, X)[2:])


@pytest.mark.parametrize(
    ("units", "match"),
    [
        ([], r"`column_dnn_units` should hold at least one width.*Received: none"),
        ([4, 0], r"`column_dnn_units\[1\]`.*positive integer.*Received: 0"),
    ],
)
def test_wrong_widths(units: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        toy.build("CrossStitch", column_dnn_units=units)
