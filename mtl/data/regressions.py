"""make_related_regressions: two regression tasks of a chosen relatedness."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mtl import checks
from mtl.data.dataset import MultiTaskData
from mtl.data.synthetic import check_correlation, check_num_samples, split_rows
from mtl.features import DenseFeat

Array = npt.NDArray[np.float64]


def make_related_regressions(
    num_samples: int = 100_000,
    *,
    dim: int = 100,
    cosine: float = 0.5,
    scale: float = 1.0,
    alphas: Sequence[float] = (1.0, 2.0, 3.0, 4.0),
    betas: Sequence[float] = (0.0, 0.5, 1.0, 1.5),
    noise_variance: float = 0.01,
    seed: int | None = 0,
) -> MultiTaskData:
    """Make the MMoE paper's pair of regression tasks, whose relatedness is an argument.

    ```
    w₁ = c·u₁,  w₂ = c·(p·u₁ + √(1 − p²)·u₂)        u₁ ⊥ u₂, unit vectors
    x ~ N(0, I),  y_k = w_kᵀx + Σ_{i=1..m} sin(α_i·w_kᵀx + β_i) + ε_k,  ε_k ~ N(0, 0.01)
    ```

    p is the cosine of the two weight vectors. The sines make the correlation of the labels grow
    with p, though it isn't p itself. The paper leaves c, m, α and β open.

    Args:
        num_samples: int. Rows, 80 % for training, 10 % validation and 10 % test. Defaults to
            100,000.
        dim: int, at least 2. Length d of x. Defaults to 100, as in the paper.
        cosine: float in [-1, 1]. p, from opposite (-1) to equal (1) tasks. Defaults to 0.5.
        scale: float. c, the length of the weight vectors. Defaults to 1.
        alphas: list of m floats. α; the larger, the less linear. Defaults to (1, 2, 3, 4).
        betas: list of m floats. β. Defaults to (0, 0.5, 1, 1.5).
        noise_variance: float. Variance of ε. Defaults to 0.01, as in the paper.
        seed: int or None. None draws a new set at each call. Defaults to 0.

    Returns:
        A MultiTaskData with one `DenseFeat` "x", (N, dim) float32, and the regression tasks
        "task_1" and "task_2"; `truth` holds their noise-free labels under the same names.

    Raises:
        TypeError, ValueError: an argument of a wrong type or out of range, or `alphas` and
            `betas` of different lengths.

    References:
        - Ma et al., "Modeling Task Relationships in Multi-task Learning with Multi-gate
          Mixture-of-Experts", KDD 2018, section 3.2
    """
    rows = check_num_samples(num_samples)
    if checks.positive_int("dim", dim) < 2:
        raise ValueError(
            f"`dim` should be at least 2, for two orthogonal vectors. Received: {dim!r}"
        )
    cosine = check_correlation("cosine", cosine)
    scale = checks.positive_float("scale", scale)
    alpha, beta = _check_numbers("alphas", alphas), _check_numbers("betas", betas)
    if len(alpha) != len(beta):
        raise ValueError(
            "`alphas` and `betas` should have the same length. "
            f"Received: {len(alpha)} and {len(beta)} entries."
        )
    noise_variance = checks.non_negative_float("noise_variance", noise_variance)
    rng = np.random.default_rng(checks.seed("seed", seed))

    weights = draw_weights(rng, int(dim), cosine, scale)
    x = rng.standard_normal((rows, int(dim)), dtype=np.float32)
    projection = x.astype(np.float64) @ weights
    targets = projection.copy()
    for a, b in zip(alpha, beta, strict=True):
        targets += np.sin(a * projection + b)
    labels = targets + math.sqrt(noise_variance) * rng.normal(size=targets.shape)
    names = ["task_1", "task_2"]
    return split_rows(
        {"x": x},
        list(labels.T),
        dict(zip(names, targets.T, strict=True)),
        [DenseFeat("x", int(dim))],
        names,
        "regression",
    )


def draw_weights(rng: np.random.Generator, dim: int, cosine: float, scale: float) -> Array:
    """Draw w₁ and w₂: a (dim, 2) array whose columns have length `scale` and this cosine."""
    # The QR decomposition of Gaussian columns orthonormalises two random directions.
    u1, u2 = np.linalg.qr(rng.normal(size=(dim, 2)))[0].T
    w2 = cosine * u1 + math.sqrt(1 - cosine**2) * u2
    return scale * np.stack([u1, w2], axis=1)


def _check_numbers(name: str, values: Any) -> list[float]:
    numbers = checks.floats(name, values)
    for value in numbers:
        if not math.isfinite(value):
            raise ValueError(f"`{name}` should hold finite numbers. Received: {value!r}")
    return numbers
