"""The maps of the calibrators, from probabilities to probabilities."""

import numpy as np
import pytest
from numpy_layers import assert_close, f64, sigmoid

from mtl.layers import Isotonic, Platt

P = np.array([0, 1e-30, 1e-9, 0.001, 0.3, 0.5, 0.7, 0.999, 1 - 2.0**-24, 1], "float32")[:, None]


def fitted(layer, *weights):
    layer.build((None, 1))
    layer.set_weights([np.array(w) for w in weights])
    return layer


def test_platt_follows_the_equation():
    p = f64(np.clip(P, 1e-30, 1 - 2.0**-24))
    for slope, intercept in ((1, 0), (0.4, -2), (2.5, 1), (-1, 0.5), (0, -1)):
        expected = sigmoid(slope * np.log(p / (1 - p)) + intercept)
        calibrated = fitted(Platt(), slope, intercept)(P)
        assert_close(calibrated, expected, atol=1e-7)
        assert np.isfinite(f64(calibrated)).all()


def test_isotonic_is_linear_between_its_points():
    x, y = [0.1, 0.3, 0.3125, 0.9], [0.05, 0.05, 0.5, 1.0]
    p = np.linspace(0, 1, 101, dtype="float32")[:, None]
    assert_close(fitted(Isotonic(4), x, y)(p), np.interp(p, x, y))
    assert_close(fitted(Isotonic(2), x[:2], y[1:3])(p), np.interp(p, x[:2], y[1:3]))
    exact = fitted(Isotonic(4), np.float32(x), np.float32(y))(np.float32(x)[:, None])
    np.testing.assert_array_equal(f64(exact)[:, 0], np.float32(y))


def test_isotonic_tells_neighbours_apart_wherever_they_lie():
    for start in (0, 1e-30, 1e-20, 0.25, 1 - 2.0**-23):
        x = np.maximum(np.float32(start), np.float32(1e-30))
        x = np.array([x, np.nextafter(x, np.float32(1))])
        np.testing.assert_array_equal(
            f64(fitted(Isotonic(2), x, [0.25, 0.75])(x[:, None])), [[0.25], [0.75]]
        )


@pytest.mark.parametrize("layer", [Platt(), Isotonic(2), Isotonic(50)])
def test_a_new_one_gives_back_what_it_gets(layer):
    np.testing.assert_allclose(f64(layer(P)), f64(P), rtol=1e-5, atol=1e-7)


def test_the_task():
    assert Platt(name="click").task.name == "click"
    task = Isotonic(2, "buy it", name="buy_it").task
    assert (task.name, task.type, task.output_name) == ("buy it", "binary", "buy_it")


def test_a_single_point_is_refused():
    with pytest.raises(ValueError, match=r"`num_points` should be at least 2.*Received: 1"):
        Isotonic(1)
    with pytest.raises(TypeError, match=r"`num_points`.*Received: 2\.5"):
        Isotonic(2.5)
