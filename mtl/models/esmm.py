"""ESMM: conversion rates learned over all impressions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from mtl.layers import Tower
from mtl.models.assembly import Plan, encode
from mtl.tasks import Task
from mtl.training.model import MultiTaskModel

_TOWERS = ((128, 128), (128, 128))


@keras.saving.register_keras_serializable(package="mtl")
class Chain(keras.layers.Layer):
    """The probability of two steps in a row: P(A and B) = P(A) · P(B | A).

    Args:
        task_name: str. Name of the task that this product predicts.
        **kwargs: `name`, `dtype` of the Keras layer.

    Call arguments:
        inputs: list of two tensors of shape `(B, 1)`.

    Returns:
        A tensor of shape `(B, 1)`.
    """

    def __init__(self, task_name: str, **kwargs: Any) -> None:
        # float32 whatever the policy: products of small probabilities underflow in half precision.
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.task = Task(task_name)
        self.built = True

    def call(self, inputs: list[Any]) -> Any:
        """Return the product."""
        return ops.multiply(*inputs)

    def compute_output_shape(self, input_shape: list[Any]) -> Any:
        """Return `(B, 1)`."""
        return input_shape[0]

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "task_name": self.task.name}


def ESMM(
    dnn_feature_columns: Any,
    *,
    num_tasks: int | None = None,
    task_types: Sequence[Any] | None = None,
    task_names: Sequence[str] = ("ctr", "ctcvr"),
    tower_dnn_units_lists: Sequence[Sequence[int]] = _TOWERS,
    dense_embedding_dim: int | None = None,
    l2_reg_embedding: float = 1e-5,
    l2_reg_dnn: float = 0,
    seed: int | None = 1024,
    dnn_dropout: float = 0,
    embedding_dropout: float = 0,
    dnn_activation: Any = "relu",
    dnn_use_bn: bool = False,
    name: str | None = None,
) -> MultiTaskModel:
    """Build an entire space multi-task model: pCTCVR = pCTR · pCVR.

    Two towers over the shared encoding give pCTR = σ(t_1(x)) and pCVR = σ(t_2(x)). The model
    predicts pCTR and pCTCVR, and is trained on click and on click ∧ conversion, both over all
    impressions; pCVR is never trained directly. `extract_task(model, "cvr")` gives pCVR.

    Args:
        dnn_feature_columns: list of feature columns (see `mtl.features`).
        num_tasks: int or None. 2, if given.
        task_types: list or None. Two times "binary", if given.
        task_names: list of two str. The click task, then the click-and-conversion task.
            Defaults to ("ctr", "ctcvr").
        tower_dnn_units_lists: list of two lists of int. Widths of the CTR and the CVR tower.
            Defaults to (128, 128) for both.
        dense_embedding_dim: int or None. Size to which a linear map of its own takes each numeric
            feature. Defaults to None: the numbers as they are.
        l2_reg_embedding: float. L2 strength on the embeddings that a batch looks up.
            Defaults to 1e-5.
        l2_reg_dnn: float. L2 strength on the kernels of every DNN. Defaults to 0.
        seed: int or None. Seed of all weights and dropout. Defaults to 1024.
        dnn_dropout: float in [0, 1). Dropout of every DNN. Defaults to 0.
        embedding_dropout: float in [0, 1). Dropout of the encoded features. Defaults to 0.
        dnn_activation: str or function. Activation of every DNN. Defaults to "relu".
        dnn_use_bn: bool. Batch normalisation in every DNN. Defaults to False.
        name: str or None. Name of the model.

    Returns:
        A `MultiTaskModel`, which is a functional `keras.Model`, with the outputs pCTR and pCTCVR.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: an argument out of range, arguments that disagree, other than two binary
            tasks, or a task named "cvr", which is the hidden one.

    References:
        - Ma et al., Entire Space Multi-Task Model: An Effective Approach for Estimating
          Post-Click Conversion Rate, SIGIR 2018
    """
    plan = Plan(
        dnn_feature_columns,
        num_tasks,
        task_types,
        task_names,
        tower_dnn_units_lists,
        _TOWERS,
        dense_embedding_dim,
        l2_reg_embedding,
        l2_reg_dnn,
        seed,
        dnn_dropout,
        embedding_dropout,
        dnn_activation,
        dnn_use_bn,
        name,
    )
    if [task.type for task in plan.tasks] != ["binary", "binary"]:
        raise ValueError(
            "ESMM should have two binary tasks: click, and click and conversion. "
            f"Received: {[(task.name, task.type) for task in plan.tasks]}"
        )
    if "cvr" in (task.output_name for task in plan.tasks):
        raise ValueError(
            "`task_names` of ESMM should not hold 'cvr': that is the hidden P(conversion | click). "
            f"Received: {[task.name for task in plan.tasks]}"
        )
    ctcvr = plan.tasks[1]
    inputs, x = encode(plan)
    p_ctr = plan.tower(0)(x)
    cvr_options = plan.options("tower_1") | {"name": plan.layer_name("cvr")}
    p_cvr = Tower(plan.tower_units[1], task_name="cvr", **cvr_options)(x)
    p_ctcvr = Chain(ctcvr.name, name=ctcvr.output_name)([p_ctr, p_cvr])
    return MultiTaskModel(inputs, [p_ctr, p_ctcvr], name=plan.name)
