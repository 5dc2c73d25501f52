"""Feature columns: what the inputs of a model are.

The three column classes take the arguments of DeepCTR's. Columns made by DeepCTR itself work
wherever ours do: they are converted when they are checked.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import keras
import numpy as np

from mtl import checks
from mtl.columns import DenseFeat, SparseFeat, VarLenSparseFeat, own
from mtl.encodings import Encoding
from mtl.seeds import Given

__all__ = ["DenseFeat", "SparseFeat", "VarLenSparseFeat", "get_feature_names"]

_COMBINERS = ("sum", "mean", "max")
_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32")


class Input(NamedTuple):
    """One named input of a model: its shape without the batch axis, and its dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: str


def get_feature_names(feature_columns: Iterable[Any]) -> list[str]:
    """Return the names of the inputs that the columns need, in DeepCTR's order.

    Args:
        feature_columns: iterable of feature columns.

    Returns:
        A list of str: each column's name, followed by its weight and length inputs if any.

    Raises:
        TypeError: an entry is no feature column.
        ValueError: a column is invalid, or names clash.
    """
    return [spec.name for spec in model_inputs(check_columns(feature_columns))]


def model_inputs(columns: Iterable[Any]) -> list[Input]:
    """Return the inputs of checked columns; sequences may share their length or weight input."""
    inputs: dict[str, Input] = {}
    for column in columns:
        dense = isinstance(column, DenseFeat)
        dtype = _number_dtype(column.dtype) if dense else _id_dtype(column.dtype)
        inputs[column.name] = Input(column.name, (_width(column),), dtype)
        if isinstance(column, VarLenSparseFeat):
            if column.weight_name is not None:
                inputs[column.weight_name] = Input(
                    column.weight_name, (column.maxlen, 1), "float32"
                )
            if column.length_name is not None:
                inputs[column.length_name] = Input(column.length_name, (1,), "int32")
    return list(inputs.values())


def check_columns(feature_columns: Any) -> list[Any]:
    """Validate feature columns and return them as ours, with plain Python values.

    DeepCTR's columns become ours, numpy integers become ints, and dtypes given as objects
    (`tf.int32`, `np.int64`) strings.

    Args:
        feature_columns: iterable of `SparseFeat`, `VarLenSparseFeat` and `DenseFeat`, ours or
            DeepCTR's.

    Returns:
        A list of feature columns.

    Raises:
        TypeError: no iterable of feature columns, or a field of a wrong type.
        ValueError: no columns, clashing names, a vocabulary or dimension below 1, an unknown
            combiner, or two features that share an embedding of different sizes.
    """
    if isinstance(feature_columns, (str, bytes)) or not isinstance(feature_columns, Iterable):
        raise TypeError(
            f"`dnn_feature_columns` should be a list of feature columns. "
            f"Received: {feature_columns!r}"
        )
    if isinstance(single := own(feature_columns), (SparseFeat, VarLenSparseFeat, DenseFeat)):
        raise TypeError(
            "`dnn_feature_columns` should be a list of feature columns. "
            f"Received: the single column {single.name!r}"
        )
    columns = [_check_column(column) for column in feature_columns]
    if not columns:
        raise ValueError("`dnn_feature_columns` should hold at least one column. Received: none.")
    _check_names(columns)
    _check_shared_embeddings(columns)
    return columns


def columns_to_json(columns: Iterable[Any]) -> list[dict[str, Any]]:
    """Return feature columns as plain JSON-compatible dicts (see `columns_from_json`)."""
    return [_to_json(column) for column in check_columns(columns)]


def columns_from_json(configs: Iterable[dict[str, Any]]) -> list[Any]:
    """Return the feature columns that `columns_to_json` described."""
    return check_columns([_from_json(config) for config in configs])


def sparse_part(column: Any) -> Any:
    """Return the `SparseFeat` of an embedded column: itself, or a sequence's inner one."""
    return column.sparsefeat if isinstance(column, VarLenSparseFeat) else column


def dense_width(column: Any) -> int:
    """Return how many numbers a `DenseFeat` gives: its `transform_fn` may make more of it."""
    encoding = column.transform_fn
    return encoding.output_dim if isinstance(encoding, Encoding) else int(column.dimension)


def _width(column: Any) -> int:
    """Return how many values of a feature a row holds."""
    if isinstance(column, DenseFeat):
        return column.dimension
    return column.maxlen if isinstance(column, VarLenSparseFeat) else 1


def _id_dtype(dtype: str) -> str:
    if dtype == "string":
        return dtype
    # An id that a narrow type can't hold would come out of the cast as another one.
    wide = "int64" if dtype in ("int64", "uint32") else "int32"
    # JAX runs without 64-bit types unless told otherwise, and warns at each one that it meets.
    return "int32" if keras.backend.backend() == "jax" else wide


def _number_dtype(dtype: str) -> str:
    return "float32" if dtype in _INTEGERS else dtype  # which would wrap, and cut off fractions


def _check_column(column: Any) -> Any:
    column = own(column)
    if isinstance(column, SparseFeat):
        return _check_sparse(column)
    if isinstance(column, VarLenSparseFeat):
        return _check_varlen(column)
    if isinstance(column, DenseFeat):
        return _check_dense(column)
    raise TypeError(
        "`dnn_feature_columns` should hold SparseFeat, VarLenSparseFeat and DenseFeat. "
        f"Received: {column!r} of type {type(column).__name__}"
    )


def _check_sparse(column: Any) -> Any:
    name = _check_name(column.name)
    dtype = _dtype(name, column.dtype)
    if dtype != "string" and dtype not in _INTEGERS:
        raise ValueError(
            f"`dtype` of feature {name!r} should be an integer type or 'string'. Received: {dtype}"
        )
    if dtype == "string" and not column.use_hash:
        raise ValueError(
            f"`use_hash` of feature {name!r} should be True for dtype 'string' (or map the strings "
            "to integer ids first, e.g. with mtl.data.TableEncoder). Received: False"
        )
    if dtype == "string" and keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"`dtype` of feature {name!r} should be an integer type: strings are hashed on the "
            f"TensorFlow backend only. Received: 'string' on {keras.backend.backend()}"
        )
    if column.vocabulary_path is not None:
        raise ValueError(
            f"`vocabulary_path` of feature {name!r} should be None: map the values to ids first, "
            f"e.g. with mtl.data.TableEncoder. Received: {column.vocabulary_path!r}"
        )
    vocabulary = checks.positive_int(f"vocabulary_size of {name}", column.vocabulary_size)
    return column._replace(
        vocabulary_size=vocabulary,
        embedding_dim=checks.positive_int(f"embedding_dim of {name}", column.embedding_dim),
        use_hash=bool(column.use_hash),
        dtype=dtype,
        embeddings_initializer=_initializer(name, column.embeddings_initializer),
        trainable=bool(column.trainable),
    )


def _check_varlen(column: Any) -> Any:
    if not isinstance(column.sparsefeat, SparseFeat):
        raise TypeError(
            f"`sparsefeat` of VarLenSparseFeat should be a SparseFeat. "
            f"Received: {column.sparsefeat!r}"
        )
    if column.combiner not in _COMBINERS:
        raise ValueError(
            f"`combiner` of feature {column.name!r} should be one of {_COMBINERS}. "
            f"Received: {column.combiner!r}"
        )
    for field in ("length_name", "weight_name"):
        if getattr(column, field) is not None:
            _check_name(getattr(column, field))
    return column._replace(
        sparsefeat=_check_sparse(column.sparsefeat),
        maxlen=checks.positive_int(f"maxlen of {column.name}", column.maxlen),
        weight_norm=bool(column.weight_norm),
    )


def _check_dense(column: Any) -> Any:
    name = _check_name(column.name)
    if column.transform_fn is not None and not callable(column.transform_fn):
        raise TypeError(
            f"`transform_fn` of feature {name!r} should be a function or None. "
            f"Received: {column.transform_fn!r}"
        )
    dtype = _dtype(name, column.dtype)
    if dtype == "string":
        raise ValueError(f"`dtype` of feature {name!r} should be numeric. Received: 'string'")
    dimension = checks.positive_int(f"dimension of {name}", column.dimension)
    if isinstance(column.transform_fn, Encoding) and dimension != 1:
        raise ValueError(
            f"`dimension` of feature {name!r} should be 1, for its `transform_fn` encodes one "
            f"number. Received: {dimension}"
        )
    return column._replace(dimension=dimension, dtype=dtype)


def _check_name(name: Any) -> str:
    if not isinstance(name, str) or not name or "/" in name:
        raise ValueError(
            f"A feature's name should be a non-empty string without '/'. Received: {name!r}"
        )
    return name


def _dtype(name: str, dtype: Any) -> str:
    try:
        return str(keras.backend.standardize_dtype(dtype))
    except ValueError as error:
        raise ValueError(
            f"`dtype` of feature {name!r} should be a dtype such as 'int32'. Received: {dtype!r}"
        ) from error


def _initializer(name: str, initializer: Any) -> Any:
    try:
        initializer = keras.initializers.get(initializer)
        array = isinstance(initializer, keras.initializers.Constant) and np.ndim(initializer.value)
        return Given(initializer.value) if array else initializer
    except ValueError as error:
        raise ValueError(
            f"`embeddings_initializer` of feature {name!r} should be a Keras initializer. "
            f"Received: {initializer!r}"
        ) from error


def _check_names(columns: list[Any]) -> None:
    roles: dict[str, tuple[Any, ...]] = {}
    for column in columns:
        used: list[tuple[Any, tuple[Any, ...]]] = [(column.name, ("feature", id(column)))]
        if isinstance(column, VarLenSparseFeat):
            used += [
                (column.length_name, ("length",)),
                (column.weight_name, ("weight", column.maxlen)),
            ]
        for name, role in used:
            if name is None:
                continue
            # Sequences of the same items may share their length and weight inputs.
            if roles.setdefault(name, role) != role:
                raise ValueError(
                    f"`dnn_feature_columns` should have unique names. Received: {name!r} twice"
                )


def _check_shared_embeddings(columns: list[Any]) -> None:
    owners: dict[str, Any] = {}
    for column in columns:
        if isinstance(column, DenseFeat):
            continue
        sparse = sparse_part(column)
        owner = owners.setdefault(sparse.embedding_name, sparse)
        for field in ("vocabulary_size", "embedding_dim", "trainable"):
            if getattr(owner, field) != getattr(sparse, field):
                raise ValueError(
                    f"Features that share embedding_name={sparse.embedding_name!r} should have the "
                    f"same {field}. Received: {getattr(owner, field)} for {owner.name!r} and "
                    f"{getattr(sparse, field)} for {sparse.name!r}"
                )


def _to_json(column: Any) -> dict[str, Any]:
    config = {"type": type(column).__name__, **column._asdict()}
    if isinstance(column, VarLenSparseFeat):
        config["sparsefeat"] = _to_json(column.sparsefeat)
    elif isinstance(column, SparseFeat):
        # Given values stay in memory, for copies of a layer; Keras writes what describes them.
        if not isinstance(column.embeddings_initializer, Given):
            config["embeddings_initializer"] = keras.saving.serialize_keras_object(
                column.embeddings_initializer
            )
    elif column.transform_fn is not None:
        config["transform_fn"] = keras.saving.serialize_keras_object(column.transform_fn)
    return config


def _from_json(config: dict[str, Any]) -> Any:
    fields = dict(config)
    kind = {"SparseFeat": SparseFeat, "VarLenSparseFeat": VarLenSparseFeat, "DenseFeat": DenseFeat}[
        fields.pop("type")
    ]
    if kind is VarLenSparseFeat:
        fields["sparsefeat"] = _from_json(fields["sparsefeat"])
    for field in ("embeddings_initializer", "transform_fn"):
        if isinstance(fields.get(field), dict):
            fields[field] = keras.saving.deserialize_keras_object(fields[field])
    return kind(**fields)
