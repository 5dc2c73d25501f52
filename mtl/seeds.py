"""Seeds derived from one seed, and what is drawn by them, the same on every run."""

from __future__ import annotations

import hashlib
import zlib
from typing import Any

import keras
import numpy as np
from keras import ops


def derive_seed(seed: int | None, *path: int | str) -> int | None:
    """Derive a seed from `seed` and the path of names and indices that leads to its user.

    Keras initializers with an integer seed are deterministic: two layers that get the same
    integer start with the same weights. So no seed is handed out twice: different paths of one
    length give different seeds.

    Args:
        seed: int or None. The parent's seed; None stays None (fresh random weights).
        *path: ints and strings. Where the seed is used, e.g. `("tower", 0)`.

    Returns:
        A non-negative int below 2**31, or None.
    """
    if seed is None:
        return None
    keys = [zlib.crc32(key.encode()) if isinstance(key, str) else key for key in path]
    return int(np.random.SeedSequence([seed, *keys]).generate_state(1)[0] >> 1)


@keras.saving.register_keras_serializable(package="mtl")
class RandomNormal(keras.initializers.RandomNormal):
    """Keras' RandomNormal, drawn on the host.

    On JAX each shape that is drawn is compiled for itself, which for a model with dozens of
    features takes longer than its first epoch. Drawn by numpy, a model also starts with the same
    weights on every backend.
    """

    def draw(self, shape: Any) -> np.ndarray:
        """Return initial values as a numpy array."""
        rng = np.random.default_rng(self.seed)
        values: np.ndarray = rng.standard_normal(shape, "float32")
        values *= self.stddev
        values += self.mean
        return values

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        """Return initial values."""
        return ops.convert_to_tensor(self.draw(shape), dtype)


@keras.saving.register_keras_serializable(package="mtl")
class GlorotNormal(keras.initializers.GlorotNormal):
    """Keras' GlorotNormal for matrices `(in, out)`, drawn on the host as `RandomNormal`."""

    def draw(self, shape: Any) -> np.ndarray:
        """Return initial values as a numpy array."""
        rng = np.random.default_rng(self.seed)
        values: np.ndarray = rng.standard_normal(shape, "float32")
        while (far := np.abs(values) > 2).any():
            values[far] = rng.standard_normal(np.count_nonzero(far), "float32")
        # 0.8796 is the spread that is left of 1 after the cut at 2.
        values *= np.sqrt(2 / sum(shape)) / 0.87962566103423978
        return values

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        """Return initial values."""
        return ops.convert_to_tensor(self.draw(shape), dtype)


@keras.saving.register_keras_serializable(package="mtl")
class RandomUniform(keras.initializers.RandomUniform):
    """Keras' RandomUniform, drawn on the host as `RandomNormal`."""

    def draw(self, shape: Any) -> np.ndarray:
        """Return initial values as a numpy array."""
        rng = np.random.default_rng(self.seed)
        values: np.ndarray = rng.uniform(self.minval, self.maxval, shape).astype("float32")
        return values

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        """Return initial values."""
        return ops.convert_to_tensor(self.draw(shape), dtype)


@keras.saving.register_keras_serializable(package="mtl")
class Given(keras.initializers.Initializer):
    """Initial values as they are given, which a configuration doesn't hold.

    A saved model has them, trained, among its weights: written into its configuration, too, they
    would be six times their size. Made from a configuration alone, it gives zeros.

    Args:
        values: array, or None.
        digest: str. What tells the values of a configuration from others.
    """

    def __init__(self, values: Any = None, digest: str = "") -> None:
        self.values = None if values is None else np.asarray(values, "float32")
        self.digest = digest
        if self.values is not None:
            self.digest = hashlib.sha256(self.values.tobytes()).hexdigest()

    def draw(self, shape: Any) -> np.ndarray:
        """Return initial values as a numpy array."""
        if self.values is None:
            return np.zeros(shape, "float32")
        return np.broadcast_to(self.values, shape)

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        """Return initial values."""
        return ops.convert_to_tensor(self.draw(shape), dtype)

    def get_config(self) -> dict[str, Any]:
        """Return what tells the values from others."""
        return {"digest": self.digest}


def reseed(initializer: Any, seed: int | None) -> Any:
    """Return a copy of a Keras initializer that draws from `seed` (and its own seed, if any).

    Initializers without a seed, and plain functions, are returned as they are.
    """
    config = initializer.get_config() if hasattr(initializer, "get_config") else {}
    if "seed" not in config:
        return initializer
    own = config["seed"] % 2**63 if isinstance(config["seed"], int) else 0
    # Of the kinds of initializers, DeepCTR's default is the one that is worth it.
    kind = type(initializer)
    kind = RandomNormal if kind is keras.initializers.RandomNormal else kind
    return kind.from_config({**config, "seed": derive_seed(seed, own)})


def draw(initializer: Any, shape: Any) -> np.ndarray:
    """Return an initializer's values as a numpy array, without a detour if it draws on the host."""
    if hasattr(initializer, "draw"):
        return initializer.draw(shape)  # type: ignore[no-any-return]
    return ops.convert_to_numpy(initializer(shape, dtype="float32"))  # type: ignore[no-any-return]


# By what TensorFlow draws: left to XLA, it takes 70 times as long on a CPU, most of a step with
# dropout.
RNG = "philox"


def seed_of_draw(generator: keras.random.SeedGenerator) -> Any:
    """Return a generator's next seed for a draw of TensorFlow's, in 32 bits, as XLA takes it."""
    import tensorflow as tf

    return tf.cast(tf.math.floormod(generator.next(), tf.int32.max - 1), "int32")


def uniform(
    shape: Any,
    generator: keras.random.SeedGenerator,
    low: float = 0.0,
    high: float = 1.0,
    dtype: str = "float32",
) -> Any:
    """Draw numbers in training, as `keras.random.uniform` does."""
    if keras.backend.backend() != "tensorflow":
        return keras.random.uniform(shape, low, high, dtype, generator)
    import tensorflow as tf

    seed = seed_of_draw(generator)
    return tf.random.stateless_uniform(
        shape, seed, tf.cast(low, dtype), tf.cast(high, dtype), dtype, alg=RNG
    )


def glorot(seed: int | None) -> GlorotNormal:
    """Return the initializer of every kernel: Glorot's normal, as in DeepCTR's DNN."""
    return GlorotNormal(seed)
