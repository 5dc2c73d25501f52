"""Dropout and noise whose random state is saved with the model."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from mtl import checks
from mtl.seeds import RNG, seed_of_draw, uniform

_EDGE = 1e-6  # from 0 and 1, where the logit has no value


class Drawn:
    """A layer that goes on after loading where its draws were: Keras starts its seed anew."""

    seed_generator: Any

    def save_own_variables(self, store: Any) -> None:
        """Save the state of the random generator."""
        store["seed"] = ops.convert_to_numpy(self.seed_generator.state.value)

    def load_own_variables(self, store: Any) -> None:
        """Restore the state of the random generator."""
        self.seed_generator.state.assign(store["seed"])


@keras.saving.register_keras_serializable(package="mtl")
class Dropout(Drawn, keras.layers.Dropout):
    """Keras' Dropout, with a state that is saved, and fast where XLA compiles TensorFlow."""

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return the inputs, in training without some entries and the others the larger for it."""
        plain = not training or not self.rate or self.noise_shape
        if plain or keras.backend.backend() != "tensorflow":
            return super().call(inputs, training=bool(training))
        import tensorflow as tf

        seed = seed_of_draw(self.seed_generator)
        return tf.nn.experimental.stateless_dropout(inputs, self.rate, seed, rng_alg=RNG)


@keras.saving.register_keras_serializable(package="mtl")
class LogisticNoise(Drawn, keras.layers.Layer):
    """In training, x + ln u - ln(1 - u) with u ~ U(0, 1); otherwise x.

    Args:
        seed: int or None. Seed of u. Defaults to None.
        **kwargs: `name`, `dtype`, `trainable` of the Keras layer.
    """

    def __init__(self, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seed = checks.seed("seed", seed)
        self.seed_generator = keras.random.SeedGenerator(self.seed)
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return the inputs, with noise in training."""
        if not training:
            return inputs
        u = uniform(ops.shape(inputs), self.seed_generator, _EDGE, 1 - _EDGE, self.compute_dtype)
        return inputs + ops.log(u) - ops.log(1 - u)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "seed": self.seed}
