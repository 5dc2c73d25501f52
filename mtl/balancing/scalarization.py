"""Balancers that minimise one smooth function of all losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from mtl import checks
from mtl.balancing.base import Balancer, checked_by_task, plain
from mtl.balancing.gram import TINY, reciprocal

__all__ = ["STCH"]


@keras.saving.register_keras_serializable(package="mtl")
class STCH(Balancer):
    """Smooth Tchebycheff scalarisation: a smooth maximum of the tasks' losses.

    With f_k = log((L_k - z_k) / (n_k - z_k)), how far task k is from its ideal loss z_k on the
    scale of its loss n_k after the warm-up,

        L = T μ log Σ_k exp(λ_k f_k / μ)

    For μ → 0 it is T times the greatest λ_k f_k: the worst task alone is trained; for great μ
    all are alike. In the warm-up L = Σ_k log(L_k - z_k), and n_k is the mean of L_k in its last
    epoch. The logarithm, the warm-up and T are those of the authors' code for multi-task learning;
    the paper's equation has L_k - z_k in place of f_k. A task without a label in the batch, or
    not above its ideal, has no part in L.

    Args:
        mu: float above 0. μ. Defaults to 1, as in the authors' code.
        warmup: int. Epochs of `fit` in the warm-up; with 0, n_k - z_k is 1. Defaults to 5, as in
            the authors' code: for shorter trainings it should be less.
        preferences: list of float in task order, or dict by task name. λ. Defaults to None: 1 for
            each.
        ideal: list of float in task order, or dict by task name. z, losses that can't be
            undercut, such as that of noise. Defaults to None: 0 for each.
        **kwargs: `name` of the Keras layer.

    Raises:
        ValueError: an argument out of range; when a model is compiled, tasks without an entry, or
            entries without a task.

    References:
        - Lin et al., Smooth Tchebycheff Scalarization for Multi-Objective Optimization, ICML 2024
    """

    def __init__(
        self,
        mu: float = 1.0,
        warmup: int = 5,
        preferences: Sequence[float] | Mapping[str, float] | None = None,
        ideal: Sequence[float] | Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.mu = checks.positive_float("mu", mu)
        self.warmup = checks.non_negative_int("warmup", warmup)
        self.preferences = checked_by_task("preferences", preferences, checks.positive_float)
        self.ideal = checked_by_task("ideal", ideal, checks.non_negative_float)

    def build(self, input_shape: Any) -> None:
        """Create the count of epochs, and the losses' sums, numbers and means."""
        self._preferences = self.in_task_order("preferences", self.preferences, 1.0)
        self._ideal = self.in_task_order("ideal", self.ideal, 0.0)

        def state(name: str, shape: Any = input_shape) -> Any:
            return self.add_weight(shape=shape, initializer="zeros", trainable=False, name=name)

        self.epochs, self.sums, self.counts = state("epochs", ()), state("sums"), state("counts")
        self.nadir = state("nadir")  # 0 where it isn't known

    def _parts(self, losses: Any) -> tuple[Any, Any, Any]:
        """Return L_k - z_k, which of them count, and λ_k f_k / μ."""
        ideal, preferences = (
            ops.convert_to_tensor(v, losses.dtype) for v in (self._ideal, self._preferences)
        )
        gap = ops.stop_gradient(losses) - ideal
        nadir = ops.convert_to_tensor(self.nadir)
        scale = ops.where(nadir > ideal, nadir - ideal, 1.0)
        counts = gap > 0
        exponent = preferences * ops.log(ops.maximum(gap, TINY) / scale) / self.mu
        return gap, counts, ops.where(counts, exponent, -1e30)

    def weights_of(self, losses: Any) -> Any:
        """Return the derivatives of L by the losses."""
        gap, counts, exponent = self._parts(losses)
        tasks = ops.sum(ops.cast(counts, "float32"))
        preferences = ops.convert_to_tensor(self._preferences, losses.dtype)
        smooth = tasks * preferences * ops.softmax(exponent)  # which takes the greatest off
        return ops.where(self._warm(), 1.0, smooth) * reciprocal(gap)

    def penalty(self, losses: Any) -> Any:
        """Return what the weighted sum lacks of L, for the logs."""
        losses = ops.stop_gradient(losses)
        gap, counts, exponent = self._parts(losses)
        tasks = ops.sum(ops.cast(counts, "float32"))
        smooth = tasks * self.mu * ops.logsumexp(exponent)
        warm = ops.sum(ops.where(counts, ops.log(ops.maximum(gap, TINY)), 0.0))
        value = ops.where(self._warm(), warm, ops.where(tasks > 0, smooth, 0.0))
        return value - ops.sum(self.weights_of(losses) * losses)

    def _warm(self) -> Any:
        return ops.convert_to_tensor(self.epochs) < self.warmup

    def observe(self, losses: Any) -> None:
        """Add to the epoch's means."""
        self.sums.assign_add(losses)
        self.counts.assign_add(ops.cast(losses != 0, "float32"))

    def end_epoch(self) -> None:
        """Take the means for n at the end of the warm-up."""
        sums, counts, nadir, epochs = (
            ops.convert_to_tensor(v) for v in (self.sums, self.counts, self.nadir, self.epochs)
        )
        last = epochs == self.warmup - 1
        self.nadir.assign(ops.where(last, ops.divide_no_nan(sums, counts), nadir))
        self.epochs.assign(epochs + 1.0)
        self.sums.assign(ops.zeros_like(sums))
        self.counts.assign(ops.zeros_like(counts))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        own = {"mu": self.mu, "warmup": self.warmup}
        given = {"preferences": plain(self.preferences), "ideal": plain(self.ideal)}
        return {**super().get_config(), **own, **given}
