"""Optimizers whose step costs what a batch looks up, however large the vocabularies are."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, ClassVar

import keras
from keras import ops

from mtl import checks, devices, shards
from mtl.context import held

__all__ = ["LazyAdagrad", "LazyAdam"]


class LazyOptimizer(keras.optimizers.Optimizer):
    """An optimizer that reads and writes only those rows of embedding tables that a batch uses.

    A batch may look a row up several times. Which of these lookups speaks for the row is written
    into a vector with an entry per row, and read back. What an earlier batch left there is never
    read, so that nothing needs clearing or sorting; and all shapes are static, as XLA wants them.
    """

    # State variables by name, and whether they hold squares (one per row, if `row_wise`).
    _state_names: ClassVar[dict[str, bool]] = {}

    def __init__(self, learning_rate: Any, row_wise: bool, name: str, **kwargs: Any) -> None:
        for option in ("use_ema", "gradient_accumulation_steps"):
            if kwargs.get(option):
                raise ValueError(
                    f"`{option}` should not be set for {type(self).__name__}: it would touch every "
                    f"row of every table at every step. Received: {kwargs[option]!r}"
                )
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.row_wise = bool(row_wise)

    def build(self, variables: Sequence[Any]) -> None:
        """Create the state of every variable."""
        if self.built:
            return
        super().build(variables)
        self._states = [
            [self._add_state(v, name, squares) for name, squares in self._state_names.items()]
            for v in variables
        ]
        self._looked_up: dict[int, Any] = {}
        self._speakers = [self._add_speakers(v) if is_table(v) else None for v in variables]
        for table in filter(is_table, variables):
            table.sparse_gradient = True

    def _add_state(self, variable: Any, name: str, squares: bool) -> Any:
        by_row = self.row_wise and squares and is_table(variable)
        state = self.add_variable(
            shape=(variable.shape[0], 1) if by_row else variable.shape,
            initializer=self._initial_state(name),
            dtype=variable.dtype,
            name=_name(variable, name),
        )
        if hasattr(variable, "real_rows"):
            state.real_rows = variable.real_rows
        return state

    def _add_speakers(self, table: Any) -> Any:
        if keras.backend.backend() == "torch":  # which has gradients of whole tables only
            return None
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            replicas = tf.distribute.get_strategy().num_replicas_in_sync
            if replicas > 1:
                raise ValueError(
                    "Lazy optimizers should be used on one device. "
                    f"Received: a distribution strategy of {replicas} replicas"
                )
        return self.add_variable(
            table.shape[:1], initializer="zeros", dtype="int32", name=_name(table, "speakers")
        )

    def apply(self, grads: Sequence[Any], trainable_variables: Any = None) -> None:
        """Update the variables by their gradients."""
        if trainable_variables is not None:
            trainable_variables = list(trainable_variables)
            self.build(trainable_variables)
        known = self._trainable_variables if trainable_variables is None else trainable_variables
        pairs = zip(grads, known, strict=True)
        super().apply([self._sum_lookups(*pair) for pair in pairs], trainable_variables)

    def _sum_lookups(self, gradient: Any, variable: Any) -> Any:
        """Return, for a table, gradients `(lookups, dim)`: each row's sum at its speaker, else 0.

        Clipping so sees the norms that it would see in the dense gradient.
        """
        rows, values = _lookups(gradient, variable)
        if rows is None:
            return gradient
        index = self._get_variable_index(variable)
        if shards.is_shared(variable, rows.shape[0]):
            speakers = self._speakers[index]
            spoken, every, sums = shards.sum_by_row(speakers.value, rows, values)
            speakers.assign(spoken)
            self._looked_up[index] = every, None
            return sums
        count = values.shape[0] if values.shape[0] is not None else ops.shape(values)[0]
        _write(self._speakers[index], rows, ops.arange(count, dtype="int32"))
        speaker = _read(self._speakers[index], rows)
        self._looked_up[index] = rows, speaker
        return ops.segment_sum(values, speaker, num_segments=count)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one variable: a table by the rows that were looked up, others as a whole."""
        index = self._get_variable_index(variable)
        variables = [variable, *self._states[index]]
        gradient = ops.cast(gradient, variable.dtype)
        lr = ops.cast(learning_rate, variable.dtype)
        if index in self._looked_up:
            rows, speaker = self._looked_up.pop(index)

            def new_rows(sums: Any, old: list[Any]) -> list[Any]:
                value, *state = old
                return self._update(sums, self._decayed(variable, value, lr), state, lr)

            if speaker is None:
                values = [v.value for v in variables]
                spoken = self._speakers[index].value
                updated = shards.update_rows(values, spoken, rows, gradient, new_rows)
                for v, new in zip(variables, updated, strict=True):
                    v.assign(new)
                return
            old = [_read(v, rows) for v in variables]
            updated = new_rows(ops.take(gradient, speaker, axis=0), old)
            for v, new in zip(variables, updated, strict=True):
                # A row that was looked up twice is written twice, with equal values.
                _write(v, rows, new)
            return
        value, *state = old = [ops.convert_to_tensor(v) for v in variables]
        lazy = is_table(self._trainable_variables[index])
        if lazy:
            self._warn_of_dense_gradient()
            value = self._decayed(variable, value, lr)
        updated = self._update(gradient, value, state, lr)
        if lazy:
            touched = ops.any(ops.not_equal(gradient, 0), axis=-1, keepdims=True)
            updated = [ops.where(touched, a, b) for a, b in zip(updated, old, strict=True)]
        for v, new in zip(variables, updated, strict=True):
            self.assign(v, new)

    def _warn_of_dense_gradient(self) -> None:
        warnings.warn(
            f"{type(self).__name__} received the gradient of a whole embedding table: rows that "
            "the batch didn't look up stay as they are, but the step costs time in proportion to "
            f"the vocabulary (as everywhere on PyTorch). Backend: {keras.backend.backend()}",
            stacklevel=2,
        )

    def _decayed(self, variable: Any, value: Any, lr: Any) -> Any:
        if self.weight_decay is None or not self._use_weight_decay(variable):
            return value
        return value - value * ops.cast(self.weight_decay, value.dtype) * lr

    def _apply_weight_decay(self, variables: Sequence[Any]) -> None:
        super()._apply_weight_decay([v for v in variables if not is_table(v)])

    def _square(self, gradient: Any, state: Any) -> Any:
        """Return squares, or their mean over a row where the state has one entry per row."""
        square = ops.square(gradient)
        by_row = state.shape[-1:] == (1,) != gradient.shape[-1:]
        return ops.mean(square, axis=-1, keepdims=True) if by_row else square

    def _initial_state(self, name: str) -> Any:
        return "zeros"

    def _update(self, gradient: Any, value: Any, state: list[Any], lr: Any) -> list[Any]:
        """Return the new value and state."""
        raise NotImplementedError

    def save_own_variables(self, store: Any) -> None:
        """Save the state; who speaks for a row in some batch is none."""
        for i, variable in enumerate(self._saved_variables):
            store[str(i)] = devices.whole(variable)

    def load_own_variables(self, store: Any) -> None:
        """Restore the state."""
        if len(store.keys()) != len(self._saved_variables):
            super().load_own_variables(store)  # which warns
            return
        for i, variable in enumerate(self._saved_variables):
            devices.put(variable, store[str(i)])

    @property
    def _saved_variables(self) -> list[Any]:
        scratch = {id(v) for v in self._speakers} if self.built else set()
        return [v for v in self.variables if id(v) not in scratch]

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "row_wise": self.row_wise}


@keras.saving.register_keras_serializable(package="mtl")
class LazyAdam(LazyOptimizer):
    """Adam that updates only those rows of embedding tables that a batch looks up.

    On TensorFlow and JAX a step costs about the same for a thousand rows and for millions. Every
    other variable is updated as by Keras' Adam; so is a table whose every row is looked up at
    every step. A row's moments stay as they are while it isn't looked up; the bias correction goes
    by the number of steps.

    Tables are those of `mtl.layers.FeatureEncoder`, in any Keras model on TensorFlow and in a
    `MultiTaskModel` on JAX, and on TensorFlow those of `keras.layers.Embedding`, whose lookup
    however copies the table. Elsewhere rows are left alone as well, but the gradient is one of the
    whole table and the cost grows with the vocabulary: a warning says so.

    Args:
        learning_rate: float, schedule or callable. Defaults to 0.001.
        beta_1: float. Decay of the first moment. Defaults to 0.9.
        beta_2: float. Decay of the second moment. Defaults to 0.999.
        epsilon: float. Added to the root of the second moment. Defaults to 1e-7.
        row_wise: bool. Whether a table has one second moment per row, the mean of its squares,
            instead of one per entry: a third less memory in all. Defaults to False.
        weight_decay: float or None. Decay of the weights; of tables, of the rows looked up.
        name: str. Defaults to `"lazy_adam"`.
        **kwargs: `clipnorm`, `clipvalue`, `global_clipnorm`, `loss_scale_factor` of Keras'
            optimizers.

    Raises:
        ValueError: an argument out of range; `use_ema` or `gradient_accumulation_steps`, which
            touch whole tables; a distribution strategy of several replicas.

    References:
        - Kingma and Ba, Adam: A Method for Stochastic Optimization, ICLR 2015
    """

    _state_names: ClassVar = {"momentum": False, "velocity": True}

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        row_wise: bool = False,
        name: str = "lazy_adam",
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, row_wise, name, **kwargs)
        self.beta_1 = checks.rate("beta_1", beta_1)
        self.beta_2 = checks.rate("beta_2", beta_2)
        self.epsilon = checks.non_negative_float("epsilon", epsilon)

    def _update(self, gradient: Any, value: Any, state: list[Any], lr: Any) -> list[Any]:
        m, v = state
        step = ops.cast(self.iterations + 1, value.dtype)
        correction_1, correction_2 = (
            1 - ops.power(ops.cast(beta, value.dtype), step) for beta in (self.beta_1, self.beta_2)
        )
        m = m + (gradient - m) * (1 - self.beta_1)
        v = v + (self._square(gradient, v) - v) * (1 - self.beta_2)
        alpha = lr * ops.sqrt(correction_2) / correction_1
        return [value - m * alpha / (ops.sqrt(v) + self.epsilon), m, v]

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        own = {"beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="mtl")
class LazyAdagrad(LazyOptimizer):
    """Adagrad that updates only those rows of embedding tables that a batch looks up.

    A row that isn't looked up has no gradient, so that this is Keras' Adagrad, at a cost that
    doesn't grow with the vocabulary. Tables and backends are as in `LazyAdam`.

    Args:
        learning_rate: float, schedule or callable. Defaults to 0.001.
        initial_accumulator_value: float. Defaults to 0.1.
        epsilon: float. Added to the accumulator. Defaults to 1e-7.
        row_wise: bool. Whether a table has one accumulator per row, which adds the mean of its
            squares, instead of one per entry: half the memory. Defaults to False.
        name: str. Defaults to `"lazy_adagrad"`.
        **kwargs: as in `LazyAdam`.

    Raises:
        ValueError: as in `LazyAdam`.

    References:
        - Duchi et al., Adaptive Subgradient Methods for Online Learning and Stochastic
          Optimization, JMLR 2011
    """

    _state_names: ClassVar = {"accumulator": True}

    def __init__(
        self,
        learning_rate: Any = 0.001,
        initial_accumulator_value: float = 0.1,
        epsilon: float = 1e-7,
        row_wise: bool = False,
        name: str = "lazy_adagrad",
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, row_wise, name, **kwargs)
        self.initial_accumulator_value = checks.non_negative_float(
            "initial_accumulator_value", initial_accumulator_value
        )
        self.epsilon = checks.non_negative_float("epsilon", epsilon)

    def _initial_state(self, name: str) -> Any:
        return keras.initializers.Constant(self.initial_accumulator_value)

    def _update(self, gradient: Any, value: Any, state: list[Any], lr: Any) -> list[Any]:
        total = state[0] + self._square(gradient, state[0])
        return [value - lr * gradient / ops.sqrt(total + self.epsilon), total]

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        own = {
            "initial_accumulator_value": self.initial_accumulator_value,
            "epsilon": self.epsilon,
        }
        return {**super().get_config(), **own}


def _name(variable: Any, state: str) -> str:
    return f"{variable.path.replace('/', '_')}_{state}"


def is_table(variable: Any) -> bool:
    """Return whether a variable is an embedding table, whose rows may be updated alone."""
    marked = getattr(variable, "embedding_table", False)
    return bool(marked) or variable.path.endswith("/embeddings")


_rows: ContextVar[Mapping[int, Any]] = ContextVar("rows", default=MappingProxyType({}))


def rows_of_gradients(rows: Mapping[int, Any]) -> AbstractContextManager[Any]:
    """Say that some gradients are `(lookups, dim)`, and of which rows of their tables.

    Args:
        rows: dict from `id` of a table to an integer tensor `(lookups,)`.
    """
    return held(_rows, rows)


def _lookups(gradient: Any, variable: Any) -> tuple[Any, Any]:
    """Return the rows that a gradient is of, and its values; or None and None: of all."""
    if id(variable) in _rows.get():
        return _rows.get()[id(variable)], gradient
    if keras.backend.backend() == "tensorflow" and is_table(variable):
        import tensorflow as tf

        if isinstance(gradient, tf.IndexedSlices):
            return tf.cast(gradient.indices, "int32"), gradient.values
    return None, None


def _read(variable: Any, rows: Any) -> Any:
    """Return some rows of a variable, without a copy of the others."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.gather(_tensorflow_variable(variable), rows)
    return ops.take(variable, rows, axis=0)


def _write(variable: Any, rows: Any, values: Any) -> None:
    """Write some rows of a variable, in place."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        _tensorflow_variable(variable).scatter_update(tf.IndexedSlices(values, rows))
    else:
        variable.assign(variable.value.at[rows].set(values))


def _tensorflow_variable(variable: Any) -> Any:
    return variable.value if isinstance(variable, keras.Variable) else variable
