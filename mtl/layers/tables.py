"""Where each feature's embedding lives: a few large tables instead of one per feature."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import keras
import numpy as np
from keras import ops

from mtl import devices, shards
from mtl.context import held
from mtl.features import DenseFeat, VarLenSparseFeat, sparse_part
from mtl.seeds import derive_seed, draw, reseed

# A vocabulary above this stands alone, so that it can be placed or sharded by itself.
LARGE_VOCABULARY = 1_000_000
_BLOCK = 2**16  # rows that are drawn together


@dataclass
class Slice:
    """The rows of one embedding in its table."""

    embedding_name: str
    offset: int
    size: int
    initializer: Any


@dataclass
class Table:
    """One embedding table: the slices of its embeddings, then one unknown row per feature."""

    dim: int
    trainable: bool
    slices: dict[str, Slice] = field(default_factory=dict)
    columns: list[Any] = field(default_factory=list)

    @property
    def vocabulary(self) -> int:
        """Number of rows that ids can name; the unknown rows come after them."""
        return sum(part.size for part in self.slices.values())

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the table."""
        return (self.vocabulary + len(self.columns), self.dim)

    @cached_property
    def names(self) -> list[str]:
        """Names of the features that read this table."""
        return [column.name for column in self.columns]

    @cached_property
    def spans(self) -> list[tuple[int, int]]:
        """Where each feature stands among the ids that are looked up together."""
        stops = np.cumsum([_length(column) for column in self.columns]).tolist()
        return list(zip([0, *stops[:-1]], stops, strict=True))

    @property
    def width(self) -> int:
        """Number of positions that are looked up together."""
        return int(self.spans[-1][1])

    @cached_property
    def sizes(self) -> np.ndarray:
        """Vocabulary size at each looked-up position."""
        return self._by_position([self._slice(column).size for column in self.columns])

    @cached_property
    def offsets(self) -> np.ndarray:
        """First row of the embedding at each looked-up position."""
        return self._by_position([self._slice(column).offset for column in self.columns])

    @cached_property
    def unknown_rows(self) -> np.ndarray:
        """Row that ids outside [0, vocabulary_size) read, at each looked-up position."""
        return self._by_position([self.vocabulary + i for i in range(len(self.columns))])

    def _slice(self, column: Any) -> Slice:
        return self.slices[sparse_part(column).embedding_name]

    def _by_position(self, values: list[int]) -> np.ndarray:
        return np.repeat(values, [_length(column) for column in self.columns]).astype("int32")

    def add(self, column: Any) -> None:
        """Place a feature; features with one embedding name share a slice."""
        sparse = sparse_part(column)
        if sparse.embedding_name not in self.slices:
            self.slices[sparse.embedding_name] = Slice(
                sparse.embedding_name,
                self.vocabulary,
                sparse.vocabulary_size,
                sparse.embeddings_initializer,
            )
        self.columns.append(column)

    def draw_rows(self, seed: int | None, start: int, stop: int) -> np.ndarray:
        """Return the initial rows from start to stop, the same whoever draws them.

        Each slice has its own initializer, and draws from its own seed. Unknown rows start at zero:
        they say nothing until they are trained.
        """
        rows = np.zeros((stop - start, self.dim), "float32")
        for part in self.slices.values():
            first, last = max(start, part.offset), min(stop, part.offset + part.size)
            if first < last:
                initializer = reseed(part.initializer, derive_seed(seed, part.embedding_name))
                rows[first - start : last - start] = _drawn(
                    initializer, (part.size, self.dim), first - part.offset, last - part.offset
                )
        return rows


class TableInitializer(keras.initializers.Initializer):
    """Draws a table on the host; of a shared out one, each process those rows that it holds.

    Args:
        table: the table.
        seed: int or None. Its seed.
    """

    def __init__(self, table: Table, seed: int | None) -> None:
        self._table, self._seed = table, seed

    def __call__(self, shape: tuple[int, int], dtype: Any = None, layout: Any = None) -> Any:
        """Return the initial rows.

        Args:
            shape: rows and columns.
            dtype: str or None.
            layout: `jax.sharding.NamedSharding` or None, which Keras gives on JAX.
        """
        if layout is None or layout.is_fully_replicated:
            return ops.convert_to_tensor(self._table.draw_rows(self._seed, 0, shape[0]), dtype)
        return devices.drawn_in_parts(
            shape,
            layout,
            lambda start, stop: self._table.draw_rows(self._seed, start, stop).astype(dtype),
        )


def _drawn(initializer: Any, shape: tuple[int, int], start: int, stop: int) -> np.ndarray:
    """Return some rows of what an initializer draws for a shape."""
    apart = isinstance(
        initializer,
        (
            keras.initializers.RandomNormal,
            keras.initializers.RandomUniform,
            keras.initializers.TruncatedNormal,
        ),
    )
    if not apart or shape[0] <= _BLOCK:  # others go by the shape
        return draw(initializer, shape)[start:stop]
    blocks = []
    for block in range(start // _BLOCK, -(-stop // _BLOCK)):
        first = block * _BLOCK
        size = min(_BLOCK, shape[0] - first)
        values = draw(reseed(initializer, derive_seed(initializer.seed, block)), (size, shape[1]))
        blocks.append(values[max(start - first, 0) : stop - first])
    return np.concatenate(blocks)


def _length(column: Any) -> int:
    return column.maxlen if isinstance(column, VarLenSparseFeat) else 1


def plan_tables(columns: Sequence[Any]) -> list[Table]:
    """Place every embedded feature into a table.

    One table per embedding size and trainability; vocabularies above a million rows stand alone.

    Args:
        columns: checked feature columns.

    Returns:
        A list of tables, in the order in which the columns need them.
    """
    tables: dict[Any, Table] = {}
    for column in columns:
        if isinstance(column, DenseFeat):
            continue
        sparse = sparse_part(column)
        alone = sparse.embedding_name if sparse.vocabulary_size > LARGE_VOCABULARY else None
        key = (sparse.embedding_dim, sparse.trainable, alone)
        tables.setdefault(key, Table(sparse.embedding_dim, sparse.trainable)).add(column)
    return list(tables.values())


# Inside `lookups_apart`: what is added to each table's lookups, and the rows looked up.
_apart: ContextVar[tuple[Mapping[int, Any], dict[int, Any]] | None] = ContextVar(
    "apart", default=None
)


@contextmanager
def lookups_apart(added: Mapping[int, Any]) -> Iterator[dict[int, Any]]:
    """Let `gather` add to what it looks up, so that this can be differentiated by itself.

    Args:
        added: dict from `id` of a table to a tensor of the lookups' shape.

    Yields:
        A dict from `id` of a table to the rows that were looked up, filled by `gather`.
    """
    rows: dict[int, Any] = {}
    with held(_apart, (added, rows)):
        yield rows


def gather(table: Any, rows: Any) -> Any:
    """Return `table[rows]` for rows known to be in range.

    On TensorFlow its gradient is dense, as on the other backends: of the sparse one, which holds a
    row as often as it was looked up, Keras' Adam would square each part by itself and take steps
    of up to √k times their size for a row that was looked up k times. An optimizer that sums the
    parts asks for the sparse one by setting `table.sparse_gradient`.

    Args:
        table: Keras variable of shape `(V, dim)`, made with `autocast=False`.
        rows: integer tensor.

    Returns:
        A tensor of shape `rows.shape + (dim,)`.
    """
    if keras.backend.backend() == "jax":
        if shards.is_shared(table, rows.shape[0]):
            looked_up = shards.look_up(table.value, rows)
        else:
            # ops.take would compare every row with the table's size once more.
            looked_up = table.value.at[rows].get(mode="promise_in_bounds")
        added, seen = _apart.get() or ({}, {})
        if id(table) not in added:
            return looked_up
        seen[id(table)] = rows
        return looked_up + added[id(table)]
    if keras.backend.backend() == "torch":
        return ops.take(table, rows, axis=0)
    import tensorflow as tf

    # On the variable itself: keras.ops.take would read the whole table first.
    variable = table.value
    if getattr(table, "sparse_gradient", False) or not table.trainable:
        return tf.gather(variable, rows)

    @tf.custom_gradient
    def lookup(rows: Any) -> Any:
        def gradient(upstream: Any, variables: Any = None) -> Any:
            flat = tf.reshape(upstream, (-1, table.shape[1]))
            dense = tf.math.unsorted_segment_sum(flat, tf.reshape(rows, [-1]), table.shape[0])
            return None, [dense]

        return tf.gather(variable, rows), gradient

    return lookup(rows)
