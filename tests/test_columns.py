"""The classes of the columns, beside DeepCTR's."""

import copy
import inspect
import pickle

import keras
import numpy as np
import pytest

from mtl.encodings import Bins, PiecewiseLinear
from mtl.features import DenseFeat, SparseFeat, VarLenSparseFeat
from mtl.migrate._deepctr import import_columns

deepctr = import_columns()
PAIRS = [
    (SparseFeat, deepctr.SparseFeat),
    (VarLenSparseFeat, deepctr.VarLenSparseFeat),
    (DenseFeat, deepctr.DenseFeat),
]


def normal(stddev=0.5, seed=1):
    return keras.initializers.RandomNormal(0.0, stddev, seed)


def by_both(build):
    """Return what a function builds from our classes, and from DeepCTR's."""
    ours = build(SparseFeat, VarLenSparseFeat, DenseFeat)
    return ours, build(deepctr.SparseFeat, deepctr.VarLenSparseFeat, deepctr.DenseFeat)


BUILDERS = [
    lambda sparse, varlen, dense: sparse("a", 9),
    lambda sparse, varlen, dense: sparse("a", np.int64(81), "auto"),
    lambda sparse, varlen, dense: sparse(
        "a", 9, 3, True, "file", "int64", normal(), "table", "group", False
    ),
    lambda sparse, varlen, dense: varlen(sparse("a", 9), 4),
    lambda sparse, varlen, dense: varlen(
        sparse("a", 9, embeddings_initializer="ones"), 4, "max", "length", "weight", False
    ),
    lambda sparse, varlen, dense: dense("a"),
    lambda sparse, varlen, dense: dense("a", 2, "float64", abs),
]


def plain(column):
    """Return the fields, initializers by class and config."""
    fields = column._asdict()
    if "sparsefeat" in fields:
        fields["sparsefeat"] = plain(fields["sparsefeat"])
    initializer = fields.get("embeddings_initializer")
    if isinstance(initializer, keras.initializers.Initializer):
        fields["embeddings_initializer"] = (type(initializer), initializer.get_config())
    return list(fields.items())


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_the_arguments_are_deepctrs(ours, theirs):
    def parameters(cls):
        return [(p.name, p.kind, p.default) for p in inspect.signature(cls).parameters.values()]

    assert ours.__name__ == theirs.__name__
    assert ours._fields == theirs._fields
    assert parameters(ours) == parameters(theirs)


@pytest.mark.parametrize("build", BUILDERS)
def test_the_fields_and_properties_are_deepctrs(build):
    ours, theirs = by_both(build)
    assert plain(ours) == plain(theirs)
    assert hash(ours) == hash(theirs) == hash("a")
    properties = {name for name in dir(theirs) if not name.startswith("_")} - {"index", "count"}
    assert properties >= {"name", "dtype"}
    for name in properties - {"embeddings_initializer", "sparsefeat"}:
        assert getattr(ours, name) == getattr(theirs, name)


def test_the_default_initializer():
    initializer = SparseFeat("a", 9).embeddings_initializer
    assert type(initializer) is keras.initializers.RandomNormal
    assert initializer.get_config() == {"mean": 0.0, "stddev": 1e-4, "seed": 2020}


@pytest.mark.parametrize(("size", "error"), [(0, ValueError), (-2, ValueError), ("9", TypeError)])
def test_auto_needs_a_vocabulary_size(size, error):
    with pytest.raises(error, match=f"`vocabulary_size of a` should be a pos.* {size!r}"):
        SparseFeat("a", size, "auto")


@pytest.mark.parametrize("build", BUILDERS)
def test_columns_are_named_tuples_as_deepctrs(build):
    ours, theirs = by_both(build)
    assert isinstance(ours, tuple)
    assert not hasattr(ours, "__dict__")
    assert ours[1] == theirs[1]
    first, *others = ours
    assert [first, *others] == list(ours)
    assert len(ours) == len(theirs)
    assert list(ours._asdict()) == list(theirs._asdict())
    assert ours._field_defaults.keys() <= set(ours._fields)
    field = ours._fields[-1]
    changed = ours._replace(**{field: "other"})
    assert type(changed) is type(ours)
    assert (changed[-1], changed[:-1]) == ("other", ours[:-1])
    assert repr(changed).startswith(f"{type(theirs).__name__}({ours._fields[0]}=")
    with pytest.raises(AttributeError):
        setattr(ours, field, "other")


@pytest.mark.parametrize("build", BUILDERS)
def test_columns_with_equal_fields_are_equal(build):
    (ours, theirs), (again, _) = by_both(build), by_both(build)
    for other in (again, theirs, copy.deepcopy(theirs)):
        assert ours == other
        assert (ours != other) is False
        assert [ours] == [other]
    assert len({ours, again}) == 1
    assert ours._replace(**{ours._fields[-1]: "other"}) != theirs


@pytest.mark.parametrize("build", BUILDERS)
def test_a_converted_column_is_equal_from_both_sides(build):
    _, theirs = by_both(build)
    kind = {theirs_kind: kind for kind, theirs_kind in PAIRS}[type(theirs)]
    ours = kind._make(theirs)  # and so with the same initializer
    assert ours == theirs
    assert theirs == ours
    assert (theirs != ours) is False
    assert {theirs: 1}[ours] == {ours: 1}[theirs] == 1


def test_deepctrs_class_compares_initializers_by_identity():
    ours, theirs = by_both(BUILDERS[0])
    assert theirs != deepctr.SparseFeat("a", 9)
    assert theirs != ours
    initializer = normal()
    ours, theirs = by_both(lambda sparse, *_: sparse("a", 9, embeddings_initializer=initializer))
    assert theirs == ours


def test_sequences_around_the_other_class_are_equal():
    ours, theirs = by_both(lambda sparse, *_: sparse("a", 9))
    own, around_theirs = VarLenSparseFeat(ours, 4), VarLenSparseFeat(theirs, 4)
    around_own, all_theirs = (deepctr.VarLenSparseFeat(inner, 4) for inner in (ours, theirs))
    for one in (own, around_theirs, around_own):
        for other in (own, around_theirs, around_own, all_theirs):
            assert one == other
            assert (one != other) is False
            assert hash(one) == hash(other)
    # Not the same objects either:
    again = deepctr.VarLenSparseFeat(deepctr.SparseFeat("a", 9), 4)
    assert own == around_theirs == again
    assert around_theirs == VarLenSparseFeat(again.sparsefeat, 4)


def test_subclasses_are_of_the_same_kind():
    ours, theirs = by_both(lambda sparse, *_: type("Mine", (sparse,), {})("a", 9))
    for one in (SparseFeat("a", 9), ours):
        for other in (ours, theirs):
            assert one == other
            assert hash(one) == hash(other)
        assert one != SparseFeat("a", 8)


def test_initializers_and_encodings_compare_by_class_and_config():
    def sparse(initializer):
        return SparseFeat("a", 9, embeddings_initializer=initializer)

    assert sparse(normal()) == sparse(normal())
    assert sparse(normal()) != sparse(normal(stddev=0.6))
    assert sparse(normal()) != sparse(normal(seed=2))
    assert sparse(normal()) != sparse(keras.initializers.TruncatedNormal(0.0, 0.5, 1))
    assert sparse(keras.initializers.Ones()) != sparse(keras.initializers.Zeros())
    assert sparse("ones") == sparse("ones") != sparse("zeros")
    assert DenseFeat("a", transform_fn=Bins([1, 2])) == DenseFeat("a", transform_fn=Bins([1, 2]))
    assert DenseFeat("a", transform_fn=Bins([1, 2])) != DenseFeat("a", transform_fn=Bins([1, 3]))
    encoding = PiecewiseLinear([1, 2])
    assert DenseFeat("a", transform_fn=Bins([1, 2])) != DenseFeat("a", transform_fn=encoding)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (DenseFeat("a"), SparseFeat("a", 1)),
        (DenseFeat("a"), deepctr.SparseFeat("a", 1)),
        (SparseFeat("a", 9), VarLenSparseFeat(SparseFeat("a", 9), 4)),
        (DenseFeat("a"), tuple(DenseFeat("a"))),
        (DenseFeat("a"), "a"),
        (SparseFeat("a", 9), None),
    ],
)
def test_other_classes_are_not_equal(one, other):
    assert one != other
    assert other != one
    assert (one == other) is (other == one) is False


@pytest.mark.parametrize("field", SparseFeat._fields)
def test_every_field_counts(field):
    column = SparseFeat("a", 9)
    other = column._replace(**{field: "something else"})
    assert column != other
    assert VarLenSparseFeat(column, 4) != VarLenSparseFeat(other, 4)


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("duplicate", [lambda c: pickle.loads(pickle.dumps(c)), copy.deepcopy])
def test_copies_and_pickles_are_equal(build, duplicate):
    ours, _ = by_both(build)
    back = duplicate(ours)
    assert type(back) is type(ours)
    assert back == ours
