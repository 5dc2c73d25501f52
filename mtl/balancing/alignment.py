"""Balancers that bring the gradients, or their projections, to one length.

Notation and rules as in `mtl.balancing.gram`.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from mtl.balancing.base import GradientBalancer
from mtl.balancing.gram import TINY, multiply, normalize, reciprocal, scales, solve

__all__ = ["IMTLG", "AlignedMTL"]


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
