"""Which parameters of a model serve several tasks."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from mtl.training.graph import number_of_outputs, reached


def shared_parts(model: Any) -> list[tuple[Any, np.ndarray | None]]:
    """Return the dense parameters that several tasks train.

    A layer that has a method `shared_parts` says itself which of its parameters these are: of
    tables of embeddings none, and of a stack of experts perhaps some.

    Args:
        model: MultiTaskModel.

    Returns:
        A list of pairs: a trainable variable, and None or a mask of the shared entries that
        broadcasts to its shape.
    """
    tasks_of: dict[tuple[int, int | None], set[int]] = defaultdict(set)
    for task, output in enumerate(model.outputs):
        for layer, part in reached(output, trained=True):
            tasks_of[id(layer), part].add(task)
    parts: list[tuple[Any, np.ndarray | None]] = []
    for layer in model.layers:
        if hasattr(layer, "shared_parts"):
            outputs = range(number_of_outputs(layer))
            parts += layer.shared_parts([tasks_of[id(layer), k] for k in outputs])
        elif len(tasks_of[id(layer), None]) > 1:
            parts += [(variable, None) for variable in layer.trainable_variables]
    return parts
