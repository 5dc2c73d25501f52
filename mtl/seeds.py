"""Seeds derived from one seed: every weight starts differently, and the same on every run."""

from __future__ import annotations

import zlib
from typing import Any

import keras
import numpy as np


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


def reseed(initializer: Any, seed: int | None) -> Any:
    """Return a copy of a Keras initializer that draws from `seed` (and its own seed, if any).

    Initializers without a seed, and plain functions, are returned as they are.
    """
    config = initializer.get_config() if hasattr(initializer, "get_config") else {}
    if "seed" not in config:
        return initializer
    own = config["seed"] % 2**63 if isinstance(config["seed"], int) else 0
    return type(initializer).from_config({**config, "seed": derive_seed(seed, own)})


def glorot(seed: int | None) -> Any:
    """Return the initializer of every kernel: Glorot's normal, as in DeepCTR's DNN."""
    return keras.initializers.GlorotNormal(seed)
