"""What is read from the graph of a functional Keras model.

Keras has no public way from a tensor back to what made it. `_keras_history` and `_inbound_nodes`
are read here alone: should a release of Keras change them, `made_by` and `sources` are what to
mend, and tests/training/test_extract.py what tells.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras


def made_by(tensor: Any) -> tuple[Any, Any, int]:
    """Return the layer that made a tensor, its call, and which of the call's outputs it is."""
    layer, number, index = tensor._keras_history
    return layer, layer._inbound_nodes[number], index


def maker(tensor: Any) -> Any:
    """Return the layer, or other operation, that made a tensor."""
    return made_by(tensor)[0]


def sources(tensor: Any) -> list[Any]:
    """Return the tensors that a tensor was made from."""
    return list(made_by(tensor)[1].input_tensors)


def arguments(tensor: Any) -> list[Any]:
    """Return the tensors that a tensor was made from and that were given by position.

    Keras adds masks by keyword.
    """
    return keras.tree.flatten(made_by(tensor)[1].arguments.args)  # type: ignore[no-any-return]


def number_of_outputs(layer: Any) -> int:
    """Return how many tensors a layer makes in a call."""
    return len(layer._inbound_nodes[0].output_tensors)


def reached(output: Any, trained: bool = False) -> Iterator[tuple[Any, int | None]]:
    """Yield the layers that a tensor depends on.

    Some layers are several side by side: with a method `inputs_of(output, inputs)` they tell on
    which of their inputs each of their outputs depends; with `trained_inputs_of`, to which of them
    it sends a gradient, if not to all.

    Args:
        output: a tensor.
        trained: bool. Whether to follow the gradient, which some layers stop. Defaults to False.

    Yields:
        Pairs of a layer and, for those that are several, the index of the output that is needed;
        None for the others. Each pair once.
    """
    waiting, seen = [output], set()
    while waiting:
        tensor = waiting.pop()
        layer, call, index = made_by(tensor)
        part = index if hasattr(layer, "inputs_of") else None
        if (id(call), part) in seen:
            continue
        seen.add((id(call), part))
        yield layer, part
        inputs = sources(tensor)
        if part is None:
            waiting += inputs
        elif trained and hasattr(layer, "trained_inputs_of"):
            waiting += layer.trained_inputs_of(part, inputs)
        else:
            waiting += layer.inputs_of(part, inputs)
