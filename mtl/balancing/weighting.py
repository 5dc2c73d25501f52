"""Balancers that weigh the tasks' losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from mtl import checks
from mtl.balancing.base import Balancer, GradientBalancer, checked_by_task, plain

__all__ = ["DWA", "FAMO", "RLW", "Fixed", "GradNorm", "Uncertainty"]

_TINY = 1e-8


@keras.saving.register_keras_serializable(package="mtl")
class Fixed(Balancer):
    """Constant weights: L = Σ_k w_k L_k, in training alone (`loss_weights` weigh evaluation, too).

    Args:
        weights: list of float in task order, or dict by task name. Defaults to None: 1 for each.
        **kwargs: `name` of the Keras layer.

    Raises:
        ValueError: a negative weight; when a model is compiled, tasks without a weight, or weights
            without a task.
    """

    def __init__(
        self, weights: Sequence[float] | Mapping[str, float] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.weights_given = checked_by_task("weights", weights, checks.non_negative_float)

    def build(self, input_shape: Any) -> None:
        """Bring the weights into task order."""
        self._weights = self.in_task_order("weights", self.weights_given, 1.0)

    def weights_of(self, losses: Any) -> Any:
        """Return the constants."""
        return ops.convert_to_tensor(self._weights, losses.dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "weights": plain(self.weights_given)}


@keras.saving.register_keras_serializable(package="mtl")
class Uncertainty(Balancer):
    """Weights from each task's uncertainty, learned with the model.

    With s_k = log σ_k² trained from 0: L = Σ_k (a_k e^{-s_k} L_k + s_k / 2), a_k = 1/2 for
    regression and 1 for classification. s_k is free to go below 0, where L turns negative.

    References:
        - Kendall et al., Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry
          and Semantics, CVPR 2018
    """

    def build(self, input_shape: Any) -> None:
        """Create the log-variances."""
        self.log_variance = self.add_weight(
            shape=input_shape, initializer="zeros", name="log_variance"
        )

    def weights_of(self, losses: Any) -> Any:
        """Return a_k / σ_k², through which gradients flow."""
        halves = [0.5 if task.type == "regression" else 1.0 for task in self.tasks]
        return ops.convert_to_tensor(halves, losses.dtype) * ops.exp(-self.log_variance)

    def penalty(self, losses: Any) -> Any:
        """Return Σ_k log σ_k over the tasks that have a label in the batch."""
        s = ops.convert_to_tensor(self.log_variance)
        return ops.sum(ops.where(losses != 0, s, 0.0)) / 2


@keras.saving.register_keras_serializable(package="mtl")
class RLW(Balancer):
    """Random weights, drawn anew at every step: w = softmax(z), z ~ N(0, 1); their sum is 1.

    Args:
        seed: int. Defaults to 1024.
        **kwargs: `name` of the Keras layer.

    References:
        - Lin et al., Reasonable Effectiveness of Random Weighting: A Litmus Test for Multi-Task
          Learning, TMLR 2022
    """

    def __init__(self, seed: int = 1024, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seed = checks.non_negative_int("seed", seed)
        self.seed_generator = keras.random.SeedGenerator(self.seed)

    def weights_of(self, losses: Any) -> Any:
        """Draw the weights."""
        drawn = keras.random.normal(losses.shape, dtype="float32", seed=self.seed_generator)
        return ops.softmax(drawn)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "seed": self.seed}


@keras.saving.register_keras_serializable(package="mtl")
class DWA(Balancer):
    """Dynamic weight average: more weight for tasks whose loss fell slowly.

    w_k = T · softmax_k(r_k / τ), r_k = L_k(t - 1) / L_k(t - 2), with L_k(t) the mean loss of epoch
    t of `fit`; 1 in the first two epochs.

    Args:
        temperature: float. τ. Defaults to 2, as in the paper.
        **kwargs: `name` of the Keras layer.

    References:
        - Liu et al., End-to-End Multi-Task Learning with Attention, CVPR 2019
    """

    def __init__(self, temperature: float = 2.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.temperature = checks.positive_float("temperature", temperature)

    def build(self, input_shape: Any) -> None:
        """Create the running sums and the ratios."""

        def state(name: str, shape: Any = input_shape, value: str = "zeros") -> Any:
            return self.add_weight(shape=shape, initializer=value, trainable=False, name=name)

        self.sums, self.steps = state("sums"), state("steps", ())
        self.last, self.ratios = state("last"), state("ratios", value="ones")

    def weights_of(self, losses: Any) -> Any:
        """Return the epoch's weights."""
        return len(self.tasks) * ops.softmax(self.ratios / self.temperature)

    def observe(self, losses: Any) -> None:
        """Add to the epoch's mean."""
        self.sums.assign_add(losses)
        self.steps.assign_add(1.0)

    def end_epoch(self) -> None:
        """Set the ratios for the next epoch."""
        mean = self.sums / ops.maximum(self.steps, 1.0)
        last = ops.convert_to_tensor(self.last)
        known = ops.logical_and(last > 0, mean > 0)
        ratios = ops.where(known, ops.divide_no_nan(mean, last), 1.0)
        self.ratios.assign(ratios)
        self.last.assign(mean)
        self.sums.assign(ops.zeros_like(mean))
        self.steps.assign(0.0)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "temperature": self.temperature}


class _Adam:
    """Adam for a vector of T numbers, in variables of the layer that it is made for."""

    def __init__(self, layer: Any, shape: Any, learning_rate: float) -> None:
        self._rate = learning_rate
        self._mean, self._square, self._steps = (
            layer.add_weight(shape=s, initializer="zeros", trainable=False, name=f"adam_{name}")
            for name, s in (("mean", shape), ("square", shape), ("steps", ()))
        )

    def step(self, gradient: Any) -> Any:
        """Return what to subtract."""
        self._steps.assign_add(1.0)
        self._mean.assign(0.9 * self._mean + 0.1 * gradient)
        self._square.assign(0.999 * self._square + 0.001 * ops.square(gradient))
        steps = ops.convert_to_tensor(self._steps)
        mean = self._mean / (1 - ops.power(0.9, steps))
        square = self._square / (1 - ops.power(0.999, steps))
        return self._rate * mean / (ops.sqrt(square) + 1e-8)


@keras.saving.register_keras_serializable(package="mtl")
class GradNorm(GradientBalancer):
    """Weights under which all tasks train at similar rates.

    With G_k = ‖w_k g_k‖ on the shared parameters, Ḡ its mean over the tasks, and
    r_k = (L_k / L_k(0)) / mean_j (L_j / L_j(0)), Adam lets w minimise Σ_k |G_k - Ḡ r_k^α| with
    Ḡ r_k^α held constant; then w is scaled to the sum T. The weights hold for all parameters.

    Here a weight that Adam drives below 10⁻³ stays there; the paper leaves open that it may turn
    negative.

    Args:
        alpha: float. α, the force that pulls slow tasks ahead. Defaults to 1.5.
        learning_rate: float. Of the weights. Defaults to 0.025.
        **kwargs: `name` of the Keras layer.

    References:
        - Chen et al., GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep
          Multitask Networks, ICML 2018
    """

    def __init__(self, alpha: float = 1.5, learning_rate: float = 0.025, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.alpha = checks.non_negative_float("alpha", alpha)
        self.learning_rate = checks.positive_float("learning_rate", learning_rate)

    def build(self, input_shape: Any) -> None:
        """Create the weights, the first losses and Adam's state."""
        self.task_weights = self.add_weight(
            shape=input_shape, initializer="ones", trainable=False, name="task_weights"
        )
        self.first_losses = self.add_weight(
            shape=input_shape, initializer="zeros", trainable=False, name="first_losses"
        )
        self._adam = _Adam(self, input_shape, self.learning_rate)

    def weights_of(self, losses: Any) -> Any:
        """Return the current weights."""
        return ops.copy(self.task_weights)  # `coefficients` assigns the variable

    def coefficients(self, gram: Any, losses: Any) -> Any:
        """Return the current weights, and set the next ones."""
        weights = self.weights_of(losses)
        # A task without a label in the first batches starts later.
        known = ops.convert_to_tensor(self.first_losses)
        first = ops.where(known > 0, known, losses)
        self.first_losses.assign(first)
        norms = ops.sqrt(ops.maximum(ops.diagonal(gram), 0.0))
        scaled = weights * norms
        progress = ops.divide_no_nan(losses, first)
        rates = ops.divide_no_nan(progress, ops.mean(progress))
        target = ops.mean(scaled) * ops.power(rates, self.alpha)
        updated = weights - self._adam.step(ops.sign(scaled - target) * norms)
        updated = ops.maximum(updated, 1e-3)
        self.task_weights.assign(updated * (len(self.tasks) / ops.sum(updated)))
        return weights

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        own = {"alpha": self.alpha, "learning_rate": self.learning_rate}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="mtl")
class FAMO(Balancer):
    """Fast adaptive multitask optimization: equal rates of decrease, without gradients per task.

    With z = softmax(ξ), the losses are weighed by c z_k / L_k, c = (Σ_k z_k / L_k)^{-1}. After the
    step, Adam moves ξ against J^T (log L - log L') + γ ξ, where J is the Jacobian of the softmax
    and L' are the losses of the same batch anew: one more forward pass.

    Args:
        learning_rate: float. Of ξ. Defaults to 0.025.
        gamma: float. γ, the decay of ξ. Defaults to 0.001.
        **kwargs: `name` of the Keras layer.

    References:
        - Liu et al., FAMO: Fast Adaptive Multitask Optimization, NeurIPS 2023
    """

    compares_losses = True

    def __init__(self, learning_rate: float = 0.025, gamma: float = 0.001, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.learning_rate = checks.positive_float("learning_rate", learning_rate)
        self.gamma = checks.non_negative_float("gamma", gamma)

    def build(self, input_shape: Any) -> None:
        """Create ξ and Adam's state."""
        self.logits = self.add_weight(
            shape=input_shape, initializer="zeros", trainable=False, name="logits"
        )
        self._adam = _Adam(self, input_shape, self.learning_rate)

    def weights_of(self, losses: Any) -> Any:
        """Return c z_k / L_k."""
        losses = ops.stop_gradient(losses)
        # A task without a label in this batch has loss 0, and no part in it.
        raw = ops.where(losses > 0, ops.softmax(self.logits) / ops.maximum(losses, _TINY), 0.0)
        return ops.divide_no_nan(raw, ops.sum(raw))

    def compare(self, before: Any, after: Any) -> None:
        """Move ξ."""
        both = ops.logical_and(before > 0, after > 0)
        fall = ops.log(ops.maximum(before, _TINY)) - ops.log(ops.maximum(after, _TINY))
        fall = ops.where(both, fall, 0.0)
        z = ops.softmax(self.logits)
        gradient = z * (fall - ops.sum(z * fall))
        logits = ops.convert_to_tensor(self.logits)
        self.logits.assign(logits - self._adam.step(gradient + self.gamma * logits))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        own = {"learning_rate": self.learning_rate, "gamma": self.gamma}
        return {**super().get_config(), **own}
