"""The feature columns, with DeepCTR's fields, order and defaults.

DeepCTR's own columns are known by the names of their classes, so that nothing here imports it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import keras
import numpy as np

from mtl import checks
from mtl.encodings import Encoding

DType: TypeAlias = str | type[Any] | np.dtype[Any]

_DEEPCTR = "deepctr.feature_column"


class _Column:
    """Equality and hash of the columns: a tuple's would compare Keras' objects by identity."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return bool(_comparable(self) == _comparable(other))

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self: Any) -> int:
        return hash(self.name)


class _SparseFields(NamedTuple):
    name: str
    vocabulary_size: int
    embedding_dim: int
    use_hash: bool
    vocabulary_path: str | None
    dtype: DType
    embeddings_initializer: Any
    embedding_name: str
    group_name: str
    trainable: bool


class SparseFeat(_Column, _SparseFields):
    """A categorical feature: one id per row, which the model looks up in an embedding.

    Columns are named tuples. They are equal if they are of one kind and their fields are equal,
    initializers and encodings by class and configuration; one made by DeepCTR counts as ours.
    (Where it stands on the left Python asks DeepCTR's class, which compares by identity.)

    Nothing but what "auto" needs is checked here: models, `FeatureEncoder` and `get_feature_names`
    check the columns that they are given.

    Args:
        name: str. Name of the feature and of its input.
        vocabulary_size: int. Number of ids, which are 0 to `vocabulary_size - 1`.
        embedding_dim: int or "auto". Size of the embedding; "auto" is
            `6 * int(vocabulary_size ** 0.25)`. Defaults to 4.
        use_hash: bool. Whether values are hashed into the vocabulary. Defaults to False.
        vocabulary_path: None. DeepCTR's file of values, which models here refuse: `TableEncoder`
            maps values to ids. Defaults to None.
        dtype: str or dtype. Of the input: an integer type, or "string" for values that are hashed
            (TensorFlow only). Defaults to "int32".
        embeddings_initializer: Keras initializer or its name. How the embedding starts. Defaults
            to None: `RandomNormal(0, 1e-4, seed=2020)`.
        embedding_name: str. Features that name the same embedding share it. Defaults to None: the
            feature's name.
        group_name: str. Group of the feature, for `expert_features="group_name"`. Defaults to
            "default_group".
        trainable: bool. Whether the embedding is trained. Defaults to True.

    Raises:
        TypeError: `vocabulary_size` is no integer, with an `embedding_dim` of "auto".
        ValueError: `vocabulary_size` is below 1, with an `embedding_dim` of "auto".
    """

    __slots__ = ()

    def __new__(
        cls,
        name: str,
        vocabulary_size: int,
        embedding_dim: int | Literal["auto"] = 4,
        use_hash: bool = False,
        vocabulary_path: str | None = None,
        dtype: DType = "int32",
        embeddings_initializer: Any = None,
        embedding_name: str | None = None,
        group_name: str = "default_group",
        trainable: bool = True,
    ) -> SparseFeat:
        """Fill in the defaults that are computed."""
        if embedding_dim == "auto":
            size = checks.positive_int(f"vocabulary_size of {name}", vocabulary_size)
            embedding_dim = 6 * int(size**0.25)
        if embeddings_initializer is None:
            embeddings_initializer = keras.initializers.RandomNormal(0.0, 1e-4, seed=2020)
        if embedding_name is None:
            embedding_name = name
        return super().__new__(
            cls,
            name,
            vocabulary_size,
            embedding_dim,
            use_hash,
            vocabulary_path,
            dtype,
            embeddings_initializer,
            embedding_name,
            group_name,
            trainable,
        )


class _SequenceFields(NamedTuple):
    sparsefeat: SparseFeat
    maxlen: int
    combiner: str = "mean"
    length_name: str | None = None
    weight_name: str | None = None
    weight_norm: bool = True


class VarLenSparseFeat(_Column, _SequenceFields):
    """A feature of several ids per row, whose embeddings are pooled into one.

    Its name and its embedding are those of `sparsefeat`. Equality and checks are as for
    `SparseFeat`.

    Args:
        sparsefeat: SparseFeat. What each id is.
        maxlen: int. Number of ids in the input; shorter sequences are padded at their end.
        combiner: str. "mean", "sum" or "max" over the sequence. Defaults to "mean".
        length_name: str. Name of the input with the number of ids that count. Defaults to None:
            those other than 0.
        weight_name: str. Name of the input with a weight per id. Defaults to None: no weights.
        weight_norm: bool. Whether the weights go through a softmax over the sequence. Defaults to
            True.
    """

    __slots__ = ()

    @property
    def name(self) -> str:
        """Name of the feature."""
        return self.sparsefeat.name

    @property
    def vocabulary_size(self) -> int:
        """Number of ids."""
        return self.sparsefeat.vocabulary_size

    @property
    def embedding_dim(self) -> int:
        """Size of the embedding."""
        return self.sparsefeat.embedding_dim

    @property
    def use_hash(self) -> bool:
        """Whether values are hashed."""
        return self.sparsefeat.use_hash

    @property
    def vocabulary_path(self) -> str | None:
        """File of the vocabulary."""
        return self.sparsefeat.vocabulary_path

    @property
    def dtype(self) -> DType:
        """Dtype of the input."""
        return self.sparsefeat.dtype

    @property
    def embeddings_initializer(self) -> Any:
        """How the embedding starts."""
        return self.sparsefeat.embeddings_initializer

    @property
    def embedding_name(self) -> str:
        """Name of the embedding."""
        return self.sparsefeat.embedding_name

    @property
    def group_name(self) -> str:
        """Group of the feature."""
        return self.sparsefeat.group_name

    @property
    def trainable(self) -> bool:
        """Whether the embedding is trained."""
        return self.sparsefeat.trainable


class _DenseFields(NamedTuple):
    name: str
    dimension: int = 1
    dtype: DType = "float32"
    transform_fn: Callable[[Any], Any] | None = None


class DenseFeat(_Column, _DenseFields):
    """A numeric feature: one number per row, or a vector.

    Equality and checks are as for `SparseFeat`.

    Args:
        name: str. Name of the feature and of its input.
        dimension: int. How many numbers a row has. Defaults to 1.
        dtype: str or dtype. Of the input: a numeric type. Defaults to "float32".
        transform_fn: function. What the model makes of the values first, such as an encoding of
            `mtl.encodings`. A function of your own needs
            `keras.saving.register_keras_serializable`, for saved models to load. Defaults to
            None: the values as they are.
    """

    __slots__ = ()


_KINDS = {kind.__name__: kind for kind in (SparseFeat, VarLenSparseFeat, DenseFeat)}


def own(column: Any) -> Any:
    """Return a column as ours if it is DeepCTR's or a subclass', and anything else as it is."""
    for base in type(column).__mro__:
        kind = _KINDS.get(base.__name__)
        if kind and base.__module__ in (_DEEPCTR, __name__):
            column = kind._make(column)
            break
    if isinstance(column, VarLenSparseFeat):
        column = column._replace(sparsefeat=own(column.sparsefeat))
    return column


def _comparable(value: Any) -> Any:
    """Return what a column, or a field of one, is compared by."""
    value = own(value)
    if isinstance(value, (SparseFeat, VarLenSparseFeat, DenseFeat)):
        return (type(value), *map(_comparable, value))
    if isinstance(value, (keras.initializers.Initializer, Encoding)):
        return (type(value), value.get_config())
    return value
