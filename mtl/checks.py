"""Argument checks whose messages name the argument, what is expected and what was received."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np


def positive_int(name: str, value: Any) -> int:
    """Return `value` as a plain int, or raise if it is no integer of at least 1."""
    return _int_from(name, value, 1, "a positive integer")


def positive_int_or_none(name: str, value: Any) -> int | None:
    """Return `value` as an int or None, or raise."""
    return None if value is None else _int_from(name, value, 1, "a positive integer or None")


def non_negative_int(name: str, value: Any) -> int:
    """Return `value` as a plain int, or raise if it is no integer of at least 0."""
    return _int_from(name, value, 0, "a non-negative integer")


def number(name: str, value: Any, expected: str) -> float:
    """Return `value` as a float, or raise TypeError, with `expected` in words, if it is none."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"`{name}` should be {expected}. Received: {value!r}")
    return float(value)


def number_in(name: str, value: Any, expected: str, holds: Callable[[float], bool]) -> float:
    """Return `value` as a float, or raise unless a condition, in words `expected`, holds."""
    result = number(name, value, expected)
    if not holds(result):
        raise ValueError(f"`{name}` should be {expected}. Received: {value!r}")
    return result


def positive_float(name: str, value: Any) -> float:
    """Return `value` as a float, or raise unless it is finite and above 0."""
    return number_in(name, value, "a positive number", lambda x: 0 < x < math.inf)


def non_negative_float(name: str, value: Any) -> float:
    """Return `value` as a float, or raise unless it is finite and at least 0."""
    return number_in(name, value, "a non-negative number", lambda x: 0 <= x < math.inf)


def rate(name: str, value: Any) -> float:
    """Return `value` as a float, or raise unless it lies in [0, 1)."""
    return number_in(name, value, "a number in [0, 1)", lambda x: 0 <= x < 1)


def share(name: str, value: Any) -> float:
    """Return `value` as a float, or raise unless it lies in [0, 1]."""
    return number_in(name, value, "a number in [0, 1]", lambda x: 0 <= x <= 1)


def positive_share(name: str, value: Any) -> float:
    """Return `value` as a float, or raise unless it lies in (0, 1]."""
    return number_in(name, value, "a number in (0, 1]", lambda x: 0 < x <= 1)


def one_of(*choices: Any) -> Callable[[str, Any], Any]:
    """Return a check for one of some values; True is not 1 here."""

    def check(name: str, value: Any) -> Any:
        if isinstance(value, bool) or value not in choices:
            expected = ", ".join(map(repr, choices))
            raise ValueError(f"`{name}` should be one of {expected}. Received: {value!r}")
        return value

    return check


def boolean(name: str, value: Any) -> bool:
    """Return a bool; TypeError for anything else."""
    if not isinstance(value, bool):
        raise TypeError(f"`{name}` should be a bool. Received: {value!r}")
    return value


def text_or_none(name: str, value: Any) -> str | None:
    """Return `value`, a string that isn't empty or None, or raise."""
    if value is not None and (not isinstance(value, str) or not value):
        raise ValueError(f"`{name}` should be a non-empty string or None. Received: {value!r}")
    return value


def as_list(value: Any) -> list[Any]:
    """Return a list or tuple as a list, None as an empty one, anything else as a list of one.

    A model of one task has one array where others have a list of them.
    """
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def entries(name: str, value: Any, expected: str, kinds: Any = (Sequence, np.ndarray)) -> list[Any]:
    """Return what `value` holds as a list, or raise if it is of no such kind, or a string."""
    if isinstance(value, (str, bytes)) or not isinstance(value, kinds):
        raise TypeError(f"`{name}` should be {expected}. Received: {value!r}")
    return list(value)


def units(name: str, value: Any) -> tuple[int, ...]:
    """Return layer widths as a tuple of ints; None is the empty tuple."""
    if value is None:
        return ()
    widths = entries(name, value, "a list of positive integers")
    return tuple(positive_int(f"{name}[{i}]", unit) for i, unit in enumerate(widths))


def floats(name: str, value: Any) -> list[float]:
    """Return a list of numbers as floats, or raise TypeError."""
    expected = "a list of numbers"
    return [number(name, entry, expected) for entry in entries(name, value, expected)]


def activation(name: str, value: Any) -> Any:
    """Return `value`, or raise if Keras knows no such activation."""
    if isinstance(value, keras.layers.Layer):
        # One layer in many places would share its weights, and its model would not load.
        raise ValueError(
            f"`{name}` should be a name such as 'relu', or a function without weights. "
            f"Received: the layer {type(value).__name__}"
        )
    try:
        keras.activations.get(value)
    except ValueError as error:
        raise ValueError(
            f"`{name}` should be a Keras activation (a name such as 'relu', or a function). "
            f"Received: {value!r}"
        ) from error
    return value


def seed(name: str, value: Any) -> int | None:
    """Return `value` as an int or None, or raise."""
    return None if value is None else _int_from(name, value, 0, "a non-negative integer or None")


def _int_from(name: str, value: Any, lowest: int, expected: str) -> int:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Integral):
        raise TypeError(f"`{name}` should be {expected}. Received: {value!r}")
    if value < lowest:
        raise ValueError(f"`{name}` should be {expected}. Received: {value!r}")
    return int(value)
