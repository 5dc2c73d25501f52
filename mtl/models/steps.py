"""Training steps that Keras' trainers lack, one per backend that needs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from mtl.layers.tables import lookups_apart
from mtl.optimizers import rows_of_gradients


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


def lazy_jax_step(model: Any, state: Any, data: Any) -> Any:
    """Run JAX's training step, with gradients of the rows looked up instead of whole tables.

    What is differentiated is the zero that is added to each looked-up row; the optimizer then
    writes the new rows into the tables, whose buffers Keras donates to the step.

    Args:
        model: MultiTaskModel, compiled with a lazy optimizer.
        state: the four lists of variables that Keras' JAX trainer hands on.
        data: one batch.

    Returns:
        The logs, and the new state.
    """
    import jax

    trainable, non_trainable, optimizer_variables, metrics_variables = state
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    batch = keras.tree.flatten(x)[0].shape[0]
    place = {id(variable): i for i, variable in enumerate(model.trainable_variables)}
    tables = {
        place[id(weight)]: (table, weight)
        for table, weight in model.encoder.tables
        if id(weight) in place
    }
    zeros = {
        i: jax.numpy.zeros((batch, table.width, table.dim), weight.dtype)
        for i, (table, weight) in tables.items()
    }

    def loss_and_updates(differentiated: list[Any]) -> Any:
        values = [trainable[i] if i in tables else v for i, v in enumerate(differentiated)]
        added = {id(weight): differentiated[i] for i, (_, weight) in tables.items()}
        with lookups_apart(added) as rows:
            loss, aux = model.compute_loss_and_updates(
                values,
                non_trainable,
                metrics_variables,
                x,
                y,
                sample_weight,
                training=True,
                optimizer_variables=optimizer_variables,
            )
        return loss, (aux, rows)

    differentiated = [zeros.get(i, value) for i, value in enumerate(trainable)]
    grads, (aux, rows) = jax.grad(loss_and_updates, has_aux=True)(differentiated)
    loss, y_pred, non_trainable, metrics_variables = aux
    grads = [g.reshape(-1, g.shape[-1]) if i in tables else g for i, g in enumerate(grads)]
    with rows_of_gradients({key: value.reshape(-1) for key, value in rows.items()}):
        trainable, optimizer_variables = model.optimizer.stateless_apply(
            optimizer_variables, grads, trainable
        )
    logs, metrics_variables = model._update_metrics_variables(
        metrics_variables, loss, x, y, y_pred, sample_weight
    )
    return logs, (trainable, non_trainable, optimizer_variables, metrics_variables)
