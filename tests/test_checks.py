from collections.abc import Iterable

import keras
import numpy as np
import pytest

from mtl import checks

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("check", "value", "expected"),
    [
        (checks.positive_int, 1, 1),
        (checks.positive_int, np.int64(7), 7),
        (checks.non_negative_int, 0, 0),
        (checks.non_negative_int, np.uint8(3), 3),
        (checks.positive_float, 1e-9, 1e-9),
        (checks.positive_float, 2, 2.0),
        (checks.non_negative_float, 0, 0.0),
        (checks.non_negative_float, np.float32(0.5), 0.5),
        (checks.rate, 0, 0.0),
        (checks.rate, 0.999, 0.999),
        (checks.share, 0, 0.0),
        (checks.share, 1, 1.0),
        (checks.seed, None, None),
        (checks.seed, np.int32(0), 0),
        (checks.units, None, ()),
        (checks.units, [], ()),
        (checks.units, [4, np.int64(2)], (4, 2)),
        (checks.units, (1,), (1,)),
        (checks.units, np.array([3, 5]), (3, 5)),
        (checks.floats, (1, np.float32(0.5)), [1.0, 0.5]),
    ],
)
def test_valid_values_come_back_as_plain_ones(check, value, expected):
    result = check("x", value)
    assert result == expected
    assert type(result) is type(expected)
    if isinstance(result, tuple):
        assert all(type(item) is int for item in result)


@pytest.mark.parametrize(
    ("check", "value", "error", "expected"),
    [
        (checks.positive_int, 0, ValueError, "a positive integer"),
        (checks.positive_int, -3, ValueError, "a positive integer"),
        (checks.positive_int, 1.0, TypeError, "a positive integer"),
        (checks.positive_int, True, TypeError, "a positive integer"),
        (checks.positive_int, np.True_, TypeError, "a positive integer"),
        (checks.positive_int, "3", TypeError, "a positive integer"),
        (checks.positive_int, None, TypeError, "a positive integer"),
        (checks.non_negative_int, -1, ValueError, "a non-negative integer"),
        (checks.positive_float, 0, ValueError, "a positive number"),
        (checks.positive_float, NAN, ValueError, "a positive number"),
        (checks.positive_float, INF, ValueError, "a positive number"),
        (checks.positive_float, "1", TypeError, "a positive number"),
        (checks.non_negative_float, -1e-9, ValueError, "a non-negative number"),
        (checks.non_negative_float, NAN, ValueError, "a non-negative number"),
        (checks.non_negative_float, INF, ValueError, "a non-negative number"),
        (checks.non_negative_float, True, TypeError, "a non-negative number"),
        (checks.non_negative_float, None, TypeError, "a non-negative number"),
        (checks.rate, 1, ValueError, r"a number in \[0, 1\)"),
        (checks.rate, -0.1, ValueError, r"a number in \[0, 1\)"),
        (checks.rate, NAN, ValueError, r"a number in \[0, 1\)"),
        (checks.rate, [0.5], TypeError, r"a number in \[0, 1\)"),
        (checks.share, 1.001, ValueError, r"a number in \[0, 1\]"),
        (checks.share, NAN, ValueError, r"a number in \[0, 1\]"),
        (checks.share, "1", TypeError, r"a number in \[0, 1\]"),
        (checks.seed, -1, ValueError, "a non-negative integer or None"),
        (checks.seed, 1.5, TypeError, "a non-negative integer or None"),
        (checks.units, 8, TypeError, "a list of positive integers"),
        (checks.units, "88", TypeError, "a list of positive integers"),
        (checks.units, {8}, TypeError, "a list of positive integers"),
        (checks.floats, 1.0, TypeError, "a list of numbers"),
        (checks.floats, "1", TypeError, "a list of numbers"),
        (checks.floats, b"1", TypeError, "a list of numbers"),
        (checks.activation, "rellu", ValueError, "a Keras activation"),
        (checks.activation, 3, ValueError, "a Keras activation"),
    ],
)
def test_messages_name_the_argument_what_is_expected_and_what_came(check, value, error, expected):
    with pytest.raises(error, match=f"^`thing` should be {expected}.* Received: ") as raised:
        check("thing", value)
    assert str(raised.value).endswith(f"Received: {value!r}")


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ([4, 0], ValueError, r"`u\[1\]` should be a positive integer. Received: 0"),
        ([4.5], TypeError, r"`u\[0\]` should be a positive integer. Received: 4.5"),
        ([[4]], TypeError, r"`u\[0\]` should be a positive integer. Received: \[4\]"),
    ],
)
def test_units_name_the_entry(value, error, message):
    with pytest.raises(error, match=message):
        checks.units("u", value)


@pytest.mark.parametrize("value", [[True], ["1"], [None]])
def test_floats_tell_what_is_no_number(value):
    with pytest.raises(TypeError, match=r"`x` should be a list of numbers. Received: ") as raised:
        checks.floats("x", value)
    assert str(raised.value).endswith(f"Received: {value[0]!r}")


@pytest.mark.parametrize("value", ["c", None, True, 1.5, ["a"]])
def test_one_of_names_the_choices(value):
    check = checks.one_of("a", 1)
    assert (check("x", "a"), check("x", 1)) == ("a", 1)
    with pytest.raises(ValueError, match=r"^`x` should be one of 'a', 1\. Received: ") as raised:
        check("x", value)
    assert str(raised.value).endswith(f"Received: {value!r}")


def test_entries_are_of_the_kinds_that_are_asked_for():
    assert checks.entries("x", range(2), "a list") == [0, 1]
    assert checks.entries("x", {"a": 1}, "some names", Iterable) == ["a"]
    with pytest.raises(TypeError, match=r"^`x` should be a list\. Received: {'a': 1}$"):
        checks.entries("x", {"a": 1}, "a list")
    with pytest.raises(TypeError, match=r"^`x` should be some names. Received: 'ab'$"):
        checks.entries("x", "ab", "some names", Iterable)


def test_one_is_a_list_of_one():
    array = np.zeros(2)
    assert checks.as_list(array)[0] is array
    assert checks.as_list([array]) == checks.as_list((array,)) == [array]
    assert checks.as_list("ab") == ["ab"]


@pytest.mark.parametrize("value", ["relu", keras.activations.gelu, None])
def test_activation_gives_back_what_keras_knows(value):
    assert checks.activation("activation", value) is value
