import keras
import numpy as np
import pytest
from keras import ops
from numpy_layers import assert_close, draw, f64

from mtl.features import DenseFeat, SparseFeat
from mtl.layers import Scaling
from mtl.models import STEM, SharedBottom


def test_columns_are_as_they_were_at_first_and_scaled_then():
    layer, x = Scaling(rate=4.0, skip=2), draw(6, 5)
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(x)), x)
    layer.set_weights([np.array([0.5, -0.25, 0])])
    assert_close(layer(x), f64(x) * [1, 1, 3, 0, 1])


def test_adam_moves_a_scale_by_the_rate_times_its_step():
    layer = Scaling(rate=5.0)
    model = keras.Sequential([keras.Input((2,)), layer])
    model.compile(keras.optimizers.Adam(0.01, epsilon=0), "mean_absolute_error")
    # Whatever the size of a gradient, Adam's first step is the learning rate.
    x = np.array([[1.0, 100.0]], "float32")
    model.fit(x, x - [[5, 500]], epochs=1, verbose=0)
    assert_close(model(x), [[1 - 0.05, 100 * (1 - 0.05)]])


def test_models_scale_numbers_and_no_embeddings():
    columns = [DenseFeat("age", 3), SparseFeat("user", 5, 4), DenseFeat("size")]
    model = SharedBottom(columns, num_tasks=2, dense_scaling=6.0, embedding_dropout=0.1)
    layer = model.get_layer("embedding_scaling")
    assert (layer.rate, layer.skip, layer.scale.shape) == (6, 4, (4,))
    assert any(variable is layer.scale for variable in model.shared_variables)
    own = STEM(columns, num_tasks=2, dense_scaling=6.0)
    assert sum(isinstance(layer, Scaling) for layer in own.layers) == 3
    without_numbers = SharedBottom(columns[1:2], num_tasks=2, dense_scaling=6.0)
    for none in (without_numbers, SharedBottom(columns, num_tasks=2)):
        assert not any(isinstance(layer, Scaling) for layer in none.layers)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"rate": 0}, ValueError, "`rate` should be a positive number. Received: 0"),
        ({"rate": "6"}, TypeError, "`rate`.*Received: '6'"),
        ({"skip": -1}, ValueError, "`skip` should be a non-negative integer. Received: -1"),
        ({"skip": 5}, ValueError, "`skip` should be less than the 5 columns. Received: 5"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        Scaling(**arguments)(draw(6, 5))
