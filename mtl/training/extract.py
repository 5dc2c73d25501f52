"""extract_task: one task's model out of a multi-task model."""

from __future__ import annotations

from typing import Any

import keras

from mtl.layers import Extraction
from mtl.tasks import Task
from mtl.training.model import MultiTaskModel


def extract_task(model: MultiTaskModel, name: str) -> MultiTaskModel:
    """Return a smaller model that predicts one task, with weights copied from `model`.

    It takes the same inputs and holds the layers on the way to that task's prediction only; of
    the last extraction level, the task's own and the shared experts. What is trained or changed
    in one of the two models later doesn't reach the other.

    Args:
        model: a model of `mtl.models`.
        name: str. Name of a task; or `"cvr"`, P(conversion | click), of an ESMM.

    Returns:
        A `MultiTaskModel` with one output.

    Raises:
        ValueError: the model predicts no such task.
    """
    layers = {
        layer.task.name: layer
        for layer in model.layers
        if isinstance(getattr(layer, "task", None), Task)
    }
    if name not in layers:
        raise ValueError(f"`name` should be one of {sorted(layers)}. Received: {name!r}")
    head = layers[name]
    part = MultiTaskModel(model.input, [head.output], name=f"{model.name}_{head.name}")
    # Levels below the last are needed in full: their shared output mixes every task's experts.
    last, task = _extraction_below(head)

    def clone(layer: Any) -> Any:
        config = layer.get_config()
        if layer is last:
            config |= {"num_tasks": 1, "shared_gate": False}
        return type(layer).from_config(config)

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if last is None or layer.name != last.name:
            return layer(*args, **kwargs)
        inputs = args[0]
        if isinstance(inputs, (list, tuple)):
            inputs = [inputs[task], inputs[-1]]
        # Where the graph has an output per task; one of them is read.
        return layer(inputs, **kwargs) * len(last.gates)

    copy = keras.models.clone_model(part, clone_function=clone, call_function=call)
    for layer in part.layers:
        weights = layer.weights_of_task(task) if layer is last else layer.get_weights()
        copy.get_layer(layer.name).set_weights(weights)
    return copy  # type: ignore[no-any-return]


def _extraction_below(head: Any) -> tuple[Any, int]:
    """Return the extraction level that `head` reads, or None, and which of its outputs."""
    if isinstance(head.input, keras.KerasTensor):
        layer, _, index = head.input._keras_history
        if isinstance(layer, Extraction):
            return layer, index
        if hasattr(layer, "task"):  # the tower below a calibrator
            return _extraction_below(layer)
    return None, 0
