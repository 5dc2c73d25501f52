"""Calibrators: maps from a predicted probability to a calibrated one, fitted after training."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from mtl import checks
from mtl.layers.head import Head

# Kept from 0, and from 1 by float32's last digit: logits are finite, and different probabilities
# stay far enough apart for their difference not to vanish where tiny numbers are flushed to zero.
LOWEST, HIGHEST = 1e-30, 1 - 2.0**-24


class _Calibrator(Head):
    """What calibrators share: a task, shapes, and float32 whatever the policy."""

    def __init__(self, task_name: str | None = None, **kwargs: Any) -> None:
        super().__init__(task_name, **{**kwargs, "dtype": "float32"})

    def fixed(self, name: str, shape: tuple[int, ...], initializer: Any) -> Any:
        """Return a weight that training leaves alone."""
        return self.add_weight(
            name=name, shape=shape, initializer=initializer, trainable=False, dtype="float32"
        )

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return `(B, 1)`."""
        return input_shape


@keras.saving.register_keras_serializable(package="mtl")
class Platt(_Calibrator):
    """Platt scaling, q = σ(a · logit(p) + b).

    New, it gives back what it gets; `mtl.calibration.calibrate` fits a and b.

    Args:
        task_name: str or None. Name of the binary task. Defaults to the layer's name.
        **kwargs: `name` of the Keras layer.

    Call arguments:
        inputs: tensor of probabilities, of shape `(B, 1)`.

    Returns:
        A tensor of shape `(B, 1)`, float32.

    References:
        - Platt, Probabilistic Outputs for Support Vector Machines and Comparisons to Regularized
          Likelihood Methods, 1999
    """

    def build(self, input_shape: Any) -> None:
        """Create a, the slope, and b, the intercept."""
        self.slope = self.fixed("slope", (), "ones")
        self.intercept = self.fixed("intercept", (), "zeros")
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Return the calibrated probabilities."""
        p = ops.clip(inputs, LOWEST, HIGHEST)
        # 1 - p is exact where it matters; exporters know no log1p.
        logits = ops.log(p) - ops.log(1 - p)
        return ops.sigmoid(self.slope * logits + self.intercept)


@keras.saving.register_keras_serializable(package="mtl")
class Isotonic(_Calibrator):
    """Isotonic calibration: linear between points of a non-decreasing step function.

    Below the first and above the last point it is constant. New, it gives back what it gets;
    `mtl.calibration.calibrate` fits the points.

    Args:
        num_points: int. Number K of points, at least 2.
        task_name: str or None. Name of the binary task. Defaults to the layer's name.
        **kwargs: `name` of the Keras layer.

    Raises:
        TypeError: `num_points` is no integer.
        ValueError: `num_points` is below 2.

    Call arguments:
        inputs: tensor of probabilities, of shape `(B, 1)`.

    Returns:
        A tensor of shape `(B, 1)`, float32.

    References:
        - Zadrozny and Elkan, Transforming Classifier Scores into Accurate Multiclass Probability
          Estimates, KDD 2002
    """

    def __init__(self, num_points: int, task_name: str | None = None, **kwargs: Any) -> None:
        super().__init__(task_name, **kwargs)
        self.num_points = checks.positive_int("num_points", num_points)
        if self.num_points < 2:
            raise ValueError(f"`num_points` should be at least 2. Received: {num_points}")

    def build(self, input_shape: Any) -> None:
        """Create the points: predicted probabilities in increasing order, and calibrated ones."""

        def diagonal(shape: tuple[int, ...], dtype: Any) -> Any:
            return ops.linspace(0.0, 1.0, shape[0], dtype=dtype)

        self.predicted = self.fixed("predicted", (self.num_points,), diagonal)
        self.calibrated = self.fixed("calibrated", (self.num_points,), diagonal)
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Return the calibrated probabilities."""
        p = ops.clip(inputs, LOWEST, HIGHEST)
        # A count of the points below: exporters know no searchsorted.
        below = ops.sum(ops.cast(p >= self.predicted, "int32"), axis=-1, keepdims=True)
        right = ops.clip(below, 1, self.num_points - 1)
        x0, x1 = ops.take(self.predicted, right - 1), ops.take(self.predicted, right)
        y0, y1 = ops.take(self.calibrated, right - 1), ops.take(self.calibrated, right)
        return y0 + ops.clip((p - x0) / (x1 - x0), 0, 1) * (y1 - y0)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "num_points": self.num_points}
