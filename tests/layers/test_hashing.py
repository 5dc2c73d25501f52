import numpy as np
import pytest
from encoding import filled, ids, sequence
from keras import ops
from numpy_layers import BACKEND, assert_close

from mtl.features import SparseFeat
from mtl.layers.hashing import hash_ids

tensorflow_only = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="strings are hashed on TensorFlow only"
)
no_jax = pytest.mark.skipif(BACKEND == "jax", reason="JAX has no int64 unless told")

INTEGERS = [0, 1, 2, 3, 12345, 2**31 - 1, -1, -2, -(2**31)]


def fmix32(value):
    """The finalizer of MurmurHash3, as published: on unsigned integers of 32 bits."""
    h = value & 0xFFFFFFFF
    h ^= h >> 16
    h = h * 0x85EBCA6B & 0xFFFFFFFF
    h ^= h >> 13
    h = h * 0xC2B2AE35 & 0xFFFFFFFF
    return h ^ h >> 16


def bucket(value, buckets):
    return (fmix32(value) & 0x7FFFFFFF) % max(buckets - 1, 1) + 1


def hashed(values, buckets, padding=False, dtype="int32"):
    result = hash_ids(ops.convert_to_tensor(np.array(values, dtype)), buckets, padding)
    return ops.convert_to_numpy(result)


def test_the_reference_is_murmurs():
    # Published values of fmix32.
    assert [fmix32(1), fmix32(2)] == [0x514E28B7, 0x30F4C306]


def test_written_down_buckets():
    # They may never change, and are the same on every backend: trained rows hang on them.
    assert hashed([1, 2, 3, 12345, -1], 1000).tolist() == [170, 248, 600, 441, 498]


@pytest.mark.parametrize("buckets", [2, 3, 10, 1000, 2**31 - 1])
def test_buckets_are_murmurs_and_in_range(buckets):
    result = hashed(INTEGERS, buckets)
    assert result.dtype == np.int32
    assert result.tolist() == [bucket(value, buckets) for value in INTEGERS]
    assert ((result >= 1) & (result < buckets)).all()


@pytest.mark.parametrize("dtype", ["int8", "int16", "int64", "uint8", "uint16", "uint32"])
def test_the_integer_type_does_not_matter(dtype):
    if dtype == "int64" and BACKEND == "jax":
        pytest.skip("JAX has no int64 unless told")
    assert hashed([5, 100], 50, dtype=dtype).tolist() == [bucket(5, 50), bucket(100, 50)]


def test_large_unsigned_ids_keep_their_bits():
    values = [2**31, 2**31 + 5, 2**32 - 1]
    assert hashed(values, 1000, dtype="uint32").tolist() == [bucket(v, 1000) for v in values]


@no_jax
@pytest.mark.parametrize("value", [2**32, 2**32 + 7, 2**31, -(2**31) - 1, 2**62 + 5, 2**63 - 1])
def test_the_high_half_of_a_large_id_counts(value):
    folded = (value & 0xFFFFFFFF) ^ (value >> 32 & 0xFFFFFFFF)
    assert hashed([value], 1000, dtype="int64").tolist() == [bucket(folded, 1000)]


def test_buckets_are_filled_evenly():
    counts = np.bincount(hashed(np.arange(20_000), 101), minlength=101)
    assert counts[0] == 0
    assert counts[1:].min() > 130
    assert counts[1:].max() < 270


def test_0_is_padding_in_sequences_alone():
    assert hashed([0, 7], 10, padding=True).tolist() == [0, bucket(7, 10)]
    assert hashed([0, 7], 10, padding=False).tolist() == [bucket(0, 10), bucket(7, 10)]


@tensorflow_only
def test_strings():
    import tensorflow as tf

    words = tf.constant(["a", "", "0", "a", "點"])
    plain = tf.strings.to_hash_bucket_fast(words, 9).numpy() + 1
    assert hash_ids(words, 10, padding=False).numpy().tolist() == plain.tolist()
    expected = [plain[0], 0, 0, plain[0], plain[4]]
    assert hash_ids(words, 10, padding=True).numpy().tolist() == expected


def test_a_feature_and_a_sequence_give_an_item_the_same_row():
    shared = {"use_hash": True, "embedding_name": "item"}
    columns = [
        SparseFeat("item", 50, 2, **shared),
        sequence("items", 50, 3, sparse=shared, combiner="sum"),
    ]
    encoder = filled(columns)
    rows = encoder.embeddings("item")
    output = encoder({"item": ids(-77777, 0), "items": ids([-77777, 0, 0], [0, 4, 123456789])})
    expected = [
        [*rows[bucket(-77777, 50)], *rows[bucket(-77777, 50)]],
        [*rows[bucket(0, 50)], *(rows[bucket(4, 50)] + rows[bucket(123456789, 50)])],
    ]
    assert_close(output, expected)


@tensorflow_only
def test_a_sequence_of_strings_is_padded_with_empty_ones():
    import tensorflow as tf

    column = sequence("s", 50, 3, sparse={"use_hash": True, "dtype": "string"}, combiner="sum")
    encoder = filled([column])
    rows = encoder.embeddings("s")
    a, b = tf.strings.to_hash_bucket_fast(["a", "b"], 49).numpy() + 1
    output = encoder({"s": tf.constant([["a", "b", ""], ["", "", ""]])})
    assert_close(output, [rows[a] + rows[b], [0, 0]])


def test_a_vocabulary_of_one_is_finite():
    encoder = filled([SparseFeat("a", 1, 2, use_hash=True)])
    assert np.isfinite(ops.convert_to_numpy(encoder({"a": ids(3, 0)}))).all()
