"""Tower: the network of one task, up to its prediction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from mtl import checks
from mtl.layers.dnn import DNN
from mtl.layers.head import Head, prediction
from mtl.seeds import derive_seed, glorot


@keras.saving.register_keras_serializable(package="mtl")
class Tower(Head):
    """A DNN and the head of a task: ŷ = σ(t(z) · W + b).

    σ is the sigmoid (binary, multilabel), the identity (regression), the softmax (multiclass) or
    `mtl.layers.head.lifetime_value`, after Wang et al., 2019.
    Predictions are float32 also under a mixed precision policy.

    Args:
        units: list of int. Widths of the DNN. Defaults to `()`: the head alone.
        task_type: str. `"binary"`, `"regression"`, `"multiclass"`, `"multilabel"` or
            `"lifetime_value"`. Defaults to `"binary"`.
        num_outputs: int. Number of classes or labels. Defaults to 1: that of the others.
        task_name: str or None. The task's own name, any characters. Defaults to the layer's name.
        activation: str or function. Activation of the DNN. Defaults to `"relu"`.
        l2_reg: float. L2 strength on the DNN's kernels. Defaults to 0.
        dropout: float in [0, 1). Dropout of the DNN. Defaults to 0.
        use_bn: bool. Batch normalisation in the DNN. Defaults to False.
        seed: int or None. Seed of weights and dropout. Defaults to None.
        **kwargs: `name`, `dtype`, `trainable` of the Keras layer; `hidden` and `joint_losses` of
            `Head`.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: an argument out of range, or an unknown task type.

    Call arguments:
        inputs: tensor of shape `(B, H)`.

    Returns:
        A tensor of shape `(B, num_outputs)`; `(B, 4)` for a lifetime value.
    """

    def __init__(
        self,
        units: Sequence[int] = (),
        task_type: str = "binary",
        num_outputs: int = 1,
        task_name: str | None = None,
        activation: Any = "relu",
        l2_reg: float = 0,
        dropout: float = 0,
        use_bn: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(task_name, task_type, num_outputs, **kwargs)
        self.seed = checks.seed("seed", seed)
        self.dnn = DNN(
            units,
            activation=activation,
            l2_reg=l2_reg,
            dropout=dropout,
            use_bn=use_bn,
            seed=derive_seed(self.seed, "dnn"),
            dtype=self.dtype_policy,
            name="dnn",
        )
        self.logits = keras.layers.Dense(
            self.task.num_logits,
            kernel_initializer=glorot(derive_seed(self.seed, "logits")),
            dtype=self.dtype_policy,
            name="logits",
        )

    def build(self, input_shape: Any) -> None:
        """Build the DNN and the head."""
        self.dnn.build(input_shape)
        self.logits.build(self.dnn.compute_output_shape(input_shape))
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return the task's prediction."""
        logits = self.logits(self.dnn(inputs, training=training))
        return prediction(self.task, logits, training)

    def compute_output_spec(self, inputs: Any, training: bool | None = None) -> Any:
        """Return the spec of a float32 prediction, whatever the dtype policy."""
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), dtype="float32")

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Return `(B, num_outputs)`."""
        return (*input_shape[:-1], self.task.size)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        dnn = self.dnn.get_config()
        return {
            **super().get_config(),
            "task_type": self.task.type,
            "num_outputs": self.task.size,
            **{key: dnn[key] for key in ("units", "activation", "l2_reg", "dropout", "use_bn")},
            "seed": self.seed,
        }
