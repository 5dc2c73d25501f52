"""Balancers as training steps call them, in every way of compiling."""

from collections.abc import Callable
from typing import Any

import keras

BACKEND = keras.backend.backend()
MODES = {"tensorflow": ["eager", "xla"], "jax": ["xla"], "torch": ["eager"]}[BACKEND]


def stepping(balancer: Any, method: Callable[..., Any], mode: str = "graph") -> Callable[..., Any]:
    """Return a method of a balancer that moves its state, compiled.

    On JAX it is always compiled, on torch never; `mode` is for TensorFlow.
    """
    if BACKEND == "tensorflow" and mode != "eager":
        import tensorflow as tf

        return tf.function(method, jit_compile=mode == "xla")  # type: ignore[no-any-return]
    if BACKEND != "jax":
        return method
    import jax

    @jax.jit
    def stateless(values: Any, *args: Any) -> Any:
        state = list(zip(balancer.variables, values, strict=True))
        with keras.StatelessScope(state) as scope:
            result = method(*args)
        return result, [scope.get_current_value(v) for v in balancer.variables]

    def step(*args: Any) -> Any:
        result, values = stateless([v.value for v in balancer.variables], *args)
        for variable, value in zip(balancer.variables, values, strict=True):
            variable.assign(value)
        return result

    return step
