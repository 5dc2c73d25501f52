"""Dropout whose random state is saved with the model."""

from __future__ import annotations

from typing import Any

import keras


@keras.saving.register_keras_serializable(package="mtl")
class Dropout(keras.layers.Dropout):
    """Keras' Dropout, which goes on after loading where it was: Keras starts its seed anew."""

    def save_own_variables(self, store: Any) -> None:
        """Save the state of the random generator."""
        store["seed"] = keras.ops.convert_to_numpy(self.seed_generator.state.value)

    def load_own_variables(self, store: Any) -> None:
        """Restore the state of the random generator."""
        self.seed_generator.state.assign(store["seed"])
