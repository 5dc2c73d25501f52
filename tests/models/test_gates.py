"""Gates that select experts, in the models that have gates."""

import pathlib
from typing import Any

import keras
import numpy as np
import pytest
import reference as ref
import toy

from mtl import inspection
from mtl.layers import DSelectK
from mtl.models import extract_task

GATED = ("MoE", "MMoE", "CGC", "PLE")
X, Y = toy.features(), toy.labels()


def build(name: str, **options: Any) -> Any:
    return toy.build(name, gate="dselect_k", **options)


def gates_of(model: Any) -> list[Any]:
    layers = model._flatten_layers()
    return [layer for layer in layers if isinstance(layer, DSelectK)]


def penalty(
    model: Any, path: str, v: np.ndarray, experts: int, selected: int, weight: float
) -> Any:
    """λ Σ_j H(r_j) + Σ_j 1 / Σ_e r_j(e), the latter where E is no power of two; means over rows."""
    r = ref.selectors(ref.weights(model), path, v, experts, selected)
    value = -weight * (r * np.log(r + 1e-6)).sum(axis=(1, 2)).mean()
    return value + (experts & (experts - 1) > 0) * (1 / r.sum(axis=2)).sum(axis=1).mean()


@pytest.mark.parametrize(
    ("experts", "selected", "temperature"), [(4, 2, 2.0), (3, 1, 1.0), (1, 1, 1.0)]
)
@pytest.mark.parametrize("units", [None, [4]])
def test_predictions_of_mmoe_follow_the_equation(
    experts: int, selected: int, temperature: float, units: Any
) -> None:
    model = build(
        "MMoE",
        num_experts=experts,
        num_selected=selected,
        gate_temperature=temperature,
        gate_dnn_units=units,
    )
    toy.randomize(model)
    w, v = ref.weights(model), ref.encode(model, X)
    e = ref.experts(w, "experts", [v] * experts)
    expected = []
    for task in model.output_names:
        g = ref.dselect_k(w, f"gate_{task}", v, experts, selected, temperature)
        expected.append(ref.tower(w, task, ref.mix(e, g)))
    toy.same(toy.outputs(model, X), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "gates"), [("MoE", 1), ("MMoE", 2), ("CGC", 2), ("PLE", 5)])
def test_every_gate_of_a_model_selects_and_is_seen(name: str, gates: int) -> None:
    model = toy.randomize(build(name, num_selected=1, gate_temperature=1e-6))
    assert [gate.num_selected for gate in gates_of(model)] == [1] * gates
    weights = inspection.gate_weights(model, X)
    assert len(weights) == gates
    for table in weights.values():
        assert (np.count_nonzero(table, axis=1) <= 1).all()
        assert set(np.unique(table)) <= {0, 1}
    assert any(table.to_numpy().any() for table in weights.values())


@pytest.mark.parametrize("entropy_weight", [0.0, 0.5])
@pytest.mark.parametrize("experts", [3, 4])
def test_penalties_are_a_part_of_the_loss_in_training_and_evaluation(
    experts: int, entropy_weight: float
) -> None:
    options = {"num_experts": experts, "l2_reg_embedding": 0}
    model = build("MMoE", entropy_weight=entropy_weight, **options)
    model.compile(keras.optimizers.SGD(0.1), **toy.QUICK)
    v = ref.encode(model, X)
    extra = sum(
        penalty(model, f"gate_{task}", v, experts, 2, entropy_weight) for task in model.output_names
    )
    logs = model.evaluate(X, Y, batch_size=24, return_dict=True, verbose=0)
    tasks = logs["task_1_loss"] + logs["task_2_loss"]
    assert logs["loss"] == pytest.approx(tasks + extra, rel=1e-5)
    parts = model.evaluate(X, Y, batch_size=5, return_dict=True, verbose=0)
    assert parts["loss"] == pytest.approx(logs["loss"], rel=1e-5)
    trained = model.fit(X, Y, batch_size=24, epochs=2, verbose=0).history["loss"]
    assert trained[0] == pytest.approx(logs["loss"], rel=1e-5)
    assert trained[1] < trained[0]


def test_entropy_makes_gates_choose() -> None:
    entropy = {}
    for weight in (0.0, 1.0):
        model = build("MMoE", num_experts=4, num_selected=1, entropy_weight=weight)
        monitor = inspection.GateMonitor(X)
        model.compile(keras.optimizers.Adam(0.02), **toy.NO_XLA)
        history = model.fit(X, Y, batch_size=24, epochs=30, verbose=0, callbacks=[monitor]).history
        entropy[weight] = history["gate_entropy_task_1_1"][-1]
    assert entropy[1.0] < 0.1 < entropy[0.0]


@pytest.mark.parametrize(
    ("name", "policy"), [("MMoE", "float32"), ("PLE", "float32"), ("PLE", "mixed_float16")]
)
def test_it_trains_saves_and_comes_apart(
    name: str, policy: str, tmp_path: pathlib.Path, request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(lambda: keras.config.set_dtype_policy("float32"))
    keras.config.set_dtype_policy(policy)
    model = build(name, entropy_weight=0.01)
    before = model.get_weights()
    model.compile(keras.optimizers.Adam(0.01), **toy.QUICK)
    losses = model.fit(X, Y, batch_size=24, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    for weight, a, b in zip(model.weights, before, model.get_weights(), strict=True):
        assert np.isfinite(b).all()
        assert not np.array_equal(a, b), weight.path
    outputs = toy.outputs(model, X)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    toy.same(toy.outputs(loaded, X), outputs, rtol=0, atol=0)
    part = extract_task(model, "task_2")
    toy.same(toy.outputs(part, X), outputs[1:], rtol=1e-2 if policy != "float32" else 1e-6)


def test_what_serves_several_tasks_is_shared() -> None:
    def shared(name: str) -> set[str]:
        return {weight.path for weight in build(name).shared_variables}

    assert not any("gate" in path for path in shared("MMoE") | shared("CGC"))
    assert {"gate/selectors/kernel", "gate/shares/bias"} <= shared("MoE")
    assert "extraction_1/gate_shared/selectors/kernel" in shared("PLE")


def refused(name: str, match: str, **options: Any) -> None:
    with pytest.raises(ValueError, match=match):
        toy.build(name, **options)


@pytest.mark.parametrize("name", GATED)
def test_what_does_not_fit_is_refused_by_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras, "Input", None)  # nothing is built before
    refused(name, r"`gate` should be one of 'softmax', 'dselect_k'. Received: 'top'", gate="top")
    refused(name, r"`num_selected`.*gate='dselect_k' alone. Received: 2", num_selected=2)
    refused(name, r"`entropy_weight`.*'dselect_k' alone. Received: 0.1", entropy_weight=0.1)
    options: dict[str, Any] = {"gate": "dselect_k"}
    refused(name, r"`num_selected`.*at most 3,.*Received: 4", num_selected=4, **options)
    refused(name, r"`num_selected`.*positive integer or None", num_selected=0, **options)
    refused(name, r"`entropy_weight`.*non-negative", entropy_weight=-1, **options)


def test_as_many_are_selected_as_the_smallest_gate_has() -> None:
    groups = {"user": ["user"], "item": ["item"]}
    for name in ("MMoE", "CGC"):
        model = build(name, num_selected=6, expert_features=groups)
        assert gates_of(model)[0].num_experts == 6
        refused(name, "at most 6", num_selected=7, expert_features=groups, gate="dselect_k")
    # The levels above the first know no groups.
    refused("PLE", "at most 3", num_selected=4, expert_features=groups, gate="dselect_k")
    assert build("PLE", num_levels=1, num_selected=6, expert_features=groups)
