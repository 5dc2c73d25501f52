"""Metrics of predictions, in numpy: ranking, likelihood, calibration and errors, by task."""

from mtl.metrics.amounts import normalized_gini, xauc
from mtl.metrics.arrays import (
    auc,
    expected_calibration_error,
    group_auc,
    labelled,
    log_loss,
    normalized_entropy,
    pcoc,
)
from mtl.metrics.tasks import (
    HEADLINES,
    Headline,
    evaluate_tasks,
    label_violations,
    labels_and_weights,
    scores_of,
)
from mtl.training.auc import StreamingAUC

__all__ = [
    "HEADLINES",
    "Headline",
    "StreamingAUC",
    "auc",
    "evaluate_tasks",
    "expected_calibration_error",
    "group_auc",
    "label_violations",
    "labelled",
    "labels_and_weights",
    "log_loss",
    "normalized_entropy",
    "normalized_gini",
    "pcoc",
    "scores_of",
    "xauc",
]
