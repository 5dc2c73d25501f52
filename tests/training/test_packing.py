"""Named columns travel through the data pipeline as a few matrices."""

from typing import Any

import numpy as np
import pytest
from keras import ops

from mtl.training.packing import pack, unpack

MIXED: dict[str, Any] = {
    "b": np.arange(4, dtype="int32"),
    "dense": np.ones((4, 2), "float32"),
    "a": np.arange(4, 8, dtype="int32")[:, None],
    "wide": np.arange(4, dtype="int64") + 2**40,
    "f": np.linspace(0, 1, 4, dtype="float32"),
    "sequence": np.ones((4, 3), "int32"),
    "g": np.full((4, 1), 0.1, "float32"),
    "words": np.array(["x", "y", "z", ""], dtype=object),
}


def test_columns_of_a_dtype_become_one_matrix() -> None:
    packed = pack(MIXED)
    shapes = sorted((value.dtype.name, value.shape) for value in packed.values())
    assert shapes == [
        ("float32", (4, 2)),  # dense
        ("float32", (4, 2)),  # f and g
        ("int32", (4, 2)),  # a and b
        ("int32", (4, 3)),  # sequence
        ("int64", (4,)),  # alone of its dtype
        ("object", (4,)),
    ]


def unpacked(x: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value if isinstance(value, np.ndarray) else ops.convert_to_numpy(value)
        for name, value in unpack(pack(x)).items()
    }


def test_what_is_packed_unpacks() -> None:
    before = {name: value.copy() for name, value in MIXED.items()}
    back = unpacked(MIXED)
    assert set(back) == set(MIXED)
    for name, value in back.items():
        assert value.dtype == MIXED[name].dtype
        np.testing.assert_array_equal(value.reshape(4, -1), before[name].reshape(4, -1))
        np.testing.assert_array_equal(MIXED[name], before[name])  # the user's dict is not touched


@pytest.mark.parametrize("x", [{"a": np.arange(3)}, None, [np.arange(3)], {}])
def test_what_needs_no_packing_stays(x: Any) -> None:
    packed = pack(x)
    assert packed is x or packed == x


def test_names_with_odd_characters_and_orders() -> None:
    names = ["z", "user id", "ü", "packed", "mtl", "a.b", "0"]
    x = {name: np.full(3, i, "float32") for i, name in enumerate(names)}
    for order in (names, names[::-1]):
        back = unpacked({name: x[name] for name in order})
        assert {name: float(v.reshape(-1)[0]) for name, v in back.items()} == {
            name: float(i) for i, name in enumerate(names)
        }


def test_the_last_row_is_repeated_up_to_a_length() -> None:
    numbers = {name: value for name, value in MIXED.items() if name != "words"}
    for name, value in unpack(pack(numbers, 6)).items():
        value = np.asarray(ops.convert_to_numpy(value)).reshape(6, -1)
        expected = numbers[name].reshape(4, -1)
        np.testing.assert_array_equal(value, expected[[0, 1, 2, 3, 3, 3]])
