import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtl import features
from mtl.encodings import Bins
from mtl.features import (
    DenseFeat,
    SparseFeat,
    VarLenSparseFeat,
    check_columns,
    columns_from_json,
    columns_to_json,
    get_feature_names,
    model_inputs,
)
from mtl.layers import FeatureEncoder
from mtl.migrate import to_deepctr
from mtl.migrate._deepctr import import_columns
from mtl.models import MMoE

deepctr = import_columns()
BACKEND = keras.backend.backend()
tensorflow_only = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="string features and DeepCTR's inputs need TensorFlow"
)


@keras.saving.register_keras_serializable(package="test_features")
def halve(x):
    return x / 2


def sequence(name="s", vocabulary_size=9, maxlen=3, *, sparse=None, **kwargs):
    return VarLenSparseFeat(SparseFeat(name, vocabulary_size, **(sparse or {})), maxlen, **kwargs)


def every_kind():
    return [
        DenseFeat("age"),
        SparseFeat("user", 10, embedding_dim=3, embedding_name="people"),
        sequence("clicks", 20, 4, length_name="n", weight_name="w", weight_norm=False),
        sequence("friends", 10, 5, sparse={"embedding_dim": 3, "embedding_name": "people"}),
        sequence("views", 7, 6, length_name="n", combiner="max"),
        DenseFeat("vector", 8, "float64"),
        SparseFeat("site", 1000, use_hash=True, dtype="int64", trainable=False, group_name="g"),
    ]


def test_public_names():
    assert set(features.__all__) == {
        "SparseFeat",
        "VarLenSparseFeat",
        "DenseFeat",
        "get_feature_names",
    }


def test_feature_names_are_in_column_order_with_weight_before_length():
    assert get_feature_names(every_kind()) == [
        *["age", "user", "clicks", "w", "n", "friends", "views", "vector", "site"]
    ]
    assert get_feature_names(iter(every_kind()[:2])) == ["age", "user"]


@tensorflow_only
def test_feature_names_equal_deepctrs():
    columns = [*every_kind(), SparseFeat("word", 50, use_hash=True, dtype="string")]
    assert get_feature_names(columns) == deepctr.get_feature_names(to_deepctr(columns))


def test_model_inputs_give_shapes_and_dtypes():
    wide = "int32" if BACKEND == "jax" else "int64"
    assert [tuple(spec) for spec in model_inputs(check_columns(every_kind()))] == [
        ("age", (1,), "float32"),
        ("user", (1,), "int32"),
        ("clicks", (4,), "int32"),
        ("w", (4, 1), "float32"),
        ("n", (1,), "int32"),
        ("friends", (5,), "int32"),
        ("views", (6,), "int32"),
        ("vector", (8,), "float64"),
        ("site", (1,), wide),
    ]


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        (None, TypeError, "list of feature columns. Received: None"),
        (3, TypeError, "list of feature columns. Received: 3"),
        ("age", TypeError, "list of feature columns. Received: 'age'"),
        (DenseFeat("age"), TypeError, "Received: the single column 'age'"),
        (SparseFeat("user", 3), TypeError, "Received: the single column 'user'"),
        ({"age": DenseFeat("age")}, TypeError, "Received: 'age' of type str"),
        ([DenseFeat("age"), None], TypeError, "Received: None of type NoneType"),
        ([], ValueError, "at least one column. Received: none"),
        ([DenseFeat("")], ValueError, "non-empty string without '/'. Received: ''"),
        ([DenseFeat("a/b")], ValueError, "non-empty string without '/'. Received: 'a/b'"),
        ([SparseFeat(3, 5)], ValueError, "non-empty string without '/'. Received: 3"),
        ([sequence(length_name="")], ValueError, "non-empty string without '/'. Received: ''"),
        ([DenseFeat("a"), DenseFeat("a")], ValueError, "unique names. Received: 'a' twice"),
        ([DenseFeat("a"), SparseFeat("a", 3)], ValueError, "Received: 'a' twice"),
        ([DenseFeat("a")] * 2, ValueError, "Received: 'a' twice"),
        ([sequence(length_name="s")], ValueError, "Received: 's' twice"),
        ([sequence(length_name="a"), DenseFeat("a")], ValueError, "Received: 'a' twice"),
        ([sequence(weight_name="n", length_name="n")], ValueError, "Received: 'n' twice"),
        (
            [sequence("s", weight_name="w"), sequence("t", maxlen=4, weight_name="w")],
            ValueError,
            "Received: 'w' twice",
        ),
        (
            [sequence("s", weight_name="w"), sequence("t", length_name="w")],
            ValueError,
            "Received: 'w' twice",
        ),
        ([SparseFeat("u", 0)], ValueError, "`vocabulary_size of u` should be a positive integer"),
        ([SparseFeat("u", -2)], ValueError, "`vocabulary_size of u`.* Received: -2"),
        ([SparseFeat("u", 2.5)], TypeError, "`vocabulary_size of u`.* Received: 2.5"),
        ([SparseFeat("u", True)], TypeError, "`vocabulary_size of u`.* Received: True"),
        ([SparseFeat("u", 3, 0)], ValueError, "`embedding_dim of u`.* Received: 0"),
        ([SparseFeat("u", 3, None)], TypeError, "`embedding_dim of u`.* Received: None"),
        ([sequence(vocabulary_size=0)], ValueError, "`vocabulary_size of s`.* Received: 0"),
        ([sequence(maxlen=0)], ValueError, "`maxlen of s`.* Received: 0"),
        ([DenseFeat("a", 0)], ValueError, "`dimension of a`.* Received: 0"),
        ([DenseFeat("a", "2")], TypeError, "`dimension of a`.* Received: '2'"),
        ([DenseFeat("a", transform_fn=3)], TypeError, "`transform_fn` of feature 'a'"),
        ([DenseFeat("a", dtype="string")], ValueError, "'a' should be numeric. Received: 'string'"),
        ([DenseFeat("a", dtype="number")], ValueError, "`dtype` of feature 'a'.* 'number'"),
        ([SparseFeat("u", 3, dtype="float32")], ValueError, "integer type or 'string'.* float32"),
        ([SparseFeat("u", 3, dtype="string")], ValueError, "`use_hash` of feature 'u' .* True"),
        ([SparseFeat("u", 3, vocabulary_path="v.csv")], ValueError, "`vocabulary_path` .*'v.csv'"),
        (
            [SparseFeat("u", 3, embeddings_initializer="oness")],
            ValueError,
            "`embeddings_initializer` of feature 'u' .* Received: 'oness'",
        ),
        ([sequence(combiner="last")], ValueError, "'s' should be one of .* Received: 'last'"),
        ([VarLenSparseFeat(DenseFeat("a"), 3)], TypeError, "`sparsefeat` .* a SparseFeat"),
    ],
)
def test_invalid_columns_are_refused(columns, error, message):
    with pytest.raises(error, match=message):
        check_columns(columns)


@pytest.mark.parametrize("field", ["vocabulary_size", "embedding_dim", "trainable"])
def test_features_that_share_an_embedding_agree_on_it(field):
    first = SparseFeat("a", 8, 4, embedding_name="e", trainable=True)
    other = first._replace(name="b")
    assert len(check_columns([first, VarLenSparseFeat(other, 3)])) == 2
    other = other._replace(**{field: False if field == "trainable" else 5})
    with pytest.raises(ValueError, match=f"embedding_name='e' should have the same {field}"):
        check_columns([first, VarLenSparseFeat(other, 3)])


def test_sequences_may_share_their_length_and_weight_inputs():
    columns = [sequence(name, length_name="n", weight_name="w") for name in ("s", "t")]
    assert get_feature_names(columns) == ["s", "w", "n", "t"]


@pytest.mark.skipif(BACKEND == "tensorflow", reason="TensorFlow hashes strings")
def test_strings_are_refused_where_nothing_hashes_them():
    with pytest.raises(ValueError, match=f"TensorFlow backend only. Received: .* on {BACKEND}"):
        check_columns([SparseFeat("u", 3, use_hash=True, dtype="string")])


@pytest.mark.parametrize("dtype", [tf.int64, np.int64, np.dtype("int64"), "int64"])
def test_numpy_integers_and_dtype_objects_become_plain_values(dtype):
    sparse = SparseFeat("u", np.int64(7), np.int32(2), use_hash=np.bool_(True), dtype=dtype)
    columns = check_columns(
        [
            sparse,
            VarLenSparseFeat(sparse._replace(name="s"), np.int16(3), weight_norm=np.bool_(False)),
            DenseFeat("d", np.uint8(4), np.float64),
        ]
    )
    user, items, dense = columns
    for column in (user, items.sparsefeat):
        values = (column.vocabulary_size, column.embedding_dim, column.use_hash, column.dtype)
        assert values == (7, 2, True, "int64")
        assert [type(value) for value in values] == [int, int, bool, str]
    assert (items.maxlen, items.weight_norm) == (3, False)
    assert type(items.maxlen) is int
    assert type(items.weight_norm) is bool
    assert (dense.dimension, dense.dtype) == (4, "float64")
    assert type(dense.dimension) is int


def through_json(columns):
    return json.loads(json.dumps(columns_to_json(columns)))


@pytest.mark.parametrize(
    "column",
    [
        *every_kind()[1:],
        SparseFeat("u", np.int64(81), embedding_dim="auto", dtype=tf.int32),
        SparseFeat("u", 5, embeddings_initializer="uniform"),
        SparseFeat("u", 5, embeddings_initializer=keras.initializers.Constant(0.25)),
        sequence(sparse={"embeddings_initializer": keras.initializers.RandomUniform(-2, 2, 7)}),
        DenseFeat("d", np.int64(2), np.float32, transform_fn=halve),
        DenseFeat("d", transform_fn=Bins([0.5, 1])),
    ],
)
def test_columns_survive_json(column):
    assert columns_from_json(through_json([column])) == check_columns([column])


class Theirs(deepctr.SparseFeat):
    """A user's own class."""


class Own(SparseFeat):
    """A user's own class."""


def deepctrs_sequence(sparse=None):
    return deepctr.VarLenSparseFeat(sparse or deepctr.SparseFeat("s", 9), 3, "max", "n")


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (deepctr.DenseFeat("a", 2, transform_fn=halve), DenseFeat("a", 2, transform_fn=halve)),
        (deepctr.SparseFeat("a", 3), SparseFeat("a", 3)),
        (
            deepctr.SparseFeat("a", np.int64(3), "auto", True, None, tf.int64, "ones", "e", "g", 0),
            SparseFeat("a", 3, 6, True, None, "int64", "ones", "e", "g", False),
        ),
        (deepctrs_sequence(), sequence(combiner="max", length_name="n")),
        (deepctrs_sequence(SparseFeat("s", 9)), sequence(combiner="max", length_name="n")),
        (VarLenSparseFeat(deepctr.SparseFeat("s", 9), 3), sequence()),
        (sequence()._replace(sparsefeat=Theirs("s", 9)), sequence()),
        (Theirs("a", 3), SparseFeat("a", 3)),
        (Own("a", 3), SparseFeat("a", 3)),
    ],
)
def test_deepctrs_columns_and_subclasses_become_ours(column, expected):
    expected = check_columns([expected])
    for checked in (
        check_columns([column]),
        columns_from_json(through_json([column])),
        FeatureEncoder([column]).feature_columns,
    ):
        assert checked == expected
        assert type(checked[0]) is type(expected[0])
        if isinstance(expected[0], VarLenSparseFeat):
            assert type(checked[0].sparsefeat) is SparseFeat
    assert get_feature_names([column]) == get_feature_names(expected)
    assert model_inputs(check_columns([column])) == model_inputs(expected)


@pytest.mark.parametrize(
    ("column", "error", "message"),
    [
        (deepctr.SparseFeat("u", 0), ValueError, "`vocabulary_size of u` .* Received: 0"),
        (deepctrs_sequence()._replace(maxlen=0), ValueError, "`maxlen of s`.* Received: 0"),
        (deepctr.DenseFeat("a/b"), ValueError, "string without '/'. Received: 'a/b'"),
        (deepctrs_sequence(deepctr.DenseFeat("a")), TypeError, "`sparsefeat` .* a SparseFeat"),
    ],
)
def test_deepctrs_columns_are_checked_as_ours(column, error, message):
    with pytest.raises(error, match=message):
        check_columns([column])
    with pytest.raises(TypeError, match=f"Received: the single column {column.name!r}"):
        check_columns(column)


def test_models_take_deepctrs_columns():
    theirs = [deepctrs_sequence(), deepctr.SparseFeat("a", 3), deepctr.DenseFeat("d")]
    ours = [sequence(combiner="max", length_name="n"), SparseFeat("a", 3), DenseFeat("d")]
    models = [MMoE(columns, num_tasks=2, seed=1) for columns in (theirs, ours)]
    configs = [model.get_layer("encoder").get_config() for model in models]
    assert configs[0] == configs[1]


def test_auto_embedding_size_is_deepctrs():
    (column,) = check_columns([SparseFeat("u", np.int64(81), embedding_dim="auto")])
    assert column.embedding_dim == 6 * 3
    assert type(column.embedding_dim) is int


@tensorflow_only
def test_string_columns_survive_json():
    column = SparseFeat("u", 5, use_hash=True, dtype=tf.string)
    (back,) = columns_from_json(through_json([column]))
    assert (back.dtype, back.use_hash, back.vocabulary_size) == ("string", True, 5)
