"""Cross-stitch units, x_i ← Σ_j α_ij x_j, and routes with hard concrete gates."""

import keras
import numpy as np
import pytest
import reference as ref
from keras import ops
from numpy_layers import assert_close, draw, f64, randomize, sigmoid, total, weight

from mtl.layers import CrossStitchUnit, Routing


def built(kind, *arguments, inputs=3, width=4, **options):
    layer = kind(*arguments, **options)
    layer.build((None, inputs, width))
    return layer


@pytest.mark.parametrize("columns", [1, 2, 5])
@pytest.mark.parametrize("per_channel", [False, True])
def test_a_unit_starts_with_nine_tenths_of_a_columns_own(columns, per_channel):
    layer = built(CrossStitchUnit, columns, per_channel, inputs=columns)
    alpha = f64(layer.alpha)
    assert alpha.shape == (columns, columns, 4)[: 3 if per_channel else 2]
    assert_close(alpha.sum(axis=1), np.ones(alpha.sum(axis=1).shape))
    if columns > 1:
        assert_close(alpha[0, 0], np.full(alpha[0, 0].shape, 0.9))
        assert_close(alpha[0, 1], np.full(alpha[0, 1].shape, 0.1 / (columns - 1)))


def test_a_unit_by_hand():
    layer = built(CrossStitchUnit, 2, inputs=2, width=2)
    layer.set_weights([np.array([[1.0, 10.0], [100.0, 1000.0]])])
    x = np.array([[[1.0, 2.0], [3.0, 4.0]]], "float32")
    first, second = layer(x)
    assert_close(first, [[31.0, 42.0]])
    assert_close(second, [[3100.0, 4200.0]])
    layer = built(CrossStitchUnit, 2, per_channel=True, inputs=2, width=2)
    layer.set_weights([np.array([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]])])
    first, second = layer(x)
    assert_close(first, [[1 + 9.0, 4 + 16.0]])
    assert_close(second, [[5 + 21.0, 12 + 32.0]])


@pytest.mark.parametrize("connection", ["trans", "aver"])
def test_routes_follow_the_equation(connection):
    layer = randomize(built(Routing, 2, connection))
    x = draw(6, 3, 4)
    u = [x[:, j].astype("float64") for j in range(3)]
    w = {weight.path.replace(layer.path, "r"): f64(weight) for weight in layer.weights}
    assert layer.compute_output_shape((None, 3, 4)) == [(None, 4)] * 2
    for output, expected in zip(layer(x), ref.routing(w, "r", u), strict=True):
        assert_close(output, expected)


def with_gates(a, **options):
    """Routes from each of several inputs to one output, without matrices."""
    layer = built(Routing, 1, "aver", inputs=len(a), width=1, **options)
    layer.set_weights([np.array([a])])
    return layer


def test_gates_outside_of_training():
    layer = with_gates([-10, 10, 0, np.log(3)])
    assert_close(layer.gates(), [[0, 1, 0.5, 0.8]])
    x = np.array([[[1], [10], [100], [1000]]], "float32")
    assert_close(layer(x)[0], [[860]], atol=1e-2)


def drawn(layer):
    """The gates of a step of training."""
    a = ops.convert_to_tensor(layer.log_alpha)
    return f64(layer._gates(a, training=True))[0]


def test_gates_are_drawn_anew_from_the_hard_concrete_distribution():
    a = np.repeat([0.0, 1.5, -2.0], 4000)
    layer = with_gates(a, seed=3, penalty=0.01)
    first, second = drawn(layer), drawn(layer)
    assert np.mean(first == second) < 0.5  # those that are open or closed both times
    u = np.random.default_rng(0).random((50, len(a)))
    s = sigmoid((np.log(u) - np.log(1 - u) + a) / 0.9)
    expected = np.clip(s * 1.2 - 0.1, 0, 1)
    for group in np.split(np.arange(len(a)), 3):
        z, z_expected = first[group], expected[:, group]
        assert z.mean() == pytest.approx(z_expected.mean(), abs=0.02)
        assert z.std() == pytest.approx(z_expected.std(), abs=0.02)
        assert (z > 0).mean() == pytest.approx(sigmoid(a[group[0]] + 2.1581), abs=0.02)
        assert (z < 1).mean() == pytest.approx(sigmoid(2.1581 - a[group[0]]), abs=0.02)
    # The penalty is the number of open gates that is to be expected.
    layer(np.zeros((1, len(a), 1), "float32"))
    opened = np.sum(expected > 0) / 50
    assert total(layer.losses[-1:]) == pytest.approx(0.01 * opened, rel=0.01)


def test_one_draw_serves_all_rows():
    layer = with_gates([0.0, 0.5], seed=1)
    x = np.tile(np.array([[[1], [10]]], "float32"), (5, 1, 1))
    steps = [f64(layer(x, training=True)[0]) for _ in range(6)]
    assert all(np.ptp(step) == 0 for step in steps)
    assert len({step[0, 0] for step in steps}) == 6


@pytest.mark.parametrize("penalty", [0, 0.3])
def test_penalty_by_hand(penalty):
    layer = built(Routing, 2, penalty=penalty, inputs=2)
    a = np.array([[0.0, -1.0], [2.0, -5.0]])
    layer.log_alpha.assign(a)
    for training in (False, True):
        layer(draw(3, 2, 4), training=training)
        # 0.9 · ln(0.1 / 1.1) = -2.1581
        expected = penalty * (0.896416 + 0.760978 + 0.984596 + 0.055109)
        assert total(layer.losses[-1:]) == pytest.approx(expected, abs=1e-5)


def test_the_noise_is_no_weight():
    layer = built(Routing, 2)
    assert [w.path.split("/")[-1] for w in layer.weights] == ["kernel", "log_alpha"]
    assert len(layer.trainable_variables) == 2


def test_matrices_start_as_one_dense_layer_on_all_inputs():
    kernel = weight(built(Routing, 3, inputs=10, width=40, seed=1), "kernel")
    assert kernel.std() == pytest.approx(np.sqrt(2 / (400 + 40)), rel=0.02)
    assert len(np.unique(kernel[:, 0, 0, 0])) == 3


def test_gates_are_of_single_precision_in_half_precision():
    layer = built(Routing, 2, dtype="mixed_float16", seed=1)
    outputs = layer(draw(3, 3, 4), training=True)
    assert {keras.backend.standardize_dtype(v.dtype) for v in outputs} == {"float16"}
    assert {keras.backend.standardize_dtype(v.dtype) for v in layer.losses} == {"float32"}


@pytest.mark.parametrize(
    ("kind", "arguments", "error", "message"),
    [
        (CrossStitchUnit, {"num_outputs": 0}, ValueError, "`num_outputs` .* Received: 0"),
        (Routing, {"num_outputs": 2.0}, TypeError, "`num_outputs` .* Received: 2.0"),
        (Routing, {"connection": "sum"}, ValueError, "`connection`.*'trans', 'aver'.*'sum'"),
        (Routing, {"penalty": -1}, ValueError, "`penalty` .* Received: -1"),
        (Routing, {"seed": "1"}, TypeError, "`seed` .* Received: '1'"),
    ],
)
def test_invalid_arguments_are_refused(kind, arguments, error, message):
    with pytest.raises(error, match=message):
        kind(**{"num_outputs": 2, **arguments})
