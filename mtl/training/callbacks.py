"""Callbacks of our own among those that a user gives to `fit`."""

from __future__ import annotations

from typing import Any

import keras


def with_callbacks(callbacks: Any, first: Any = None, last: Any = None) -> Any:
    """Return the callbacks of `fit` with one more before, or after, the user's.

    Args:
        callbacks: a callback, a list of them, a `CallbackList` or None.
        first: callback or None.
        last: callback or None.
    """
    if not isinstance(callbacks, keras.callbacks.CallbackList):
        return [c for c in (first, *listed(callbacks), last) if c is not None]
    for callback, place in ((first, 0), (last, len(callbacks.callbacks))):
        if callback is not None:
            callback.set_model(callbacks.model)
            callbacks.callbacks.insert(place, callback)
    return callbacks


def listed(callbacks: Any) -> list[Any]:
    """Return the callbacks of `fit` as a list."""
    if isinstance(callbacks, keras.callbacks.CallbackList):
        return list(callbacks.callbacks)
    return [] if callbacks is None else keras.tree.flatten(callbacks)
