"""Training steps of our own: full batches by XLA on TensorFlow, looked-up rows on JAX."""

from typing import Any

import keras
import numpy as np
import pytest
import toy

from mtl.optimizers import LazyAdam
from mtl.training.xla import FullBatchesByXLA

tensorflow_only = pytest.mark.skipif(toy.BACKEND != "tensorflow", reason="XLA on TensorFlow")
N = 26
X, Y = toy.features(N), toy.labels(rows=N)


def graph(step: Any, **spec: Any) -> Any:
    import tensorflow as tf

    return tf.function(step, input_signature=[tf.TensorSpec(**spec)])


def doubled(value: Any) -> Any:
    """Run on the host, which XLA can't."""
    import tensorflow as tf

    return tf.ensure_shape(tf.numpy_function(lambda v: v * 2, [value], tf.float32), value.shape)


@tensorflow_only
def test_short_batches_are_not_compiled() -> None:
    import tensorflow as tf

    step = FullBatchesByXLA(doubled)
    call = graph(step, shape=(None,), dtype="float32")
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"[Cc]ompil"):
        call([1.0, 2.0, 3.0])
    np.testing.assert_array_equal(call([1.0, 2.0]), [2, 4])
    step.start()
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"[Cc]ompil"):
        call([1.0, 2.0])


@tensorflow_only
def test_batches_of_a_fixed_length_are_compiled() -> None:
    import tensorflow as tf

    with pytest.raises(tf.errors.InvalidArgumentError, match=r"[Cc]ompil"):
        graph(FullBatchesByXLA(doubled), shape=(3,), dtype="float32")([1.0, 2.0, 3.0])


@tensorflow_only
def test_training_is_the_same_with_and_without() -> None:
    results = []
    for options in ({}, {"jit_compile": False}):
        model = toy.build("MMoE", seed=2)
        model.compile("adam", metrics=["mae"], **options)
        assert not model.jit_compile  # Keras' own; evaluation and prediction go by it
        histories = [
            model.fit(X, Y, batch_size=rows, epochs=2, shuffle=False, verbose=0).history
            for rows in (8, 5)
        ]
        results.append(([v for h in histories for v in h.values()], model.get_weights()))
    (one, weights), (other, same_weights) = results
    np.testing.assert_allclose(one, other, rtol=1e-4)
    toy.same(weights, same_weights, atol=1e-5)


@pytest.mark.skipif(toy.BACKEND == "torch", reason="gradients of whole tables on torch")
@pytest.mark.parametrize("name", toy.SOME)
def test_a_lazy_optimizer_trains_every_model(name: str) -> None:
    weights = []
    for make in (LazyAdam, keras.optimizers.Adam):
        model = toy.build(name, seed=4)
        model.compile(make(0.01), **toy.QUICK)
        # Every id occurs in every batch; sequences hold padding.
        model.fit(X, Y, batch_size=N, epochs=3, shuffle=False, verbose=0)
        weights.append(model.get_weights())
    seen = {name: np.unique(X[name]) for name in ("user", "item", "history")}
    assert all(len(ids) >= 5 for ids in seen.values())
    toy.same(*weights, atol=1e-5)
