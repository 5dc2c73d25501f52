"""What every balancer is: a layer that holds its state, and rules for weights and gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
from keras import ops

from mtl.balancing.gram import products
from mtl.tasks import Task


class Balancer(keras.layers.Layer):
    """Balances the losses of a model's tasks in training.

    A layer only in that Keras keeps, saves and hands on its variables: nobody calls it. In
    evaluation the losses are summed as without it.

    Subclasses implement `weights_of`, and where they need them, `build` (which gets the shape
    `(T,)`), `penalty`, `observe`, `compare` and `end_epoch`.

    Args:
        **kwargs: `name` of the Keras layer.
    """

    # Whether `compare` wants the losses of the batch after the step, which costs a forward pass.
    compares_losses = False

    def __init__(self, **kwargs: Any) -> None:
        # Losses are weighed in float32 whatever the policy.
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.tasks: tuple[Task, ...] = ()
        self.shapes: tuple[tuple[int, ...], ...] = ()

    def start(self, tasks: Sequence[Task], shapes: Sequence[Sequence[int]] = ()) -> None:
        """Create the state for these tasks.

        Args:
            tasks: the model's tasks, in order.
            shapes: those of the shared parameters, for a balancer of gradients. Defaults to none.

        Raises:
            ValueError: there is only one task, or the balancer served another model before.
        """
        served = tuple(tasks), tuple(map(tuple, shapes))
        if len(tasks) < 2:
            raise ValueError(
                "`balancer` should be given to a model of several tasks. "
                f"Received: {type(self).__name__} for the single task {tasks[0].name!r}"
            )
        if not self.tasks:
            self.tasks, self.shapes = served
            self.build((len(tasks),))
        elif served != (self.tasks, self.shapes):
            raise ValueError(
                f"`balancer` should be a new one for every model. Received: {type(self).__name__} "
                f"of the tasks {[task.name for task in self.tasks]}"
            )

    def in_task_order(self, name: str, given: Any, default: float) -> list[float]:
        """Return what `checked_by_task` returned as a list with an entry per task.

        Raises:
            ValueError: tasks without an entry, or entries without a task.
        """
        names = [task.name for task in self.tasks]
        if given is None:
            return [default] * len(names)
        by_name = isinstance(given, Mapping)
        if len(given) != len(names) or (by_name and set(given) != set(names)):
            raise ValueError(
                f"`{name}` should have one entry per task of {names}. Received: {given}"
            )
        return [given[n] for n in names] if by_name else list(given)

    def _state(self) -> dict[str, Any]:
        generator = getattr(self, "seed_generator", None)  # which Keras would start anew
        state = {str(i): variable for i, variable in enumerate(self.weights)}
        return state | ({} if generator is None else {"seed": generator.state})

    def save_own_variables(self, store: Any) -> None:
        """Save the state, with that of the random generator."""
        for name, variable in self._state().items():
            store[name] = ops.convert_to_numpy(variable.value)

    def load_own_variables(self, store: Any) -> None:
        """Restore the state."""
        for name, variable in self._state().items():
            variable.assign(store[name])

    def build_from_config(self, config: dict[str, Any]) -> None:
        """Do nothing: the loaded model starts its balancer with its tasks."""

    def weights_of(self, losses: Any) -> Any:
        """Return the weights `(T,)` of the tasks' losses `(T,)` in the sum that is minimised."""
        return ops.ones_like(losses)

    def penalty(self, losses: Any) -> Any:
        """Return a scalar to add to the weighted sum of the losses `(T,)`; 0 for most methods."""
        return 0.0

    def observe(self, losses: Any) -> None:
        """Take notice of the losses `(T,)` of a training step."""

    def compare(self, before: Any, after: Any) -> None:
        """Take notice of a batch's losses `(T,)` before and after the step on it."""

    def end_epoch(self) -> None:
        """Take notice of the end of an epoch of `fit`."""


def checked_by_task(name: str, given: Any, check: Callable[[str, Any], float]) -> Any:
    """Return what is given for each task with its entries checked, in plain Python types.

    Args:
        name: str. What errors call it.
        given: list in task order, dict by task name, or None.
        check: function of a name and an entry that returns the entry, or raises.
    """
    if given is None:
        return None
    if isinstance(given, Mapping):
        return {key: check(f"{name}[{key!r}]", value) for key, value in given.items()}
    return [check(f"{name}[{i}]", value) for i, value in enumerate(given)]


class GradientBalancer(Balancer):
    """Balances by the tasks' gradients on the shared parameters of a model.

    With g_k the gradient of task k's loss on `model.shared_variables`, most methods make
    d = Σ_k c_k g_k with coefficients that follow from the inner products g_i · g_j alone: they
    implement `coefficients`. Others, which see each entry or remember gradients, implement
    `combine`. The other parameters, embeddings among them, receive the gradient of the sum of the
    losses, weighted by `weights_of`.
    """

    def combine(self, gradients: Sequence[Sequence[Any]], losses: Any) -> list[Any]:
        """Return the combined gradient d.

        Args:
            gradients: for each task, a list with a float32 tensor per shared parameter.
            losses: tensor of shape `(T,)`, float32. The tasks' losses.

        Returns:
            A list with a float32 tensor per shared parameter.
        """
        factors = ops.unstack(self.coefficients(products(gradients), losses), len(gradients))
        return [weighted_sum(factors, of_tasks) for of_tasks in zip(*gradients, strict=True)]

    def coefficients(self, gram: Any, losses: Any) -> Any:
        """Return the coefficients c.

        Args:
            gram: tensor of shape `(T, T)`, float32. Inner products of the tasks' gradients.
            losses: tensor of shape `(T,)`, float32. The tasks' losses.

        Returns:
            A tensor of shape `(T,)`.
        """
        raise NotImplementedError


def plain(given: Any) -> Any:
    """Return a list or dict, of which Keras makes kinds of its own in a layer, as it was given."""
    if isinstance(given, Mapping):
        return dict(given)
    return list(given) if isinstance(given, Sequence) else given


def weighted_sum(factors: Iterable[Any], tensors: Iterable[Any]) -> Any:
    """Return Σ_k factor_k tensor_k."""
    return sum(factor * tensor for factor, tensor in zip(factors, tensors, strict=True))
