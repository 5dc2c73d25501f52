"""Losses over several tasks, and the mask of missing labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from mtl import checks, rows
from mtl.probabilities import bounded_product
from mtl.tasks import Task

__all__ = ["ConversionRisk", "FunnelLoss", "JointLoss", "MultiTaskBCE", "OrderPenalty"]

ESTIMATORS = ("ips", "snips", "dr", "dcmt")


def split_missing(labels: Any) -> tuple[Any, Any]:
    """Return labels with 0 in place of NaN, and which were there, as booleans of their shape.

    Args:
        labels: tensor of floats, of any shape; NaN is missing.
    """
    valid = ops.logical_not(ops.isnan(labels))
    return ops.where(valid, labels, ops.zeros_like(labels)), valid


def mean_of_valid(values: Any, valid: Any, sample_weight: Any = None) -> Any:
    """Return Σ weight · value over the valid rows, divided by their number; 0 if there are none.

    On a replica of TensorFlow it is the part of its rows: the mean of these is that of all rows.

    Args:
        values: tensor of shape `(B,)`, finite.
        valid: boolean tensor of shape `(B,)`.
        sample_weight: tensor with B elements, or None. Defaults to None.
    """
    if sample_weight is not None:
        values = values * ops.cast(ops.reshape(sample_weight, (-1,)), values.dtype)
    count = rows.replicas_mean(ops.sum(ops.cast(valid, values.dtype)))
    return ops.divide_no_nan(ops.sum(ops.where(valid, values, ops.zeros_like(values))), count)


class JointLoss:
    """A loss over the outputs of several tasks, for `compile(joint_losses=[…])`.

    It is added to the sum of the tasks' own losses, and logged by its name. Subclasses implement
    `call`; to be saved with a model, they are registered as any Keras object is. One that needs
    inputs of the model, such as a user's id, has their names as `features`, and its `call` takes
    them as a fourth argument, a dict; one that needs the tasks' types implements `start`.
    A mean by `mean_of_valid` is one over the rows of all devices.

    Args:
        tasks: list of str. The names of the tasks whose outputs it takes.
        weight: float. Its share in the total; the log shows it with the weight. Defaults to 1.
        name: str. Its name in the logs.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: a negative weight, or no tasks.
    """

    features: Sequence[str] = ()

    def __init__(self, tasks: Sequence[str], weight: float, name: str) -> None:
        if isinstance(tasks, str) or not all(isinstance(task, str) for task in tasks):
            raise TypeError(f"`tasks` should be a list of task names. Received: {tasks!r}")
        if not tasks:
            raise ValueError("`tasks` should name at least one task. Received: an empty list")
        if not isinstance(name, str) or not name:
            raise TypeError(f"`name` should be a non-empty string. Received: {name!r}")
        self.tasks = list(tasks)
        self.weight = checks.non_negative_float("weight", weight)
        self.name = name

    def start(self, tasks: Mapping[str, Task]) -> None:
        """Take notice of the model's tasks, by name, when it is compiled."""

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any, inputs: Any = None) -> Any:
        """Return the weighted loss; arguments as in `call`, and the model's inputs by name."""
        features = [{name: inputs[name] for name in self.features}] if self.features else []
        return self.weight * self.call(y_true, y_pred, sample_weight, *features)

    def call(
        self, y_true: Mapping[str, Any], y_pred: Mapping[str, Any], sample_weight: Mapping[str, Any]
    ) -> Any:
        """Return a scalar.

        Args:
            y_true: labels `(B, size)` by task name; NaN is missing.
            y_pred: predictions `(B, size)` by task name.
            sample_weight: tensors of B elements, or None, by task name.
        """
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"tasks": self.tasks, "weight": self.weight, "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> JointLoss:
        """Return a loss from its constructor's arguments."""
        return cls(**config)


class _Pair(JointLoss):
    """A joint loss of two steps of a funnel."""

    def __init__(self, earlier: str, later: str, weight: float, name: str) -> None:
        super().__init__([earlier, later], weight, name)
        if earlier == later:
            raise ValueError(f"The two tasks should differ. Received: {earlier!r} twice")

    def get_config(self) -> dict[str, Any]:
        earlier, later = self.tasks
        return {"earlier": earlier, "later": later, "weight": self.weight, "name": self.name}


@keras.saving.register_keras_serializable(package="mtl")
class OrderPenalty(_Pair):
    """Penalises a later step that is predicted as more probable than an earlier one.

    weight · mean(max(0, p_later - p_earlier)): a conversion needs a click. It takes no labels, so
    that rows with missing labels count.

    Args:
        earlier: str. Name of the earlier step's task, such as `"ctr"`.
        later: str. Name of the later step's task, such as `"ctcvr"`.
        weight: float. Defaults to 1.
        name: str. Name in the logs. Defaults to `"order_penalty"`.
    """

    def __init__(
        self, earlier: str, later: str, weight: float = 1.0, name: str = "order_penalty"
    ) -> None:
        super().__init__(earlier, later, weight, name)

    def call(self, y_true: Any, y_pred: Any, sample_weight: Any) -> Any:
        """Return the penalty."""
        earlier, later = (y_pred[task] for task in self.tasks)
        return rows.mean(ops.relu(later - earlier))


@keras.saving.register_keras_serializable(package="mtl")
class FunnelLoss(_Pair):
    """The pair of losses that trains a conversion rate over all impressions, as ESMM does.

    For two binary outputs pCTR and pCVR, and labels click and conversion:
    L = CE(pCTR, click) + CE(pCTR · pCVR, click · conversion). It stands in place of the two tasks'
    own losses: `compile(loss={}, joint_losses=[FunnelLoss("click", "conversion")])`.

    A conversion label that is missing where nobody clicked isn't needed: the product is 0. Sample
    weights of the click task weigh the first term, those of the conversion task the second.

    Args:
        earlier: str. Name of the task that predicts pCTR.
        later: str. Name of the task that predicts pCVR = P(conversion | click).
        weight: float. Defaults to 1.
        name: str. Name in the logs. Defaults to `"funnel_loss"`.

    References:
        - Ma et al., Entire Space Multi-Task Model: An Effective Approach for Estimating
          Post-Click Conversion Rate, SIGIR 2018
    """

    def __init__(
        self, earlier: str, later: str, weight: float = 1.0, name: str = "funnel_loss"
    ) -> None:
        super().__init__(earlier, later, weight, name)

    def call(self, y_true: Any, y_pred: Any, sample_weight: Any) -> Any:
        """Return the sum of both losses."""
        earlier, later = self.tasks
        p_click, p_conversion = (ops.reshape(y_pred[task], (-1,)) for task in self.tasks)
        click, conversion, clicked_known, both_known = _funnel_labels(y_true, earlier, later)
        p_both = bounded_product(p_click * p_conversion, p_click)
        return mean_of_valid(
            _cross_entropy(click, p_click), clicked_known, sample_weight.get(earlier)
        ) + mean_of_valid(
            _cross_entropy(click * conversion, p_both),
            both_known,
            sample_weight.get(later),
        )


@keras.saving.register_keras_serializable(package="mtl")
class ConversionRisk(JointLoss):
    """The risk of a conversion rate over all impressions, estimated from the clicked ones.

    With click o, conversion r, p = pCTR, q = pCVR, e = CE(r, q), and as propensity the constant
    p̃ = max(p, ε), through which no gradient flows, the estimators are, all but the second as
    means over all impressions:

        ips    mean(o e / p̃)
        snips  Σ o e / p̃  /  Σ o / p̃
        dr     mean(ê + o (e - ê) / p̃) + mean(o (e - ê)² / p̃),  ê = softplus(imputation)
        dcmt   mean(o e / p̃ + (1 - o) CE(1 - r, q*) / max(1 - p, ε)) + λ mean|1 - (q + q*)|

    A conversion label isn't needed where nobody clicked. Sample weights are those of the
    conversion task.

    Args:
        click: str. Name of the task that predicts pCTR, whose labels are clicks.
        conversion: str. Name of the task whose labels are conversions.
        cvr: str. Name of the task that predicts pCVR = P(conversion | click): a hidden one, or
            `conversion` itself.
        other: str or None. Name of the task that predicts what ê is the softplus of ("dr"), or
            the counterfactual rate q* ("dcmt"). Defaults to None, for the others.
        estimator: str. "ips", "snips", "dr" or "dcmt". Defaults to "ips".
        min_propensity: float in (0, 1]. ε; 1 leaves all rows unweighted. Defaults to 0.05.
        joint: bool. Whether in "dr" both terms train both q and ê. The second one then pulls q
            towards 1/2, where e is the same for both labels: a true rate of 0.1 is learned as
            0.27 from this risk alone. Otherwise the first trains q and the second ê. Defaults to
            True.
        counterfactual_weight: float. λ of "dcmt". Defaults to 0.001.
        weight: float. Defaults to 1.
        name: str. Name in the logs. Defaults to `"conversion_risk"`.

    References:
        - Wang et al., ESCM²: Entire Space Counterfactual Multi-Task Model for Post-Click
          Conversion Rate Estimation, SIGIR 2022
        - Zhu et al., DCMT: A Direct Entire-Space Causal Multi-Task Framework for Post-Click
          Conversion Estimation, ICDE 2023
    """

    def __init__(
        self,
        click: str,
        conversion: str,
        cvr: str,
        other: str | None = None,
        estimator: str = "ips",
        min_propensity: float = 0.05,
        joint: bool = True,
        counterfactual_weight: float = 1e-3,
        weight: float = 1.0,
        name: str = "conversion_risk",
    ) -> None:
        named = [click, conversion, cvr] if other is None else [click, conversion, cvr, other]
        super().__init__(named, weight, name)
        self.estimator = checks.one_of(*ESTIMATORS)("estimator", estimator)
        if (other is not None) != (estimator in ("dr", "dcmt")):
            raise ValueError(
                "`other` should name a task for the estimators 'dr' and 'dcmt', and be None for "
                f"the others. Received: {other!r} for {estimator!r}"
            )
        self.min_propensity = checks.positive_share("min_propensity", min_propensity)
        self.joint = bool(joint)
        self.counterfactual_weight = checks.non_negative_float(
            "counterfactual_weight", counterfactual_weight
        )

    def call(self, y_true: Any, y_pred: Any, sample_weight: Any) -> Any:
        """Return the risk."""
        click, conversion, cvr, *other = self.tasks
        o, r, _, known = _funnel_labels(y_true, click, conversion)
        p, q, *rest = (ops.reshape(y_pred[task], (-1,)) for task in (click, cvr, *other))
        p = ops.stop_gradient(p)
        weights = sample_weight.get(conversion)

        def mean(values: Any) -> Any:
            return mean_of_valid(values, known, weights)

        e = _cross_entropy(r, q)
        o = ops.cast(o, e.dtype)
        inverse = o / ops.maximum(p, self.min_propensity)
        if self.estimator == "ips":
            return mean(inverse * e)
        if self.estimator == "snips":
            return ops.divide_no_nan(mean(inverse * e), rows.replicas_mean(mean(inverse)))
        if self.estimator == "dr":
            imputed = ops.softplus(rest[0])
            fixed_e, fixed_imputed = e, imputed
            if not self.joint:
                fixed_e, fixed_imputed = ops.stop_gradient(e), ops.stop_gradient(imputed)
            return mean(fixed_imputed + inverse * (e - fixed_imputed)) + mean(
                inverse * ops.square(fixed_e - imputed)
            )
        unclicked = (1 - o) / ops.maximum(1 - p, self.min_propensity)
        counterfactual = _cross_entropy(1 - r, rest[0])
        return mean(inverse * e + unclicked * counterfactual) + self.counterfactual_weight * mean(
            ops.abs(1 - (q + rest[0]))
        )

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        named = dict(zip(("click", "conversion", "cvr", "other"), self.tasks, strict=False))
        own = ("estimator", "min_propensity", "joint", "counterfactual_weight", "weight", "name")
        return {**named, **{key: getattr(self, key) for key in own}}


@keras.saving.register_keras_serializable(package="mtl")
class MultiTaskBCE(keras.losses.Loss):
    """Binary cross-entropy of T tasks in one output `(B, T)`, with weights that are the tasks'.

    Σ_k w_k · mean over the rows with a label of task k. (Keras' `binary_crossentropy` over such an
    output is the mean over tasks already: weights could only scale it as a whole.)

    Args:
        task_weights: list of float, one per task. Defaults to None: 1 for each.
        name: str. Defaults to `"multi_task_bce"`.
        **kwargs: `reduction` and `dtype` of the Keras loss.

    Raises:
        ValueError: a negative weight; at the call, another number of tasks than weights.
    """

    def __init__(
        self,
        task_weights: Sequence[float] | None = None,
        name: str = "multi_task_bce",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.task_weights = task_weights and [
            checks.non_negative_float(f"task_weights[{i}]", w) for i, w in enumerate(task_weights)
        ]

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return a value per row, `(B,)`, whose mean is the loss."""
        tasks = y_pred.shape[-1]
        weights = self.task_weights or [1.0] * tasks
        if len(weights) != tasks:
            raise ValueError(
                f"`task_weights` should have one entry per task. Received: {len(weights)} entries "
                f"for an output of {tasks} tasks"
            )
        labels, valid = split_missing(y_true)
        values = ops.where(valid, _cross_entropy(labels, y_pred), ops.zeros_like(y_pred))
        share = ops.divide_no_nan(
            ops.cast(rows.count(y_pred), y_pred.dtype),
            rows.replicas_mean(ops.sum(ops.cast(valid, y_pred.dtype), axis=0)),
        )
        return ops.sum(values * share * ops.convert_to_tensor(weights, y_pred.dtype), axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "task_weights": self.task_weights}


def _funnel_labels(y_true: Any, earlier: str, later: str) -> tuple[Any, Any, Any, Any]:
    """Return two steps' labels, `(B,)` with 0 for NaN, and where the first and both are known.

    Where the earlier step wasn't taken, the later one needs no label.
    """
    click, clicked_known = split_missing(ops.reshape(y_true[earlier], (-1,)))
    conversion, conversion_known = split_missing(ops.reshape(y_true[later], (-1,)))
    no_click = ops.logical_and(clicked_known, click == 0)
    both_known = ops.logical_or(no_click, ops.logical_and(clicked_known, conversion_known))
    return click, conversion, clicked_known, both_known


def _cross_entropy(labels: Any, probabilities: Any) -> Any:
    """Return the binary cross-entropy, element by element."""
    return ops.binary_crossentropy(ops.cast(labels, probabilities.dtype), probabilities)
