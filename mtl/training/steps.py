"""Training steps that Keras' trainers lack, one per backend that needs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from mtl.balancing.base import GradientBalancer, weighted_sum
from mtl.balancing.gram import products as products_of
from mtl.layers.tables import lookups_apart
from mtl.optimizers import rows_of_gradients
from mtl.training.objective import terms_apart
from mtl.training.sharing import shared_parts


class Terms(NamedTuple):
    """A batch's losses, and their gradients on the trainable variables.

    Attributes:
        losses: tensor of shape `(T,)`. The tasks' losses.
        of_task: function of k and a list of positions of variables: the gradients of loss k.
        of_sum: function of weights `(T,)`: the gradients, on every variable, of the losses'
            weighted sum and the rest (joint losses, regularisation).
        of_total: function without arguments: the gradients of what `compute_loss` returned.
        scale: the factor that loss scaling puts on all of these gradients.
    """

    losses: Any
    of_task: Callable[[int, Sequence[int]], Sequence[Any]]
    of_sum: Callable[[Any], Sequence[Any]]
    of_total: Callable[[], Sequence[Any]]
    scale: Any


def tensorflow_step(model: Any, data: Any) -> Any:
    """Run TensorFlow's training step with the gradients that the model's balancer wants.

    Args:
        model: MultiTaskModel, compiled with a balancer.
        data: one batch.

    Returns:
        The logs.
    """
    import tensorflow as tf

    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    terms, loss, y_pred = _tensorflow_terms(model, x, y, sample_weight, training=True)
    _loss_mean(model).update_state(loss, tf.shape(keras.tree.flatten(x)[0])[0])
    gradients = _balanced(model, terms)
    model.optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
    _compare(model, terms.losses, x, y, sample_weight)
    return model.compute_metrics(x, y, y_pred, sample_weight)


def torch_step(model: Any, data: Any) -> Any:
    """Run PyTorch's training step with the gradients that the model's balancer wants.

    Args:
        model: MultiTaskModel, compiled with a balancer.
        data: one batch.

    Returns:
        The logs.
    """
    import torch

    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    terms, loss, y_pred = _torch_terms(model, x, y, sample_weight, training=True)
    with torch.no_grad():
        _loss_mean(model).update_state(loss, keras.tree.flatten(x)[0].shape[0])
        model.optimizer.apply(_balanced(model, terms), model.trainable_variables)
        _compare(model, terms.losses, x, y, sample_weight)
        return model.compute_metrics(x, y, y_pred, sample_weight)


def jax_step(model: Any, state: Any, data: Any) -> Any:
    """Run JAX's training step with the gradients that lazy optimizer and balancer want.

    For a lazy optimizer, what is differentiated in place of a table is the zero that is added to
    each looked-up row; the optimizer then writes the new rows into the tables, whose buffers Keras
    donates to the step.

    Args:
        model: MultiTaskModel, compiled with a lazy optimizer, a balancer, or both.
        state: the four lists of variables that Keras' JAX trainer hands on.
        data: one batch.

    Returns:
        The logs, and the new state.
    """
    trainable, non_trainable, optimizer_variables, metrics_variables = state
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    terms, (loss, y_pred, non_trainable, metrics_variables), rows = _jax_terms(
        model, state, x, y, sample_weight, training=True
    )
    grads, non_trainable = _with_state(
        model, trainable, non_trainable, lambda: _balanced(model, terms)
    )
    with rows_of_gradients(rows):
        trainable, optimizer_variables = model.optimizer.stateless_apply(
            optimizer_variables, grads, trainable
        )
    _, non_trainable = _with_state(
        model,
        trainable,
        non_trainable,
        lambda: _compare(model, terms.losses, x, y, sample_weight),
    )
    with keras.StatelessScope(
        list(zip(model.metrics_variables, metrics_variables, strict=True))
    ) as scope:
        _loss_mean(model).update_state(loss, keras.tree.flatten(x)[0].shape[0])
        logs = model.compute_metrics(x, y, y_pred, sample_weight)
    metrics_variables = [scope.get_current_value(v) for v in model.metrics_variables]
    return logs, (trainable, non_trainable, optimizer_variables, metrics_variables)


def _loss_mean(model: Any) -> Any:
    """Return the mean of the total loss that the logs show: the first of a model's metrics."""
    return model.metrics[0]


def gradient_products(model: Any) -> Callable[..., np.ndarray]:
    """Return a function to the inner products of the tasks' gradients on the shared parameters.

    Args:
        model: a compiled MultiTaskModel.

    Returns:
        A function of a batch's inputs, labels and sample weights, as `mtl.training.arrays` checks
        them, to an array of shape `(T, T)`.

    Raises:
        ValueError: the model isn't compiled, or its tasks share no parameters.
    """
    if not model.compiled:
        raise ValueError("`model` should be compiled: its losses are needed. Received: it is not")
    shared = shared_positions(model)
    backend = keras.backend.backend()
    by_backend = {"tensorflow": _tensorflow_terms, "jax": _jax_terms, "torch": _torch_terms}
    terms_of: Any = by_backend[backend]

    def products(*batch: Any) -> Any:
        terms = terms_of(model, *batch, training=False)[0]
        return products_of(_of_shared(terms, shared))

    compiled = products
    if backend == "jax":
        import jax

        compiled = jax.jit(products)
    elif backend == "tensorflow":
        import tensorflow as tf

        compiled = tf.function(products, reduce_retracing=True, autograph=False)

    def run(*batch: Any) -> np.ndarray:
        batch = keras.tree.map_structure(
            lambda v: None if v is None else ops.convert_to_tensor(v), batch
        )
        if backend == "jax":
            batch = (model.state_of_step(), *batch)
        result: np.ndarray = ops.convert_to_numpy(compiled(*batch))
        model.reset_metrics()
        return result

    return run


def shared_positions(model: Any) -> list[tuple[int, np.ndarray | None]]:
    """Return where, among the trainable variables, the tasks' shared dense parameters are.

    Args:
        model: MultiTaskModel.

    Returns:
        A list of pairs: a position, and None or a mask of the variable's shared entries.

    Raises:
        ValueError: there are none.
    """
    positions = {id(v): i for i, v in enumerate(model.trainable_variables)}
    parts = shared_parts(model)
    if not parts:
        raise ValueError(
            "The model's tasks should share dense parameters, such as a bottom or experts. "
            f"Received: {model.name!r}, which has none"
        )
    return [(positions[id(variable)], mask) for variable, mask in parts]


def _tensorflow_terms(
    model: Any, x: Any, y: Any, sample_weight: Any, training: bool
) -> tuple[Terms, Any, Any]:
    import tensorflow as tf

    variables = model.trainable_variables
    with tf.GradientTape(persistent=True) as tape:
        y_pred = model(x, training=training)
        with terms_apart() as taken:
            loss = model.compute_loss(x, y, y_pred, sample_weight, training=training)
    [(losses, stacked, rest)] = taken
    scale = model.optimizer.scale_loss(tf.ones(()))

    def gradients(targets: list[Any], factors: list[Any], of: Any = variables) -> list[Any]:
        # A loss has the dtype of its task's predictions.
        factors = [tf.cast(f, target.dtype) for f, target in zip(factors, targets, strict=True)]
        return tape.gradient(  # type: ignore[no-any-return]
            targets, of, factors, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )

    terms = Terms(
        stacked,
        lambda k, at: gradients([losses[k]], [scale], [variables[i] for i in at]),
        lambda weights: gradients([*losses, rest], [*tf.unstack(weights * scale), scale]),
        lambda: gradients([loss], [scale]),
        scale,
    )
    return terms, loss, y_pred


def _torch_terms(
    model: Any, x: Any, y: Any, sample_weight: Any, training: bool
) -> tuple[Terms, Any, Any]:
    import torch

    y_pred = model(x, training=training)
    with terms_apart() as taken:
        loss = model.compute_loss(x, y, y_pred, sample_weight, training=training)
    [(losses, stacked, rest)] = taken
    scale = model.optimizer.scale_loss(ops.ones(()))
    values = [variable.value for variable in model.trainable_variables]

    def gradients(targets: list[Any], factors: list[Any], of: Any = values) -> list[Any]:
        pairs = [pair for pair in zip(targets, factors, strict=True) if pair[0].requires_grad]
        options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
        outputs, grad_outputs = zip(*pairs, strict=True)
        return list(torch.autograd.grad(outputs, of, grad_outputs, **options))

    terms = Terms(
        stacked.detach(),
        lambda k, at: gradients([losses[k]], [scale], [values[i] for i in at]),
        lambda weights: gradients([stacked, rest], [weights * scale, scale]),
        lambda: gradients([loss], [scale]),
        scale,
    )
    return terms, loss, y_pred


def _jax_terms(
    model: Any, state: Any, x: Any, y: Any, sample_weight: Any, training: bool
) -> tuple[Terms, Any, dict[int, Any]]:
    """Return the terms, what Keras' step gets beside the loss, and rows by `id` of a table."""
    import jax
    from jax import numpy as jnp

    trainable, non_trainable, optimizer_variables, metrics_variables = state
    place = {id(variable): i for i, variable in enumerate(model.trainable_variables)}
    tables = {
        place[id(weight)]: (table, weight)
        for encoder in model.encoders
        for table, weight in encoder.tables
        if model.lazy and id(weight) in place
    }
    batch = keras.tree.flatten(x)[0].shape[0]
    zeros = {
        i: jnp.zeros((batch, table.width, table.dim), weight.dtype)
        for i, (table, weight) in tables.items()
    }

    def terms_of(differentiated: list[Any]) -> Any:
        values = [trainable[i] if i in tables else v for i, v in enumerate(differentiated)]
        added = {id(weight): differentiated[i] for i, (_, weight) in tables.items()}
        with lookups_apart(added) as rows, terms_apart() as taken:
            loss, aux = model.compute_loss_and_updates(
                values,
                non_trainable,
                metrics_variables,
                x,
                y,
                sample_weight,
                training=training,
                optimizer_variables=optimizer_variables,
            )
        [(_, stacked, rest)] = taken
        return (loss, stacked, rest), (aux, rows)

    differentiated = [zeros.get(i, value) for i, value in enumerate(trainable)]
    (loss, stacked, rest), pull, (aux, rows) = jax.vjp(terms_of, differentiated, has_aux=True)
    with keras.StatelessScope(
        list(zip(model.optimizer.variables, optimizer_variables, strict=True))
    ):
        scale = model.optimizer.scale_loss(jnp.ones(()))
    nothing, one = jnp.zeros_like(stacked), jnp.ones_like(loss)

    def gradients(of_loss: Any, of_tasks: Any, of_rest: Any) -> list[Any]:
        grads = pull((of_loss, of_tasks, of_rest * jnp.ones_like(rest)))[0]
        return [g.reshape(-1, g.shape[-1]) if i in tables else g for i, g in enumerate(grads)]

    def of_task(k: int, at: Sequence[int]) -> list[Any]:
        every = gradients(0 * one, nothing.at[k].set(scale), 0)
        return [every[i] for i in at]

    terms = Terms(
        stacked,
        of_task,
        lambda weights: gradients(0 * one, weights * scale, scale),
        lambda: gradients(one, nothing, 0),
        scale,
    )
    return terms, aux, {table: ids.reshape(-1) for table, ids in rows.items()}


def _with_state(
    model: Any, trainable: Any, non_trainable: Any, call: Callable[[], Any]
) -> tuple[Any, list[Any]]:
    """Return what a function returns that reads, and may assign, a model's variables on JAX."""
    variables = [*model.trainable_variables, *model.non_trainable_variables]
    mapping = list(zip(variables, [*trainable, *non_trainable], strict=True))
    with keras.StatelessScope(mapping) as scope:
        result = call()
    return result, [scope.get_current_value(v) for v in model.non_trainable_variables]


def _balanced(model: Any, terms: Terms) -> list[Any]:
    """Return the gradients of every trainable variable, as the model's balancer wants them."""
    balancer = model.balancer
    if not isinstance(balancer, GradientBalancer):
        return list(terms.of_total())
    shared = shared_positions(model)
    by_task = _of_shared(terms, shared)
    weights = balancer.weights_of(terms.losses)
    combined = balancer.combine(by_task, terms.losses)
    gradients = list(terms.of_sum(weights))
    factors = ops.unstack(weights, len(by_task))
    for (position, _), wanted, of_tasks in zip(
        shared, combined, zip(*by_task, strict=True), strict=True
    ):
        # The sum holds every task by its weight already, and the rest besides.
        change = (wanted - weighted_sum(factors, of_tasks)) * terms.scale
        gradients[position] += ops.cast(change, gradients[position].dtype)
    return gradients


def _of_shared(terms: Terms, shared: Sequence[tuple[int, np.ndarray | None]]) -> list[list[Any]]:
    """Return each task's gradients on the shared parameters, without their scale, in float32.

    They are 0 in entries that are not shared.
    """
    at = [position for position, _ in shared]

    def own(gradient: Any, mask: np.ndarray | None) -> Any:
        gradient = ops.cast(gradient, "float32") / terms.scale
        return gradient if mask is None else gradient * ops.convert_to_tensor(mask, "float32")

    return [
        [own(g, mask) for g, (_, mask) in zip(terms.of_task(k, at), shared, strict=True)]
        for k in range(terms.losses.shape[0])
    ]


def _compare(model: Any, before: Any, x: Any, y: Any, sample_weight: Any) -> None:
    if model.balancer is not None and model.balancer.compares_losses:
        model.balancer.compare(before, model.task_losses(x, y, sample_weight))
