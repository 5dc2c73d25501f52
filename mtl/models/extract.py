"""extract_task: one task's model out of a multi-task model."""

from __future__ import annotations

from mtl.models.base import MultiTaskModel
from mtl.tasks import Task


def extract_task(model: MultiTaskModel, name: str) -> MultiTaskModel:
    """Return a smaller model that predicts one task, with weights copied from `model`.

    It takes the same inputs and holds the layers on the way to that task's prediction only. What
    is trained or changed in one of the two models later doesn't reach the other.

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
    part = MultiTaskModel(
        model.input, [layers[name].output], name=f"{model.name}_{layers[name].name}"
    )
    copy = MultiTaskModel.from_config(part.get_config())
    copy.set_weights(part.get_weights())
    return copy  # type: ignore[no-any-return]
