"""The form of a model's batches, whatever data set they come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras

from mtl.tasks import Task
from mtl.training import arrays, labels
from mtl.training.kinds import Kind


@dataclass(frozen=True)
class Form:
    """The form of a model's batches.

    Attributes:
        tasks: the model's tasks.
        inputs: its inputs.
        kinds: the labels that each task's loss takes.
        class_weight: each task's weights by class, or None.
        labelled: bool. Whether there should be labels: not to predict.
    """

    tasks: Sequence[Task]
    inputs: arrays.Inputs
    kinds: Sequence[Kind | None] = ()
    class_weight: Sequence[Any] | None = None
    labelled: bool = True

    def unpacked(self, batch: Any) -> tuple[Any, Any, Any]:
        """Return a batch's inputs, labels and sample weights, None where it has none."""
        parts = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
        if not 1 <= len(parts) <= 3:
            raise ValueError(
                "A data set should yield (x, y) or (x, y, sample_weight). "
                f"Received: batches of {len(parts)} parts"
            )
        x, y, weights = (*parts, None, None)[:3]
        if self.labelled and y is None:
            raise ValueError(
                "A data set should yield (x, y) or (x, y, sample_weight). "
                "Received: batches without y"
            )
        return x, y, weights

    def checked(self, batch: Any) -> Any:
        """Return a batch of numpy, pandas or plain Python as a tuple in the model's form."""
        x, y, weights = self.unpacked(batch)
        x = self.inputs.check(x)
        if not self.labelled:
            return (x,)
        rows = len(keras.tree.flatten(x)[0])
        # Of one type, though a batch may have missing labels and the first ones none.
        y = keras.tree.map_structure(
            lambda label: label.astype("float32", copy=False),
            labels.check_labels(self.tasks, y, self.kinds, rows),
        )
        weights = labels.check_sample_weights(self.tasks, weights, rows)
        if self.class_weight is not None:
            weights = labels.weighted_by_class(self.tasks, y, weights, self.class_weight)
        parts = (x, y) if weights is None else (x, y, weights)
        return tuple(tuple(part) if isinstance(part, list) else part for part in parts)
