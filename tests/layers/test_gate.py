import keras
import numpy as np
import pytest
from keras import ops
from numpy_layers import assert_close, copy_of, draw, f64, gate, randomize, softmax, total, weight

from mtl.layers import Gate
from mtl.layers.gate import mix


def built(width=5, **arguments):
    layer = Gate(4, **arguments)
    layer.build((None, width))
    return randomize(layer)


def test_mix_by_hand():
    experts = np.array([[[1.0, 2.0], [10.0, 20.0], [100.0, 200.0]]], "float32")
    assert_close(mix(ops.array(experts), ops.array([[0.5, 0.25, 0.0]])), [[3.0, 6.0]])


def test_softmax_by_hand():
    layer = Gate(2)
    layer.build((None, 1))
    layer.set_weights([np.log([[3.0, 1.0]])])
    assert_close(layer(np.array([[1.0], [0.0], [2.0]])), [[0.75, 0.25], [0.5, 0.5], [0.9, 0.1]])


@pytest.mark.parametrize("units", [None, (), [4, 3]])
@pytest.mark.parametrize("temperature", [1, 0.3])
def test_dnn_then_softmax(units, temperature):
    layer, x = built(units=units, temperature=temperature), draw(6, 5)
    weights = layer(x)
    assert layer.compute_output_shape((None, 5)) == (None, 4)
    assert_close(weights, gate(layer, x.astype("float64")))
    assert_close(ops.sum(weights, axis=-1), np.ones(6))
    assert (f64(weights) > 0).all()


@pytest.mark.parametrize("units", [None, [3]])
def test_the_softmax_layer_has_no_bias(units):
    layer = built(units=units)
    assert [w.path.split("/")[-1] for w in layer.logits.weights] == ["kernel"]
    assert len(layer.weights) == (3 if units else 1)


def test_temperature_sharpens_and_flattens():
    layer, x = built(temperature=1e-3), draw(6, 5)
    logits = x.astype("float64") @ weight(layer, "logits/kernel")
    assert_close(layer(x), np.eye(4)[logits.argmax(axis=1)], atol=1e-3)
    flat = built(temperature=1e6)
    assert_close(flat(x), np.full((6, 4), 0.25), atol=1e-4)


def test_low_temperature_is_finite_in_half_precision():
    layer = built(temperature=1e-5, dtype="mixed_float16")
    x = draw(60, 5)
    weights = f64(layer(x))
    assert np.isfinite(weights).all()
    np.testing.assert_allclose(weights.max(axis=1), 1, atol=1e-2)


def test_seed_tells_the_weights():
    def kernels(seed):
        layer = Gate(5, [5], seed=seed)
        layer.build((None, 5))
        return [weight(layer, "dense_0/kernel"), weight(layer, "logits/kernel")]

    np.testing.assert_array_equal(kernels(3), kernels(3))
    assert len({kernel.tobytes() for seed in (3, 4) for kernel in kernels(seed)}) == 4


def test_dnn_takes_the_layers_arguments():
    layer, x = (
        built(units=[4], l2_reg=0.01, dropout=0.5, use_bn=True, activation="tanh"),
        draw(6, 5),
    )
    squares = (weight(layer, "dense_0/kernel") ** 2).sum()
    assert total(layer.losses) == pytest.approx(0.01 * squares, rel=1e-5)
    z = x.astype("float64") @ weight(layer, "dense_0/kernel") + weight(layer, "dense_0/bias")
    z = (z - weight(layer, "moving_mean")) / np.sqrt(weight(layer, "moving_variance") + 1e-3)
    h = np.tanh(weight(layer, "gamma") * z + weight(layer, "beta"))
    assert_close(layer(x), softmax(h @ weight(layer, "logits/kernel")))
    assert not np.allclose(f64(layer(x, training=True)), f64(layer(x)))


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_experts": np.int64(3)},
        {"num_experts": 2, "units": [4], "temperature": 0.5, "activation": "gelu", "seed": 1},
        {"num_experts": 2, "units": [4], "dropout": 0.1, "use_bn": True, "l2_reg": 0.2},
    ],
)
def test_config_makes_the_same_layer(arguments):
    layer, x = Gate(**arguments), draw(6, 5)
    output = layer(x)
    twin = copy_of(layer, x)
    assert twin.get_config() == layer.get_config()
    assert_close(twin(x), f64(output))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_experts": 0}, ValueError, "`num_experts` should be a positive integer"),
        ({"num_experts": 2, "temperature": 0}, ValueError, "`temperature` .* Received: 0"),
        ({"num_experts": 2, "temperature": "1"}, TypeError, "`temperature` .* Received: '1'"),
        ({"num_experts": 2, "units": 5}, TypeError, "`units` should be a list"),
        ({"num_experts": 2, "units": [4], "dropout": 2}, ValueError, "`dropout`"),
    ],
)
def test_invalid_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        Gate(**arguments)


def test_gate_and_mixture_in_half_precision():
    layer = Gate(3, dtype="mixed_float16")
    z = mix(ops.ones((6, 3, 4), "float16"), layer(draw(6, 5)))
    assert keras.backend.standardize_dtype(z.dtype) == "float16"


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="about JAX")
@pytest.mark.parametrize("experts", [1, 3, 16, 17])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_mixture_on_jax_has_the_values_and_gradients_of_the_product(experts, dtype):
    import jax

    rng = np.random.default_rng(0)
    e = jax.numpy.asarray(rng.normal(size=(5, experts, 4)), dtype)
    g = jax.numpy.asarray(rng.random(size=(5, experts)), dtype)

    def product(e, g):
        return jax.numpy.einsum("beh,be->bh", e, g)

    tolerance = 1e-6 if dtype == "float32" else 0.05
    np.testing.assert_allclose(mix(e, g), product(e, g), tolerance, tolerance)
    got, expected = (
        jax.grad(lambda e, g, f=f: jax.numpy.sin(f(e, g)).sum(), (0, 1))(e, g)
        for f in (mix, product)
    )
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, tolerance, tolerance)
