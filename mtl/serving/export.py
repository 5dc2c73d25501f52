"""What a model becomes on its way into a serving format."""

from __future__ import annotations

import importlib.util
import keyword
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import keras
import numpy as np

from mtl.names import distinct, safe_name

# Where Keras' converters keep the names of inputs and outputs and the free number of rows.
_BACKENDS = {
    "tf_saved_model": ("tensorflow", "jax"),
    "onnx": ("tensorflow",),
    "litert": ("tensorflow",),
}
_BATCH = "batch"
_RESERVED = (*keyword.kwlist, "self")  # which are no arguments of a function


def check_export(columns: list[Any], format: Any) -> None:
    """Refuse what would fail after a long conversion, or write a file that doesn't load.

    Args:
        columns: the model's feature columns.
        format: str. As `keras.Model.export` takes it; formats not tested here are left to Keras.

    Raises:
        ImportError: the ONNX converter isn't installed.
        ValueError: the format can't be made on this backend, or can't hold a hashed feature.
    """
    backend = keras.backend.backend()
    if backend not in _BACKENDS.get(format, (backend,)):
        raise ValueError(
            f"`format={format!r}` should be exported with KERAS_BACKEND=tensorflow: save the model "
            f"as .keras and load it there. Received: KERAS_BACKEND={backend}"
        )
    if format != "onnx":
        return
    hashed = [column.name for column in columns if getattr(column, "use_hash", False)]
    if hashed:
        raise ValueError(
            "`format='onnx'` should be used without hashed features: the converter has no such "
            "operations (map ids with mtl.data.TableEncoder, or export a SavedModel). "
            f"Received: use_hash=True for {hashed}"
        )
    if importlib.util.find_spec("tf2onnx") is None:
        raise ImportError("`format='onnx'` needs tf2onnx: pip install 'keras-mtl[onnx]'")


def serving_model(model: Any) -> Any:
    """Return a functional model that shares `model`'s layers and gives its outputs by name."""
    outputs = dict(zip(model.output_names, model.outputs, strict=True))
    return keras.Model(model.input, outputs, name=model.name)


def serving_signature(model: Any) -> list[Any]:
    """Return the inputs' specs, for any number of rows, under names that the formats accept."""
    names = input_names(model.input)
    specs = {
        feature: keras.InputSpec(
            shape=(None, *tensor.shape[1:]), dtype=tensor.dtype, name=names[feature]
        )
        for feature, tensor in model.input.items()
    }
    return [specs]


def input_names(given: Iterable[str], taken: Collection[str] = ()) -> dict[str, str]:
    """Return names that the formats accept, by the given ones, all different.

    Args:
        given: names of inputs.
        taken: names that are no longer free. Defaults to none.
    """
    names: dict[str, str] = {}
    taken = {*taken, *_RESERVED}
    # Those that may keep their name come first.
    for name in sorted(given, key=lambda name: _argument(name) != name):
        names[name] = distinct(_argument(name), {*names.values(), *taken})
    return names


def _argument(name: str) -> str:
    """Return a name that TensorFlow leaves as it is: it makes arguments of a function of them."""
    safe = safe_name(name, "input").replace("-", "_")
    return safe if safe[0].isalpha() else f"input_{safe}"


def tidy_onnx(path: Any, output_names: Sequence[str]) -> None:
    """Put the outputs of an ONNX file into an order, give its batch axes one name, drop copies.

    The converter sorts outputs by name, so that whoever reads them by place takes one task for
    another, and names the free axis of each input and output anew, so that a server can't tell
    that they are the same.

    Args:
        path: str or path. The file, which is rewritten.
        output_names: list of str. The order.
    """
    import onnx

    # Weights that lie beside the file, as those of over 2 GB do, stay there.
    content = onnx.load(str(path), load_external_data=False)
    graph = content.graph
    place = {name: i for i, name in enumerate(output_names)}
    outputs = sorted(graph.output, key=lambda output: place[output.name])
    del graph.output[:]
    graph.output.extend(outputs)
    axes = [
        value.type.tensor_type.shape.dim[0]
        for value in (*graph.input, *graph.output)
        if value.type.tensor_type.shape.dim
    ]
    free = {axis.dim_param for axis in axes if axis.dim_param}
    for value in (*graph.input, *graph.output, *graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param in free:
                axis.dim_param = _BATCH
    _drop_copies(graph)
    onnx.save(content, str(path))


def _drop_copies(graph: Any) -> None:
    """Drop the weights of which a graph asks nothing but the shape: copies of experts' kernels."""
    from onnx import numpy_helper

    weights = {one.name: one for one in graph.initializer}
    for node in graph.node:
        if node.op_type == "Shape" and not node.attribute and node.input[0] in weights:
            shape = np.array(weights[node.input[0]].dims, "int64")
            graph.initializer.append(numpy_helper.from_array(shape, node.output[0]))
            node.Clear()
    nodes = [node for node in graph.node if node.op_type]
    used = {name for node in nodes for name in node.input} | {one.name for one in graph.output}
    kept = [one for one in graph.initializer if one.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)
