"""Gradients on every backend."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np


def gradients(of: Callable[[], Any], variables: Sequence[Any]) -> list[np.ndarray]:
    """Return the gradients of a scalar with respect to Keras variables, zeros where it has none.

    Args:
        of: function that computes the scalar from the variables.
        variables: list of `keras.Variable`.
    """
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        def stateless(values: list[Any]) -> Any:
            with keras.StatelessScope(list(zip(variables, values, strict=True))):
                return of()

        found = jax.jit(jax.grad(stateless))([variable.value for variable in variables])
    elif backend == "torch":
        import torch

        values = [variable.value for variable in variables]
        found = torch.autograd.grad(of(), values, allow_unused=True)
    else:
        import tensorflow as tf

        values = [variable.value for variable in variables]
        with tf.GradientTape() as tape:
            result = of()
        found = tape.gradient(result, values)
    return [
        np.zeros(variable.shape, "float32") if g is None else keras.ops.convert_to_numpy(g)
        for variable, g in zip(variables, found, strict=True)
    ]


def by_path(model: Any, outputs: Callable[[list[Any]], Any], x: Any) -> dict[str, np.ndarray]:
    """Return the gradients of a model's trainable weights by their paths.

    Args:
        model: a model of the zoo.
        outputs: function of the model's predictions, as a list, to a scalar.
        x: dict of arrays.
    """
    inputs = {name: keras.ops.convert_to_tensor(value) for name, value in x.items()}

    def of() -> Any:
        y = model(inputs)
        return outputs(y if isinstance(y, list) else [y])

    weights = model.trainable_weights
    found = gradients(of, weights)
    return {weight.path: g for weight, g in zip(weights, found, strict=True)}
