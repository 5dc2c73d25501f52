"""FeatureEncoder: from named inputs to one vector."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from mtl import checks, devices
from mtl import rows as rows_of_batch
from mtl.features import (
    DenseFeat,
    SparseFeat,
    VarLenSparseFeat,
    check_columns,
    columns_from_json,
    columns_to_json,
    dense_width,
    sparse_part,
)
from mtl.layers.hashing import hash_ids
from mtl.layers.pooling import pool, sequence_mask
from mtl.layers.tables import Table, TableInitializer, gather, plan_tables
from mtl.seeds import derive_seed, glorot


def layout(columns: list[Any], dense_embedding_dim: int | None = None) -> dict[str, range]:
    """Return which columns of the encoded features x `(B, D)` each feature has.

    Args:
        columns: checked feature columns.
        dense_embedding_dim: int or None. As in `FeatureEncoder`.

    Returns:
        A dict from feature name to range, in the order of x.
    """
    ranges, start = {}, 0
    for kind in (SparseFeat, VarLenSparseFeat, DenseFeat):
        for column in (c for c in columns if isinstance(c, kind)):
            if kind is DenseFeat:
                width = dense_embedding_dim or dense_width(column)
            else:
                width = sparse_part(column).embedding_dim
            ranges[column.name] = range(start, start + width)
            start += width
    return ranges


@keras.saving.register_keras_serializable(package="mtl")
class FeatureEncoder(keras.layers.Layer):
    """Embeds, pools and concatenates named features into one vector x.

    The parts of x are: the embeddings of the `SparseFeat`s, the pooled embeddings of the
    `VarLenSparseFeat`s, the values of the `DenseFeat`s, each in column order.

    With `dense_embedding_dim`, each `DenseFeat` gives W v instead of its values v, with a learned
    W of its own: a number times a vector, as a category is a one-hot times a table. There is no
    bias: it would be the same for every row, as is the bias of the layer that reads x. With an
    encoding of `mtl.encodings` as `transform_fn`, v is the code of the number: with `Bins`, W v
    is the bin's embedding (and the number times a vector).

    Embeddings of one size live in one table and are read by one gather; vocabularies above a
    million rows have a table of their own. An id outside `[0, vocabulary_size)` reads the
    unknown row of its feature, on every backend. In sequences without `length_name`, id 0 is
    padding; an empty sequence gives zeros.

    Args:
        feature_columns: list of `SparseFeat`, `VarLenSparseFeat` and `DenseFeat`.
        l2_reg: float. L2 strength on the embeddings. It penalises the rows that a batch looked
            up, `l2_reg * Σ ‖row‖² / B`, not the whole table: the cost of a step doesn't grow
            with the vocabulary, and a row is penalised as often as it is trained. Defaults to 0.
        seed: int or None. Seed of the embeddings. Each embedding derives its own from it (and
            from its initializer's seed). Defaults to None.
        dense_embedding_dim: int or None. Size to which a linear map takes each `DenseFeat`.
            Defaults to None: the values as they are.
        **kwargs: `name`, `dtype`, `trainable` of the Keras layer.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: an invalid column (see `mtl.features`).

    Call arguments:
        inputs: dict from input name to tensor: ids `(B, 1)` or `(B, maxlen)`, lengths `(B, 1)`,
            weights `(B, maxlen, 1)`, dense values `(B, dimension)`.

    Returns:
        A tensor of shape `(B, D)`.

    References:
        - Song et al., AutoInt: Automatic Feature Interaction Learning via Self-Attentive Neural
          Networks, CIKM 2019, section 4.2, for the linear maps
    """

    def __init__(
        self,
        feature_columns: Iterable[Any],
        l2_reg: float = 0,
        seed: int | None = None,
        dense_embedding_dim: int | None = None,
        **kwargs: Any,
    ) -> None:
        # Raw dense values may be too large for half precision, until a `transform_fn` has scaled
        # them: the inputs stay as they are, and x is cast at the end.
        super().__init__(autocast=False, **kwargs)
        self.feature_columns = check_columns(feature_columns)
        self.l2_reg = checks.non_negative_float("l2_reg", l2_reg)
        self.seed = checks.seed("seed", seed)
        self.dense_embedding_dim = checks.positive_int_or_none(
            "dense_embedding_dim", dense_embedding_dim
        )
        self._sparse = [c for c in self.feature_columns if isinstance(c, SparseFeat)]
        self._sequences = [c for c in self.feature_columns if isinstance(c, VarLenSparseFeat)]
        self._dense = [c for c in self.feature_columns if isinstance(c, DenseFeat)]
        self._tables = plan_tables(self._sparse + self._sequences)
        self.supports_jit = not any(c.dtype == "string" for c in self.feature_columns)

    def build(self, input_shape: Any = None) -> None:
        """Create the embedding tables, and the linear maps of dense values."""
        self._weights = [
            self.add_weight(
                name=f"table_{i}",
                shape=(devices.padded(table.shape[0]), table.dim),
                initializer=TableInitializer(table, derive_seed(self.seed, i)),
                trainable=table.trainable,
                autocast=False,
            )
            for i, table in enumerate(self._tables)
        ]
        for table, weight in self.tables:
            weight.embedding_table = True  # for mtl.optimizers
            weight.real_rows = table.shape[0]
            weight.shared_out = devices.is_shared_out(weight)
        self._dense_kernel = None
        if self._dense and self.dense_embedding_dim:
            self._dense_kernel = self.add_weight(
                name="dense_kernel",
                shape=(sum(map(dense_width, self._dense)), self.dense_embedding_dim),
                initializer=self._initial_dense_kernel,
                autocast=False,
            )
        self.built = True

    def _initial_dense_kernel(self, shape: tuple[int, int], dtype: Any = None) -> Any:
        maps = [
            glorot(derive_seed(self.seed, "dense", c.name)).draw((dense_width(c), shape[1]))
            for c in self._dense
        ]
        return ops.convert_to_tensor(np.concatenate(maps), dtype)

    def shared_parts(self, tasks: Sequence[set[int]]) -> list[tuple[Any, np.ndarray | None]]:
        """Return the dense parameters that serve several tasks: none, for these are embeddings."""
        return []

    @property
    def tables(self) -> list[tuple[Table, Any]]:
        """The embedding tables: what each one holds, and its weights."""
        return list(zip(self._tables, self._weights, strict=True))

    def call(self, inputs: dict[str, Any]) -> Any:
        """Return the encoded features."""
        ids = {c.name: _ids(c, inputs[c.name]) for c in self._sparse + self._sequences}
        masks = {c.name: _mask(c, ids[c.name], inputs) for c in self._sequences}
        # By feature: its table's looked-up rows (B, n, dim), and where among them.
        spans: dict[str, tuple[Any, int, int]] = {}
        for table, weight in self.tables:
            rows = _rows(table, [ids[c.name] for c in table.columns])
            looked_up = gather(weight, rows)
            if self.l2_reg and table.trainable:
                self.add_loss(self.l2_reg * _mean_square(table, looked_up, masks))
            spans.update(
                zip(table.names, ((looked_up, *span) for span in table.spans), strict=True)
            )
        parts = [_flat_rows(run) for run in _runs([spans[c.name] for c in self._sparse])]
        for column in self._sequences:
            looked_up, start, stop = spans[column.name]
            weights = inputs[column.weight_name] if column.weight_name else None
            parts.append(
                pool(
                    looked_up[:, start:stop],
                    masks[column.name],
                    weights,
                    column.combiner,
                    column.weight_norm,
                )
            )
        values = [self._dense_value(column, inputs[column.name]) for column in self._dense]
        parts += values if self._dense_kernel is None else [self._project(values)]
        x = ops.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]
        return ops.cast(x, self.compute_dtype)

    def _dense_value(self, column: Any, value: Any) -> Any:
        if column.transform_fn is not None:
            value = column.transform_fn(value)
        return ops.cast(value, self.variable_dtype)

    def _project(self, values: list[Any]) -> Any:
        """Return every feature times its own rows of the kernel, `(B, n * dim)`, in one product."""
        v = ops.concatenate(values, axis=-1) if len(values) > 1 else values[0]
        kernel = ops.convert_to_tensor(self._dense_kernel)
        sizes, dim = [dense_width(c) for c in self._dense], kernel.shape[1]
        if max(sizes) == 1:
            return ops.reshape(ops.expand_dims(v, -1) * kernel, (-1, len(sizes) * dim))
        own = np.repeat(np.eye(len(sizes)), sizes, axis=0)[..., None]
        blocks = ops.expand_dims(kernel, 1) * ops.convert_to_tensor(own, self.variable_dtype)
        return ops.matmul(v, ops.reshape(blocks, (-1, len(sizes) * dim)))

    def embeddings(self, embedding_name: str) -> np.ndarray:
        """Return the rows of one embedding, e.g. to inspect or to index them.

        Args:
            embedding_name: str. A column's `embedding_name`, which is its name by default.

        Returns:
            An array of shape `(vocabulary_size, embedding_dim)`, without the unknown row.

        Raises:
            RuntimeError: the layer isn't built.
            ValueError: there is no such embedding.
        """
        if not self.built:
            raise RuntimeError(
                "`FeatureEncoder` should be built before its embeddings are read: call it first."
            )
        known = []
        for table, weight in self.tables:
            if embedding_name in table.slices:
                part = table.slices[embedding_name]
                return np.array(devices.whole(weight)[part.offset : part.offset + part.size])
            known += list(table.slices)
        raise ValueError(f"`embedding_name` should be one of {known}. Received: {embedding_name!r}")

    def get_weights(self) -> list[np.ndarray]:
        """Return the weights as arrays; tables that devices share are whole."""
        return [devices.whole(weight) for weight in self.weights]

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Set the weights to what `get_weights` gives."""
        for weight, values in zip(self.weights, weights, strict=True):
            devices.put(weight, values)

    def save_own_variables(self, store: Any) -> None:
        """Save the weights; files are the same for any number of devices."""
        for i, weight in enumerate(self.weights):
            store[str(i)] = devices.whole(weight)

    def load_own_variables(self, store: Any) -> None:
        """Restore the weights."""
        if len(store.keys()) != len(self.weights):
            super().load_own_variables(store)  # which raises
        for i, weight in enumerate(self.weights):
            devices.put(weight, store[str(i)])

    def compute_output_shape(self, input_shape: dict[str, Any]) -> tuple[int | None, int]:
        """Return `(B, D)`."""
        *_, last = layout(self.feature_columns, self.dense_embedding_dim).values()
        return (next(iter(input_shape.values()))[0], last.stop)

    def compute_output_spec(self, inputs: dict[str, Any]) -> Any:
        """Return the spec of x: tracing `call` would be slow, and read whole tables."""
        shapes = {name: value.shape for name, value in inputs.items()}
        return keras.KerasTensor(self.compute_output_shape(shapes), dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments; the columns as plain JSON."""
        return {
            **super().get_config(),
            "feature_columns": columns_to_json(self.feature_columns),
            "l2_reg": self.l2_reg,
            "seed": self.seed,
            "dense_embedding_dim": self.dense_embedding_dim,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> FeatureEncoder:
        """Return the layer that `get_config` described."""
        columns = columns_from_json(config["feature_columns"])
        return super().from_config({**config, "feature_columns": columns})  # type: ignore[no-any-return]


def _ids(column: Any, raw: Any) -> Any:
    """Return integer ids: hashed if the column says so, otherwise as they come."""
    if column.use_hash:
        sequence = isinstance(column, VarLenSparseFeat)
        return hash_ids(raw, column.vocabulary_size, padding=sequence)
    wide = keras.backend.standardize_dtype(raw.dtype) == "int64"
    return raw if wide else ops.cast(raw, "int32")


def _mask(column: Any, ids: Any, inputs: dict[str, Any]) -> Any:
    return sequence_mask(ids, inputs[column.length_name] if column.length_name else None)


def _rows(table: Table, ids: list[Any]) -> Any:
    """Return the table's rows (B, n) for the ids of all of its features side by side."""
    dtypes = {keras.backend.standardize_dtype(x.dtype) for x in ids}
    if len(dtypes) > 1:
        ids = [ops.cast(x, "int64") for x in ids]
    together = ops.concatenate(ids, axis=1) if len(ids) > 1 else ids[0]
    # Compared before they are narrowed: an id of 2**32 must not come out as 0.
    dtype = keras.backend.standardize_dtype(together.dtype)
    known = ops.logical_and(together >= 0, together < ops.convert_to_tensor(table.sizes, dtype))
    rows = ops.cast(together, "int32") + ops.convert_to_tensor(table.offsets)
    return ops.where(known, rows, ops.convert_to_tensor(table.unknown_rows))


def _mean_square(table: Table, looked_up: Any, masks: dict[str, Any]) -> Any:
    """Return Σ ‖row‖² / B over the rows that the batch looked up, padding left out."""
    squares = rows_of_batch.only_real(ops.square(looked_up))
    if any(column.name in masks for column in table.columns):
        valid = [
            masks[column.name] if column.name in masks else ops.ones_like(squares[:, :1, 0], "bool")
            for column in table.columns
        ]
        mask = ops.expand_dims(ops.concatenate(valid, axis=1), -1)
        squares = ops.where(mask, squares, ops.zeros_like(squares))
    batch = ops.cast(rows_of_batch.count(looked_up), squares.dtype)
    return ops.divide_no_nan(ops.sum(squares), batch)


def _runs(spans: list[tuple[Any, int, int]]) -> list[tuple[Any, int, int]]:
    """Join neighbours from the same lookup: one slice and reshape instead of one per feature."""
    joined: list[tuple[Any, int, int]] = []
    for looked_up, start, stop in spans:
        if joined and joined[-1][0] is looked_up and joined[-1][2] == start:
            joined[-1] = (looked_up, joined[-1][1], stop)
        else:
            joined.append((looked_up, start, stop))
    return joined


def _flat_rows(span: tuple[Any, int, int]) -> Any:
    looked_up, start, stop = span
    return ops.reshape(looked_up[:, start:stop], (-1, (stop - start) * looked_up.shape[2]))
