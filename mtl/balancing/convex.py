"""Balancers that solve a convex problem on the gradients' hull or cone, exactly.

Notation and rules as in `mtl.balancing.gram`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from mtl import checks
from mtl.balancing.base import GradientBalancer
from mtl.balancing.gram import (
    TINY,
    dot,
    multiply,
    normalize,
    reciprocal,
    scales,
    solve_faces,
)

__all__ = ["MGDA", "CAGrad", "UPGrad"]


class FaceBalancer(GradientBalancer):
    """A method that tries all sets of tasks; see `solve_faces`."""

    def build(self, input_shape: Sequence[int]) -> None:
        """Check the number of tasks.

        Raises:
            ValueError: there are more than 12.
        """
        if input_shape[0] > 12:
            raise ValueError(
                f"{type(self).__name__} should be given at most 12 tasks, since it tries all sets "
                f"of them. Received: {input_shape[0]} tasks"
            )


@keras.saving.register_keras_serializable(package="mtl")
class MGDA(FaceBalancer):
    """Multiple gradient descent: the shortest vector in the convex hull of the gradients.

        d = argmin |Σ_k c_k g_k|²    subject to    Σ_k c_k = 1, c_k ≥ 0

    d · g_k ≥ |d|² for every task. If the tasks can't all be improved, d = 0.

    Args:
        **kwargs: `name` of the Keras layer.

    References:
        Désidéri, Multiple-gradient descent algorithm (MGDA) for multiobjective optimization,
        Comptes Rendus Mathématique 2012.
        Sener and Koltun, Multi-Task Learning as Multi-Objective Optimization, NeurIPS 2018.
    """

    def coefficients(self, gram: Any, losses: Any) -> Any:
        """Return the coefficients `(T,)`; see `GradientBalancer`."""
        cosines, norms = normalize(gram)
        # With z_k = c_k n_k: zᵀRz is to be least where hᵀz = 1. The constraint lets hhᵀ be added
        # to R, which makes the system solvable where d = 0.
        h = scales(norms)
        (z,) = solve_faces(cosines + h[:, None] * h, h)
        z = ops.maximum(z, 0.0)
        total = dot(z, h)[:, None]
        # At the solution, where |d| is at most the least norm, 1 / total = 1 + |d|² ≤ 2.
        z = z / ops.maximum(total, 0.25)
        projected = multiply(z, cosines)
        gap = ops.max(dot(z, projected)[:, None] * h - projected, axis=-1)
        gap = ops.where(total[:, 0] > 0.25, gap, np.inf)
        return ops.take(z, ops.argmin(gap), axis=0) * h


@keras.saving.register_keras_serializable(package="mtl")
class CAGrad(FaceBalancer):
    """Conflict-averse gradient descent: near the mean gradient, what helps the worst task most.

        d = argmax min_k g_k · d    subject to    |d - g_0| ≤ c |g_0|

    with g_0 the mean of the gradients, which is

        d = g_0 + √φ / |g_w| g_w,    φ = c² |g_0|²

    with g_w the g_w = Σ_k w_k g_k of the convex hull with the least g_w · g_0 + √φ |g_w|.

    Args:
        c: float in [0, 1). How far from the mean gradient d may go. 0 is the mean gradient.
            Defaults to 0.5, as in the authors' toy problem; on NYU-v2 they use 0.4.
        **kwargs: `name` of the Keras layer.

    References:
        Liu et al., Conflict-Averse Gradient Descent for Multi-task Learning, NeurIPS 2021.
    """

    def __init__(self, c: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.c = checks.rate("c", c)

    def coefficients(self, gram: Any, losses: Any) -> Any:
        """Return the coefficients `(T,)`; see `GradientBalancer`."""
        cosines, norms = normalize(gram)
        h, norms = scales(norms), norms * reciprocal(ops.max(norms))
        present = ops.cast(norms > 0, "float32")
        mean = norms * reciprocal(ops.sum(present))
        radius = self.c * ops.sqrt(ops.maximum(dot(mean, multiply(mean, cosines)), 0.0))

        # d - g_0 = Σ_k z_k u_k. On a set of tasks, g_k · d is the same for all where z is a sum of
        # two orthogonal parts: one, with hᵀz = 0, takes the differences out of g_0; the other is
        # along the shortest vector of the set's hull, and as long as the radius leaves it.
        shifted = cosines + h[:, None] * h
        shortest, levelling = solve_faces(shifted, h, multiply(mean, shifted))
        shortest = shortest / ops.maximum(dot(shortest, h), TINY)[:, None]
        levelling = dot(levelling, h)[:, None] * shortest - levelling
        rest = ops.maximum(radius**2 - dot(levelling, multiply(levelling, cosines)), 0.0)
        square = ops.maximum(dot(shortest, multiply(shortest, cosines)), 1e-7)
        z = ops.maximum(levelling + ops.sqrt(rest / square)[:, None] * shortest, 0.0)

        # Shortened to the radius, all are feasible: the one that helps the worst task most is it.
        length = ops.sqrt(ops.maximum(dot(z, multiply(z, cosines)), TINY))
        z = z * ops.minimum(radius / length, 1.0)[:, None]
        gains = norms * multiply(mean + z, cosines)
        worst = ops.min(ops.where(present > 0, gains, np.inf), axis=-1)
        worst = ops.nan_to_num(worst, nan=-np.inf, posinf=-np.inf, neginf=-np.inf)
        return (mean + ops.take(z, ops.argmax(worst), axis=0)) * reciprocal(norms)

    def get_config(self) -> dict[str, Any]:
        """Return the configuration."""
        return {**super().get_config(), "c": self.c}


@keras.saving.register_keras_serializable(package="mtl")
class UPGrad(FaceBalancer):
    """UPGrad: the mean of the gradients, each projected so that it conflicts with none.

        d = 1/T Σ_k argmin |x - g_k|²    subject to    g_j · x ≥ 0 for every j

    d conflicts with no gradient, and without conflict it is their mean. Unlike `PCGrad`'s, the
    projections are exact ones, on the cone of all directions that hurt no task.

    Args:
        **kwargs: `name` of the Keras layer.

    References:
        Quinton and Rey, Jacobian Descent for Multi-Objective Optimization, 2024.
    """

    def coefficients(self, gram: Any, losses: Any) -> Any:
        """Return the coefficients `(T,)`; see `GradientBalancer`."""
        cosines, norms = normalize(gram)
        # The projection of u_k is u_k + Σ_j z_j u_j, with the z ≥ 0 of least |…|². On the set
        # where z is positive, the sum is orthogonal to the u_j.
        own = ops.eye(gram.shape[0], dtype="float32")
        faces = ops.stack(solve_faces(cosines, *ops.unstack(-cosines)), axis=1)
        z = ops.concatenate([ops.zeros_like(faces[:1]), ops.maximum(faces, 0.0)])
        projected = multiply(own + z, cosines)
        # At the solution nothing conflicts, and what z is positive for is orthogonal.
        wrong = ops.maximum(-projected, 0.0) + z * ops.abs(projected)
        best = ops.argmin(ops.sum(wrong, axis=-1), axis=0)
        chosen = ops.take_along_axis(z, best[None, :, None], axis=0)[0]
        present = ops.cast(norms > 0, "float32")
        mean = norms * reciprocal(ops.sum(present))
        return multiply(mean, own + chosen) * reciprocal(norms)
