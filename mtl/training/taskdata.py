"""What users pass to a model, checked and put into its structure."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from mtl.tasks import Task
from mtl.training import arrays, internals, labels, streams
from mtl.training.form import Form
from mtl.training.stepped import SteppedModel


class TaskData(SteppedModel):
    """A Keras model of several tasks that knows what data it takes."""

    tasks: tuple[Task, ...]
    hidden_tasks: tuple[Task, ...]

    @property
    def feature_columns(self) -> list[Any]:
        """The feature columns whose inputs `fit` takes."""
        raise NotImplementedError

    @cached_property
    def taken_inputs(self) -> arrays.Inputs:
        """The inputs that `feature_columns` need."""
        return arrays.Inputs(self.feature_columns)

    def checked_data(
        self, x: Any, y: Any = None, sample_weight: Any = None, class_weight: Any = None
    ) -> tuple[Any, Any, Any]:
        """Return inputs, labels and weights, given as to `fit`, in the model's structure.

        Args:
            x: inputs, or a data set.
            y: labels, or None.
            sample_weight: sample weights, or None.
            class_weight: what `mtl.training.labels.check_class_weights` returned.
        """
        x = self.in_form(x, class_weight)
        if y is None and isinstance(x, dict) and self.compiled:
            raise ValueError("`y` should hold labels of every task. Received: None")
        rows = len(next(iter(x.values()))) if isinstance(x, dict) else None
        y = labels.check_labels(self.tasks, y, self._kinds, rows)
        if rows == 0:
            raise ValueError("`x` should hold at least one row. Received: 0 rows.")
        weights = labels.check_sample_weights(self.tasks, sample_weight, rows)
        if class_weight is not None and isinstance(x, dict):
            weights = labels.weighted_by_class(self.tasks, y, weights, class_weight)
        return x, y, weights

    def in_form(self, x: Any, class_weight: Any = None, labelled: bool = True) -> Any:
        """Return checked inputs, or a data set whose batches are checked."""
        x = self.taken_inputs.check(x)
        if isinstance(x, dict):
            return x
        form = Form(self.tasks, self.taken_inputs, self._kinds, class_weight, labelled)
        return streams.in_form(x, form)

    @property
    def _kinds(self) -> Any:
        """What each task's loss takes; nothing is known before `compile`."""
        return getattr(internals.objective_of(self), "kinds", ()) if self.compiled else ()

    def check_compiled(self, method: str) -> None:
        """Raise a ValueError that names a method if the model isn't compiled."""
        if not self.compiled:
            raise ValueError(
                f"The model should be compiled before `{method}`, such as by "
                "model.compile('adam'). Received: a model that isn't"
            )
