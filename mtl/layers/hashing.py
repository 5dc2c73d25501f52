"""Hashing of raw ids into a vocabulary, in the graph."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


def hash_ids(ids: Any, buckets: int, padding: bool) -> Any:
    """Hash ids into `[1, buckets)`; id 0 is kept for padding.

    A sequence and a single feature that share an embedding so give an item the same row.
    Integers are mixed by the finalizer of MurmurHash3 (the same buckets on every backend);
    strings, on TensorFlow only, by `tf.strings.to_hash_bucket_fast`.

    Args:
        ids: integer or string tensor.
        buckets: int. Vocabulary size.
        padding: bool. Whether 0 means padding, as in sequences, and stays 0. In strings `""`
            and, as in DeepCTR, `"0"` do.

    Returns:
        An int32 tensor of the shape of `ids`.
    """
    used = max(buckets - 1, 1)
    if keras.backend.standardize_dtype(ids.dtype) == "string":
        import tensorflow as tf

        hashed = tf.cast(tf.strings.to_hash_bucket_fast(ids, used), "int32") + 1
        empty = tf.logical_or(tf.equal(ids, ""), tf.equal(ids, "0"))
    else:
        hashed = ops.mod(_mix(to_int32(ids)), used) + 1
        empty = ops.equal(ids, 0)
    return ops.where(empty, ops.zeros_like(hashed), hashed) if padding else hashed


def to_int32(ids: Any) -> Any:
    """Return integer ids as int32; the high half of a larger id is folded into the low one."""
    low = ops.cast(ids, "int32")
    if keras.backend.standardize_dtype(ids.dtype) != "int64":
        return low
    fits = ops.equal(ops.cast(low, "int64"), ids)
    high = ops.cast(ops.right_shift(ids, 32), "int32")
    return ops.where(fits, low, ops.bitwise_xor(low, high))


def _mix(x: Any) -> Any:
    """Return the MurmurHash3 finalizer of int32 values, without its sign bit."""
    x = ops.bitwise_xor(x, _shift(x, 16))
    x = x * -2048144789  # 0x85ebca6b
    x = ops.bitwise_xor(x, _shift(x, 13))
    x = x * -1028477387  # 0xc2b2ae35
    x = ops.bitwise_xor(x, _shift(x, 16))
    return ops.bitwise_and(x, 0x7FFFFFFF)


def _shift(x: Any, bits: int) -> Any:
    """Shift right without sign extension."""
    return ops.bitwise_and(ops.right_shift(x, bits), (1 << (32 - bits)) - 1)
