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

from mtl.context import held
from mtl.features import DenseFeat, VarLenSparseFeat, sparse_part
from mtl.seeds import derive_seed, draw, reseed

# A vocabulary above this stands alone, so that it can be placed or sharded by itself.
LARGE_VOCABULARY = 1_000_000


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

    def initializer(self, seed: int | None) -> Any:
        """Return an initializer of the whole table: each slice by its own, from its own seed.

        Unknown rows start at zero: they say nothing until they are trained.
        """

        def initialize(shape: tuple[int, int], dtype: Any = None) -> Any:
            rows = np.zeros(shape, "float32")
            for part in self.slices.values():
                initializer = reseed(part.initializer, derive_seed(seed, part.embedding_name))
                rows[part.offset : part.offset + part.size] = draw(
                    initializer, (part.size, self.dim)
                )
            return ops.convert_to_tensor(rows, dtype)

        return initialize


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
