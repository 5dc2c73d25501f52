"""Replicas of TensorFlow's MirroredStrategy, and what would train several models or none."""

from __future__ import annotations

from typing import Any

import keras

_JAX = (
    "Several devices or machines train one model with KERAS_BACKEND=jax: see mtl.training.join and "
    "mtl.training.shard_tables"
)


def number(model: Any) -> int:
    """Return how many replicas compute a step of a model."""
    if keras.backend.backend() != "tensorflow":
        return 1
    return int(model.distribute_strategy.num_replicas_in_sync)


def under_strategy(model: Any) -> bool:
    """Return whether a model is trained under a distribution strategy of TensorFlow."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    # A model made in a strategy's scope keeps the strategy; the default one is made by nobody.
    return model.distribute_strategy is not tf.distribute.get_strategy() or (
        tf.distribute.has_strategy()
    )


def check(model: Any, compiling: bool = False) -> None:
    """Raise unless one device, or replicas that are known to do the same, would train a model.

    Args:
        model: a built Keras model.
        compiling: bool. Whether its optimizer and metrics are made now. Defaults to False.

    Raises:
        RuntimeError: a `keras.distribution` on another backend than JAX; several processes of
            PyTorch; a strategy of TensorFlow other than a `MirroredStrategy`, or whose scope
            doesn't hold all of this.
    """
    backend = keras.backend.backend()
    if backend != "jax" and keras.distribution.distribution() is not None:
        raise RuntimeError(
            "`keras.distribution` should be used with KERAS_BACKEND=jax. "
            f"Received: KERAS_BACKEND={backend}. {_JAX}"
        )
    if backend == "torch":
        from torch import distributed

        if distributed.is_available() and distributed.is_initialized():
            size = distributed.get_world_size()
            if size > 1:
                raise RuntimeError(
                    "Models on PyTorch should be trained in one process: others would each train "
                    f"a model of their own. Received: torch.distributed of size {size}. {_JAX}"
                )
    if under_strategy(model):
        _check_strategy(model, compiling)


def _check_strategy(model: Any, compiling: bool) -> None:
    import tensorflow as tf

    strategy = model.distribute_strategy
    kinds = (tf.distribute.MirroredStrategy, tf.distribute.OneDeviceStrategy)
    if not isinstance(strategy, kinds):
        raise RuntimeError(
            "Models on TensorFlow should be trained under tf.distribute.MirroredStrategy, or none. "
            f"Received: {type(strategy).__name__}. {_JAX}"
        )
    if number(model) == 1:
        return
    if not all(isinstance(v.value, tf.distribute.DistributedValues) for v in model.weights):
        raise RuntimeError(
            "The model should be made within the scope of the distribution strategy. "
            "Received: one that was made outside of it"
        )
    if compiling and tf.distribute.get_strategy() is not strategy:
        raise RuntimeError(
            "`compile` should be called within the scope of the model's distribution strategy. "
            "Received: a call outside of it"
        )


def shared_out(model: Any, batch: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a batch `(x, …)` as the replicas get it in `fit`, each a part of the rows."""
    import tensorflow as tf

    given = tuple(tuple(v) if isinstance(v, list) else v for v in batch if v is not None)
    dataset = tf.data.Dataset.from_tensors(given)
    [shared] = model.distribute_strategy.experimental_distribute_dataset(dataset)
    parts = iter(shared)
    return tuple(None if v is None else next(parts) for v in batch)


def first_part(model: Any, batch: Any) -> Any:
    """Return the first replica's part of a batch."""
    results = model.distribute_strategy.experimental_local_results
    return keras.tree.map_structure(lambda v: None if v is None else results(v)[0], batch)
