"""Balancers that take out of the gradients what conflicts, and sum the rest.

Notation and rules as in `mtl.balancing.gram`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from mtl import checks
from mtl.balancing.base import GradientBalancer, checked_by_task, plain
from mtl.balancing.gram import dot, multiply, normalize, reciprocal
from mtl.seeds import uniform

__all__ = ["GradDrop", "GradVac", "PCGrad"]


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
        rows = eye = ops.eye(tasks, dtype="float32")
        met = ops.zeros((tasks, tasks), "float32")
        keys = uniform((tasks, tasks), self.seed_generator)
        # The largest key is the task's own: it comes last, and is left out.
        order = ops.argsort(keys + 2 * eye, axis=-1)
        for step in range(tasks - 1):
            other = ops.one_hot(order[:, step], tasks, dtype="float32")
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
        pairs = present[:, None] * present * (1.0 - ops.eye(gram.shape[0], dtype="float32"))
        self.targets.assign(targets + self.beta * pairs * (met - targets))
        return multiply(norms, rows) * reciprocal(norms)

    def get_config(self) -> dict[str, Any]:
        """Return the configuration."""
        return {**super().get_config(), "beta": self.beta}


@keras.saving.register_keras_serializable(package="mtl")
class GradDrop(GradientBalancer):
    """Gradient sign dropout: where gradients disagree on a sign, one sign is drawn and kept.

    For each entry of the shared parameters by itself, with g_k the tasks' gradients there and
    u ~ U(0, 1),

        P = ½ (1 + Σ_k g_k / Σ_k |g_k|),    d = Σ_k (ℓ_k + (1 - ℓ_k) m_k) g_k

    where m_k is 1 if g_k has the sign that is kept, + if P > u and - otherwise, and 0 if not.
    Without conflict, d is the sum of the gradients.

    The paper puts it on the gradients of activations, whose signs it sums over the batch; here it
    is on those of the parameters, of which the balancers of this package are.

    Args:
        leak: float in [0, 1], list of them in task order, or dict by task name. ℓ, what passes of
            a gradient that is dropped. Defaults to 0.
        seed: int or None. Where the random numbers start; None means anew on every run. Defaults
            to 1024.
        **kwargs: `name` of the Keras layer.

    References:
        Chen et al., Just Pick a Sign: Optimizing Deep Multitask Models with Gradient Sign Dropout,
        NeurIPS 2020.
    """

    def __init__(
        self,
        leak: float | Sequence[float] | Mapping[str, float] = 0.0,
        seed: int | None = 1024,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.leak: Any
        if isinstance(leak, (Mapping, Sequence)):
            self.leak = checked_by_task("leak", leak, checks.share)
        else:
            self.leak = checks.share("leak", leak)
        self.seed = checks.seed("seed", seed)
        self.seed_generator = keras.random.SeedGenerator(self.seed)

    def build(self, input_shape: Sequence[int]) -> None:
        """Bring the leaks into task order."""
        given = self.leak
        if isinstance(given, float):
            given = [given] * input_shape[0]
        self._leaks = self.in_task_order("leak", given, 0.0)

    def combine(self, gradients: Sequence[Sequence[Any]], losses: Any) -> list[Any]:
        """Return d; see `GradientBalancer`."""
        return [self._drop(of_tasks) for of_tasks in zip(*gradients, strict=True)]

    def _drop(self, gradients: Sequence[Any]) -> Any:
        total, sizes = sum(gradients), sum(ops.abs(g) for g in gradients)
        purity = 0.5 * (1.0 + total * reciprocal(sizes))
        drawn = uniform(total.shape, self.seed_generator)
        sign = 2 * ops.cast(purity > drawn, "float32") - 1
        return sum(
            ops.where(g * sign > 0, g, leak * g)
            for g, leak in zip(gradients, self._leaks, strict=True)
        )

    def get_config(self) -> dict[str, Any]:
        """Return the configuration."""
        return {**super().get_config(), "leak": plain(self.leak), "seed": self.seed}
