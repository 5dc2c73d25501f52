"""extract_task: one task's model out of a multi-task model."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import keras

from mtl.training.graph import number_of_outputs, reached
from mtl.training.model import MultiTaskModel


def extract_task(model: MultiTaskModel, name: str) -> MultiTaskModel:
    """Return a smaller model that predicts one task, with weights copied from `model`.

    It takes the same inputs and holds the layers on the way to that task's prediction only; of
    the last extraction level, the task's own and the shared experts. What is trained or changed
    in one of the two models later doesn't reach the other.

    Args:
        model: a model of `mtl.models`.
        name: str. Name of a task, or of one that the model keeps to itself, such as `"cvr"`,
            P(conversion | click), of an ESMM.

    Returns:
        A `MultiTaskModel` with one output.

    Raises:
        ValueError: the model predicts no such task.
    """
    heads = {layer.task.name: layer for layer in model.layers if hasattr(layer, "task")}
    if name not in heads:
        raise ValueError(f"`name` should be one of {sorted(heads)}. Received: {name!r}")
    head = heads[name]
    part = MultiTaskModel(model.input, [head.output], name=f"{model.name}_{head.name}")
    own = _one_output_of(head.output)

    def clone(layer: Any) -> Any:
        config = layer.config_of_task(own[layer.name]) if layer.name in own else layer.get_config()
        return type(layer).from_config(config)

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if layer.name not in own:
            return layer(*args, **kwargs)
        whole, inputs = model.get_layer(layer.name), args[0]
        if isinstance(inputs, (list, tuple)):
            inputs = whole.inputs_of(own[layer.name], inputs)
        # Where the graph has an output per task; one of them is read.
        return layer(inputs, **kwargs) * number_of_outputs(whole)

    copy = keras.models.clone_model(part, clone_function=clone, call_function=call)
    for layer in copy.layers:  # without those that only another output of a layer needs
        source = part.get_layer(layer.name)
        whole = layer.name not in own
        with model.between_steps:
            weights = source.get_weights() if whole else source.weights_of_task(own[layer.name])
        layer.set_weights(weights)
    return copy  # type: ignore[no-any-return]


def _one_output_of(output: Any) -> dict[str, int]:
    """Return the layers, by name, that can be cut down to the one output that is needed of them.

    Levels of extraction below the last are needed in full: their shared output mixes every task's
    experts.
    """
    needed: dict[str, set[int]] = defaultdict(set)
    for layer, part in reached(output):
        if part is not None and hasattr(layer, "config_of_task"):
            needed[layer.name].add(part)
    return {name: parts.pop() for name, parts in needed.items() if len(parts) == 1}
