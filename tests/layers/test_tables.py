import keras
import numpy as np
import pytest
from encoding import filled, ids, sequence
from numpy_layers import assert_close, f64

from mtl.features import DenseFeat, SparseFeat
from mtl.layers import FeatureEncoder, tables
from mtl.layers.tables import plan_tables


def built(columns, seed=1):
    encoder = FeatureEncoder(columns, seed=seed)
    encoder.build()
    return encoder


def test_one_table_per_size_and_trainability():
    columns = [
        SparseFeat("a", 4, 2),
        DenseFeat("d"),
        SparseFeat("b", 5, 3),
        sequence("c", 6, 2),
        SparseFeat("e", 7, 2, trainable=False),
        SparseFeat("f", 5, 3, embedding_name="b"),
    ]
    plan = plan_tables(columns)
    assert [table.names for table in plan] == [["a", "c"], ["b", "f"], ["e"]]
    # Rows of the embeddings, and an unknown row per feature.
    assert [table.shape for table in plan] == [(4 + 6 + 2, 2), (5 + 2, 3), (7 + 1, 2)]
    assert [table.trainable for table in plan] == [True, True, False]


def test_large_vocabularies_stand_alone(monkeypatch):
    monkeypatch.setattr(tables, "LARGE_VOCABULARY", 6)
    columns = [
        SparseFeat("a", 6, 2),
        SparseFeat("big", 7, 2),
        SparseFeat("b", 3, 2),
        SparseFeat("large", 9, 2),
        sequence("bigs", 7, 2, sparse={"embedding_name": "big"}, combiner="sum"),
    ]
    assert [table.names for table in plan_tables(columns)] == [
        ["a", "b"],
        ["big", "bigs"],
        ["large"],
    ]
    encoder = filled(columns)
    rows = encoder.embeddings
    x = {"a": ids(5), "big": ids(6), "b": ids(2), "large": ids(8), "bigs": ids([1, 1])}
    expected = [rows("a")[5], rows("big")[6], rows("b")[2], rows("large")[8], 2 * rows("big")[1]]
    assert_close(encoder(x), np.concatenate(expected)[None])


def test_the_limit_is_a_million_rows():
    columns = [SparseFeat("a", 1_000_000), SparseFeat("b", 1_000_001), SparseFeat("c", 2)]
    assert [table.names for table in plan_tables(columns)] == [["a", "c"], ["b"]]


def test_each_slice_keeps_its_own_initializer():
    initializers = keras.initializers
    columns = [
        SparseFeat("a", 3000, 2),
        SparseFeat("ones", 5, 2, embeddings_initializer=initializers.Constant(1.5)),
        SparseFeat("wide", 3000, 2, embeddings_initializer=initializers.RandomNormal(4, 0.5)),
        sequence("u", 3000, 2, sparse={"embeddings_initializer": initializers.RandomUniform(2, 3)}),
        SparseFeat("named", 5, 2, embeddings_initializer="ones"),
    ]
    encoder = built(columns)
    assert len(encoder.weights) == 1
    rows = encoder.embeddings
    # DeepCTR's default: a normal of standard deviation 0.0001.
    assert rows("a").std() == pytest.approx(1e-4, rel=0.05)
    np.testing.assert_array_equal(rows("ones"), np.full((5, 2), 1.5))
    np.testing.assert_array_equal(rows("named"), np.ones((5, 2)))
    assert rows("wide").mean() == pytest.approx(4, abs=0.05)
    assert rows("wide").std() == pytest.approx(0.5, rel=0.05)
    assert 2 <= rows("u").min() < 2.01 < 2.99 < rows("u").max() <= 3
    np.testing.assert_array_equal(f64(encoder.weights[0])[-5:], 0)


def test_embeddings_start_differently_though_their_initializers_are_equal():
    columns = [
        *[SparseFeat(name, 20, 2) for name in "ab"],
        SparseFeat("c", 20, 2, trainable=False),
        sequence("s", 20, 2),
    ]
    encoder = built(columns)
    starts = [encoder.embeddings(name) for name in "abcs"]
    for i in range(4):
        for j in range(i):
            assert abs(np.corrcoef(starts[i].ravel(), starts[j].ravel())[0, 1]) < 0.6
            assert not np.array_equal(starts[i], starts[j])


def test_seed_tells_the_embeddings():
    columns = [SparseFeat("a", 20, 2)]
    start = built(columns, seed=1).embeddings("a")
    np.testing.assert_array_equal(built(columns, seed=1).embeddings("a"), start)
    assert not np.array_equal(built(columns, seed=2).embeddings("a"), start)
    unseeded = [built(columns, seed=None).embeddings("a") for _ in range(2)]
    assert not np.array_equal(*unseeded)


def test_embeddings_are_a_copy_without_the_unknown_row():
    encoder = built([SparseFeat("a", 4, 2), SparseFeat("b", 5, 2)])
    rows = encoder.embeddings("b")
    assert rows.shape == (5, 2)
    rows[:] = 9
    assert not (encoder.embeddings("b") == 9).any()


def test_two_encoders_of_the_same_columns_share_nothing():
    columns = [SparseFeat("a", 4, 2)]
    one, other = built(columns), built(columns)
    one.weights[0].assign(np.ones((5, 2)))
    assert not (other.embeddings("a") == 1).any()
