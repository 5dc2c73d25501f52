"""Balancers after which tasks share the progress fairly.

Notation and rules as in `mtl.balancing.gram`.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from mtl.balancing.base import GradientBalancer
from mtl.balancing.gram import dot, multiply, normalize, reciprocal, solve

__all__ = ["NashMTL"]


@keras.saving.register_keras_serializable(package="mtl")
class NashMTL(GradientBalancer):
    """Nash-MTL: the solution of a bargaining game in which each task wants its loss to fall.

    The coefficients are positive with

        GᵀG c = 1 / c

    (G the matrix whose columns are the gradients), so that every task has the same part in d:
    c_k g_k · d = 1. So |d| is √T, however small the gradients are; the authors clip it to 1.
    There is no solution where the tasks can't all be improved: the least eigenvalue of R is raised
    to 1e-5, with which d goes to 0 there. The coefficients are computed anew in every step, which
    the paper does less often to save time.

    Args:
        **kwargs: `name` of the Keras layer.

    References:
        Navon et al., Multi-Task Learning as a Bargaining Game, ICML 2022.
    """

    def coefficients(self, gram: Any, losses: Any) -> Any:
        """Return the coefficients `(T,)`; see `GradientBalancer`."""
        cosines, norms = normalize(gram)
        present, eye = ops.cast(norms > 0, "float32"), ops.eye(gram.shape[0])
        cosines = cosines + (1.0 - present) * eye  # so that tasks left out have no part in it
        least = ops.min(ops.linalg.eigh(cosines)[0])
        cosines = cosines + ops.maximum(1e-5 - least, 0.0) * eye

        # With a_k = c_k n_k, this is where ½ aᵀRa - Σ_k log a_k is least. The function is
        # self-concordant: Newton's steps over 1 + their decrement stay positive and arrive. After
        # one of a decrement of 1e-4, the next would be of about its square.
        def step(a: Any, _: Any) -> tuple[Any, Any]:
            gradient = multiply(a, cosines) - 1.0 / a
            change = solve(cosines + eye / a**2, gradient[:, None])[:, 0]
            decrement = ops.sqrt(ops.maximum(dot(gradient, change), 0.0))
            return a - change / (1.0 + decrement), decrement

        start = ops.ones_like(norms), ops.ones_like(norms[0])
        a, _ = ops.while_loop(lambda _, decrement: decrement > 1e-4, step, start, 40)
        return a * present * reciprocal(norms)
