"""Which parameters of a model serve several tasks."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from mtl.layers import Extraction, FeatureEncoder


def shared_parts(model: Any) -> list[tuple[Any, np.ndarray | None]]:
    """Return the dense parameters that several tasks depend on.

    Embeddings, with the rest of the `FeatureEncoder`, are none of them. Of the stacked experts of
    an `Extraction`, only some may be shared.

    Args:
        model: MultiTaskModel.

    Returns:
        A list of pairs: a trainable variable, and None or a mask of the shared entries that
        broadcasts to its shape.
    """
    tasks_of: dict[tuple[int, int | None], set[int]] = defaultdict(set)
    layers: dict[int, Any] = {}
    for task, output in enumerate(model.outputs):
        waiting, seen = [output], set()
        while waiting:
            layer, node, index = waiting.pop()._keras_history
            # An extraction is several layers side by side; of the others, one output is as all.
            part = index if isinstance(layer, Extraction) else None
            if (id(layer), node, part) in seen:
                continue
            seen.add((id(layer), node, part))
            layers[id(layer)] = layer
            tasks_of[id(layer), part].add(task)
            inputs = layer._inbound_nodes[node].input_tensors
            waiting += layer.inputs_of(part, inputs) if part is not None else inputs
    parts = []
    for layer in model.layers:
        if isinstance(layer, Extraction):
            outputs = [tasks_of[id(layer), k] for k in range(len(layer.gates))]
            parts += layer.shared_parts(outputs)
        elif not isinstance(layer, FeatureEncoder) and len(tasks_of[id(layer), None]) > 1:
            parts += [(variable, None) for variable in layer.trainable_variables]
    return parts
