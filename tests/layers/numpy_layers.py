"""The equations of the layers in numpy, in float64, on the weights of a layer."""

import json

import keras
import numpy as np
from keras import ops

BACKEND = keras.backend.backend()


def f64(tensor):
    return np.asarray(ops.convert_to_numpy(tensor)).astype("float64")


def total(losses):
    return sum(f64(loss) for loss in losses)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def randomize(layer, seed=0):
    """Give every weight a value of its own: biases start at zero, which hides what they do."""
    rng = np.random.default_rng(seed)
    for weight in layer.weights:
        if "seed_generator" in weight.path:
            continue
        value = rng.normal(size=weight.shape)
        weight.assign(np.abs(value) + 0.1 if "variance" in weight.path else value)
    return layer


def weight(layer, suffix):
    """Return the one weight whose path ends with `suffix`."""
    (found,) = [w for w in layer.weights if w.path.endswith(suffix)]
    return f64(found)


def relu(x):
    return np.maximum(x, 0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    exp = np.exp(x - x.max(axis=-1, keepdims=True))
    return exp / exp.sum(axis=-1, keepdims=True)


def dnn(layer, x, activation=relu):
    """DNN without normalisation and dropout."""
    for i in range(len(layer.units)):
        x = activation(x @ weight(layer, f"dense_{i}/kernel") + weight(layer, f"dense_{i}/bias"))
    return x


def experts(layer, inputs, activation=relu):
    """Each expert on the input of its own: (B, E, H)."""
    outputs = []
    for e, x in enumerate(inputs):
        for i in range(len(layer.units)):
            x = activation(x @ weight(layer, f"kernel_{i}")[e] + weight(layer, f"bias_{i}")[e])
        outputs.append(x)
    return np.stack(outputs, axis=1)


def gate(layer, x):
    return softmax(dnn(layer.dnn, x) @ weight(layer, "logits/kernel") / layer.temperature)


def assert_close(actual, expected, atol=1e-5):
    assert tuple(actual.shape) == tuple(np.shape(expected))
    np.testing.assert_allclose(f64(actual), expected, rtol=1e-5, atol=atol)


def copy_of(layer, *inputs):
    """Return a layer made from the config, through JSON as in a saved file, with the weights."""
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    twin = keras.saving.deserialize_keras_object(config)
    assert twin is not layer
    assert type(twin) is type(layer)
    twin(*inputs)
    twin.set_weights(layer.get_weights())
    return twin
