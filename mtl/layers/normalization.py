"""BatchNormalization over those rows of a batch that are real."""

from __future__ import annotations

from typing import Any

import keras

from mtl import rows


@keras.saving.register_keras_serializable(package="mtl")
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras' BatchNormalization, whose moments leave out the rows that fill a batch up.

    Call arguments:
        inputs: tensor `(B, …)`.
        training: bool or None.
    """

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return the normalised rows."""
        return super().call(inputs, training=training, mask=rows.real())
