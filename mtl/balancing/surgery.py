"""Balancers that combine the tasks' gradients on the shared parameters of a model.

Notation: g_k is the gradient of task k's loss, n_k = |g_k|, u_k = g_k / n_k, and R the matrix of
cosines u_i · u_j; d = Σ_k c_k g_k is the combined gradient. Gradients may be of any scale: if all
are multiplied by s, so is d (except that of `NashMTL`, whose length is constant). Without conflict,
d is of the size of the sum of the gradients with `PCGrad` and `GradVac`, and of their mean with
`MGDA`, `CAGrad` and `IMTLG`.

A task whose gradient is zero, as that of a task without a label in the batch, is left out: its
coefficient is 0, and the others get those that they would get without it. If all gradients are
zero, so are all coefficients. Where gradients are linearly dependent, as two that are equal,
several coefficients give the same d; one of these is returned.
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
    solve,
    solve_faces,
)

__all__ = ["IMTLG", "MGDA", "AlignedMTL", "CAGrad", "GradVac", "NashMTL", "PCGrad"]


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


class Surgery(GradientBalancer):
    """What `PCGrad` and `GradVac` share: each gradient meets the others, in random order.

    Args:
        seed: int or None. Where the random orders start; None means anew on every run. Defaults
            to 1024.
        **kwargs: `name` of the Keras layer.
    """

    def __init__(self, seed: int | None = 1024, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seed = checks.seed("seed", seed)
        self.seed_generator = keras.random.SeedGenerator(self.seed)

    def _operate(self, cosines: Any, targets: Any) -> tuple[Any, Any]:
        """Bring each unit gradient's cosines with the others up to targets, one after another.

        Args:
            cosines: tensor of shape `(T, T)`.
            targets: tensor of shape `(T, T)`.

        Returns:
            Two tensors of shape `(T, T)`: the coefficients of what becomes of each unit gradient,
            a row per task, and the cosines that were met.
        """
        tasks = cosines.shape[0]
        rows = eye = ops.eye(tasks)
        met = ops.zeros((tasks, tasks))
        keys = keras.random.uniform((tasks, tasks), seed=self.seed_generator)
        # The largest key is the task's own: it comes last, and is left out.
        order = ops.argsort(keys + 2 * eye, axis=-1)
        for step in range(tasks - 1):
            other = ops.one_hot(order[:, step], tasks)
            projected = multiply(rows, cosines)
            norm = ops.sqrt(ops.maximum(dot(rows, projected), 1e-12))
            cosine = ops.clip(dot(other, projected) / norm, -1.0, 1.0)
            target = dot(other, targets)
            # At least 1e-3, for the step to stay finite if two tasks have long had one gradient.
            sine = ops.sqrt(ops.maximum(1.0 - target**2, 1e-6))
            change = norm * (target * ops.sqrt(1.0 - cosine**2) / sine - cosine)
            change = ops.where(cosine < target, change, 0.0)
            rows = rows + change[:, None] * other
            met = met + cosine[:, None] * other
        return rows, met

    def get_config(self) -> dict[str, Any]:
        """Return the configuration."""
        return {**super().get_config(), "seed": self.seed}


@keras.saving.register_keras_serializable(package="mtl")
class PCGrad(Surgery):
    """Projecting conflicting gradients: gradients that conflict lose the part in which they do.

    Each task's gradient meets those of the other tasks in random order, and is projected onto the
    normal plane of each with which it then has a negative inner product:

        g_i ← g_i - min(g_i · g_j, 0) / |g_j|² g_j,    d = Σ_i g_i

    Without conflict, d is the sum of the gradients.

    Args:
        seed: int or None. Where the random orders start; None means anew on every run. Defaults
            to 1024.
        **kwargs: `name` of the Keras layer.

    References:
        Yu et al., Gradient Surgery for Multi-Task Learning, NeurIPS 2020.
    """

    def coefficients(self, gram: Any, losses: Any) -> Any:
        """Return the coefficients `(T,)`; see `GradientBalancer`."""
        cosines, norms = normalize(gram)
        rows, _ = self._operate(cosines, ops.zeros_like(cosines))
        return multiply(norms, rows) * reciprocal(norms)


@keras.saving.register_keras_serializable(package="mtl")
class GradVac(Surgery):
    """Gradient vaccine: PCGrad with a target above which cosines need not be mended.

    Of each pair of tasks, a moving average φ̂_ij (from 0) is kept of the cosines φ_ij between g_i,
    as it has then become, and g_j. Where φ_ij < φ̂_ij, g_i is turned until their cosine is φ̂_ij:

        g_i ← g_i + |g_i| (φ̂_ij √(1 - φ_ij²) - φ_ij √(1 - φ̂_ij²)) / (|g_j| √(1 - φ̂_ij²)) g_j
        φ̂_ij ← (1 - β) φ̂_ij + β φ_ij,    d = Σ_i g_i

    With β = 0 it is PCGrad.

    Args:
        beta: float in [0, 1). How fast the averages move. Defaults to 0.01, as in the paper.
        seed: int or None. Where the random orders start; None means anew on every run. Defaults
            to 1024.
        **kwargs: `name` of the Keras layer.

    References:
        Wang et al., Gradient Vaccine: Investigating and Improving Multi-task Optimization in
        Massively Multilingual Models, ICLR 2021.
    """

    def __init__(self, beta: float = 0.01, seed: int | None = 1024, **kwargs: Any) -> None:
        super().__init__(seed, **kwargs)
        self.beta = checks.rate("beta", beta)

    def build(self, input_shape: Sequence[int]) -> None:
        """Create the averages."""
        tasks = input_shape[0]
        self.targets = self.add_weight(
            shape=(tasks, tasks), initializer="zeros", trainable=False, name="targets"
        )

    def coefficients(self, gram: Any, losses: Any) -> Any:
        """Return the coefficients `(T,)`, and move the averages; see `GradientBalancer`."""
        cosines, norms = normalize(gram)
        targets = ops.convert_to_tensor(self.targets)
        rows, met = self._operate(cosines, targets)
        present = ops.cast(norms > 0, "float32")
        pairs = present[:, None] * present * (1.0 - ops.eye(gram.shape[0]))
        self.targets.assign(targets + self.beta * pairs * (met - targets))
        return multiply(norms, rows) * reciprocal(norms)

    def get_config(self) -> dict[str, Any]:
        """Return the configuration."""
        return {**super().get_config(), "beta": self.beta}


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
class AlignedMTL(GradientBalancer):
    """Aligned-MTL: the gradients made orthogonal and equally long, then summed.

    With G the matrix whose columns are the gradients, GᵀG = V diag(λ) Vᵀ, and σ² the least of the
    eigenvalues λ that are not zero, the aligned gradients are the columns of

        Ĝ = G B,    B = σ V diag(1 / √λ) Vᵀ,    d = Ĝ 1

    over the eigenvalues that are not zero. All singular values of Ĝ are σ. The sum, not the mean,
    is what the authors' code returns.

    Args:
        **kwargs: `name` of the Keras layer.

    References:
        Senushkin et al., Independent Component Alignment for Multi-Task Learning, CVPR 2023.
    """

    def coefficients(self, gram: Any, losses: Any) -> Any:
        """Return the coefficients `(T,)`; see `GradientBalancer`."""
        tasks = gram.shape[0]
        values, vectors = ops.linalg.eigh(gram * reciprocal(ops.max(ops.diagonal(gram))))
        present = values > ops.max(values) * tasks * np.finfo("float32").eps
        roots = ops.sqrt(ops.where(present, values, 1.0))
        ratios = ops.where(present, ops.min(ops.where(present, roots, np.inf)) / roots, 0.0)
        return multiply(ratios * ops.sum(vectors, axis=0), ops.transpose(vectors))


@keras.saving.register_keras_serializable(package="mtl")
class IMTLG(GradientBalancer):
    """Impartial multi-task learning, its gradient part (IMTL-G).

    The combined gradient has equal projections on all gradients:

        u_i · d = u_j · d,    Σ_k c_k = 1

    As in the paper, coefficients may be negative.

    Args:
        **kwargs: `name` of the Keras layer.

    References:
        Liu et al., Towards Impartial Multi-task Learning, ICLR 2021.
    """

    def coefficients(self, gram: Any, losses: Any) -> Any:
        """Return the coefficients `(T,)`; see `GradientBalancer`."""
        cosines, norms = normalize(gram)
        present = ops.cast(norms > 0, "float32")
        # With z_k = c_k n_k, Rz is to be constant. Any multiple of 11ᵀ may be added to R, which
        # makes the system solvable where d = 0.
        z = solve(cosines + present[:, None] * present, present[:, None])[:, 0]
        c = z * scales(norms)
        # No multiple of c sums to 1 if c sums to 0.
        total, least = ops.sum(c), ops.maximum(1e-6 * ops.sum(ops.abs(c)), TINY)
        return c / ops.where(ops.abs(total) < least, least, total)


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
