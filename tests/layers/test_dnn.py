import keras
import numpy as np
import pytest
from keras import ops
from numpy_layers import (
    assert_close,
    copy_of,
    dnn,
    draw,
    f64,
    randomize,
    relu,
    sigmoid,
    total,
    weight,
)

from mtl.layers import DNN


def test_two_layers_by_hand():
    layer = DNN([2, 1])
    layer.build((None, 2))
    layer.set_weights(
        [
            np.array([[1.0, -1.0], [2.0, 0.0]]),
            np.array([0.5, 0.5]),
            np.array([[2.0], [3.0]]),
            np.array([1.0]),
        ]
    )
    # [1, 2] → [5.5, -0.5] → [5.5, 0] → 12;  [-1, 0] → [-0.5, 1.5] → [0, 1.5] → 5.5
    assert_close(layer(ops.array([[1.0, 2.0], [-1.0, 0.0]])), [[12.0], [5.5]])


@pytest.mark.parametrize(("activation", "function"), [("relu", relu), ("sigmoid", sigmoid)])
def test_layers_in_turn(activation, function):
    layer = DNN([4, 3], activation=activation)
    x = draw(6, 5)
    assert layer.compute_output_shape((None, 5)) == (None, 3)
    layer.build((None, 5))
    randomize(layer)
    assert_close(layer(x), dnn(layer, x.astype("float64"), function))


@pytest.mark.parametrize("units", [(), [], None])
def test_no_units_is_the_identity(units):
    layer, x = DNN(units, l2_reg=1.0, dropout=0.5, use_bn=True, seed=1), draw(6, 5)
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(x, training=True)), x)
    assert layer.weights == []
    assert layer.compute_output_shape((None, 5)) == (None, 5)


def test_normalisation_comes_before_the_activation():
    layer, x = DNN([4], use_bn=True), draw(6, 5)
    layer.build((None, 5))
    randomize(layer)
    z = x.astype("float64") @ weight(layer, "dense_0/kernel") + weight(layer, "dense_0/bias")
    gamma, beta = weight(layer, "bn_0/gamma"), weight(layer, "bn_0/beta")

    def normalised(mean, variance):
        return relu(gamma * (z - mean) / np.sqrt(variance + 1e-3) + beta)

    mean, variance = weight(layer, "moving_mean"), weight(layer, "moving_variance")
    assert_close(layer(x, training=False), normalised(mean, variance))
    assert_close(layer(x, training=True), normalised(z.mean(axis=0), z.var(axis=0)))
    assert_close(weight(layer, "moving_mean"), 0.99 * mean + 0.01 * z.mean(axis=0))


def test_dropout_comes_after_the_activation_and_in_training_only():
    layer, x = DNN([2000], activation="sigmoid", dropout=0.25, seed=3), draw(1, 4)
    full = f64(layer(x))
    assert_close(layer(x, training=False), full)
    assert full.min() > 0
    dropped = f64(layer(x, training=True))
    # Dropped before the sigmoid they would be 1/2 instead of 0.
    kept = dropped != 0
    assert 0.2 < 1 - kept.mean() < 0.3
    np.testing.assert_allclose(dropped[kept], full[kept] / 0.75, rtol=1e-5)


def test_l2_penalises_the_kernels_alone():
    layer = DNN([4, 3], l2_reg=0.01)
    layer.build((None, 5))
    randomize(layer)
    squares = sum((weight(layer, f"dense_{i}/kernel") ** 2).sum() for i in (0, 1))
    assert total(layer.losses) == pytest.approx(0.01 * squares, rel=1e-5)
    assert not DNN([4], l2_reg=0).losses


def kernels(seed):
    layer = DNN([5, 5, 5], seed=seed)
    layer.build((None, 5))
    return [weight(layer, f"dense_{i}/kernel") for i in range(3)]


def test_seed_tells_the_weights_and_differs_by_layer():
    first, again, other = kernels(7), kernels(7), kernels(8)
    np.testing.assert_array_equal(first, again)
    assert len({kernel.tobytes() for kernel in [*first, *other]}) == 6
    assert not np.allclose(kernels(None), kernels(None))


def test_dropout_masks_differ_by_layer():
    layer = DNN([500, 500], activation="linear", dropout=0.5, seed=2)
    layer.build((None, 500))
    layer.set_weights(
        [w if "seed" in v.path else np.eye(500) if w.ndim == 2 else np.ones(500) * 9
         for v, w in zip(layer.weights, layer.get_weights(), strict=True)]
    )  # fmt: skip
    # 1 → 10 → 0 or 20 → 9 or 29 → 0 or twice that: equal masks would never give 18.
    values = set(f64(layer(np.ones((1, 500), "float32"), training=True)).ravel())
    assert values == {0.0, 18.0, 58.0}


@pytest.mark.parametrize(
    "arguments",
    [
        {"units": []},
        {"units": [4, np.int64(3)], "activation": keras.activations.gelu, "l2_reg": 0.1},
        {"units": (4, 3), "dropout": 0.3, "use_bn": True, "seed": np.int32(5), "name": "bottom"},
    ],
)
def test_config_makes_the_same_layer(arguments):
    layer, x = DNN(**arguments), draw(6, 5)
    output = layer(x)
    twin = copy_of(layer, x)
    assert twin.get_config() == layer.get_config()
    assert_close(twin(x), f64(output))


def test_mixed_precision_computes_in_half():
    layer = DNN([4, 3], use_bn=True, dropout=0.1, dtype="mixed_float16")
    output = layer(draw(6, 5), training=True)
    assert keras.backend.standardize_dtype(output.dtype) == "float16"
    assert {v.dtype for v in layer.trainable_weights} == {"float32"}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"units": 8}, TypeError, "`units` should be a list"),
        ({"units": [0]}, ValueError, r"`units\[0\]` should be a positive integer. Received: 0"),
        ({"l2_reg": -1}, ValueError, "`l2_reg` should be a non-negative number. Received: -1"),
        ({"dropout": 1}, ValueError, r"`dropout` should be a number in \[0, 1\). Received: 1"),
        ({"activation": "rellu"}, ValueError, "`activation` .* Received: 'rellu'"),
        ({"seed": -1}, ValueError, "`seed` should be a non-negative integer or None"),
    ],
)
def test_invalid_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        DNN(**arguments)
