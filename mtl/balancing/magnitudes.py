"""Balancers that bring the gradients to the length of one of them, by moving averages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from mtl import checks
from mtl.balancing.base import GradientBalancer
from mtl.balancing.gram import reciprocal

__all__ = ["DualBalancing", "MetaBalance"]


@keras.saving.register_keras_serializable(package="mtl")
class DualBalancing(GradientBalancer):
    """DB-MTL: logarithms of the losses, and their gradients brought to the greatest length.

    Of the gradients g_k of log L_k on the shared parameters, moving averages are kept from 0, and

        ĝ_k ← β_t ĝ_k + (1 - β_t) g_k,    d = Σ_k max_j |ĝ_j| / |ĝ_k| ĝ_k,    β_t = β / t^σ

    in step t. The other parameters receive the gradient of Σ_k log L_k. The averages take as much
    memory as the shared parameters for every task. A task without a label in the batch keeps its
    average, and has no part in d; nor has one whose loss isn't above 0, as a likelihood's may be.

    Args:
        beta: float in [0, 1). β. Defaults to 0.9, as in the authors' code.
        sigma: float. σ, how fast the averages come to follow the last gradient. Defaults to 0, as
            in the authors' code.
        **kwargs: `name` of the Keras layer.

    References:
        Lin et al., Dual-Balancing for Multi-Task Learning, 2023.
    """

    def __init__(self, beta: float = 0.9, sigma: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.beta = checks.rate("beta", beta)
        self.sigma = checks.non_negative_float("sigma", sigma)

    def build(self, input_shape: Sequence[int]) -> None:
        """Create the averages."""
        self.steps = self.add_weight(shape=(), initializer="zeros", trainable=False, name="steps")
        self.averages = [
            self.add_weight(
                shape=(*input_shape, *shape), initializer="zeros", trainable=False, name=f"g_{i}"
            )
            for i, shape in enumerate(self.shapes)
        ]

    def weights_of(self, losses: Any) -> Any:
        """Return 1 / L_k."""
        return reciprocal(ops.stop_gradient(losses))

    def penalty(self, losses: Any) -> Any:
        """Return what the weighted sum lacks of Σ_k log L_k, for the logs."""
        losses = ops.stop_gradient(losses)
        logs = ops.log(ops.where(losses > 0, losses, 1.0))
        return ops.sum(logs - self.weights_of(losses) * losses)

    def combine(self, gradients: Sequence[Sequence[Any]], losses: Any) -> list[Any]:
        """Return d, and move the averages; see `GradientBalancer`."""
        self.steps.assign_add(1.0)
        present = ops.cast(losses > 0, "float32")
        rate = present * (1.0 - self.beta / self.steps**self.sigma)
        inverse, squares, moved = reciprocal(losses), 0.0, []
        for average, of_tasks in zip(self.averages, zip(*gradients, strict=True), strict=True):
            before = ops.convert_to_tensor(average)
            new = ops.stack(of_tasks) * _along(inverse, before)
            # Under loss scaling there are infinite gradients, with which no step is made.
            new = ops.where(ops.isfinite(new), new, before)
            moved.append(before + _along(rate, before) * (new - before))
            average.assign(moved[-1])
            squares = squares + _squares(moved[-1])
        norms = present * ops.sqrt(squares)
        scale = ops.max(norms) * reciprocal(norms)
        return [ops.sum(_along(scale, average) * average, axis=0) for average in moved]

    def get_config(self) -> dict[str, Any]:
        """Return the configuration."""
        return {**super().get_config(), "beta": self.beta, "sigma": self.sigma}


@keras.saving.register_keras_serializable(package="mtl")
class MetaBalance(GradientBalancer):
    """MetaBalance: gradients of auxiliary tasks brought towards the length of the target task's.

    For each shared parameter by itself, moving averages m_k are kept of the lengths of the tasks'
    gradients g_k, and an auxiliary task's gradient is scaled by

        g_k ← r m_target / m_k g_k + (1 - r) g_k,    m_k ← β m_k + (1 - β) |g_k|

    whether this makes it shorter or longer (the paper's strategy C); d is the sum. A task without
    a label in the batch keeps its averages. Parameters that the target task doesn't depend on, an
    auxiliary task trains as without the balancer.

    Args:
        target: str or None. Name of the task that matters. Defaults to None: the first.
        relax: float in [0, 1]. r: 0 leaves the gradients alone, 1 makes all of one length.
            Defaults to 0.7, as in the authors' code.
        beta: float in [0, 1). β. Defaults to 0.9, as in the paper.
        **kwargs: `name` of the Keras layer.

    Raises:
        ValueError: an argument out of range; when a model is compiled, a target that is no task.

    References:
        He et al., MetaBalance: Improving Multi-Task Recommendations via Adapting Gradient
        Magnitudes of Auxiliary Tasks, WWW 2022.
    """

    def __init__(
        self, target: str | None = None, relax: float = 0.7, beta: float = 0.9, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.target = target
        self.relax = checks.share("relax", relax)
        self.beta = checks.rate("beta", beta)

    def build(self, input_shape: Sequence[int]) -> None:
        """Create the averages, and sums of their weights, which are below 1 at first."""
        names = [task.name for task in self.tasks]
        if self.target is not None and self.target not in names:
            raise ValueError(f"`target` should be one of {names}. Received: {self.target!r}")
        self._place = names.index(self.target) if self.target is not None else 0
        self.sums, self.shares = (
            self.add_weight(
                shape=(*input_shape, len(self.shapes)),
                initializer="zeros",
                trainable=False,
                name=name,
            )
            for name in ("sums", "shares")
        )

    def combine(self, gradients: Sequence[Sequence[Any]], losses: Any) -> list[Any]:
        """Return d, and move the averages; see `GradientBalancer`."""
        stacked = [ops.stack(of_tasks) for of_tasks in zip(*gradients, strict=True)]
        norms = ops.sqrt(ops.stack([_squares(g) for g in stacked], axis=1))
        # Without a label it is 0; under loss scaling it may be infinite, and no step is made.
        seen = ops.logical_and(norms > 0, ops.isfinite(norms))
        for average, new in ((self.sums, norms), (self.shares, ops.ones_like(norms))):
            before = ops.convert_to_tensor(average)
            after = self.beta * before + (1.0 - self.beta) * new
            average.assign(ops.where(seen, after, before))
        means = self.sums * reciprocal(ops.convert_to_tensor(self.shares))
        target = means[self._place]
        ratios = ops.where(target > 0, target * reciprocal(means), 1.0)
        factors = ops.unstack(self.relax * ratios + (1.0 - self.relax), len(stacked), axis=1)
        return [ops.sum(_along(f, g) * g, axis=0) for f, g in zip(factors, stacked, strict=True)]

    def get_config(self) -> dict[str, Any]:
        """Return the configuration."""
        own = {"target": self.target, "relax": self.relax, "beta": self.beta}
        return {**super().get_config(), **own}


def _along(values: Any, tensor: Any) -> Any:
    """Return values `(T,)` in a shape that multiplies a tensor `(T, …)` task by task."""
    return ops.reshape(values, (-1, *[1] * (len(tensor.shape) - 1)))


def _squares(tensor: Any) -> Any:
    """Return the squared lengths `(T,)` of a tensor `(T, …)`."""
    return ops.sum(ops.square(ops.reshape(tensor, (tensor.shape[0], -1))), axis=1)
