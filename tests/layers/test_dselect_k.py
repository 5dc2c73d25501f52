"""g = Σ_j softmax(w)_j r_j, where r_j(e) is a product over the bits of e, of S(z) or 1 - S(z)."""

import keras
import numpy as np
import pytest
import reference as ref
from keras import ops
from numpy_layers import assert_close, copy_of, draw, f64, randomize, softmax, total, weight

from mtl.layers import DSelectK

QUICK = {"run_eagerly": True} if keras.backend.backend() == "tensorflow" else {}


def built(experts=4, selected=2, width=5, seed=0, **arguments):
    layer = DSelectK(experts, selected, **arguments)
    layer.build((None, width))
    return randomize(layer, seed)


def expected_of(layer, x, reference=ref.dselect_k):
    gate = layer.num_experts, layer.num_selected, layer.temperature
    return reference(ref.weights(layer), layer.name, x.astype("float64"), *gate)


def given(experts, z, w=None, **arguments):
    """A gate whose z `(k, m)` and w `(k,)` are these, for any input of width 1."""
    layer = DSelectK(experts, len(z), **arguments)
    layer.build((None, 1))
    values = [np.zeros((1, np.size(z))), np.ravel(z)]
    if w is not None:
        values += [np.zeros((1, len(w))), np.array(w)]
    layer.set_weights(values)
    return layer


@pytest.mark.parametrize("experts", [1, 2, 3, 4, 7, 8])
@pytest.mark.parametrize(("selected", "temperature"), [(1, 1), (2, 0.7), (3, 4)])
@pytest.mark.parametrize("units", [None, [4]])
def test_weights_follow_the_equation(experts, selected, temperature, units):
    selected = min(selected, experts)
    layer = built(experts, selected, units=units, temperature=temperature)
    x = draw(20, 5)
    assert layer.compute_output_shape((None, 5)) == (None, experts)
    assert_close(layer(x), expected_of(layer, x))


def test_selectors_by_hand():
    # γ = 2: S(-1) = 0, S(1) = 1, S(1/2) = -2/64 + 3/8 + 1/2 = 27/32.
    layer = given(4, [[1, -1], [0.5, 1]], np.log([3, 1]), temperature=2)
    first, second = [0, 1, 0, 0], [0, 0, 5 / 32, 27 / 32]
    expected = 0.75 * np.array(first) + 0.25 * np.array(second)
    assert_close(layer(np.zeros((2, 1), "float32")), [expected] * 2)


@pytest.mark.parametrize("experts", [1, 2, 4, 8])
def test_powers_of_two_sum_to_one_before_anything_is_selected(experts):
    layer = built(experts, 1 if experts == 1 else 2, temperature=5)
    weights = layer(draw(30, 5))
    assert_close(ops.sum(weights, axis=-1), np.ones(30))
    assert (f64(weights) >= 0).all()


@pytest.mark.parametrize(("experts", "mass"), [(2, 1), (3, 0.75), (4, 1), (5, 5 / 8)])
def test_zeros_weigh_all_experts_alike(experts, mass):
    bits = int(np.ceil(np.log2(experts)))
    layer = given(experts, np.zeros((2, bits)), [0, 0])
    weights = f64(layer(np.zeros((1, 1), "float32")))
    np.testing.assert_allclose(weights, 1 / 2**bits, rtol=1e-6)
    assert weights.sum() == pytest.approx(mass)


@pytest.mark.parametrize("gamma", [0.5, 1, 3])
def test_slope_in_the_middle(gamma):
    layer = DSelectK(2, 1, temperature=gamma)
    layer.build((None, 1))
    layer.set_weights([np.ones((1, 1)), np.zeros(1)])
    low, high = f64(layer(np.array([[-1e-3], [1e-3]], "float32")))[:, 1]
    assert (high - low) / 2e-3 == pytest.approx(3 / (2 * gamma), rel=1e-3)


def trained(layer, x):
    """Return the weights before and after a step of gradient descent, without penalties."""
    inputs = keras.Input(x.shape[1:])
    outputs = keras.layers.Dense(1, kernel_initializer="random_normal")(layer(inputs))
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.SGD(1.0), "mse", **QUICK)
    before = layer.get_weights()
    model.train_on_batch(x, np.full((len(x), 1), 5, "float32"))
    return before, layer.get_weights()


def test_a_selector_that_has_chosen_chooses_one_expert_and_has_no_gradient():
    z = [[0.5, -0.5, 2], [-3, 1, 0.6]]
    layer = given(8, z, [0.3, -0.2])
    x = np.ones((4, 1), "float32")
    weights = f64(layer(x))
    assert (np.count_nonzero(weights, axis=1) == 2).all()
    assert_close(weights[:, [0b101, 0b110]], np.tile(softmax(np.array([0.3, -0.2])), (4, 1)))
    before, after = trained(layer, x)
    for i in (0, 1):
        np.testing.assert_array_equal(before[i], after[i])
    assert np.abs(before[3] - after[3]).min() > 1e-4
    undecided = given(8, [[0.5, -0.5, 0.49], [-3, 1, 0.6]], [0.3, -0.2])
    assert (np.count_nonzero(f64(undecided(x)), axis=1) == 3).all()
    before, after = trained(undecided, x)
    np.testing.assert_array_equal(before[1] != after[1], [False, False, True, *[False] * 3])


@pytest.mark.parametrize("experts", [1, 3, 4, 6])
@pytest.mark.parametrize("weight_", [0, 0.3])
def test_penalties_are_means_over_the_rows(experts, weight_):
    layer = built(experts, 1 if experts == 1 else 2, temperature=8, entropy_weight=weight_)
    for rows in (1, 7):
        x = draw(rows, 5)
        r = expected_of(layer, x, ref.selectors)
        expected = -weight_ * (r * np.log(r + 1e-6)).sum() / rows
        if experts in (3, 6):
            assert r.sum(axis=-1).min() > 1e-3
            expected += (1 / r.sum(axis=-1)).sum() / rows
        layer(x)
        assert total(layer.losses) == pytest.approx(expected, rel=1e-4, abs=1e-6)
        assert len(layer.losses) == (weight_ > 0) + (experts in (3, 6))


def test_the_number_of_no_expert_is_left_and_nothing_is_infinite():
    layer = given(3, [[0.4, 0.45]])  # nearly 0b11, which is no expert
    x = np.zeros((3, 1), "float32")
    _, (kernel, bias) = trained(layer, x)
    assert np.isfinite(kernel).all()
    assert (bias < [0.4, 0.45]).all()
    lost = given(3, [[0.5, 0.5]])
    assert_close(lost(x), np.zeros((3, 3)))
    assert total(lost.losses) == pytest.approx(1000)
    assert all(np.isfinite(value).all() for value in trained(lost, x)[1])
    empty = lost(np.zeros((0, 1), "float32"))
    assert tuple(empty.shape) == (0, 3)
    assert total(lost.losses[-1:]) == 0


def test_the_start_is_near_the_middle():
    for gamma in (0.5, 2):
        layer = DSelectK(8, 3, temperature=gamma, seed=1)
        layer.build((None, 50))
        z, w = weight(layer, "selectors/kernel"), weight(layer, "shares/kernel")
        assert 0.9 * gamma / 100 < np.abs(z).max() <= gamma / 100
        assert 0.045 < np.abs(w).max() <= 0.05
        assert min(z.min() / z.max(), w.min() / w.max()) < -0.8


def test_only_what_can_be_trained_is_there():
    assert built(1, 1).weights == []
    assert [tuple(w.shape) for w in built(4, 1).weights] == [(5, 2), (2,)]
    assert [tuple(w.shape) for w in built(5, 3).weights] == [(5, 9), (9,), (5, 3), (3,)]


@pytest.mark.parametrize(("experts", "selected"), [(1, 1), (2, 2), (9, 2)])
def test_two_are_selected_unless_told(experts, selected):
    assert DSelectK(experts).num_selected == selected


def test_config_makes_the_same_layer():
    layer, x = DSelectK(5, 3, [4], temperature=0.5, entropy_weight=0.1, seed=2), draw(6, 5)
    output = layer(x)
    twin = copy_of(layer, x)
    assert twin.get_config() == layer.get_config()
    assert_close(twin(x), f64(output))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_experts": 0}, ValueError, "`num_experts` should be a positive integer"),
        ({"num_selected": 0}, ValueError, "`num_selected` should be a positive integer or None"),
        ({"num_selected": 2.0}, TypeError, "`num_selected` .* Received: 2.0"),
        ({"num_selected": 5}, ValueError, "`num_selected` should be at most 4, .* Received: 5"),
        ({"temperature": 0}, ValueError, "`temperature` .* Received: 0"),
        ({"entropy_weight": -1}, ValueError, "`entropy_weight` .* Received: -1"),
        ({"units": 5}, TypeError, "`units` should be a list"),
    ],
)
def test_invalid_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        DSelectK(**{"num_experts": 4, **arguments})
