"""How often, and how, Keras' trainer calls a compiled step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

import keras

from mtl import balancing
from mtl.context import held
from mtl.optimizers import LazyOptimizer
from mtl.rows import real_rows
from mtl.training import filled, pace, replicas, steps
from mtl.training.whole import WholeSteps, unbroken
from mtl.training.xla import FullBatchesByXLA, pays_on_cpu

_every_output: ContextVar[bool] = ContextVar("every_output", default=False)


def every_output() -> contextlib.AbstractContextManager[bool]:
    """Let models return their hidden outputs, too, which their losses may need."""
    return held(_every_output, True)


def returns_every_output() -> bool:
    """Return whether models return their hidden outputs, too."""
    return _every_output.get()


# What holds for a call, in its thread alone: values by the `id` of a model and a name.
_for_now: ContextVar[Mapping[tuple[int, str], Any]] = ContextVar(
    "for_now", default=MappingProxyType({})
)


def _by_setting(name: str) -> Any:
    """Return a property that is another for each setting that functions are compiled for.

    That is data with, or without, missing labels, and on TensorFlow the number of steps in a
    call. All are kept: data may come in chunks of which some have missing labels or a callback
    that watches batches, and evaluation in one thread leaves training in another alone.
    """

    def key(self: Any) -> tuple[Any, ...]:
        in_graph = keras.backend.backend() == "tensorflow"
        return name, self.masked, self.steps_per_execution if in_graph else None

    def get(self: Any) -> Any:
        return self._kept.get(key(self))

    def put(self: Any, value: Any) -> None:
        self._kept[key(self)] = value

    return property(get, put)


class SteppedModel(WholeSteps):
    """A Keras model with steps of its own: for balancers, lazy optimizers, XLA on TensorFlow.

    `compile` of a subclass ends with `prepare_steps`, and `fit` begins with `start_steps`.
    """

    jit_compile: Any  # a property of Keras' trainer
    balancer: Any
    _full_batches_by_xla = False  # until `compile` decides
    _has_step_variables = False
    _auto_steps = False
    train_function = _by_setting("train_function")
    test_function = _by_setting("test_function")
    _step = _by_setting("step")

    @property
    def _kept(self) -> dict[Any, Any]:
        # Keras would track a plain attribute, and sets some of these before `__init__` ends.
        return self.__dict__.setdefault("kept", {})  # type: ignore[no-any-return]

    def _now(self, name: str, default: Any) -> Any:
        """Return what a name is in this call, or in any other."""
        return _for_now.get().get((id(self), name), self._kept.get(name, default))

    def _for_a_while(self, name: str, value: Any) -> contextlib.AbstractContextManager[Any]:
        return held(_for_now, {**_for_now.get(), (id(self), name): value})

    @property
    def masked(self) -> bool:
        """Whether steps mask missing labels: unless the data are known to have none."""
        return self._now("masked", True) or self.distributed or self.replicas > 1

    @masked.setter
    def masked(self, value: bool) -> None:
        self._kept["masked"] = value

    def masked_for_a_while(self, value: bool) -> contextlib.AbstractContextManager[Any]:
        """Mask missing labels, or don't, for the time of a block, in this thread alone."""
        return self._for_a_while("masked", value)

    @property
    def steps_per_execution(self) -> int:
        """Batches per call of a compiled function."""
        return self._now("steps", 1)  # type: ignore[no-any-return]

    @steps_per_execution.setter
    def steps_per_execution(self, value: int) -> None:
        self._kept["steps"] = value

    def steps_of(self, number: int) -> contextlib.AbstractContextManager[Any]:
        """Run so many steps per call for the time of a block, in this thread alone."""
        return self._for_a_while("steps", number)

    def _forget_functions(self) -> None:
        for key in [key for key in self._kept if isinstance(key, tuple)]:
            del self._kept[key]

    @property
    def lazy(self) -> bool:
        """Whether the optimizer updates only those rows of tables that a batch looks up."""
        return isinstance(getattr(self.optimizer, "inner_optimizer", self.optimizer), LazyOptimizer)

    def prepare_steps(self, auto_steps: bool, auto_jit: bool) -> None:
        """Choose how steps are compiled.

        Args:
            auto_steps: bool. Whether each `fit` chooses how many steps a call runs.
            auto_jit: bool. Whether to compile by XLA where Keras would not.
        """
        if self.replicas > 1 and self.steps_per_execution > 1:
            raise ValueError(
                "`steps_per_execution` should be 1 or 'auto' under a distribution strategy, where "
                f"Keras runs no more at once. Received: {self.steps_per_execution}"
            )
        self._auto_steps = auto_steps
        self._has_step_variables = False
        self._forget_functions()
        alone = not (self.run_eagerly or replicas.under_strategy(self))
        self._full_batches_by_xla = auto_jit and alone and pays_on_cpu(self)
        for variable in self.trainable_variables:
            variable.sparse_gradient = self.lazy
        if not self.lazy and any(getattr(v, "shared_out", False) for v in self.weights):
            raise ValueError(
                "`optimizer` should be lazy where devices share tables (mtl.optimizers.LazyAdam): "
                "others make a gradient as large as the table, at every step. "
                f"Received: {type(self.optimizer).__name__}"
            )
        if self.lazy:  # its variables are needed when the step is traced
            self.optimizer.build(self.trainable_variables)

    def start_steps(
        self, data: tuple[Any, Any, Any], batch_size: int | None, callbacks: Any, by_steps: bool
    ) -> None:
        """Do what a `fit` does before its first step.

        Args:
            data: inputs, labels and sample weights, checked.
            batch_size: int or None.
            callbacks: as `fit` takes them.
            by_steps: bool. Whether `fit` is told how many steps to take.
        """
        self._create_variables(*data)
        self._choose_steps(data[0], batch_size, callbacks, by_steps)
        if self._step is not None:
            self._step.start()

    def _create_variables(self, x: Any, y: Any, sample_weight: Any) -> None:
        """Create the variables of optimizer and metrics before the training step is traced.

        TensorFlow traces a function a second time if its first call created variables.
        """
        if keras.backend.backend() != "tensorflow" or not isinstance(x, dict) or y is None:
            return
        import tensorflow as tf

        # Under a distribution strategy Keras creates them by itself, in the strategy's scope.
        alone = self.distribute_strategy is tf.distribute.get_strategy()
        if not alone or self.optimizer is None or self._has_step_variables:
            return
        self._has_step_variables = True
        x, y, sample_weight = keras.tree.map_structure(
            lambda array: None if array is None else array[:1], (x, y, sample_weight)
        )
        with every_output():
            y_pred = self(x, training=False)
        self.compute_loss(x, y, y_pred, sample_weight, training=False)
        self.compute_metrics(x, y, y_pred, sample_weight)
        self.reset_metrics()
        self.optimizer.build(self.trainable_variables)

    def _choose_steps(self, x: Any, batch_size: int | None, callbacks: Any, by_steps: bool) -> None:
        if not self._auto_steps:
            return
        batch_size = getattr(x, "batch_size", batch_size)
        known = isinstance(x, dict) or hasattr(x, "by_pool")
        plain = known and not by_steps and not self.run_eagerly
        # Under a strategy Keras runs several steps on data that it has not handed on.
        number = 1
        if plain and not replicas.under_strategy(self):
            number = pace.steps_at_once(self, batch_size, callbacks)
        self.steps_per_execution = number

    @property
    def _steps_in_functions(self) -> int:
        """The number to make functions for: those that JAX makes for two take any."""
        jax = keras.backend.backend() == "jax"
        return 2 if self._auto_steps and jax else self.steps_per_execution

    def make_train_function(self, force: bool = False) -> Any:
        """Make the function that trains on a batch."""
        if self._full_batches_by_xla and (force or self._step is None):
            self._step = FullBatchesByXLA(self._one_step)
        with self.steps_of(self._steps_in_functions), self._own_function("train_step"):
            return super().make_train_function(force)

    def make_test_function(self, force: bool = False) -> Any:
        """Make the function that evaluates a batch."""
        with self.steps_of(self._steps_in_functions), self._own_function("test_step"):
            return super().make_test_function(force)

    @contextlib.contextmanager
    def _own_function(self, name: str) -> Iterator[None]:
        """Let Keras compile a method as a function of its own.

        JAX knows what it has traced by the function, and every time a method is taken from the
        model it is equal to the last: one trace would serve data with and without missing labels.
        Which of them it serves is part of it: replicas on TensorFlow run in threads of their own.
        """
        method, masked = getattr(self, name), self.masked

        def own(*args: Any) -> Any:
            with self.masked_for_a_while(masked):
                return method(*args)

        object.__setattr__(self, name, own)
        try:
            yield
        finally:
            object.__delattr__(self, name)

    def train_step(self, *args: Any) -> Any:
        """Run one training step; Keras' trainers call it, each with its own arguments."""
        waiting = unbroken() if self.run_eagerly else contextlib.nullcontext()
        with self.between_steps, every_output(), waiting, real_rows(filled.mask_of(args[-1])):
            return self._step(*args) if self._step is not None else self._one_step(*args)

    def test_step(self, *args: Any) -> Any:
        """Run one step of evaluation."""
        with self.between_steps, every_output(), real_rows(filled.mask_of(args[-1])):
            return super().test_step(*args)

    def _one_step(self, *args: Any) -> Any:
        balancer = self.balancer
        by_steps = balancer is not None and (
            balancer.compares_losses or isinstance(balancer, balancing.GradientBalancer)
        )
        backend = keras.backend.backend()
        if backend == "jax" and (by_steps or self.lazy):
            return steps.jax_step(self, *args)
        if by_steps:
            step = {"tensorflow": steps.tensorflow_step, "torch": steps.torch_step}[backend]
            return step(self, *args)
        return super().train_step(*args)
