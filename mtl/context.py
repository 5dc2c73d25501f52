"""Context variables that are set for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def held(variable: ContextVar[T], value: T) -> Iterator[T]:
    """Give a context variable a value for the time of a block, in this thread alone.

    Args:
        variable: the variable.
        value: what it is within the block.

    Yields:
        The value.
    """
    token = variable.set(value)
    try:
        yield value
    finally:
        variable.reset(token)
