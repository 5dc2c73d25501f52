"""Losses over several tasks, over rows that are ranked, and of lifetime values.

A label that is NaN is missing. Models of `mtl.models` leave such rows out of their task's loss and
metrics, whatever the loss: Keras' own, such as `keras.losses.BinaryFocalCrossentropy` or
`keras.losses.BinaryCrossentropy(label_smoothing=0.1)`, too.
"""

from mtl.losses.joint import (
    ESTIMATORS,
    ConversionRisk,
    FunnelLoss,
    JointLoss,
    MultiTaskBCE,
    OrderPenalty,
    mean_of_valid,
    split_missing,
)
from mtl.losses.lifetime import ZeroInflatedLogNormal
from mtl.losses.ranking import JRCLoss, PairwiseRankLoss

__all__ = [
    "ESTIMATORS",
    "ConversionRisk",
    "FunnelLoss",
    "JRCLoss",
    "JointLoss",
    "MultiTaskBCE",
    "OrderPenalty",
    "PairwiseRankLoss",
    "ZeroInflatedLogNormal",
    "mean_of_valid",
    "split_missing",
]
