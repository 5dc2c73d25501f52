"""Probabilities from which a loss can always lead away.

Keras' losses take every probability below 1e-7 for 1e-7, which has no gradient, and a sigmoid that
is 1 in float32 has none either: a rare task whose predictions got there could never come back.
While they train, predictions are kept e^-15 = 3e-7 off the ends; the gradients that pass are those
which the cross-entropy of the unbounded logits has.
"""

from __future__ import annotations

import math
from typing import Any

from keras import ops

_LEAST_LOG = -15.0


def bounded_logits(logits: Any, classes: bool = False) -> Any:
    """Return logits whose probabilities are off 0 and 1, with the gradient of the given ones.

    Args:
        logits: float32 tensor of shape `(…, C)`.
        classes: bool. Whether the last axis is one distribution. Defaults to False: each is a
            probability by itself.
    """
    if classes:
        least = ops.logsumexp(logits, axis=-1, keepdims=True) + _LEAST_LOG
        bounded = ops.maximum(logits, least)
    else:
        bounded = ops.clip(logits, _LEAST_LOG, -_LEAST_LOG)
    return logits + ops.stop_gradient(bounded - logits)


def bounded_product(p: Any, most: Any) -> Any:
    """Return a product of probabilities, or e^-15 if that is more, with the gradient of its log.

    Args:
        p: float32 tensor of any shape, in [0, 1].
        most: tensor of its shape. What it is not to exceed, not by rounding either.
    """
    raised = ops.maximum(math.exp(_LEAST_LOG) / ops.maximum(p, 1e-37), 1.0)
    bounded = p * ops.stop_gradient(raised)
    return bounded + ops.stop_gradient(ops.minimum(bounded, most) - bounded)
