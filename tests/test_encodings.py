"""Encodings of numbers: bins, piecewise-linear parts, and the edges between bins."""

import keras
import numpy as np
import pytest

from mtl.encodings import Bins, PiecewiseLinear, quantile_edges
from mtl.features import DenseFeat, SparseFeat
from mtl.layers import FeatureEncoder
from mtl.models import MMoE


def code(encoding, values):
    column = np.asarray(values, "float32").reshape(-1, 1)
    return keras.ops.convert_to_numpy(encoding(keras.ops.convert_to_tensor(column)))


def test_bins_by_hand():
    encoding = Bins([0, 2.5])
    assert encoding.output_dim == 4
    expected = [[-1, 1, 0, 0], [0, 0, 1, 0], [2, 0, 1, 0], [2.5, 0, 0, 1], [9, 0, 0, 1]]
    np.testing.assert_array_equal(code(encoding, [-1, 0, 2, 2.5, 9]), expected)
    alone = Bins([0, 2.5], keep_value=False)
    np.testing.assert_array_equal(code(alone, [-1, 9]), [[1, 0, 0], [0, 0, 1]])
    np.testing.assert_array_equal(code(Bins([]), [3]), [[3, 1]])


def test_piecewise_linear_by_hand():
    encoding = PiecewiseLinear([0, 1, 3, 4])
    assert encoding.output_dim == 3
    expected = [
        [-0.5, 0, 0],  # before the first edge the first line goes on
        [0, 0, 0],
        [0.25, 0, 0],
        [1, 0, 0],
        [1, 0.5, 0],
        [1, 1, 0.5],
        [1, 1, 3],  # and after the last edge the last one
    ]
    np.testing.assert_allclose(code(encoding, [-0.5, 0, 0.25, 1, 2, 3.5, 6]), expected)
    np.testing.assert_allclose(code(PiecewiseLinear([1, 3]), [-1, 2, 5]), [[-1], [0.5], [2]])


def test_a_linear_function_of_the_code_gives_the_value_back():
    edges = [-2, -1.5, 0, 7]
    values = np.linspace(-4, 9, 40)
    np.testing.assert_allclose(
        code(PiecewiseLinear(edges), values) @ np.diff(edges) + edges[0], values, atol=1e-5
    )


def test_edges_of_few_values_lie_midway():
    assert quantile_edges([3, 1, 1, 2], 32) == [1.5, 2.5]
    assert quantile_edges([7, 7], 32) == []
    assert quantile_edges([1, 2, 3], 1) == []


def test_bins_are_equally_full():
    values = np.random.default_rng(0).normal(size=10_000)
    edges = quantile_edges(values, 16)
    assert len(edges) == 15
    counts = np.bincount(np.searchsorted(edges, values, side="right"))
    assert counts.max() - counts.min() <= 16


@pytest.mark.parametrize("heavy", [0.0, 0.5, 1.0])
def test_a_heavy_value_has_a_bin_of_its_own_and_the_rest_share_the_others(heavy):
    rng = np.random.default_rng(0)
    values = np.concatenate([np.full(9_000, heavy), rng.uniform(size=1_000)])
    edges = quantile_edges(values, 11)
    assert 10 <= len(edges) + 1 <= 11
    bins = np.searchsorted(edges, values, side="right")
    own = np.searchsorted(edges, heavy, side="right")
    assert len(np.unique(values[bins == own])) == 1
    counts = np.bincount(np.delete(bins, np.flatnonzero(values == heavy)))
    assert counts[counts > 0].min() >= 50
    assert counts.max() <= 150


@pytest.mark.parametrize("least", [0.0, 0.02, 0.1, 0.3])
def test_no_bin_is_smaller_than_it_may_be(least):
    rng = np.random.default_rng(0)
    skewed = np.concatenate([np.zeros(9_000), rng.uniform(size=1_000)])
    two = np.repeat([0.0, 1.0], [500, 9_500])  # of which one fills no bin
    few = rng.integers(0, 12, 10_000) ** 2
    for values in (two, -two, skewed, 1 - skewed, few, rng.normal(size=10_000)):
        edges = quantile_edges(values, 16, min_share=least)
        counts = np.bincount(np.searchsorted(edges, values, side="right"))
        assert counts.min() >= max(least * 10_000, 1)
        assert len(counts) <= 16
    # What may be told apart still is.
    assert len(quantile_edges(skewed, 16, min_share=0.02)) >= 3
    assert len(quantile_edges(rng.normal(size=10_000), 16, min_share=0.1)) == 9


def test_a_least_share_leaves_bins_alone_that_are_larger():
    values = np.random.default_rng(0).exponential(size=10_000)
    assert quantile_edges(values, 8, min_share=0.1) == quantile_edges(values, 8)
    for kind in (Bins, PiecewiseLinear):
        assert kind.fit(values, 8, min_share=0.4).edges == kind.fit(values, 2).edges
    with pytest.raises(ValueError, match=r"`min_share` should be .*\[0, 1\).*Received: 1"):
        quantile_edges(values, 8, min_share=1)


def test_edges_increase_where_neighbours_have_no_midpoint():
    low = np.float32(1)
    high = np.nextafter(low, np.float32(2))
    edges = quantile_edges([low, high, 2], 8)
    assert edges[0] == high
    assert len(PiecewiseLinear.fit([low, high], 8).edges) == 2
    np.testing.assert_array_equal(
        code(Bins(edges[:1], keep_value=False), [low, high]), [[1, 0], [0, 1]]
    )


def test_fit_covers_the_values():
    values = np.random.default_rng(1).exponential(size=1_000).astype("float32")
    encoding = PiecewiseLinear.fit(values, 8)
    assert (encoding.edges[0], encoding.edges[-1]) == (values.min(), values.max())
    assert encoding.output_dim == 8
    codes = code(encoding, values)
    assert codes.min() >= 0
    assert codes.max() <= 1
    assert Bins.fit(values, 8).output_dim == 9
    assert code(PiecewiseLinear.fit([5, 5], 4), [5, 6]).tolist() == [[0], [pytest.approx(0.2)]]


@pytest.mark.parametrize("encoding", [Bins([0, 1], keep_value=False), PiecewiseLinear([0, 1, 2])])
def test_config_round_trip(encoding):
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(encoding))
    assert type(copy) is type(encoding)
    assert copy.get_config() == encoding.get_config()


def test_with_embeddings_a_bin_is_a_row_of_the_kernel():
    columns = [
        SparseFeat("city", 5, 3),
        DenseFeat("age", transform_fn=Bins([30, 50], keep_value=False)),
        DenseFeat("income"),
    ]
    encoder = FeatureEncoder(columns, dense_embedding_dim=2, seed=0)
    x = {
        "city": np.array([[0], [1], [4]]),
        "age": np.array([[20.0], [40.0], [60.0]], "float32"),
        "income": np.array([[1.0], [2.0], [3.0]], "float32"),
    }
    encoded = keras.ops.convert_to_numpy(encoder(x))
    kernel = next(w.numpy() for w in encoder.weights if w.path.endswith("dense_kernel"))
    assert kernel.shape == (4, 2)
    np.testing.assert_allclose(encoded[:, 3:5], kernel[:3], rtol=1e-6)
    np.testing.assert_allclose(encoded[:, 5:], x["income"] * kernel[3], rtol=1e-6)
    assert encoder.compute_output_shape({n: v.shape for n, v in x.items()}) == (3, 7)


@pytest.mark.parametrize("dim", [None, 3])
def test_a_model_with_encodings_trains_saves_and_loads(tmp_path, dim):
    rng = np.random.default_rng(0)
    x = {"age": rng.uniform(18, 80, 256).astype("float32"), "city": rng.integers(0, 5, 256)}
    y = (np.abs(x["age"] - 45) < 10).astype("float32")
    columns = [
        SparseFeat("city", 5, 3),
        DenseFeat("age", transform_fn=PiecewiseLinear.fit(x["age"], 8)),
    ]
    model = MMoE(
        columns, task_names=["a", "b"], expert_dnn_units=(16,), dense_embedding_dim=dim, seed=1
    )
    # XLA takes seconds to compile on TensorFlow.
    options = {"jit_compile": False} if keras.backend.backend() == "tensorflow" else {}
    model.compile(keras.optimizers.Adam(0.05), metrics="default", **options)
    model.fit(x, [y, 1 - y], epochs=15, batch_size=64, verbose=0)
    logs = model.evaluate(x, [y, 1 - y], verbose=0, return_dict=True)
    assert logs["a_AUC"] > 0.95  # no monotone function of the age does
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for before, after in zip(model.predict(x), loaded.predict(x), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Bins("ab"), TypeError, "`edges` should be a list of numbers. Received: 'ab'"),
        (lambda: Bins([1, "2"]), TypeError, "`edges` should be a list of numbers. Received: '2'"),
        (lambda: Bins([2, 1]), ValueError, "strictly increasing in float32. Received: "),
        (lambda: Bins([1, 1 + 1e-12]), ValueError, "strictly increasing in float32"),
        (lambda: Bins([0, np.inf]), ValueError, "`edges` should be finite"),
        (lambda: PiecewiseLinear([0]), ValueError, "at least 2 numbers. Received: .0"),
        (lambda: Bins.fit([], 3), ValueError, "`values` should hold at least one number"),
        (lambda: Bins.fit([1, np.nan], 3), ValueError, "Received: 2 numbers, 1 not finite"),
        (lambda: Bins.fit([1, 2], 0), ValueError, "`bins` should be a positive integer"),
        (
            lambda: FeatureEncoder([DenseFeat("v", 2, transform_fn=Bins([0]))]),
            ValueError,
            "`dimension` of feature 'v' should be 1, .* Received: 2",
        ),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()
