import numpy as np
import pytest

from mtl.data import make_related_regressions
from mtl.data.regressions import draw_weights


def estimated_cosine(data):
    """By Stein's lemma, least squares on Gaussian inputs finds the direction of each w."""
    x, y = data.train
    w = np.linalg.lstsq(x["x"].astype(np.float64), np.stack(y, axis=1), rcond=None)[0]
    w /= np.linalg.norm(w, axis=0)
    return float(w[:, 0] @ w[:, 1])


@pytest.mark.parametrize("cosine", [-1, -0.3, 0, 0.5, 1])
def test_weights(cosine):
    w = draw_weights(np.random.default_rng(0), 7, cosine, 2.0)
    assert w.shape == (7, 2)
    np.testing.assert_allclose(np.linalg.norm(w, axis=0), 2)
    np.testing.assert_allclose(w[:, 0] @ w[:, 1] / 4, cosine, atol=1e-12)


def test_shapes_and_types():
    data = make_related_regressions(1000, dim=5)
    assert [s[0]["x"].shape for s in (data.train, data.val, data.test)] == [
        (800, 5),
        (100, 5),
        (100, 5),
    ]
    assert data.task_names == ["task_1", "task_2"]
    assert data.task_types == ["regression", "regression"]
    assert [(c.name, c.dimension) for c in data.feature_columns] == [("x", 5)]
    arrays = [data.train[0]["x"], *data.train[1], *data.truth["train"].values()]
    assert {a.dtype for a in arrays} == {np.dtype("float32")}
    assert list(data.truth["val"]) == data.task_names


@pytest.mark.parametrize("cosine", [-0.8, 0, 0.5, 1])
def test_cosine_of_the_tasks(cosine):
    # With mild sines, so that the linear part can be estimated well.
    data = make_related_regressions(20_000, dim=10, cosine=cosine, alphas=[0.5], betas=[0.3])
    assert estimated_cosine(data) == pytest.approx(cosine, abs=0.02)


def test_correlation_of_the_labels_grows_with_the_cosine():
    correlations = [
        np.corrcoef(*make_related_regressions(20_000, dim=10, cosine=p).train[1])[0, 1]
        for p in (-1, 0, 0.5, 0.9, 1)
    ]
    assert correlations == sorted(correlations)
    assert abs(correlations[1]) < 0.05
    assert correlations[-1] > 0.99  # equal but for the noise


def test_targets_are_a_sum_of_sines():
    """One task's truth depends on x through one projection, by the paper's formula."""
    data = make_related_regressions(
        1000, dim=2, cosine=0, scale=3.0, alphas=[2, 5], betas=[0.1, 0.7], noise_variance=0
    )
    x, (y1, _) = data.train
    np.testing.assert_array_equal(y1, data.truth["train"]["task_1"])
    # The weights are the first thing that the generator draws.
    w = draw_weights(np.random.default_rng(0), 2, 0.0, 3.0)[:, 0]
    z = x["x"].astype(np.float64) @ w
    np.testing.assert_allclose(
        y1, z + np.sin(2 * z + 0.1) + np.sin(5 * z + 0.7), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("variance", [0.01, 1.0])
def test_noise(variance):
    data = make_related_regressions(20_000, dim=4, noise_variance=variance)
    noise = [y - t for y, t in zip(data.train[1], data.truth["train"].values(), strict=True)]
    for values in noise:
        assert values.var() == pytest.approx(variance, rel=0.06)
        assert values.mean() == pytest.approx(0, abs=5 * np.sqrt(variance / 16_000))
    assert abs(np.corrcoef(*noise)[0, 1]) < 0.05


def test_no_sines_is_linear():
    data = make_related_regressions(100, dim=3, alphas=[], betas=[], noise_variance=0)
    x, y = data.train
    residual = np.linalg.lstsq(x["x"].astype(np.float64), y[0], rcond=None)[1]
    assert residual[0] < 1e-8


def test_seed():
    first, again, other = (make_related_regressions(100, seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(first.train[1], again.train[1])
    assert not np.array_equal(first.train[1], other.train[1])
    drawn = [make_related_regressions(100, seed=None).train[1] for _ in range(2)]
    assert not np.array_equal(*drawn)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_samples": 5}, ValueError, "`num_samples` should be at least 10"),
        ({"dim": 1}, ValueError, "`dim` should be at least 2, .* Received: 1"),
        ({"dim": 2.0}, TypeError, "`dim` should be a positive integer. Received: 2.0"),
        ({"cosine": -1.5}, ValueError, r"`cosine` should be a number in \[-1, 1\]. Received: -1.5"),
        ({"cosine": True}, TypeError, r"`cosine` should be a number in \[-1, 1\]. Received: True"),
        ({"scale": 0}, ValueError, "`scale` should be a positive number. Received: 0"),
        ({"alphas": 1.0}, TypeError, "`alphas` should be a list of numbers. Received: 1.0"),
        ({"betas": ["a"] * 4}, TypeError, "`betas` should be a list of numbers. Received: 'a'"),
        ({"betas": [np.nan] * 4}, ValueError, "`betas` should hold finite numbers. Received: nan"),
        ({"alphas": [1]}, ValueError, "should have the same length. Received: 1 and 4 entries"),
        ({"noise_variance": -1}, ValueError, "`noise_variance` should be a non-negative number"),
        ({"seed": 1.5}, TypeError, "`seed` should be a non-negative integer or None"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        make_related_regressions(**arguments)
