"""Losses that rank the rows of a batch against each other, beside a task's own loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from mtl.losses.joint import JointLoss, mean_of_valid, split_missing
from mtl.rows import of_replicas
from mtl.tasks import Task

__all__ = ["JRCLoss", "PairwiseRankLoss"]


class _Ranking(JointLoss):
    """A loss over the rows of a batch that are of one group."""

    _types: tuple[str, ...] = ("binary",)

    def __init__(self, task: str, groups: str | None, weight: float, name: str) -> None:
        super().__init__([task], weight, name)
        if groups is not None and not isinstance(groups, str):
            raise TypeError(f"`groups` should be a feature's name or None. Received: {groups!r}")
        self.groups = groups
        self.features = [] if groups is None else [groups]
        self._type = ""

    def start(self, tasks: Mapping[str, Task]) -> None:
        """Learn the type of the task."""
        self._type = tasks[self.tasks[0]].type
        if self._type not in self._types:
            raise ValueError(
                f"`joint_losses` entry {self.name!r} should rank a task of type "
                f"{' or '.join(map(repr, self._types))}. Received: {self.tasks[0]!r}, which is of "
                f"type {self._type!r}"
            )

    def scores(self, predictions: Any) -> Any:
        """Return the scores `(B,)`: logits, predictions, or logarithms of expected values."""
        values = predictions[:, 0]
        if self._type == "binary":
            p = ops.clip(values, 1e-7, 1 - 1e-7)
            return ops.log(p) - ops.log1p(-p)
        return ops.log(ops.maximum(values, 1e-7)) if self._type == "lifetime_value" else values

    def parts(
        self, y_true: Any, y_pred: Any, sample_weight: Any, features: Mapping[str, Any]
    ) -> tuple[Any, Any, Any, Any, Any]:
        """Return scores, labels, which are there, weights, all `(B,)`, and who competes `(B, B)`.

        Rows compete if they are of one group and have a label.
        """
        (task,) = self.tasks
        labels, weight = ops.reshape(y_true[task], (-1,)), sample_weight.get(task)
        weight = ops.ones_like(labels) if weight is None else ops.reshape(weight, (-1,))
        labels, weight, predictions = map(of_replicas, (labels, weight, y_pred[task]))
        labels, valid = split_missing(labels)
        together = ops.logical_and(valid[:, None], valid[None, :])
        if self.groups is not None:
            group = features[self.groups]
            if len(group.shape) > 1 and group.shape[-1] != 1:
                raise ValueError(
                    f"`groups` should be a feature of one value per row. Received: "
                    f"{self.groups!r} of shape {tuple(group.shape)}"
                )
            group = of_replicas(ops.reshape(group, (-1,)))
            together = ops.logical_and(together, group[:, None] == group[None, :])
        scores = self.scores(predictions)
        labels, weight = (ops.cast(v, scores.dtype) for v in (labels, weight))
        return scores, labels, valid, weight, together

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        (task,) = self.tasks
        return {"task": task, "groups": self.groups, "weight": self.weight, "name": self.name}


@keras.saving.register_keras_serializable(package="mtl")
class PairwiseRankLoss(_Ranking):
    """Penalises pairs of rows whose scores aren't in the order of their labels.

    weight · mean of log(1 + exp(s_j - s_i)) over the pairs with y_i > y_j of one group. It goes
    beside the task's own loss, which calibrates the predictions. s is the logit of a binary task,
    the prediction of a regression, or the logarithm of an expected lifetime value. A pair weighs
    the product of its rows' sample weights; without pairs the loss is 0. Groups should lie in one
    batch; time and memory grow with the square of its size.

    Args:
        task: str. Name of a task of type "binary", "regression" or "lifetime_value".
        groups: str or None. Name of the feature within whose values rows are compared, such as
            `"user"`. Defaults to None: all rows of a batch are.
        weight: float. Defaults to 1.
        name: str. Name in the logs. Defaults to `"pairwise_rank_loss"`.

    References:
        - Burges et al., Learning to Rank using Gradient Descent, ICML 2005
    """

    _types = ("binary", "regression", "lifetime_value")

    def __init__(
        self,
        task: str,
        groups: str | None = None,
        weight: float = 1.0,
        name: str = "pairwise_rank_loss",
    ) -> None:
        super().__init__(task, groups, weight, name)

    def call(self, y_true: Any, y_pred: Any, sample_weight: Any, features: Any = None) -> Any:
        """Return the loss."""
        s, y, _, w, together = self.parts(y_true, y_pred, sample_weight, features or {})
        pairs = ops.logical_and(together, y[:, None] > y[None, :])
        values = ops.softplus(s[None, :] - s[:, None]) * w[:, None] * w[None, :]
        return mean_of_valid(ops.reshape(values, (-1,)), ops.reshape(pairs, (-1,)))


@keras.saving.register_keras_serializable(package="mtl")
class JRCLoss(_Ranking):
    """The ranking half of JRC: each row should stand out among its group for its own label.

    With f(x, 1) = s/2 and f(x, 0) = -s/2 for the logit s, and G_i the rows of row i's group,

        L = weight · mean_i -log(exp f(x_i, y_i) / Σ_{j ∈ G_i} exp f(x_j, y_i))

    It goes beside the task's own cross-entropy: with a weight of (1 - α) / α both are 1 / α times
    the paper's α CE + (1 - α) L. In the paper a network has two outputs, f(x, 0) and f(x, 1), of
    which the cross-entropy sees the difference alone, so that their sum is free for the ranking;
    a tower of a binary task has the difference, and the sum here is 0.

    Groups should lie in one batch; time and memory grow with the square of its size.

    Args:
        task: str. Name of a binary task.
        groups: str or None. Name of the feature that tells the contexts, such as `"user"` or a
            session. Defaults to None: all rows of a batch are one.
        weight: float. Defaults to 1, which is α = 1/2.
        name: str. Name in the logs. Defaults to `"jrc_loss"`.

    References:
        - Sheng et al., Joint Optimization of Ranking and Calibration with Contextualized Hybrid
          Model, KDD 2023
    """

    def __init__(
        self, task: str, groups: str | None = None, weight: float = 1.0, name: str = "jrc_loss"
    ) -> None:
        super().__init__(task, groups, weight, name)

    def call(self, y_true: Any, y_pred: Any, sample_weight: Any, features: Any = None) -> Any:
        """Return the loss."""
        s, y, valid, w, together = self.parts(y_true, y_pred, sample_weight, features or {})

        def minus_log_share(f: Any) -> Any:
            others = ops.where(together, f[None, :], -1e30)
            return ops.logsumexp(others, axis=1) - f

        values = y * minus_log_share(s / 2) + (1.0 - y) * minus_log_share(-s / 2)
        return mean_of_valid(values, valid, w)
