"""Algebra on the inner products of the tasks' gradients, as balancers of gradients need it.

Notation: g_k is the gradient of task k's loss, n_k = |g_k|, u_k = g_k / n_k, and R the matrix of
cosines u_i · u_j; d = Σ_k c_k g_k is the combined gradient. Gradients may be of any scale: if all
are multiplied by s, so is d (except those of `NashMTL` and `FairGrad`). Without conflict, d is of
the size of the sum of the gradients with `PCGrad` and `GradVac`, and of their mean with `MGDA`,
`CAGrad`, `UPGrad` and `IMTLG`.

A task whose gradient is zero, as that of a task without a label in the batch, is left out: its
coefficient is 0, and the others get those that they would get without it. If all gradients are
zero, so are all coefficients. Where gradients are linearly dependent, as two that are equal,
several coefficients give the same d; one of these is returned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

TINY = 1e-30


def products(gradients: Sequence[Sequence[Any]]) -> Any:
    """Return the inner products `(T, T)` of gradients, a list with a tensor per variable each."""
    vectors = [ops.concatenate([ops.reshape(g, (-1,)) for g in task]) for task in gradients]
    # Not a matmul, which many GPUs would round to 10 bits: gradients may nearly cancel.
    return ops.stack([ops.stack([ops.sum(a * b) for b in vectors]) for a in vectors])


def normalize(gram: Any) -> tuple[Any, Any]:
    """Return the cosines R `(T, T)` and the norms `(T,)` of the gradients."""
    squares = ops.diagonal(gram)
    squares = ops.where(squares > TINY, squares, 0.0)
    inverse = reciprocal(ops.sqrt(squares))
    return gram * inverse[:, None] * inverse, ops.sqrt(squares)


def reciprocal(x: Any) -> Any:
    """Return 1 / x, and 0 for 0."""
    return ops.where(x > 0, 1.0 / ops.where(x > 0, x, 1.0), 0.0)


def scales(norms: Any) -> Any:
    """Return 1 / n_k `(T,)`, times the least norm; 0 for a zero gradient."""
    inverse = reciprocal(norms)
    return inverse / ops.maximum(ops.max(inverse), TINY)


def multiply(x: Any, matrix: Any) -> Any:
    """Return x @ matrix for x of shape `(..., T)`, in full precision on every device."""
    return ops.sum(x[..., :, None] * matrix, axis=-2)


def dot(x: Any, y: Any) -> Any:
    """Return the inner products along the last axis."""
    return ops.sum(x * y, axis=-1)


def solve(matrix: Any, rhs: Any) -> Any:
    """Solve linear systems of positive semi-definite matrices by Gauss-Jordan elimination.

    TensorFlow's own solvers raise errors for singular matrices.

    Args:
        matrix: tensor of shape `(..., T, T)`. Its diagonal should be 0 or of about 1.
        rhs: tensor of shape `(..., T, R)`.

    Returns:
        A tensor of shape `(..., T, R)`. An unknown whose column depends on those before is 0.
    """
    size = matrix.shape[-1]
    rows = ops.concatenate([matrix, rhs], axis=-1)
    for k in range(size):
        pivot = rows[..., k : k + 1, k : k + 1]
        row = rows[..., k : k + 1, :] * reciprocal(ops.where(pivot > 1e-6, pivot, 0.0))
        here = (np.arange(size) == k)[:, None]
        rows = ops.where(here, row, rows - rows[..., k : k + 1] * row)
    return rows[..., size:]


def solve_faces(matrix: Any, *rhs: Any) -> list[Any]:
    """Solve `matrix[S, S] x[S] = rhs[S]` for every nonempty set S of tasks, with 0 outside S.

    The solution of a convex problem over nonnegative coefficients is a stationary point on the set
    of tasks where it is positive. There are few tasks: all sets at once take less time than the
    steps of an iterative solver, and the solution is exact.

    Args:
        matrix: tensor of shape `(T, T)`.
        *rhs: tensors of shape `(T,)`.

    Returns:
        A tensor of shape `(2**T - 1, T)` for every right-hand side.
    """
    tasks = matrix.shape[0]
    sets = (np.arange(1, 2**tasks)[:, None] >> np.arange(tasks)) & 1
    inside = ops.convert_to_tensor(sets.astype("float32"))[:, :, None]
    solved = solve(matrix * inside * ops.swapaxes(inside, 1, 2), ops.stack(rhs, axis=-1) * inside)
    return [solved[..., i] for i in range(len(rhs))]
