"""Balancers that share a step's progress among the tasks by a rule of fairness.

Notation and rules as in `mtl.balancing.gram`.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from mtl import checks
from mtl.balancing.base import GradientBalancer
from mtl.balancing.gram import TINY, multiply, normalize, solve

__all__ = ["FairGrad", "NashMTL"]

_LEAST = 1e-18


def fair_coefficients(gram: Any, alpha: float) -> Any:
    """Return the positive c with GᵀG c = c^(-1/α), where G's columns are the gradients.

    There is none where the tasks can't all be improved: the least eigenvalue of R is raised to
    1e-5, with which d goes to 0 there.
    """
    cosines, norms = normalize(gram)
    present, eye = ops.cast(norms > 0, "float32"), ops.eye(gram.shape[0], dtype="float32")
    cosines = cosines + (1.0 - present) * eye  # so that tasks left out have no part in it
    least = ops.min(ops.linalg.eigh(cosines)[0])
    cosines = cosines + ops.maximum(1e-5 - least, 0.0) * eye

    # With p = 1/α, N the greatest norm, l_k = n_k / N and e_k = l_k^((p-1)/(p+1)), the positive
    # b_k = c_k n_k^(2/(p+1)) solve e_k (R(eb))_k = e_k² b_k^(-p), where a convex function is least:
    # all are 1 if the gradients are orthogonal. Newton's steps over 1 + their greatest relative
    # change stay positive and arrive; for p > 1 the function bends faster than a logarithm by
    # (1 + p) / 2, and steps are the shorter.
    power = 1.0 / alpha
    longest = ops.maximum(ops.max(norms), TINY)
    lengths = ops.where(norms > 0, norms / longest, 1.0)
    e = lengths ** ((power - 1.0) / (power + 1.0))

    def step(b: Any, _: Any) -> tuple[Any, Any]:
        pull = b**-power
        change = _solve(cosines, power * pull / b, multiply(e * b, cosines) - e * pull) / e
        # Down to 1e-18 for tasks that the others help by so much that they have no part.
        change = ops.where(b > _LEAST, change, ops.minimum(change, 0.0))
        relative = ops.max(ops.abs(change) / b) * max(1.0, (1.0 + power) / 2.0)
        return ops.maximum(b - change / (1.0 + relative), _LEAST), relative

    start = ops.ones_like(norms), ops.ones_like(longest)
    b, _ = ops.while_loop(lambda _, relative: relative > 1e-4, step, start, maximum_iterations=200)
    return b * present * (longest * lengths) ** (-2.0 / (1.0 + power))


def _solve(matrix: Any, diagonal: Any, rhs: Any) -> Any:
    """Solve (M + diag(e)) x = b `(T,)` by a system whose diagonal is 1."""
    scale = 1.0 / ops.sqrt(ops.diagonal(matrix) + diagonal)
    apart = 1.0 - ops.eye(matrix.shape[0], dtype="float32")
    system = matrix * apart * scale[:, None] * scale + (1.0 - apart)
    return scale * solve(system, (scale * rhs)[:, None])[:, 0]


@keras.saving.register_keras_serializable(package="mtl")
class NashMTL(GradientBalancer):
    """Nash-MTL: the solution of a bargaining game in which each task wants its loss to fall.

    The coefficients are positive with

        GᵀG c = 1 / c

    (G the matrix whose columns are the gradients), so that every task has the same part in d:
    c_k g_k · d = 1. So |d| is √T, however small the gradients are; the authors clip it to 1.
    Where the tasks can't all be improved, d goes to 0. The coefficients are computed anew in every
    step, which the paper does less often to save time.

    Args:
        **kwargs: `name` of the Keras layer.

    References:
        Navon et al., Multi-Task Learning as a Bargaining Game, ICML 2022.
    """

    def coefficients(self, gram: Any, losses: Any) -> Any:
        """Return the coefficients `(T,)`; see `GradientBalancer`."""
        return fair_coefficients(gram, 1.0)


@keras.saving.register_keras_serializable(package="mtl")
class FairGrad(GradientBalancer):
    """FairGrad: the step that is α-fair to the tasks, of which each gains g_k · d.

    It maximises Σ_k (g_k · d)^(1-α) / (1 - α) over directions d of one length, by the positive
    coefficients with

        GᵀG c = c^(-1/α)

    (G the matrix whose columns are the gradients). α → 0 maximises the sum of the gains, α = 1 is
    `NashMTL`, and α → ∞ helps the task that gains least. If all gradients are multiplied by s, d
    is by s^((1-α)/(1+α)): above α = 1 it grows as gradients shrink, so that the optimizer should
    clip it, as the authors' code does (`global_clipnorm=1`).

    Args:
        alpha: float above 0. α. Defaults to 1, as in the authors' code.
        **kwargs: `name` of the Keras layer.

    References:
        Ban and Ji, Fair Resource Allocation in Multi-Task Learning, ICML 2024.
    """

    def __init__(self, alpha: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.alpha = checks.positive_float("alpha", alpha)

    def coefficients(self, gram: Any, losses: Any) -> Any:
        """Return the coefficients `(T,)`; see `GradientBalancer`."""
        return fair_coefficients(gram, self.alpha)

    def get_config(self) -> dict[str, Any]:
        """Return the configuration."""
        return {**super().get_config(), "alpha": self.alpha}
