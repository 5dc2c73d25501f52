"""Whole steps: whatever ends a call, and from however many threads, no weight is lost.

Keras' trainer on JAX takes the values out of a model's variables for the time of `fit`, `evaluate`
and `predict`, hands them from step to step, and puts them back when all went well. After an error,
Ctrl-C included, they would be lost, and another thread finds none. Here each step takes them from
the variables and puts them back; Keras hands on the names of their kinds alone. How it does that is
private to Keras, and known here alone; tests/training/test_whole.py tells when it changes.

Ctrl-C within a step waits for its end: half of the weights would be the next step's, and on JAX the
old ones are gone before the new ones are there.
"""

from __future__ import annotations

# Its wrappers in `signal` take 25 µs a step to make enums.
import _signal as signal  # type: ignore[import-not-found]
import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import Any, TypeVar

import keras

from mtl import devices
from mtl.rows import among_replicas
from mtl.training.distributed import DistributedModel

F = TypeVar("F", bound=Callable[..., Any])

# What a step takes and gives back: all of it in training, less in evaluation and prediction.
_KINDS = (
    "trainable_variables",
    "non_trainable_variables",
    "optimizer_variables",
    "metrics_variables",
)


def in_turn(method: F) -> F:
    """Decorate a method of a `WholeSteps` that trains or evaluates: metrics serve one at a time."""

    @wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with self._in_turn:
            return method(self, *args, **kwargs)

    return call  # type: ignore[return-value]


@contextlib.contextmanager
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


class WholeSteps(DistributedModel):
    """A Keras model that keeps its weights whatever ends a call.

    Threads may use it at once: they train and evaluate in turn, and predict meanwhile.
    """

    train_function: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_turn = threading.RLock()
        # A step on JAX takes the variables' buffers, so that nobody may read them meanwhile. On all
        # backends layers keep what they add to the loss until the step takes it, which on
        # TensorFlow is when its graph is made.
        self._step_lock = threading.RLock()
        self._on_jax = keras.backend.backend() == "jax"

    @property
    def between_steps(self) -> Any:
        """A context without another thread's step: no weight is away, and no loss half added.

        Steps run in it themselves. TensorFlow's replicas, whose threads wait for each other within
        a step, don't wait here.
        """
        return contextlib.nullcontext() if among_replicas() else self._step_lock

    def beside(self, outputs: Any) -> WholeSteps:
        """Return a model of other outputs, which shares this one's layers and may run beside it."""
        other = WholeSteps(self.input, outputs)
        other._step_lock = self._step_lock
        return other

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the outputs."""
        with self.between_steps:
            return super().__call__(*args, **kwargs)

    def predict_step(self, *args: Any) -> Any:
        """Predict a batch."""
        with self.between_steps:
            return super().predict_step(*args)

    def get_weights(self) -> Any:
        """Return the weights as arrays."""
        with self.between_steps:
            return [devices.whole(weight) for weight in self.weights]

    def set_weights(self, weights: Any) -> None:
        """Set the weights to what `get_weights` gives."""
        if len(weights) != len(self.weights):
            super().set_weights(weights)  # which raises
        for weight, values in zip(self.weights, weights, strict=True):
            devices.put(weight, values)

    def save_weights(self, *args: Any, **kwargs: Any) -> None:
        """Save the weights, as `keras.Model.save_weights` does."""
        with self.between_steps, self.written_once() as first:
            if first:
                super().save_weights(*args, **kwargs)

    def written_once(self) -> Any:
        """Return a context in which one process writes what all hold; it says which."""
        optimizer = getattr(self, "optimizer", None)
        return devices.written_once([*self.weights, *(optimizer.variables if optimizer else ())])

    @property
    def _jax_state_synced(self) -> bool:
        """Whether the variables have the newest values: always; Keras tries to say otherwise."""
        return True

    @_jax_state_synced.setter
    def _jax_state_synced(self, _: bool) -> None:
        pass

    def jax_state_sync(self) -> None:
        """Do nothing: the variables have the newest values."""

    def _purge_model_variables(self, **kinds: bool) -> None:
        pass

    def _get_jax_state(self, **kinds: bool) -> tuple[str, ...]:
        return tuple(kind for kind in _KINDS if kinds.get(kind))

    def _variables_of(self, kind: str) -> Sequence[Any]:
        # Listed once per call of `fit` and its like: Keras walks through all layers for it.
        lists = self.__dict__.setdefault("lists", {})
        if kind not in lists:
            of_optimizer = kind == "optimizer_variables"
            lists[kind] = self.optimizer.variables if of_optimizer else getattr(self, kind)
        return lists[kind]  # type: ignore[no-any-return]

    def state_of_step(self) -> tuple[list[Any], ...]:
        """Return what a training step takes on JAX: the values of all variables, by kind."""
        self._list_anew()
        return tuple([v.value for v in self._variables_of(kind)] for kind in _KINDS)

    def _list_anew(self) -> None:
        self.__dict__.pop("lists", None)

    def _make_function(self, step_function: Any, **kwargs: Any) -> Any:
        """Let each step take its state from the variables, and put it back."""

        def whole(kinds: tuple[str, ...], data: Any) -> Any:
            with self.between_steps, unbroken():
                variables = [self._variables_of(kind) for kind in kinds]
                state = tuple([v._value for v in of_kind] for of_kind in variables)
                result, new = step_function(state, data)
                # Of a prediction on Keras 3.8, those alone that aren't trained.
                if not isinstance(new, tuple):
                    variables, new = variables[1:], (new,)
                for of_kind, values in zip(variables, new, strict=True):
                    for variable, value in zip(of_kind, values, strict=True):
                        variable._value = value
            if kwargs.get("concatenate_outputs"):  # predictions
                result = keras.tree.map_structure(devices.own_rows, result)
            return result, kinds

        return super()._make_function(whole if self._on_jax else step_function, **kwargs)

    def make_train_function(self, force: bool = False) -> Any:
        """Make the function that trains on a batch."""
        self._list_anew()
        before = self.train_function
        super().make_train_function(force)
        if keras.backend.backend() == "torch" and self.train_function is not before:
            self.train_function = unbroken()(self.train_function)

    def make_test_function(self, force: bool = False) -> Any:
        """Make the function that evaluates a batch."""
        self._list_anew()
        return super().make_test_function(force)

    def make_predict_function(self, force: bool = False) -> Any:
        """Make the function that predicts a batch."""
        self._list_anew()
        return super().make_predict_function(force)
