"""An ONNX file that takes raw rows: the encoder as standard operators before the model's graph."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtl.serving.export import input_names
from mtl.serving.onnx_ops import ML, ML_VERSION, SPLIT_VERSION, TYPES, OnnxOps, Value
from mtl.serving.raw import RawInput, encode

_IR_VERSION = 9  # the first that has this version of ai.onnx.ml
_PREFIX, _ENCODED = "model/", "encoded/"  # features have the names of raw columns, too


def export_onnx(
    path: Path,
    model: Any,
    columns: Mapping[str, Any],
    inputs: Sequence[RawInput],
    description: Mapping[str, Any],
) -> None:
    """Write an ONNX file that takes raw columns.

    Args:
        path: Path. The file.
        model: a model of `mtl.models`.
        columns: dict from name to fitted column.
        inputs: list of `RawInput`.
        description: dict. What the file should tell of itself, under "mtl" in its metadata.
    """
    model.export(path, format="onnx", verbose=False)

    import onnx
    from onnx import compose, helper, version_converter

    of_ids = onnx.load(str(path))
    if any(columns[one.column].settings.get("separator") for one in inputs):
        of_ids = version_converter.convert_version(of_ids, SPLIT_VERSION)
    # Among the edges are the outputs, which onnx before 1.19 would rename with them.
    of_ids = compose.add_prefix(of_ids, _PREFIX, rename_edges=False, rename_outputs=False)
    versions = {one.domain: one.version for one in of_ids.opset_import}
    opsets = [helper.make_opsetid(*one) for one in {**versions, ML: ML_VERSION}.items()]
    _set_opsets(of_ids, opsets)
    of_ids.ir_version = max(of_ids.ir_version, _IR_VERSION)
    encoder = helper.make_model(
        _encoder(model, columns, inputs), opset_imports=opsets, ir_version=of_ids.ir_version
    )
    names = input_names(model.input).values()
    pairs = [(f"{_ENCODED}{name}", f"{_PREFIX}{name}") for name in names]
    whole = compose.merge_models(encoder, of_ids, pairs)
    _set_opsets(whole, opsets)  # of which it has two of each
    helper.set_model_props(whole, {"mtl": json.dumps(description, ensure_ascii=False)})
    onnx.checker.check_model(whole)
    onnx.save(whole, str(path))


def quantize_onnx(path: Path) -> None:
    """Give the products and tables of an ONNX file weights of 8 bits; the file is rewritten."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(str(path))
    told = {one.key: one.value for one in model.metadata_props}
    # With a scale per channel, ONNX Runtime couldn't run the product of stacked experts.
    quantize_dynamic(model, path, weight_type=QuantType.QInt8)
    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, told)
    onnx.save(model, str(path))


def _set_opsets(model: Any, opsets: Sequence[Any]) -> None:
    del model.opset_import[:]
    model.opset_import.extend(opsets)


def _encoder(model: Any, columns: Mapping[str, Any], inputs: Sequence[RawInput]) -> Any:
    """Return the graph from raw columns to the inputs of the file of ids."""
    from onnx import helper

    ops = OnnxOps()
    encoded: dict[str, Value] = {}
    for one in inputs:
        raw = Value(ops, one.name, one.dtype)
        encoded |= encode(columns[one.column], raw, one.missing, ops)
    outputs = []
    for feature, name in input_names(model.input).items():
        spec, name = model.input[feature], f"{_ENCODED}{name}"
        ops.reshaped(ops.cast(encoded[feature], spec.dtype), [-1, *spec.shape[1:]], name)
        shape = [None, *spec.shape[1:]]
        outputs.append(helper.make_tensor_value_info(name, TYPES[spec.dtype], shape))
    given = [
        helper.make_tensor_value_info(
            one.name, TYPES[one.dtype], ["batch", f"{one.name}_entries"][: one.rank]
        )
        for one in inputs
    ]
    return helper.make_graph(ops.nodes, "encoder", given, outputs, ops.constants)
