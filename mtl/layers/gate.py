"""Gate: the softmax weights of a mixture of experts, and the mixture itself."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import keras
from keras import ops

from mtl import checks
from mtl.layers.dnn import DNN
from mtl.seeds import derive_seed, glorot

_WRITTEN_OUT = 16  # experts


def mix(experts: Any, weights: Any) -> Any:
    """Return the weighted sum of experts, z = Σ_i g_i e_i.

    Args:
        experts: tensor of shape `(B, E, H)`.
        weights: tensor of shape `(B, E)`.

    Returns:
        A tensor of shape `(B, H)`.
    """
    # JAX is faster with B tiny products; the others with a product and a sum.
    if keras.backend.backend() != "jax":
        return ops.sum(experts * ops.expand_dims(weights, -1), axis=1)
    if isinstance(experts, keras.KerasTensor) or not _few_on_cpu(experts):
        return ops.einsum("beh,be->bh", experts, weights)
    return _jax_mix()(experts, weights)


def _few_on_cpu(experts: Any) -> bool:
    """Return whether XLA's CPU compiler gains by a sum that is written out."""
    import jax

    few = experts.shape[1] <= _WRITTEN_OUT and experts.dtype == "float32"
    return few and jax.default_backend() == "cpu"


@cache
def _jax_mix() -> Any:
    """Return `mix` with the sum written out, which XLA makes one loop of on a CPU.

    Its gradients would be E additions of padded slices, so they are those of the product.
    """
    import jax

    @jax.custom_vjp
    def mixed(experts: Any, weights: Any) -> Any:
        return sum(experts[:, i] * weights[:, i : i + 1] for i in range(experts.shape[1]))

    def backward(saved: Any, gradient: Any) -> Any:
        experts, weights = saved
        return (
            gradient[:, None, :] * weights[:, :, None],
            jax.numpy.einsum("beh,bh->be", experts, gradient),
        )

    mixed.defvjp(lambda experts, weights: (mixed(experts, weights), (experts, weights)), backward)
    return mixed


class Gating(keras.layers.Layer):
    """What gates have in common: linear layers on the input, or on a DNN of it.

    Args:
        num_experts: int. Number E of experts to weigh.
        units: list of int or None. Widths of the DNN; none, or None, is the input itself.
        temperature: float above 0.
        seed: int or None. Seed of weights and dropout.
        dnn: dict of the other options of the DNN.
        **kwargs: `name`, `dtype`, `trainable` of the Keras layer.
    """

    weighs_experts = True  # for mtl.inspection

    def __init__(
        self,
        num_experts: int,
        units: Sequence[int] | None,
        temperature: float,
        seed: int | None,
        dnn: dict[str, Any],
        task_name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.task_name = task_name
        self.num_experts = checks.positive_int("num_experts", num_experts)
        self.temperature = checks.positive_float("temperature", temperature)
        self.seed = checks.seed("seed", seed)
        self.dnn = DNN(
            units or (),
            seed=derive_seed(self.seed, "dnn"),
            dtype=self.dtype_policy,
            name="dnn",
            **dnn,
        )

    def _linear(self) -> list[keras.layers.Layer]:
        """Return the layers on top of the DNN."""
        raise NotImplementedError

    def _wide(self, logits: Any) -> Any:
        """Return logits in single precision at least.

        In half precision a low temperature would overflow, and inf - inf is NaN.
        """
        return ops.cast(logits, keras.backend.result_type(self.compute_dtype, "float32"))

    def build(self, input_shape: Any) -> None:
        """Build the DNN and the linear layers."""
        self.dnn.build(input_shape)
        for layer in self._linear():
            layer.build(self.dnn.compute_output_shape(input_shape))
        self.built = True

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Return `(B, E)`."""
        return (*input_shape[:-1], self.num_experts)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        dnn = self.dnn.get_config()
        return {
            **super().get_config(),
            "num_experts": self.num_experts,
            "temperature": self.temperature,
            **{key: dnn[key] for key in ("units", "activation", "l2_reg", "dropout", "use_bn")},
            "seed": self.seed,
            "task_name": self.task_name,
        }


@keras.saving.register_keras_serializable(package="mtl")
class Gate(Gating):
    """A gating network, g = softmax(W h / τ), where h is the input or a DNN of it.

    Linear without bias by default, as in the MMoE and PLE papers.

    Args:
        num_experts: int. Number E of experts to weigh.
        units: list of int or None. Widths of a DNN before the softmax layer. Defaults to None.
        temperature: float above 0. Divides the logits: below 1 the gate decides more sharply,
            towards 0 it selects one expert. Defaults to 1.
        activation: str or function. Activation of the DNN. Defaults to `"relu"`.
        l2_reg: float. L2 strength on the DNN's kernels. Defaults to 0.
        dropout: float in [0, 1). Dropout of the DNN. Defaults to 0.
        use_bn: bool. Batch normalisation in the DNN. Defaults to False.
        seed: int or None. Seed of weights and dropout. Defaults to None.
        task_name: str or None. The task whose gate it is, where other tasks depend on it as well:
            for `mtl.inspection`. Defaults to None.
        **kwargs: `name`, `dtype`, `trainable` of the Keras layer.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: an argument out of range.

    Call arguments:
        inputs: tensor of shape `(B, D)`.

    Returns:
        A tensor of shape `(B, E)`, positive, each row summing to 1.

    References:
        - Jacobs et al., Adaptive Mixtures of Local Experts, Neural Computation 1991
        - Ma et al., Modeling Task Relationships in Multi-task Learning with Multi-gate
          Mixture-of-Experts, KDD 2018
    """

    def __init__(
        self,
        num_experts: int,
        units: Sequence[int] | None = None,
        temperature: float = 1.0,
        activation: Any = "relu",
        l2_reg: float = 0,
        dropout: float = 0,
        use_bn: bool = False,
        seed: int | None = None,
        task_name: str | None = None,
        **kwargs: Any,
    ) -> None:
        dnn = {"activation": activation, "l2_reg": l2_reg, "dropout": dropout, "use_bn": use_bn}
        super().__init__(num_experts, units, temperature, seed, dnn, task_name, **kwargs)
        self.logits = keras.layers.Dense(
            self.num_experts,
            use_bias=False,
            kernel_initializer=glorot(derive_seed(self.seed, "logits")),
            dtype=self.dtype_policy,
            name="logits",
        )

    def _linear(self) -> list[keras.layers.Layer]:
        return [self.logits]

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return the experts' weights."""
        h = self.dnn(inputs, training=training)
        logits = self._wide(self.logits(h)) / self.temperature
        # A single expert weighs 1; Keras' softmax of one logit warns.
        weights = ops.softmax(logits, axis=-1) if self.num_experts > 1 else logits * 0 + 1
        return ops.cast(weights, self.compute_dtype)
