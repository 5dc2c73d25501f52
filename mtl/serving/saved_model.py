"""A SavedModel that takes raw rows: the encoder as TensorFlow's operations, with its tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mtl.data.hashes import KEY
from mtl.serving.export import serving_model, serving_signature
from mtl.serving.raw import RawInput, encode

_ENDPOINTS = ("serve", "serving_default")
_OF_IDS = "serve_ids"


def export_saved_model(
    path: Path,
    model: Any,
    columns: Mapping[str, Any],
    inputs: Sequence[RawInput],
    description: Mapping[str, Any],
) -> None:
    """Write a SavedModel whose signature "serving_default" takes raw columns.

    Another one, "serve_ids", takes what the encoder makes of them, as that of `model.export`.

    Args:
        path: Path. The folder.
        model: a model of `mtl.models`.
        columns: dict from name to fitted column.
        inputs: list of `RawInput`.
        description: dict. What the file should tell of itself, in "assets.extra/mtl.json".
    """
    import tensorflow as tf

    archive = keras.export.ExportArchive()
    of_ids = archive.track_and_add_endpoint(_OF_IDS, serving_model(model), serving_signature(model))
    ops = TensorFlowOps()

    def serve(raw: dict[str, Any]) -> Any:
        encoded: dict[str, Any] = {}
        for one in inputs:
            encoded |= encode(columns[one.column], raw[one.name], one.missing, ops)
        return of_ids(
            {
                name: tf.reshape(tf.cast(encoded[name], spec.dtype), (-1, *spec.shape[1:]))
                for name, spec in model.input.items()
            }
        )

    specs = {one.name: tf.TensorSpec([None] * one.rank, one.dtype, name=one.name) for one in inputs}
    served = tf.function(serve, input_signature=[specs], autograph=False)
    # Tables are made by the trace; `write_out` of older Keras keeps those of its own layers alone.
    saved = tf.Module()
    saved.weights = list(served.get_concrete_function().variables)
    saved.tables = list(ops.tables.values())
    endpoints = {_OF_IDS: of_ids, **dict.fromkeys(_ENDPOINTS, served)}
    for name, endpoint in endpoints.items():
        setattr(saved, name, endpoint)
    tf.saved_model.save(saved, str(path), signatures=endpoints)
    extra = path / "assets.extra"  # which servers leave alone
    extra.mkdir()
    content = json.dumps(description, ensure_ascii=False)
    (extra / "mtl.json").write_text(content, encoding="utf-8")


class TensorFlowOps:
    """See `mtl.serving.raw.Ops`.

    Attributes:
        tables: dict of the `tf.lookup.StaticHashTable`s that were looked up in, by their entries.
    """

    def __init__(self) -> None:
        import tensorflow as tf

        self._tf = tf
        self.tables: dict[Any, Any] = {}

    def dtype(self, x: Any) -> str:
        """Return the type of a tensor."""
        return str(x.dtype.name)

    def cast(self, x: Any, dtype: str) -> Any:
        """Return a tensor as another type."""
        return self._tf.cast(x, dtype)

    def equal(self, x: Any, value: Any) -> Any:
        """Return where a tensor equals one value; None stands for NaN."""
        return self._tf.math.is_nan(x) if value is None else self._tf.equal(x, value)

    def where(self, condition: Any, x: Any, y: Any) -> Any:
        """Return x where the condition holds, and y elsewhere; one of the two may be a value."""
        dtype = (x if self._tf.is_tensor(x) else y).dtype
        # Without a type, a number of Python would be one of 32 bits.
        both = [self._tf.convert_to_tensor(value, dtype) for value in (x, y)]
        return self._tf.where(condition, *both)

    def signed_log(self, x: Any) -> Any:
        """Return sign(x) · log(1 + |x|)."""
        return self._tf.sign(x) * self._tf.math.log1p(self._tf.abs(x))

    def look_up(self, x: Any, table: Mapping[Any, int]) -> Any:
        """Return the int64 entries of a table, 0 for what it doesn't hold."""
        tf = self._tf
        keys = np.array(list(table), object if self.dtype(x) == "string" else self.dtype(x))
        if self.dtype(x) == "float64":
            # Tables have no keys of floats: their bits are looked up, of 0 and -0 the same.
            x = tf.bitcast(tf.where(tf.equal(x, 0), tf.zeros_like(x), x), tf.int64)
            keys = (keys + 0.0).view(np.int64)
        # Columns that share a vocabulary share its table, and so do several traces of one graph.
        known = (self.dtype(x), *table.items())
        if known not in self.tables:
            with tf.init_scope():
                ids = tf.constant(list(table.values()), tf.int64)
                entries = tf.lookup.KeyValueTensorInitializer(tf.constant(keys), ids)
                self.tables[known] = tf.lookup.StaticHashTable(entries, default_value=0)
        return self.tables[known].lookup(x)

    def hashed(self, x: Any, buckets: int) -> Any:
        """Return the int64 bucket of each text, or of each integer's text."""
        key = np.frombuffer(KEY.encode(), "<u8").tolist()
        texts = x if self.dtype(x) == "string" else self._tf.strings.as_string(x)
        return self._tf.strings.to_hash_bucket_strong(texts, buckets, key)

    def split(self, x: Any, separator: str) -> Any:
        """Return the parts of N texts as `(N, L)` texts, padded with "" at the end."""
        return self._tf.strings.split(x, separator).to_tensor("")

    def running(self, x: Any) -> Any:
        """Return the sums of the `(N, L)` integers up to each place of their row."""
        return self._tf.cumsum(x, axis=1)

    def total(self, x: Any) -> Any:
        """Return the `(N, 1)` sums of the rows."""
        return self._tf.reduce_sum(x, axis=1, keepdims=True)

    def placed(self, x: Any, places: Any, size: int) -> Any:
        """Return `(N, size)` integers: those of x at their places, unless `size` is one; else 0."""
        tf = self._tf
        rows = tf.shape(x, tf.int64)[0]
        row = tf.broadcast_to(tf.range(rows)[:, None], tf.shape(x))
        kept = places < size
        where = tf.boolean_mask(tf.stack([row, places], axis=-1), kept)
        return tf.scatter_nd(where, tf.boolean_mask(x, kept), tf.stack([rows, size]))
