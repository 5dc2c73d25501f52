"""Our feature columns as DeepCTR's."""

import keras
import numpy as np
import pytest
from deepctr import feature_column as deepctr

from mtl.features import DenseFeat, SparseFeat, VarLenSparseFeat, check_columns
from mtl.migrate import to_deepctr

USER = SparseFeat("user", 5, 3, False, None, "int64", "ones", "people", "g", False)
COLUMNS = [
    SparseFeat("city", 7),
    USER,
    VarLenSparseFeat(USER._replace(name="friends"), 4, "max", "length", "weight", False),
    DenseFeat("price", 2, "float64", abs),
]


def _backend(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Set the backend's name: what needs no TensorFlow is tested everywhere."""
    monkeypatch.setattr(keras.backend, "backend", lambda: name)


def test_columns_become_deepctrs(monkeypatch: pytest.MonkeyPatch) -> None:
    _backend(monkeypatch, "tensorflow")
    ours = check_columns(COLUMNS)
    theirs = to_deepctr(iter(ours))
    assert [type(column) for column in theirs] == [
        *[deepctr.SparseFeat, deepctr.SparseFeat],
        *[deepctr.VarLenSparseFeat, deepctr.DenseFeat],
    ]
    assert type(theirs[2].sparsefeat) is deepctr.SparseFeat
    assert theirs == ours
    assert ours == theirs
    assert check_columns(theirs) == ours
    assert to_deepctr(theirs) == theirs


def test_fields_become_plain_values(monkeypatch: pytest.MonkeyPatch) -> None:
    _backend(monkeypatch, "tensorflow")
    (column,) = to_deepctr([SparseFeat("city", np.int64(7), dtype=np.int64)])
    assert (column.vocabulary_size, column.dtype) == (7, "int64")
    assert type(column.vocabulary_size) is int


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_are_refused(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    _backend(monkeypatch, backend)
    with pytest.raises(RuntimeError, match=f"on the TensorFlow backend.* Received: {backend}"):
        to_deepctr(COLUMNS)


def test_invalid_columns_are_refused() -> None:
    with pytest.raises(TypeError, match="Received: 'user' of type str"):
        to_deepctr(["user"])
    with pytest.raises(ValueError, match="`dimension of price`"):
        to_deepctr([DenseFeat("price", 0)])
