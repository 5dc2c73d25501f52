"""Whole steps: whatever ends a call, the model holds the weights of the last step that was done.

Keras' trainer on JAX takes the values out of a model's variables for the time of `fit`, `evaluate`
and `predict`, hands them from step to step, and puts them back when all went well. After an error,
Ctrl-C included, or where two threads call one model, they would be lost. How it does that is
private to Keras, and known here alone; tests/training/test_whole.py tells when it changes.

Ctrl-C within a step waits for its end: half of the weights would be the next step's, and on JAX the
old ones are gone before the new ones are there.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

import keras

F = TypeVar("F", bound=Callable[..., Any])

# What a step hands on: all of it in training, and less in evaluation and prediction.
_STATE = (
    "trainable_variables",
    "non_trainable_variables",
    "optimizer_variables",
    "metrics_variables",
)
_BY_NUMBER = {4: _STATE, 3: (*_STATE[:2], _STATE[3]), 2: _STATE[:2]}


def whole_steps(method: F) -> F:
    """Decorate a method of a `WholeSteps` that runs steps."""

    @wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with self._whole_steps():
            return method(self, *args, **kwargs)

    return call  # type: ignore[return-value]


@contextmanager
def unbroken() -> Iterator[None]:
    """Let Ctrl-C wait for the end of the block; it comes to the main thread alone."""
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT) if main else None
    if not callable(handler):
        yield
        return
    waiting: list[Any] = []
    signal.signal(signal.SIGINT, lambda *signal_and_frame: waiting.append(signal_and_frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if waiting:
            handler(*waiting[0])


class _Newest:
    """The newest values of a model's variables, by their kind; Keras would track a plain dict."""

    def __init__(self) -> None:
        self.values: dict[str, Sequence[Any]] = {}


class WholeSteps(keras.Model):
    """A Keras model that keeps its weights whatever ends a call; threads call it in turn."""

    train_function: Any
    _newest: _Newest | None = None  # while a call runs

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_turn = threading.RLock()

    @contextmanager
    def _whole_steps(self) -> Iterator[None]:
        with self._in_turn:
            outermost = self._newest is None
            if outermost:
                self._newest = _Newest()
            try:
                yield
            except BaseException:
                if keras.backend.backend() == "jax":
                    self._put_back()
                raise
            finally:
                if outermost:
                    self._newest = None

    def _put_back(self) -> None:
        newest = self._newest.values if self._newest is not None else {}
        pairs = [
            pair
            for kind, values in newest.items()
            for pair in zip(self._variables_of(kind), values, strict=True)
        ]
        # Keras may have put back what the last step took; values without a gap may be a callback's.
        if any(variable._value is None or variable._value.is_deleted() for variable, _ in pairs):
            for variable, value in pairs:
                variable._value = value
        # A `fit` that goes on, as a callback may have caught the error, then reads the variables.
        self._jax_state, self._jax_state_synced = None, True

    def _variables_of(self, kind: str) -> Sequence[Any]:
        if kind == "optimizer_variables":
            return self.optimizer.variables  # type: ignore[no-any-return]
        return getattr(self, kind)  # type: ignore[no-any-return]

    def _get_jax_state(self, **kinds: bool) -> Any:
        """Keep what Keras takes out of the variables."""
        with unbroken():
            state = super()._get_jax_state(**kinds)
            self._keep([kind for kind in _STATE if kinds.get(kind)], state)
        return state

    def _make_function(self, step_function: Any, *args: Any, **kwargs: Any) -> Any:
        """Keep what each step hands on."""

        def kept(state: Any, data: Any) -> Any:
            with unbroken():
                result, new = step_function(state, data)
                if isinstance(new, tuple):
                    self._keep(_BY_NUMBER[len(new)], new)
                else:  # prediction on Keras 3.8
                    self._keep(["non_trainable_variables"], [new])
            return result, new

        jax = keras.backend.backend() == "jax"
        return super()._make_function(kept if jax else step_function, *args, **kwargs)

    def make_train_function(self, force: bool = False) -> Any:
        """Make the function that trains on a batch."""
        before = self.train_function
        super().make_train_function(force)
        if keras.backend.backend() == "torch" and self.train_function is not before:
            self.train_function = unbroken()(self.train_function)

    def _keep(self, kinds: Sequence[str], state: Sequence[Sequence[Any]]) -> None:
        if self._newest is not None:
            self._newest.values.update(zip(kinds, state, strict=True))
