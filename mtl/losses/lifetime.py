"""ZeroInflatedLogNormal: the loss of amounts of which most are zero, and some are huge."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="mtl")
class ZeroInflatedLogNormal(keras.losses.Loss):
    """The negative log-likelihood of a value that is zero, or else log-normal.

    With p = P(y > 0), and log y ~ N(μ, σ²) where y > 0:

        L = CE(p, y > 0) + 1[y > 0] (log y + log σ + log √(2π) + (log y - μ)² / (2 σ²))

    It is the default loss of tasks of type "lifetime_value", whose predictions hold p, μ and σ.

    Args:
        name: str. Defaults to `"zero_inflated_lognormal"`.
        **kwargs: `reduction` and `dtype` of the Keras loss.

    Raises:
        ValueError: at the call, predictions that aren't a "lifetime_value" task's.

    References:
        - Wang et al., A Deep Probabilistic Model for Customer Lifetime Value Prediction, 2019
    """

    def __init__(self, name: str = "zero_inflated_lognormal", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return a value per row, `(B,)`.

        Args:
            y_true: amounts of at least 0, `(B, 1)`.
            y_pred: expected values, p, μ and σ, `(B, 4)`.
        """
        if y_pred.shape[-1] != 4:
            raise ValueError(
                f"`{self.name}` should be the loss of a task of type 'lifetime_value'. "
                f"Received: predictions of shape {tuple(y_pred.shape)}"
            )
        y = ops.cast(ops.reshape(y_true, (-1,)), y_pred.dtype)
        _, p, mu, sigma = ops.unstack(y_pred, 4, axis=-1)
        positive = y > 0
        # In place of zeros and missing labels: their term is left out, its gradient stays finite.
        log_y = ops.log(ops.where(positive, y, 1.0))
        log_density = (
            log_y
            + ops.log(sigma)
            + 0.5 * math.log(2 * math.pi)
            + ops.square((log_y - mu) / sigma) / 2
        )
        bought = ops.binary_crossentropy(ops.cast(positive, y_pred.dtype), p)
        return bought + ops.where(positive, log_density, 0.0)
