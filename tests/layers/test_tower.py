import json

import keras
import numpy as np
import pytest
from grads import gradients
from keras import ops
from numpy_layers import (
    assert_close,
    copy_of,
    dnn,
    draw,
    f64,
    randomize,
    sigmoid,
    softmax,
    total,
    weight,
)

from mtl.layers import Tower
from mtl.layers.logit_sum import LogitSum


def lifetime_value(z):
    p, mu, sigma = sigmoid(z[:, :1]), z[:, 1:2], np.log1p(np.exp(z[:, 2:])) + 3e-4
    return np.concatenate([p * np.exp(mu + sigma**2 / 2), p, mu, sigma], axis=1)


HEADS = [
    ("binary", 1, sigmoid),
    ("regression", 1, lambda z: z),
    ("multiclass", 3, softmax),
    ("multilabel", 4, sigmoid),
    ("lifetime_value", 4, lifetime_value),
]


@pytest.mark.parametrize(("task_type", "size", "head"), HEADS)
@pytest.mark.parametrize("units", [(), [4, 3]])
def test_prediction_of_each_task_type(task_type, size, head, units):
    layer, x = Tower(units, task_type, size), draw(6, 5)
    layer.build((None, 5))
    randomize(layer)
    h = dnn(layer.dnn, x.astype("float64"))
    logits = h @ weight(layer, "logits/kernel") + weight(layer, "logits/bias")
    assert_close(layer(x), head(logits))
    assert layer.compute_output_shape((None, 5)) == (None, size)


def test_binary_by_hand():
    layer = Tower()
    layer.build((None, 2))
    layer.set_weights([np.array([[1.0], [-2.0]]), np.array([0.5])])
    # 3 - 2 + 0.5 = 1.5
    assert_close(layer(ops.array([[3.0, 1.0]])), [[1 / (1 + np.exp(-1.5))]])


@pytest.mark.parametrize(("task_type", "size", "_head"), HEADS)
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_predictions_are_float32_under_mixed_precision(task_type, size, _head, policy):
    layer, x = Tower([4], task_type, size, seed=0, dtype=policy), draw(6, 5)
    assert layer(keras.Input((5,))).dtype == "float32"
    output = layer(x)
    assert keras.backend.standardize_dtype(output.dtype) == "float32"
    assert keras.backend.standardize_dtype(layer.dnn(x).dtype) == policy.removeprefix("mixed_")
    full = Tower([4], task_type, size)
    full.build((None, 5))
    full.set_weights(layer.get_weights())
    assert_close(output, f64(full(x)), atol=0.03)


def test_sigmoid_is_taken_in_float32():
    layer = Tower(dtype="mixed_float16")
    layer.build((None, 1))
    layer.set_weights([np.array([[-12.0]]), np.array([0.0])])
    # float16 would hold it with two digits.
    assert_close(layer(np.ones((1, 1), "float32")), [[sigmoid(-12.0)]], atol=1e-9)


@pytest.mark.parametrize("make", [Tower, LogitSum])
@pytest.mark.parametrize(
    ("task", "loss", "logits", "label"),
    [
        (("binary", 1), "binary_crossentropy", [-40.0], [1.0]),
        (("binary", 1), "binary_crossentropy", [40.0], [0.0]),
        (("multilabel", 3), "binary_crossentropy", [-40.0, 40.0, 0.5], [1.0, 0.0, 1.0]),
        (("multiclass", 3), "categorical_crossentropy", [-30.0, 5.0, 4.0], [1.0, 0.0, 0.0]),
        (("multiclass", 3), "sparse_categorical_crossentropy", [-30.0, 5.0, 4.0], [0]),
    ],
)
def test_a_prediction_that_is_surely_wrong_has_the_gradient_of_its_logits(
    make, task, loss, logits, label
):
    given = keras.Variable([logits])
    layer = make(task_type=task[0], num_outputs=task[1])
    if make is Tower:  # which gives back what it gets
        layer.build((None, len(logits)))
        layer.set_weights([np.eye(len(logits)), np.zeros(len(logits))])
    of = keras.losses.get(loss)

    def value():
        inputs = ops.convert_to_tensor(given)
        prediction = layer(inputs if make is Tower else [inputs], training=True)
        return ops.sum(of(ops.convert_to_tensor([label]), prediction))

    z = np.array(logits)
    sigmoids = task[0] != "multiclass"
    y = np.eye(len(logits))[label[0]] if loss.startswith("sparse") else np.array(label)
    expected = (sigmoid(z) - y) / len(logits) if sigmoids else softmax(z) - y
    (gradient,) = gradients(value, [given])
    assert_close(gradient[0], expected, atol=1e-6)


def test_only_while_it_trains_a_prediction_is_kept_off_the_ends():
    layer = LogitSum()
    z = np.array([[-40.0], [-15.5], [-14.5], [3.0], [20.0]], "float32")
    assert_close(layer([z]), sigmoid(f64(z)), atol=0)
    assert_close(layer([z], training=True), sigmoid(np.clip(f64(z), -15, 15)), atol=0)


@pytest.mark.parametrize("name", ["task 1", "点击", "_x/y"])
def test_a_task_keeps_its_own_name(name):
    assert Tower(task_name=name, name="tower_1").task.name == name
    assert Tower(name="tower_1").task.name == "tower_1"


def test_dnn_takes_the_layers_arguments():
    layer = Tower([4], l2_reg=0.01, dropout=0.5, use_bn=True, activation="tanh", seed=4)
    x = draw(6, 5)
    layer.build((None, 5))
    randomize(layer)
    # The head is not penalised, as in DeepCTR.
    squares = (weight(layer, "dense_0/kernel") ** 2).sum()
    assert total(layer.losses) == pytest.approx(0.01 * squares, rel=1e-5)
    z = x.astype("float64") @ weight(layer, "dense_0/kernel") + weight(layer, "dense_0/bias")
    z = (z - weight(layer, "moving_mean")) / np.sqrt(weight(layer, "moving_variance") + 1e-3)
    h = np.tanh(weight(layer, "gamma") * z + weight(layer, "beta"))
    assert_close(
        layer(x), sigmoid(h @ weight(layer, "logits/kernel") + weight(layer, "logits/bias"))
    )
    assert not np.allclose(f64(layer(x, training=True)), f64(layer(x)))


def test_seed_tells_the_weights():
    def kernels(seed):
        layer = Tower([4], "multiclass", 4, seed=seed)
        layer.build((None, 4))
        return [weight(layer, "dense_0/kernel"), weight(layer, "logits/kernel")]

    np.testing.assert_array_equal(kernels(3), kernels(3))
    assert len({kernel.tobytes() for seed in (3, 4) for kernel in kernels(seed)}) == 4


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"units": [4], "task_type": "regression", "task_name": "预测 1", "activation": "gelu"},
        {"units": (4, 3), "task_type": "multilabel", "num_outputs": np.int64(3), "seed": 2},
        {"units": [4], "use_bn": True, "dropout": 0.2, "l2_reg": 0.1, "name": "tower_ctr"},
    ],
)
def test_config_makes_the_same_layer(arguments):
    layer, x = Tower(**arguments), draw(6, 5)
    output = layer(x)
    twin = copy_of(layer, x)
    assert twin.get_config() == layer.get_config()
    assert twin.task == layer.task
    assert json.dumps(layer.get_config()["num_outputs"])
    assert_close(twin(x), f64(output))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"task_type": "rank"}, ValueError, "`task_types` should hold .* Received: 'rank'"),
        ({"task_type": "multiclass"}, ValueError, "at least 2 classes or labels"),
        ({"num_outputs": 2}, ValueError, "'binary' takes no size. Received: 2"),
        ({"task_name": ""}, ValueError, "non-empty strings. Received: ''"),
        ({"units": [0]}, ValueError, r"`units\[0\]`"),
        ({"units": [3], "dropout": 1.0}, ValueError, "`dropout`"),
        ({"seed": "1"}, TypeError, "`seed`"),
    ],
)
def test_invalid_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        Tower(**arguments)
