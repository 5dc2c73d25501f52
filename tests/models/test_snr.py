"""v_i = Σ_j z_ij W_ij u_j between levels of sub-networks, with gates that are drawn in training."""

import pathlib
from typing import Any

import keras
import numpy as np
import pytest
import reference as ref
import toy
from grads import by_path

from mtl.models import extract_task

X, Y = toy.features(), toy.labels()


def routes_of(model: Any) -> list[Any]:
    return [layer for layer in model.layers if layer.name.startswith("routing")]


@pytest.mark.parametrize("connection", ["trans", "aver"])
@pytest.mark.parametrize(("levels", "tasks", "size"), [(1, 2, 3), (2, 3, 2), (3, 1, 1)])
def test_predictions_follow_the_equation(
    connection: str, levels: int, tasks: int, size: int
) -> None:
    model = toy.build(
        "SNR",
        num_tasks=tasks,
        num_levels=levels,
        num_experts=size,
        connection=connection,
        expert_dnn_units=(6, 4),
    )
    toy.randomize(model)
    w = ref.weights(model)
    v = [ref.encode(model, X)] * size
    for level in range(1, levels + 1):
        v = ref.routing(w, f"routing_{level}", ref.experts(w, f"experts_{level}", v))
    expected = [ref.tower(w, f"task_{k + 1}", v[k]) for k in range(tasks)]
    toy.same(toy.outputs(model, X), expected, atol=1e-5, rtol=1e-5)


def test_the_penalty_is_a_part_of_the_loss_in_training_and_evaluation() -> None:
    model = toy.build("SNR", penalty=0.1, l2_reg_embedding=0, num_experts=3)
    model.compile(keras.optimizers.SGD(0.0), **toy.QUICK)
    logs = model.evaluate(X, Y, batch_size=5, return_dict=True, verbose=0)
    opened = (3 * 3 + 2 * 3) * 0.896416  # P(z > 0) where log_alpha is 0
    tasks = logs["task_1_loss"] + logs["task_2_loss"]
    assert logs["loss"] == pytest.approx(tasks + 0.1 * opened, rel=1e-5)
    logs = {k: v[0] for k, v in model.fit(X, Y, batch_size=24, verbose=0).history.items()}
    tasks = logs["task_1_loss"] + logs["task_2_loss"]
    assert logs["loss"] == pytest.approx(tasks + 0.1 * opened, rel=1e-5)


def test_a_greater_penalty_closes_gates() -> None:
    gates = {}
    for penalty in (0, 1):
        model = toy.build("SNR", penalty=penalty, num_levels=1)
        model.compile(keras.optimizers.Adam(0.1), **toy.NO_XLA)
        model.fit(X, Y, batch_size=24, epochs=40, verbose=0)
        gates[penalty] = np.concatenate([r.gates().ravel() for r in routes_of(model)])
    assert (gates[1] == 0).all()
    assert gates[0].max() > 0.6


@pytest.mark.parametrize("connection", ["trans", "aver"])
def test_a_closed_gate_keeps_a_task_from_a_sub_network(connection: str) -> None:
    model = toy.randomize(toy.build("SNR", num_levels=1, num_experts=2, connection=connection))
    (routes,) = routes_of(model)
    routes.log_alpha.assign([[10.0, -10.0], [0.3, 0.2]])
    for task, expected in ((0, [True, False]), (1, [True, True])):
        found = by_path(model, lambda y, k=task: keras.ops.sum(y[k]), X)["experts_1/kernel_0"]
        assert [found[j].any() for j in range(2)] == expected


def test_predictions_are_no_draws_and_steps_are() -> None:
    model = toy.build("SNR", num_experts=2)
    inputs = {name: keras.ops.convert_to_tensor(value) for name, value in X.items()}
    calm = [toy.outputs(model, X) for _ in range(2)]
    toy.same(*calm, rtol=0, atol=0)
    steps = [keras.ops.convert_to_numpy(model(inputs, training=True)[0]) for _ in range(2)]
    assert not np.array_equal(*steps)


@pytest.mark.parametrize("connection", ["trans", "aver"])
def test_training_goes_on_after_loading_with_the_draws_that_would_have_come(
    connection: str, tmp_path: pathlib.Path
) -> None:
    def fit(model: Any) -> None:
        model.fit(X, Y, batch_size=8, shuffle=False, verbose=0)

    model = toy.build("SNR", connection=connection, dnn_dropout=0.3)
    model.compile(keras.optimizers.Adam(0.01), **toy.QUICK)
    fit(model)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    fit(model)
    loaded = keras.models.load_model(tmp_path / "model.keras")
    fit(loaded)
    toy.same(loaded.get_weights(), model.get_weights(), rtol=0, atol=0)
    toy.same(toy.state(loaded), toy.state(model), rtol=0, atol=0)


def test_what_serves_several_tasks_is_shared() -> None:
    model = toy.build("SNR")
    shared = {weight.path for weight in model.shared_variables}
    assert {"routing_1/kernel", "routing_1/log_alpha", "experts_2/kernel_0"} <= shared
    assert not any(path.startswith("routing_2") for path in shared)


def test_a_task_keeps_its_own_routes() -> None:
    model = toy.randomize(toy.build("SNR", num_tasks=3))
    part = extract_task(model, "task_2")
    assert part.get_layer("routing_2").log_alpha.shape == (1, 3)
    assert part.get_layer("routing_1").log_alpha.shape == (3, 3)
    toy.same(toy.outputs(part, X), toy.outputs(model, X)[1:2])


def test_sub_networks_of_the_first_level_may_see_groups_of_features() -> None:
    groups = {"user": ["age", "user"], "item": ["item", "history", "price"]}
    model = toy.build("SNR", num_experts=2, expert_features=groups)
    first, second = routes_of(model)
    assert (first.log_alpha.shape, second.log_alpha.shape) == ((2, 4), (2, 2))
    found = by_path(model, lambda y: keras.ops.sum(y[0]), X)
    assert found["experts_1/kernel_0_0"].shape[1] == 4


def test_predict_draws_nothing() -> None:
    model = toy.build("SNR")
    model.compile(**toy.QUICK)
    toy.same(model.predict(X, verbose=0), toy.outputs(model, X))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"connection": "mean"}, r"`connection` should be one of 'trans', 'aver'. .*'mean'"),
        ({"num_levels": 0}, r"`num_levels`.*positive integer.*Received: 0"),
        ({"num_experts": 0}, r"`num_experts`.*positive integer.*Received: 0"),
        ({"penalty": -1}, r"`penalty`.*non-negative.*Received: -1"),
        ({"expert_dnn_units": [0]}, r"`expert_dnn_units\[0\]`.*Received: 0"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        toy.build("SNR", **options)
