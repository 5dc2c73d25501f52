"""Which labels a loss can take: those that it would turn into a wrong number are refused."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from keras import losses

from mtl.losses import ConversionRisk, FunnelLoss, MultiTaskBCE, ZeroInflatedLogNormal
from mtl.tasks import Task

_PROBABILITIES = (losses.BinaryCrossentropy, losses.BinaryFocalCrossentropy, MultiTaskBCE)
_ONE_HOT = (losses.CategoricalCrossentropy, losses.CategoricalFocalCrossentropy)


@dataclass(frozen=True)
class Kind:
    """The labels that a task's loss takes.

    Attributes:
        form: str. "probabilities": in [0, 1]; "classes": class numbers; "one-hot": `(N, size)` in
            [0, 1]; "either": "classes" or "one-hot", by their shape; "amounts": of at least 0.
        loss: str. What errors call the loss.
        ignored: int or None. A class number beyond the others that the loss leaves out.
    """

    form: str
    loss: str
    ignored: int | None = None

    def by_class(self, task: Task, width: int) -> bool:
        """Return whether labels of so many columns are class numbers."""
        return task.size > 1 and (self.form == "classes" or (self.form == "either" and width == 1))

    def greatest(self, task: Task, width: int) -> float:
        """Return the greatest label."""
        if self.form == "amounts":
            return math.inf
        return task.size - 1 if self.by_class(task, width) else 1

    def valid(self, task: Task, labels: Any) -> Any:
        """Return which labels are of this kind, as booleans; NaN is.

        Args:
            task: the task.
            labels: array or tensor, of any package, of shape `(B, 1)` or `(B, size)`.
        """
        by_class = self.by_class(task, labels.shape[-1])
        valid = (labels >= 0) & (labels <= self.greatest(task, labels.shape[-1]))
        if by_class:
            valid = valid & (labels % 1 == 0)
            if self.ignored is not None:
                valid = valid | (labels == self.ignored)
        return valid | (labels != labels)  # NaN


def kind_of(task: Task, loss: Any, function: Any = None) -> Kind | None:
    """Return the labels that a loss takes, or None where that is the user's own affair.

    Args:
        task: the task.
        loss: a Keras loss, or None.
        function: the function that `loss` wraps, or None.
    """
    if isinstance(loss, _PROBABILITIES):
        return Kind("probabilities", loss.name)
    if isinstance(loss, ZeroInflatedLogNormal):
        return Kind("amounts", loss.name)
    if isinstance(loss, _ONE_HOT):
        return Kind("one-hot", loss.name)
    if isinstance(loss, losses.SparseCategoricalCrossentropy):
        return Kind("classes", loss.name, loss.get_config().get("ignore_class"))
    form = _BY_FUNCTION.get(function)
    return None if form is None else Kind(form, function.__name__)


def kind_in_funnel(task: Task, joint_losses: Iterable[Any]) -> Kind | None:
    """Return the labels that a joint loss of a funnel's steps takes, or None if there is none."""
    losses = (j for j in joint_losses if isinstance(j, (ConversionRisk, FunnelLoss)))
    names = [j.name for j in losses if task.name in j.tasks]
    return Kind("probabilities", names[0]) if names else None


def check_shape(task: Task, kind: Kind | None, labels: Any) -> None:
    """Raise a ValueError if labels have no shape that the task's loss takes.

    Args:
        task: the task.
        kind: the labels that the loss takes, or None.
        labels: array or tensor.
    """
    width = labels.shape[-1] if len(labels.shape) == 2 else None
    if task.type != "multiclass" or kind is None:
        return
    name = f"y[{task.name!r}]"
    if kind.form == "classes" and width not in (1, None):
        raise ValueError(
            f"`{name}` should hold class numbers, of shape (N,) or (N, 1), for its loss "
            f"{kind.loss}; one-hot labels go with loss='categorical_crossentropy'. "
            f"Received: {tuple(labels.shape)}"
        )
    if kind.form == "one-hot" and width not in (task.size, None):
        raise ValueError(
            f"`{name}` should hold one-hot labels, of shape (N, {task.size}), for its loss "
            f"{kind.loss}; class numbers go with loss='sparse_categorical_crossentropy'. "
            f"Received: {tuple(labels.shape)}"
        )


def crossentropy(y_true: Any, y_pred: Any) -> Any:
    """Choose the cross-entropy by the shapes, as Keras does for this name."""
    if y_pred.shape[-1] == 1:
        return losses.binary_crossentropy(y_true, y_pred)
    if len(y_true.shape) < len(y_pred.shape) or y_true.shape[-1] == 1:
        return losses.sparse_categorical_crossentropy(y_true, y_pred)
    return losses.categorical_crossentropy(y_true, y_pred)


_BY_FUNCTION = {
    losses.binary_crossentropy: "probabilities",
    losses.binary_focal_crossentropy: "probabilities",
    losses.categorical_crossentropy: "one-hot",
    losses.categorical_focal_crossentropy: "one-hot",
    losses.sparse_categorical_crossentropy: "classes",
    crossentropy: "either",
}
