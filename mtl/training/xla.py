"""Where XLA is chosen, beyond Keras' own choice."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import keras


def pays_on_cpu(model: Any) -> bool:
    """Return whether to train by XLA where Keras' "auto" would not: TensorFlow on a CPU.

    There it doubles the speed of stacked experts. Evaluation and prediction stay without it: each
    length of the last batch would be compiled anew, for seconds, to save milliseconds.

    Args:
        model: a compiled Keras model.
    """
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    if tf.distribute.has_strategy() or tf.config.list_physical_devices("GPU"):
        return False
    with warnings.catch_warnings():
        # Keras refuses where strings or determinism rule XLA out; nobody asked for XLA.
        warnings.filterwarnings("ignore", "Model doesn't support `jit_compile=True`")
        model.jit_compile = True
    supported: bool = model.jit_compile
    model.jit_compile = False
    return supported


class FullBatchesByXLA:
    """TensorFlow's training step, compiled by XLA for full batches alone.

    XLA compiles anew for each length of a batch, which for the short one at the end of an epoch
    takes seconds to save milliseconds. It runs from the same trace, uncompiled.

    Args:
        step: function of a batch of data.
    """

    def __init__(self, step: Callable[[Any], Any]) -> None:
        import tensorflow as tf

        self._step = tf.function(step, reduce_retracing=True, autograph=False)
        with tf.init_scope():
            self._full = tf.Variable(0, trainable=False, dtype="int32")

    def start(self) -> None:
        """Take the longest batch from here on as a full one."""
        self._full.assign(0)

    def __call__(self, data: Any) -> Any:
        """Run the step on a batch, in a graph that is being traced."""
        import tensorflow as tf

        step = self._step.get_concrete_function(data)
        compiled = tf.function(step, jit_compile=True, autograph=False)
        first = keras.tree.flatten(data)[0]
        if first.shape[0] is not None:
            return compiled(data)
        rows = tf.shape(first)[0]
        full = self._full.assign(tf.maximum(self._full, rows))
        return tf.cond(rows < full, lambda: step(data), lambda: compiled(data))
