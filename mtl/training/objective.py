"""What a MultiTaskModel minimises: its tasks' losses and joint losses."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any

import keras
from keras import ops

from mtl.context import held
from mtl.losses import JointLoss, ZeroInflatedLogNormal, split_missing
from mtl.rows import count, replicas_mean
from mtl.tasks import Task
from mtl.training import packing
from mtl.training.evaluation import Seen, may_be_nan
from mtl.training.kinds import check_shape, crossentropy, kind_in_funnel, kind_of

_MEANS = ("sum_over_batch_size", "mean")
_apart: ContextVar[list[Any] | None] = ContextVar("apart", default=None)


class Objective:
    """The losses of the tasks, each over the rows that have a label, and the joint losses.

    It takes the place of the loss container of Keras' trainer, which keeps no loss apart and knows
    no missing labels: Keras asks it for its metrics, the means that the logs show.

    Args:
        tasks: the model's tasks.
        losses: list with a Keras loss, its name, a function, or None per task.
        loss_weights: list with a float per task, or None.
        joint_losses: list of `JointLoss`. Defaults to none.
        hidden: tasks without labels, which joint losses may take, too. Defaults to none.
        features: names of the model's inputs, which joint losses may take. Defaults to none.

    Raises:
        TypeError: a joint loss is no `JointLoss`.
        ValueError: there is no loss at all, or a joint loss that names an unknown task or feature
            or bears another's name.
    """

    built = True  # its metrics exist from the start

    def __init__(
        self,
        tasks: Sequence[Task],
        losses: Sequence[Any],
        loss_weights: Sequence[float] | None,
        joint_losses: Sequence[Any] = (),
        hidden: Sequence[Task] = (),
        features: Sequence[str] = (),
    ) -> None:
        self._tasks = tasks
        self._losses = [_loss(*pair) for pair in zip(tasks, losses, strict=True)]
        self._weights = loss_weights or [1.0] * len(tasks)
        self._joint = _check_joint([*tasks, *hidden], tasks, joint_losses, features)
        if not self._joint and all(loss is None for loss in self._losses):
            raise ValueError("`loss` should hold a loss for at least one task. Received: none")
        several = len(tasks) > 1
        self._means = [
            keras.metrics.Mean(name=f"{task.output_name}_loss")
            if several and loss is not None
            else None
            for task, loss in zip(tasks, self._losses, strict=True)
        ]
        functions = [getattr(loss, "function", None) for loss in self._losses]
        of_loss = map(kind_of, tasks, self._losses, functions)
        # What each task's loss takes, None for any labels.
        self.kinds = [
            kind or kind_in_funnel(t, self._joint) for t, kind in zip(tasks, of_loss, strict=True)
        ]
        names = [task.output_name for task in tasks]
        self.seen = Seen(names, [joint.name for joint in self._joint])
        self._joint_means = [keras.metrics.Mean(name=joint.name) for joint in self._joint]

    @property
    def metrics(self) -> list[Any]:
        """The means of the losses, for the logs, and which tasks had labels."""
        every = (*self._means, *self._joint_means, self.seen)
        return [metric for metric in every if metric is not None]

    @property
    def variables(self) -> list[Any]:
        """The variables of the metrics."""
        return [variable for metric in self.metrics for variable in metric.variables]

    @property
    def without_loss(self) -> list[str]:
        """The names of the tasks that have no loss of their own."""
        pairs = zip(self._tasks, self._losses, strict=True)
        return [task.name for task, loss in pairs if loss is None]

    def terms(
        self,
        y: Any,
        y_pred: Any,
        hidden: dict[str, Any],
        sample_weight: Any,
        missing: bool,
        replicas: int,
        x: Any = None,
        log: bool = True,
    ) -> tuple[list[Any], list[Any]]:
        """Return the weighted loss of each task, and the joint losses, all scalars.

        Args:
            y: list with a tensor `(B, 1)` or `(B, size)` per task, or None; NaN is missing.
            y_pred: predictions, a list in task order or one tensor for a single task.
            hidden: dict from name to prediction of the tasks without labels.
            sample_weight: None, or weights as `y`.
            missing: bool. Whether there may be missing labels, or ones that nobody has checked.
            replicas: int. Number of replicas: Keras divides what each has by it, and sums. A
                replica's own part of a mean is divided by the rows of all, see `mtl.rows`.
            x: the model's inputs by name, as `packing.pack` made them, for joint losses.
            log: bool. Whether to update the means of the logs. Defaults to True.

        Raises:
            ValueError: a task with a loss has no labels.
        """
        y, y_pred, sample_weight = (_listed(v, self._tasks) for v in (y, y_pred, sample_weight))
        losses: list[Any] = []
        if missing and log:
            self.seen.update_state(y, sample_weight)
        for k, task in enumerate(self._tasks):
            loss, mean = self._losses[k], self._means[k]
            if loss is None:
                losses.append(ops.zeros((), "float32"))
                continue
            labels, predictions, weights = y[k], y_pred[k], sample_weight[k]
            if not isinstance(loss, ZeroInflatedLogNormal):
                predictions = task.shown(predictions)
            if labels is None:
                raise ValueError(
                    f"`y` should hold labels of every task with a loss. Received: none of "
                    f"{task.name!r} (a missing label is NaN)"
                )
            rows = count(predictions)
            if replicas > 1 and not may_be_nan(labels):
                labels = ops.cast(labels, "float32")  # each replica has weights, of its own rows
            kind = self.kinds[k]
            check_shape(task, kind, labels)
            right = None
            if missing and kind is not None:
                valid = kind.valid(task, labels)
                labels, right = ops.where(valid, labels, ops.zeros_like(labels)), ops.all(valid)
            if missing and may_be_nan(labels):
                labels, predictions, weights, valid = mask(
                    task, labels, predictions, weights, loss.reduction in _MEANS
                )
                rows = replicas_mean(ops.sum(ops.cast(valid, "float32")))
            value = loss(labels, predictions, weights)
            if replicas > 1:
                value = ops.sum(value)  # of no rows Keras returns one value for each
                if loss.reduction == "mean_with_sample_weight":
                    own = ops.sum(weights)
                    value = value * ops.divide_no_nan(own, replicas_mean(own))
            if right is not None:  # no gradient comes of such labels, and no number
                value = ops.where(right, value, ops.full_like(value, float("nan")))
            if mean is not None and log:
                mean.update_state(value * replicas if replicas > 1 else value, rows)
            losses.append(value * self._weights[k] if self._weights[k] != 1 else value)
        return losses, self._joint_terms(y, y_pred, hidden, sample_weight, replicas, x, log)

    def _joint_terms(
        self,
        y: Any,
        y_pred: Any,
        hidden: dict[str, Any],
        sample_weight: Any,
        replicas: int,
        x: Any,
        log: bool,
    ) -> list[Any]:
        values = []
        inputs = packing.unpack(x) if any(joint.features for joint in self._joint) else None
        for joint, mean in zip(self._joint, self._joint_means, strict=True):
            given = [
                {
                    task.name: v
                    for task, v in zip(self._tasks, side, strict=True)
                    if task.name in joint.tasks
                }
                for side in (y, y_pred, sample_weight)
            ]
            given[1] |= {name: hidden[name] for name in joint.tasks if name in hidden}
            labels, predictions, weights = given
            value = joint(labels, predictions, weights, inputs)
            values.append(value / replicas if replicas > 1 else value)
            if log:
                mean.update_state(value, count(y_pred[0]))
        return values


def mask(
    task: Task, labels: Any, predictions: Any, sample_weight: Any, rescale: bool = False
) -> tuple[Any, Any, Any, Any]:
    """Take missing labels out of a task's batch by giving them no weight.

    A row is missing if it has a NaN; of several labels ("multilabel"), each is missing by itself,
    and the batch comes back as one of B · size rows.

    Args:
        task: the task.
        labels: float tensor of shape `(B,)` or `(B, size)`.
        predictions: tensor of shape `(B, size)`.
        sample_weight: tensor of B elements, or None.
        rescale: bool. Whether to scale the weights so that a mean over all rows is one over the
            valid rows. Defaults to False.

    Returns:
        Labels without NaN, predictions, sample weights `(B,)`, and which rows are valid `(B,)`.
    """
    labels, valid = split_missing(labels)
    if sample_weight is not None:
        sample_weight = ops.reshape(sample_weight, (-1,))
    if task.type == "multilabel":
        labels, predictions = (ops.reshape(v, (-1, 1)) for v in (labels, predictions))
        if sample_weight is not None:
            sample_weight = ops.repeat(sample_weight, task.size)
    elif len(valid.shape) == 2:
        valid = ops.all(valid, axis=-1)
    valid = ops.reshape(valid, (-1,))
    weights = ops.cast(valid, "float32")
    if rescale:
        rows = ops.cast(ops.shape(weights)[0], "float32")
        weights = weights * ops.divide_no_nan(rows, replicas_mean(ops.sum(weights)))
    if sample_weight is not None:
        weights = ops.where(valid, weights * ops.cast(sample_weight, "float32"), 0.0)
    return labels, predictions, weights, valid


def total(losses: Sequence[Any], rest: Sequence[Any], balancer: Any = None) -> Any:
    """Return the scalar to minimise; inside `terms_apart`, keep its terms.

    Args:
        losses: the tasks' losses, scalars.
        rest: scalars that no balancer weighs: joint losses and regularisation.
        balancer: `mtl.balancing.Balancer` or None.
    """
    apart = _apart.get()
    if balancer is None and apart is None:
        terms = [*losses, *rest]
        if len(terms) == 1:
            return terms[0]
        # Losses are of predictions, in float32; regularisation is of the policy's dtype.
        dtypes = {keras.backend.standardize_dtype(term.dtype) for term in terms}
        wide = keras.backend.result_type("float32", *dtypes)
        return ops.sum(ops.stack([ops.cast(term, wide) for term in terms]))
    stacked = ops.stack([ops.cast(loss, "float32") for loss in losses])
    remainder = sum((ops.cast(term, "float32") for term in rest), ops.zeros((), "float32"))
    if apart is not None:
        apart.append((losses, stacked, remainder))
    if balancer is None:
        return ops.sum(stacked) + remainder
    value = ops.sum(balancer.weights_of(stacked) * stacked) + balancer.penalty(stacked) + remainder
    balancer.observe(ops.stop_gradient(stacked))
    return value


def terms_apart() -> AbstractContextManager[Any]:
    """Keep the terms of `total`: `(losses, the same stacked, the rest)` for each call within."""
    return held(_apart, [])


class _Function(keras.losses.Loss):
    """A function of labels and predictions as a loss."""

    def __init__(self, function: Any) -> None:
        super().__init__(name=getattr(function, "__name__", None))
        self.function = function

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self.function(y_true, y_pred)


def _loss(task: Task, loss: Any) -> Any:
    """Return a task's loss as a Keras object."""
    if loss is None:
        return None
    if isinstance(loss, str) and loss.lower() in ("crossentropy", "ce"):
        loss = crossentropy
    if isinstance(loss, str) and loss.lower() in ("zero_inflated_lognormal", "ziln"):
        loss = ZeroInflatedLogNormal()
    loss = keras.losses.get(loss)
    return loss if isinstance(loss, keras.losses.Loss) else _Function(loss)


def _check_joint(
    every: Sequence[Task],
    tasks: Sequence[Task],
    joint_losses: Sequence[Any],
    features: Sequence[str],
) -> list[JointLoss]:
    known = [task.name for task in every]
    names = {"loss"} | {f"{task.output_name}_loss" for task in tasks}
    for loss in joint_losses:
        if not isinstance(loss, JointLoss):
            raise TypeError(
                "`joint_losses` should hold losses of several tasks (mtl.losses.JointLoss). "
                f"Received: {loss!r}"
            )
        unknown = [name for name in loss.tasks if name not in known]
        if unknown:
            raise ValueError(
                f"`joint_losses` should name tasks out of {known}. "
                f"Received: {unknown} in {loss.name!r}"
            )
        unknown = [name for name in loss.features if name not in features]
        if unknown:
            raise ValueError(
                f"`joint_losses` should name features out of {list(features)}. "
                f"Received: {unknown} in {loss.name!r}"
            )
        if loss.name in names:
            raise ValueError(
                f"`joint_losses` should have names of their own. Received: {loss.name!r} twice"
            )
        names.add(loss.name)
        loss.start({task.name: task for task in every})
    return list(joint_losses)


def _listed(values: Any, tasks: Sequence[Task]) -> list[Any]:
    """Return one entry per task: those of a list, or one for all."""
    return list(values) if isinstance(values, (list, tuple)) else [values] * len(tasks)
