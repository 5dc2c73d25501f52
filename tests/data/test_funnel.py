import numpy as np
import pytest

from mtl.data import make_funnel
from mtl.features import get_feature_names


def merged(data):
    """Return all rows: x, click, click·conversion and the truth."""
    splits = [data.train, data.val, data.test]
    x = {name: np.concatenate([s[0][name] for s in splits]) for name in data.train[0]}
    y = [np.concatenate([s[1][task] for s in splits]) for task in range(2)]
    truth = {
        name: np.concatenate([data.truth[s][name] for s in ("train", "val", "test")])
        for name in ("ctr", "cvr", "ctcvr")
    }
    return x, y, truth


def logit(p):
    p = p.astype(np.float64)
    return np.log(p / (1 - p))


def conditional_rate(selection_bias):
    """Return the true mean pCVR of the clicked rows."""
    _, (click, _), truth = merged(make_funnel(selection_bias=selection_bias))
    return truth["cvr"][click == 1].mean(dtype=np.float64)


@pytest.fixture(scope="module")
def data():
    return make_funnel()


def test_shapes_and_types(data):
    assert [len(s[1][0]) for s in (data.train, data.val, data.test)] == [80_000, 10_000, 10_000]
    assert data.task_names == ["ctr", "ctcvr"]
    assert data.task_types == ["binary", "binary"]
    assert data.sample_weight is None
    x, y, truth = merged(data)
    assert get_feature_names(data.feature_columns) == list(x)
    for column in data.feature_columns[:4]:
        assert x[column.name].dtype == np.int32
        assert x[column.name].min() >= 0
        assert x[column.name].max() < column.vocabulary_size
        assert column.embedding_dim == 8
    floats = [x["user_activity"], x["item_price"], *y, *truth.values()]
    assert all(values.dtype == np.float32 and values.shape == (100_000,) for values in floats)


def test_labels_follow_the_truth(data):
    _, (click, conversion), truth = merged(data)
    assert set(click) == set(conversion) == {0, 1}
    assert np.all(conversion <= click)  # a funnel
    np.testing.assert_allclose(truth["ctcvr"], truth["ctr"] * truth["cvr"], rtol=1e-5)
    # Five standard errors of a mean of independent Bernoulli draws.
    for labels, p in ((click, truth["ctr"]), (conversion, truth["ctcvr"])):
        p = p.astype(np.float64)
        error = np.sqrt(np.sum(p * (1 - p))) / len(p)
        assert abs(labels.mean(dtype=np.float64) - p.mean()) < 5 * error
    # Calibrated not only on average: by decile of the truth too.
    for labels, p in ((click, truth["ctr"]), (conversion[click == 1], truth["cvr"][click == 1])):
        for part in np.array_split(np.argsort(p), 10):
            q = p[part].astype(np.float64)
            error = np.sqrt(np.sum(q * (1 - q))) / len(q)
            assert abs(labels[part].mean(dtype=np.float64) - q.mean()) < 5 * error


def test_rates_are_as_asked():
    _, _, truth = merged(make_funnel(click_rate=0.05, conversion_rate=0.3))
    np.testing.assert_allclose(truth["ctr"].mean(dtype=np.float64), 0.05, rtol=1e-5)
    np.testing.assert_allclose(truth["cvr"].mean(dtype=np.float64), 0.3, rtol=1e-5)


@pytest.mark.parametrize("bias", [-1, -0.3, 0, 0.5, 1])
def test_selection_bias_is_the_correlation_of_the_logits(bias):
    _, _, truth = merged(make_funnel(20_000, selection_bias=bias))
    correlation = np.corrcoef(logit(truth["ctr"]), logit(truth["cvr"]))[0, 1]
    np.testing.assert_allclose(correlation, bias, atol=1e-4)


def test_selection_bias_moves_the_clicked_rows_from_the_entire_space():
    rates = [conditional_rate(bias) for bias in (-0.5, 0, 0.5, 1)]
    assert rates == sorted(rates)
    np.testing.assert_allclose(rates[1], 0.1, rtol=0.05)  # the default conversion_rate
    assert rates[0] < 0.07
    assert rates[2] > 0.13


def test_probabilities_are_functions_of_the_features(data):
    """Rows of one user and item differ by the dense features only, and smoothly."""
    x, _, truth = merged(data)
    assert logit(truth["ctr"]).std() == pytest.approx(1.5, rel=1e-3)
    pairs, group = np.unique(np.stack([x["user_id"], x["item_id"]]), axis=1, return_inverse=True)
    assert pairs.shape[1] < 100_000  # some pairs repeat
    for sparse, owner in (("user_segment", "user_id"), ("item_category", "item_id")):
        together = np.unique(np.stack([x[owner], x[sparse]]), axis=1)
        assert together.shape[1] == len(np.unique(x[owner]))
    # Linear in the two dense features within a pair: a regression explains all of it.
    count = np.bincount(group)

    def within(values):
        values = values.astype(np.float64)
        return (values - (np.bincount(group, values) / count)[group])[count[group] > 1]

    dense = np.stack([within(x["user_activity"]), within(x["item_price"])], axis=1)
    for name in ("ctr", "cvr"):
        target = within(logit(truth[name]))
        fit = dense @ np.linalg.lstsq(dense, target, rcond=None)[0]
        np.testing.assert_allclose(fit, target, atol=1e-2)


def test_seed():
    first, again, other = make_funnel(100), make_funnel(100), make_funnel(100, seed=1)
    np.testing.assert_array_equal(first.truth["train"]["cvr"], again.truth["train"]["cvr"])
    assert not np.array_equal(first.truth["train"]["cvr"], other.truth["train"]["cvr"])
    drawn = [make_funnel(100, seed=None).train[0]["user_id"] for _ in range(2)]
    assert not np.array_equal(*drawn)


def test_smallest():
    data = make_funnel(10, num_users=1, num_items=1, embedding_dim=1)
    assert [len(s[1][0]) for s in (data.train, data.val, data.test)] == [8, 1, 1]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_samples": 9}, ValueError, "`num_samples` should be at least 10, .* Received: 9"),
        ({"num_samples": 1e5}, TypeError, "`num_samples` should be a positive integer"),
        ({"num_users": 0}, ValueError, "`num_users` should be a positive integer. Received: 0"),
        ({"num_items": -1}, ValueError, "`num_items` should be a positive integer. Received: -1"),
        ({"click_rate": 0}, ValueError, r"`click_rate` should be a number in \(0, 1\)"),
        ({"click_rate": 1}, ValueError, "`click_rate` should be a number in .* Received: 1"),
        ({"conversion_rate": "x"}, TypeError, "`conversion_rate` should be a number"),
        ({"selection_bias": 1.1}, ValueError, r"`selection_bias` should be a number in \[-1, 1\]"),
        ({"selection_bias": None}, TypeError, "`selection_bias` .* Received: None"),
        ({"selection_bias": float("nan")}, ValueError, "`selection_bias` .* Received: nan"),
        ({"embedding_dim": 0}, ValueError, "`embedding_dim` should be a positive integer"),
        ({"seed": -1}, ValueError, "`seed` should be a non-negative integer or None"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        make_funnel(**arguments)
