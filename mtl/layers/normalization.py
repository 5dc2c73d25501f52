"""BatchNormalization over those rows of a batch that are real."""

from __future__ import annotations

from typing import Any

import keras

from mtl import rows


@keras.saving.register_keras_serializable(package="mtl")
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras' BatchNormalization, with the moments of a whole batch.

    They leave out the rows that fill a batch up, and take in those of other replicas.

    Call arguments:
        inputs: tensor `(B, …)`.
        training: bool or None.
    """

    @property
    def synchronized(self) -> bool:
        """Whether the moments are those of all of TensorFlow's replicas: if there are several."""
        return self._synchronized or rows.among_replicas()

    @synchronized.setter
    def synchronized(self, value: bool) -> None:
        self._synchronized = value

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return the normalised rows."""
        return super().call(inputs, training=training, mask=rows.real())
