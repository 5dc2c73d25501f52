"""grow: the same model for larger vocabularies, as new ids come every day."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

from mtl import devices
from mtl.features import DenseFeat, check_columns, columns_to_json, sparse_part
from mtl.layers import FeatureEncoder
from mtl.layers.tables import LARGE_VOCABULARY
from mtl.training.model import MultiTaskModel


def grow(model: MultiTaskModel, feature_columns: Iterable[Any]) -> MultiTaskModel:
    """Return a model with larger embedding tables, which knows all that the model knows.

    Every weight is copied, and, if the model is compiled, the state of its optimizer and balancer.
    The row of a new id starts as the unknown row of its feature, which served it so far, without
    momentum: predictions of old and new ids are those of the model, and old ids train on as in it.
    (What else a model made of a vocabulary's size stays, as the number of STAR's scenarios.)

    Args:
        model: a model of `mtl.models`, which stays as it is.
        feature_columns: list of its feature columns, of which some have larger vocabularies, such
            as `encoder.feature_columns` after `TableEncoder.extend`.

    Raises:
        TypeError: an entry is no feature column.
        ValueError: other features than the model's, a smaller vocabulary, or one that grows over a
            million, from where on it has a table of its own.
    """
    sizes = _sizes(model, feature_columns)

    def clone(layer: Any) -> Any:
        if not isinstance(layer, FeatureEncoder):
            return type(layer).from_config(layer.get_config())
        columns = [_resized(column, sizes) for column in layer.feature_columns]
        return FeatureEncoder.from_config(
            {**layer.get_config(), "feature_columns": columns_to_json(columns)}
        )

    other: MultiTaskModel = keras.models.clone_model(model, clone_function=clone)
    moves = _moves(model, other)
    if model.compiled:
        other.compile_from_config(model.get_compile_config())
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
    for old, new in _pairs(model, other):
        with model.between_steps:
            before = devices.whole(old)
        values = np.array(devices.whole(new))
        if before.shape == values.shape:
            values = before
        elif (path := _table_of(old, moves)) is not None:
            _copy_rows(before, values, moves[path], old.path == path)
        devices.put(new, values)
    return other


def _sizes(model: MultiTaskModel, feature_columns: Iterable[Any]) -> dict[str, int]:
    """Return the new vocabulary size of each embedded feature."""
    given = {column.name: column for column in check_columns(feature_columns)}
    sizes = {}
    for column in model.feature_columns:
        if column.name not in given:
            raise ValueError(
                "`feature_columns` should hold every feature of the model. "
                f"Received: none of the name {column.name!r}"
            )
        if isinstance(column, DenseFeat):
            continue
        before = sparse_part(column).vocabulary_size
        sizes[column.name] = sparse_part(given[column.name]).vocabulary_size
        if sizes[column.name] < before:
            raise ValueError(
                f"`feature_columns` should have a vocabulary of at least {before} for "
                f"{column.name!r}, as the model has. Received: {sizes[column.name]}"
            )
    return sizes


def _resized(column: Any, sizes: dict[str, int]) -> Any:
    if isinstance(column, DenseFeat):
        return column
    size = {"vocabulary_size": sizes[column.name]}
    if column is sparse_part(column):
        return column._replace(**size)
    return column._replace(sparsefeat=column.sparsefeat._replace(**size))


def _pairs(model: MultiTaskModel, other: MultiTaskModel) -> Iterator[tuple[Any, Any]]:
    """Yield each variable of a model, and the one of the other that takes its place."""
    for layer in model.layers:
        twin = other.get_layer(layer.name)
        yield from zip(layer.variables, twin.variables, strict=True)
    if model.compiled:
        yield from zip(model.optimizer.variables, other.optimizer.variables, strict=True)
    if model.balancer is not None:
        yield from zip(model.balancer.variables, other.balancer.variables, strict=True)


# By path of a table: runs of rows, from where to where and how many; and the new ids' rows and
# the unknown row that they start as.
_Moves = dict[str, tuple[list[tuple[int, int, int]], list[tuple[slice, int]]]]


def _moves(model: MultiTaskModel, other: MultiTaskModel) -> _Moves:
    moves: _Moves = {}
    for encoder in model.encoders:
        twin = other.get_layer(encoder.name)
        if [table.names for table, _ in encoder.tables] != [t.names for t, _ in twin.tables]:
            raise ValueError(
                "`feature_columns` should have no vocabulary that grows over "
                f"{LARGE_VOCABULARY:,}, which has a table of its own. Received: "
                f"{[table.names for table, _ in twin.tables]}, each a table"
            )
        for (old, weight), (new, _) in zip(encoder.tables, twin.tables, strict=True):
            runs, fresh = [], []
            for name, part in old.slices.items():
                grown = new.slices[name]
                runs.append((part.offset, grown.offset, part.size))
                # That of the first feature, where several share an embedding.
                first = next(
                    i for i, c in enumerate(new.columns) if sparse_part(c).embedding_name == name
                )
                rows = slice(grown.offset + part.size, grown.offset + grown.size)
                fresh.append((rows, new.vocabulary + first))
            runs.append((old.vocabulary, new.vocabulary, len(old.columns)))
            moves[weight.path] = runs, fresh
    return moves


def _table_of(variable: Any, moves: _Moves) -> str | None:
    """Return the table that a variable is, or holds the optimizer's state of."""
    if variable.path in moves:
        return str(variable.path)
    # As Keras names them; what has another name, as who speaks for a row, is of one step alone.
    names = [path for path in moves if path.replace("/", "_") in variable.path]
    return str(max(names, key=len)) if names else None


def _copy_rows(old: np.ndarray, new: np.ndarray, moves: Any, is_table: bool) -> None:
    runs, fresh = moves
    for start, to, size in runs:
        new[to : to + size] = old[start : start + size]
    for rows, unknown in fresh if is_table else ():
        new[rows] = new[unknown]
