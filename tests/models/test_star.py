"""W ⊗ W_s, b + b_s, moments by scenario, and logits of a star network plus an auxiliary one."""

import re
from typing import Any

import grads
import keras
import numpy as np
import pytest
import reference as ref
import toy
from keras import ops

from mtl.features import DenseFeat, SparseFeat, VarLenSparseFeat
from mtl.layers import PartitionedNormalization
from mtl.models import STAR, extract_task

S = 5  # users
STARS = ("normalization", "star", "tower", "logits")  # layers with parameters of scenarios


def build(tasks: int = 2, **options: Any) -> Any:
    options = {
        "scenario_feature": "user",
        "star_dnn_units": [7, 6],
        "auxiliary_dnn_units": [3],
        "tower_dnn_units_lists": [[5]] * tasks,
        **options,
    }
    return STAR(toy.columns(), num_tasks=tasks, **options)


def features(rows: int = 24) -> dict[str, np.ndarray]:
    """Rows of every scenario, and some whose ids name none."""
    x = toy.features(rows)
    x["user"][:4] = [-1, S, 2**31 - 1, -(2**31)][:rows]
    return x


def rows_of(x: dict[str, np.ndarray]) -> np.ndarray:
    return np.where((x["user"] >= 0) & (x["user"] < S), x["user"], S)


def encode(model: Any, x: dict[str, np.ndarray]) -> np.ndarray:
    """Encoded features, with the unknown row where a user is unknown."""
    rows = rows_of(x)
    v = ref.encode(model, {**x, "user": np.minimum(rows, S - 1)})
    table, weight = model.encoder.tables[0]
    unknown = table.unknown_rows[table.names.index("user")]
    v[rows == S, :3] = ops.convert_to_numpy(weight.value)[unknown]
    return v


def expected(model: Any, x: dict[str, np.ndarray], heads: Any = None) -> list[np.ndarray]:
    w, v, rows = ref.weights(model), encode(model, x), rows_of(x)
    h = ref.normalize_by_scenario(w, "normalization", v[:, 3:], rows)
    h = ref.star_dnn(w, "star", h, rows)
    outputs = []
    for k, head in zip(model.output_names, heads or [ref.sigmoid] * 9, strict=False):
        z = ref.star_dnn(w, f"tower_{k}", h, rows)
        a = ref.dnn(w, f"auxiliary_{k}", v)
        main = ref.star_dnn(w, f"logits_{k}", z, rows, lambda logits: logits)
        outputs.append(head(main + ref.dnn(w, f"auxiliary_logits_{k}", a, lambda logits: logits)))
    return outputs


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tasks": 1, "star_dnn_units": [], "dnn_use_bn": True},
        {"tasks": 3, "auxiliary_dnn_units": [], "tower_dnn_units_lists": [[], [4], [4, 3]]},
    ],
)
def test_predictions_follow_the_equation(options: dict[str, Any]) -> None:
    model, x = toy.randomize(build(**options)), features()
    if options.get("dnn_use_bn"):  # the auxiliary network has plain ones
        w, v = ref.weights(model), encode(model, x)
        assert "auxiliary_task_1/bn_0/moving_mean" in w
        assert np.isfinite(v).all()
    toy.same(toy.outputs(model, x), expected(model, x), atol=1e-5, rtol=1e-5)


def test_tasks_of_every_type() -> None:
    types = ["regression", ("multiclass", 4), ("multilabel", 2)]
    model, x = toy.randomize(build(3, task_types=types)), features()
    heads = [lambda v: v, ref.softmax, ref.sigmoid]
    toy.same(toy.outputs(model, x), expected(model, x, heads), atol=1e-5, rtol=1e-5)


def test_a_new_model_is_a_plain_network_for_every_scenario() -> None:
    model, x = build(), features()
    w, v = ref.weights(model), encode(model, x)
    shared = {path: value for path, value in w.items() if "scenario_" not in path}
    assert all((w[path] == 0).all() for path in w.keys() - shared.keys())
    h = ref.dnn(shared, "star", v[:, 3:] / np.sqrt(1 + 1e-3))
    for output, k in zip(toy.outputs(model, x), model.output_names, strict=True):
        z = ref.dnn(shared, f"tower_{k}", h) @ shared[f"logits_{k}/dense_0/kernel"]
        a = ref.dnn(shared, f"auxiliary_{k}", v) @ shared[f"auxiliary_logits_{k}/dense_0/kernel"]
        np.testing.assert_allclose(output, ref.sigmoid(z + a), atol=1e-6)


def test_a_row_moves_its_own_scenario_and_no_other() -> None:
    model, x = toy.randomize(build()), toy.features()
    x["user"][:] = 2
    found = grads.by_path(model, lambda y: ops.sum(y[0]) + ops.sum(y[1]), x)
    of_scenarios = {path: g for path, g in found.items() if "scenario_" in path}
    assert len(of_scenarios) == 2 + 2 * 2 + 2 * (2 + 2)
    for path, gradient in of_scenarios.items():
        assert path.startswith(STARS)
        assert np.abs(gradient[2]).max() > 0, path
        assert np.abs(np.delete(gradient, 2, axis=0)).max() == 0, path


def test_an_unknown_scenario_is_served_by_the_shared_weights() -> None:
    model, x = build(dnn_use_bn=True), features()
    model.compile(keras.optimizers.Adam(0.05), **toy.QUICK)
    known = toy.features()
    model.fit(known, toy.labels(), batch_size=8, epochs=3, verbose=0)
    w = ref.weights(model)
    for path, value in w.items():
        if "scenario_" in path:
            assert (value[S] == 0).all(), path
            assert np.abs(value[:S]).max() > 0, path
        if "/moving_" in path and path.startswith(STARS):
            assert (value[S] != 0).any(), path
    outputs = toy.outputs(model, x)
    toy.same(outputs, expected(model, x), atol=1e-5, rtol=1e-5)
    x["user"][:4] = -7  # one unknown id is as good as another
    toy.same(toy.outputs(model, x), outputs, rtol=0, atol=0)


def test_predictions_do_not_depend_on_the_rest_of_the_batch() -> None:
    model, x = build(dnn_use_bn=True), features()
    model.compile(keras.optimizers.Adam(0.05), **toy.QUICK)
    model.fit(x, toy.labels(), batch_size=12, epochs=2, verbose=0)
    whole = toy.outputs(model, x)
    order = np.argsort(x["user"], kind="stable")
    for rows in ([3], [5], order[:9], order[9:]):
        part = toy.outputs(model, {name: value[rows] for name, value in x.items()})
        toy.same(part, [output[rows] for output in whole])


def test_moments_are_those_of_the_scenarios_rows() -> None:
    rng = np.random.default_rng(0)
    ids = np.array([0, 0, 0, 2, 2, 2, 2, 7, -1])[:, None]
    offsets = np.array([30.0, 0, -500])  # far apart, beside what they spread
    v = rng.normal(size=(9, 4)) + offsets[ids % 3]
    layer = PartitionedNormalization(4, momentum=0.9, name="norm")
    inputs = [ops.convert_to_tensor(v.astype("float32")), ops.convert_to_tensor(ids)]
    layer(inputs)
    before = ref.weights(layer)
    y = ops.convert_to_numpy(layer(inputs, training=True))
    for rows in (slice(0, 3), slice(3, 7)):
        part = v[rows]
        np.testing.assert_allclose(
            y[rows], (part - part.mean(0)) / np.sqrt(part.var(0) + 1e-3), atol=1e-3
        )
    np.testing.assert_allclose(y[7:], ((v - v.mean(0)) / np.sqrt(v.var(0) + 1e-3))[7:], atol=1e-4)
    after = ref.weights(layer)
    for name, moment in (("mean", np.mean), ("variance", np.var)):
        old, new = before[f"norm/moving_{name}"], after[f"norm/moving_{name}"]
        for scenario, rows in ((0, slice(0, 3)), (2, slice(3, 7)), (4, slice(0, 9))):
            now = 0.9 * old[scenario] + 0.1 * moment(v[rows], axis=0)
            np.testing.assert_allclose(new[scenario], now, rtol=1e-4)
        np.testing.assert_array_equal(new[[1, 3]], old[[1, 3]])  # no row, nothing learned


def test_moments_of_half_precision_inputs_are_computed_in_full() -> None:
    layer = PartitionedNormalization(2, dtype="mixed_float16")
    v = np.full((5000, 1), 3.0, "float32")
    v[::2] = 5
    y = layer([v, np.zeros((5000, 1), "int32")], training=True)
    assert keras.backend.standardize_dtype(y.dtype) == "float16"
    expected = np.where(v == 5, 1, -1)
    np.testing.assert_allclose(ops.convert_to_numpy(y).astype("float32"), expected, atol=1e-2)


def test_scenarios_may_come_as_wide_integers() -> None:
    columns = [SparseFeat("place", 3, 2, dtype="int64"), DenseFeat("age")]
    widths = {"star_dnn_units": [3], "tower_dnn_units_lists": [[]], "auxiliary_dnn_units": []}
    model = toy.randomize(STAR(columns, num_tasks=1, scenario_feature="place", **widths))
    ids = np.array([0, 1, 2, 3, 2**31 - 1])
    y = toy.outputs(model, {"place": ids[:, None], "age": np.ones((5, 1), "float32")})[0]
    assert len(np.unique(y)) == 4
    assert y[3] == y[4]


def test_tasks_share_the_first_star_layers() -> None:
    model = build()
    shared = {variable.path.split("/")[0] for variable in model.shared_variables}
    assert shared == {"normalization", "star"}
    for k in (0, 1):
        part = extract_task(toy.randomize(model), model.task_names[k])
        toy.same(toy.outputs(part, features()), toy.outputs(model, features())[k : k + 1])
        assert not [w.path for w in part.weights if model.task_names[1 - k] in w.path]


def test_kernels_of_tasks_and_layers_differ_from_the_start() -> None:
    w = ref.weights(build(star_dnn_units=[9, 9, 9], tower_dnn_units_lists=[[9, 9]] * 2))
    paths = [f"star/dense_{i}" for i in (1, 2)]
    paths += [f"tower_task_{k}/dense_{i}" for k in (1, 2) for i in (0, 1)]
    kernels = [w[f"{path}/kernel"] for path in paths]
    for i, kernel in enumerate(kernels):
        assert all(np.abs(kernel - other).max() > 1e-3 for other in kernels[:i])


def test_penalties_pull_a_scenario_to_the_shared_layer() -> None:
    model = build(l2_reg_dnn=0.1, l2_reg_embedding=0)
    names = ("dense_0/kernel", "dense_1/kernel", "scenario_factor")
    total = sum(
        (value**2).sum()
        for path, value in ref.weights(model).items()
        if path.endswith(names) and "logits" not in path
    )
    assert total > 0
    penalty = sum(float(ops.convert_to_numpy(loss)) for loss in model.losses)
    np.testing.assert_allclose(penalty, 0.1 * total, rtol=1e-5)


COLUMNS = [
    *toy.columns(),
    VarLenSparseFeat(SparseFeat("seen", 4), 3),
    SparseFeat("raw", 9, use_hash=True),
]


@pytest.mark.parametrize("feature", ["usr", "age", "seen", "raw", 3, ["user"]])
def test_the_scenario_should_be_a_single_integer_feature(feature: Any) -> None:
    match = r"`scenario_feature`.*SparseFeat.*\['user', 'item'\].*Received: " + re.escape(
        repr(feature)
    )
    with pytest.raises((TypeError, ValueError), match=match):
        STAR(COLUMNS, num_tasks=2, scenario_feature=feature)


def test_the_scenario_must_be_given_and_must_not_be_all() -> None:
    match = r"^STAR\(\) missing required keyword argument 'scenario_feature' \(str\)$"
    with pytest.raises(TypeError, match=match):
        STAR(toy.columns(), num_tasks=2)
    with pytest.raises(ValueError, match=r"`dnn_feature_columns`.*another feature.*'user' alone"):
        STAR([SparseFeat("user", 5)], num_tasks=2, scenario_feature="user")
