"""Gates of what is known of a row: EPNet's on x, PPNet's on the input of every layer of a task."""

from typing import Any

import grads
import keras
import numpy as np
import pytest
import reference as ref
import toy
from keras import ops

from mtl.features import SparseFeat
from mtl.layers import GatedDNN
from mtl.models import PEPNet, extract_task

# Where each feature stands in x.
USER, ITEM, MAIN, AGE = range(3), range(3, 6), range(6, 11), [11]
BOTH = {"scenario_feature": "user", "prior_features": ["age", "item"]}


def build(tasks: int = 2, **options: Any) -> Any:
    options = {**BOTH, "tower_dnn_units_lists": [[6, 4]] * tasks, **options}
    return toy.randomize(PEPNet(toy.columns(), num_tasks=tasks, **options))


def expected(model: Any, x: dict[str, np.ndarray], **options: Any) -> list[np.ndarray]:
    options = {**BOTH, **options}
    w, v = ref.weights(model), ref.encode(model, x)
    o = v if options.get("priors_in_input", True) else v[:, MAIN]
    if options["scenario_feature"]:
        o = ref.gated_dnn(w, "epnet", o, v[:, USER])
    tasks = model.output_names
    if not options["prior_features"]:
        return [ref.tower(w, task, o) for task in tasks]
    r, position = v[:, [*ITEM, *AGE]], options.get("gate_position", "input")
    return [ref.tower(w, k, ref.gated_dnn(w, f"ppnet_{k}", o, r, position)) for k in tasks]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tasks": 1, "gate_dnn_units": [5, 3]},
        {"tasks": 3, "tower_dnn_units_lists": [[6], [5, 4], []]},
        {"priors_in_input": False},
        {"scenario_feature": None},
        {"prior_features": None},
        {"gate_position": "output"},
        {"gate_position": "output", "scenario_feature": None, "gate_dnn_units": [3]},
    ],
)
def test_predictions_follow_the_equation(options: dict[str, Any]) -> None:
    model, x = build(**options), toy.features()
    toy.same(toy.outputs(model, x), expected(model, x, **options), atol=1e-5, rtol=1e-5)


def set_scores(model: Any, bias: float) -> None:
    """Let every gate be the same for all rows."""
    for weight in model.weights:
        if "/scores_" in weight.path:
            value = bias if weight.path.endswith("bias") else 0
            weight.assign(np.full(weight.shape, value, "float32"))


@pytest.mark.parametrize("position", ["input", "output"])
def test_gates_that_know_nothing_leave_plain_networks(position: str) -> None:
    model, x = build(gate_position=position), toy.features()
    set_scores(model, 0)
    w, v = ref.weights(model), ref.encode(model, x)
    plain = [ref.dnn(w, f"ppnet_{k}/dnn", v) for k in model.output_names]
    logits = [ref.tower(w, k, h) for k, h in zip(model.output_names, plain, strict=True)]
    toy.same(toy.outputs(model, x), logits, atol=1e-5, rtol=1e-5)
    epnet = keras.Model(model.input, model.get_layer("epnet").output)
    toy.same(toy.outputs(epnet, x), [v], atol=1e-6)


def test_closed_gates_leave_the_bias_alone() -> None:
    model, x = build(), toy.features()
    set_scores(model, -1e9)
    bias = [ref.weights(model)[f"{k}/logits/bias"] for k in model.output_names]
    toy.same(toy.outputs(model, x), [np.tile(ref.sigmoid(b), (24, 1)) for b in bias])


def test_gates_differ_between_tasks_and_layers_from_the_start() -> None:
    w = ref.weights(PEPNet(toy.columns(), num_tasks=2, tower_dnn_units_lists=[[6, 6]] * 2, **BOTH))
    for part, alike in (("scores_1", 6), ("gate_1/dense_0", 6), ("dnn/dense_1", 6)):
        kernels = [w[f"ppnet_task_{k}/{part}/kernel"] for k in (1, 2)]
        assert kernels[0].shape[1] == alike
        assert np.abs(kernels[0] - kernels[1]).max() > 1e-3
    scores = [w[f"ppnet_task_1/scores_{i}/kernel"] for i in (1, 2)]
    assert np.abs(scores[0] - scores[1]).max() > 1e-3


@pytest.mark.parametrize("units", [[], [4], [4, 3]])
def test_x_learns_from_what_is_scaled_alone(units: list[int]) -> None:
    rng = np.random.default_rng(0)
    x, v = rng.normal(size=(6, 5)), rng.normal(size=(6, 3))
    layer = GatedDNN(units, name="gated")
    given = keras.Variable(x.astype("float32"))
    prior = keras.Variable(v.astype("float32"))
    layer([given, prior])
    toy.randomize(layer)
    weigh = rng.normal(size=(6, units[-1] if units else 5))

    def of() -> Any:
        y = layer([ops.convert_to_tensor(given), ops.convert_to_tensor(prior)])
        return ops.sum(y * ops.convert_to_tensor(weigh.astype("float32")))

    by_x, by_v = grads.gradients(of, [given, prior])
    w = ref.weights(layer)
    numeric = np.zeros_like(x)
    for at in np.ndindex(x.shape):  # the gates held where they are
        step = np.zeros_like(x)
        step[at] = 1e-6
        above, below = (ref.gated_dnn(w, "gated", x + s, v, seen=x) for s in (step, -step))
        numeric[at] = ((above - below) * weigh).sum() / 2e-6
    np.testing.assert_allclose(by_x, numeric, rtol=1e-4, atol=1e-4)
    assert np.abs(by_v).max(axis=0).min() > 0


def test_what_the_gates_see_learns_through_them() -> None:
    # Outside x, there is no other way to these tables.
    model = build(priors_in_input=False)
    found = grads.by_path(model, lambda y: ops.sum(y[0]), toy.features())
    table = found["encoder/table_0"]
    embeddings = model.encoder.tables[0][0].slices
    for name in ("user", "item"):
        part = embeddings[name]
        assert np.abs(table[part.offset : part.offset + part.size]).max() > 1e-4
    # Task 1 has no part in the gates of task 2.
    own = [np.abs(g).max() for path, g in found.items() if path.startswith("ppnet_task_1")]
    others = [np.abs(g).max() for path, g in found.items() if path.startswith("ppnet_task_2")]
    assert min(own) > 0
    assert max(others) == 0


def test_balancers_share_epnet_and_no_more() -> None:
    shared = {variable.path for variable in build().shared_variables}
    assert shared == {w.path for w in build().weights if w.path.startswith("epnet")}


def test_a_task_is_extracted_without_the_gates_of_the_others() -> None:
    model, x = build(), toy.features()
    part = extract_task(model, "task_2")
    toy.same(toy.outputs(part, x), toy.outputs(model, x)[1:])
    assert not [w.path for w in part.weights if "task_1" in w.path]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (
            {"scenario_feature": None, "prior_features": None},
            r"PEPNet\(\) missing required keyword argument 'scenario_feature' \(str \| None\) or "
            "'prior_features' ",
        ),
        ({"scenario_feature": "usr"}, r"`scenario_feature`.*\['price', 'user'.*Received: 'usr'"),
        ({"scenario_feature": 3}, r"`scenario_feature`.*names of features.*Received: 3"),
        ({"prior_features": ["item", "usr"]}, r"`prior_features`.*names.*Received: 'usr'"),
        ({"prior_features": "item"}, r"`prior_features`.*list of names.*Received: 'item'"),
        ({"prior_features": []}, r"`prior_features`.*at least one.*Received: \[\]"),
        ({"prior_features": ["item", "item"]}, r"`prior_features`.*each once.*'item'"),
        ({"gate_position": "inside"}, r"`gate_position`.*'input', 'output'.*'inside'"),
        (
            {"gate_position": "output", "tower_dnn_units_lists": [[4], []]},
            r"`tower_dnn_units_lists`.*at least one width.*Received: \[\(4,\), \(\)\]",
        ),
        (
            {"priors_in_input": False, "prior_features": ["item", "age", "price", "history"]},
            r"`priors_in_input`.*True.*Received: False",
        ),
    ],
)
def test_wrong_arguments_are_named(options: dict[str, Any], match: str) -> None:
    with pytest.raises((TypeError, ValueError), match=match):
        build(**options)


def test_the_scenario_may_be_any_feature() -> None:
    columns = [*toy.columns(), SparseFeat("place", 4, 2)]
    x = {**toy.features(), "place": np.array([3] * 24, "int32")}
    for name in ("place", "age", "history"):
        model = PEPNet(columns, num_tasks=1, scenario_feature=name)
        assert toy.outputs(model, x)[0].shape == (24, 1)
    model = PEPNet(columns, num_tasks=1, prior_features=list(x))
    assert toy.outputs(model, x)[0].shape == (24, 1)
