"""from_deepctr: a model of DeepCTR as a model of this zoo.

The graph of the DeepCTR model is read from its outputs back to its inputs: it tells which features
make x and which experts make a mixture, each in which order.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any, NamedTuple

import keras
import numpy as np

from mtl.features import DenseFeat, SparseFeat, VarLenSparseFeat, check_columns
from mtl.layers import DNN, Experts, Extraction, Gate, Tower
from mtl.models.esmm import ESMM
from mtl.models.mmoe import MMoE
from mtl.models.ple import PLE
from mtl.models.shared_bottom import SharedBottom
from mtl.training.graph import arguments, maker
from mtl.training.model import MultiTaskModel

_STEPS = {"Embedding", "Hash", "Lambda", "SequencePoolingLayer", "WeightedSequenceLayer"}


def from_deepctr(model: Any, feature_columns: Iterable[Any]) -> MultiTaskModel:
    """Return a model of this zoo that predicts what a multi-task model of DeepCTR predicts.

    It has the same sizes, regularisation and seed, and copies of the weights; `model` stays as it
    is. The optimizer isn't taken over: compile the new model before training goes on. This needs
    the TensorFlow backend, as DeepCTR does; the new model, once saved, loads on any.

    Two things differ. An empty sequence with combiner "max" gives zeros, where DeepCTR gives -1e9.
    The L2 strength on embeddings holds for the rows that a batch looks up, not for whole tables.

    DeepCTR's batch normalisation has no weights before the model's first call on data. If weights
    come from a file, call the model on a batch, then `load_weights`, then this function.

    Example:
        ```python
        old = deepctr.models.MMOE(columns, task_names=["click", "like"])
        old.load_weights("old.weights.h5")
        model = mtl.models.from_deepctr(old, columns)
        ```

    Args:
        model: SharedBottom, MMOE, PLE or ESMM of DeepCTR 0.9.4, built under Keras 3.
        feature_columns: list of feature columns. Those that `model` was built from.

    Returns:
        A `MultiTaskModel`: SharedBottom, MMoE, PLE or ESMM.

    Raises:
        TypeError: an entry of `feature_columns` is no feature column.
        ValueError: `model` is none of the four, or its activation is no name of a Keras
            activation ("dice" is none); `feature_columns` aren't those of `model`; a feature is
            hashed, as its ids would fall into other buckets here; or the factory refuses an
            argument, such as an ESMM's task named "cvr".
    """
    columns = check_columns(feature_columns)
    outputs = getattr(model, "outputs", None) or []
    if not isinstance(model, keras.Model) or len(outputs) < 2:
        raise _unlike(repr(model))
    names = [maker(output).name for output in outputs]
    product = _kind(outputs[1]) == "Multiply"
    predictions = _back(outputs[1], "Multiply") if product else outputs
    if predictions[0] is not outputs[0]:
        raise _unlike("a product of others than the first task")
    logits = [_back(prediction, "PredictionLayer")[0] for prediction in predictions]
    tops = [_back(logit, "Dense")[0] for logit in logits]
    inputs = [_back(top, "DNN")[0] for top in tops]

    factory: Any
    levels: list[_Level] = []
    sizes: dict[str, Any] = {}
    if product:
        factory, x = ESMM, _only(inputs)
    elif _kind(inputs[0]) == "DNN":
        factory, x = SharedBottom, _back(_only(inputs), "DNN")[0]
        sizes["bottom_dnn_units"] = _units(inputs[0])
    else:
        levels, x = _levels(inputs, len(names))
        specific, shared = _only((level.specific, level.shared) for level in levels)
        gate_tops = [_back(gate, "Dense")[0] for level in levels for gate in level.gates]
        sizes["gate_dnn_units"] = _only(map(_units, gate_tops))
        sizes["expert_dnn_units"] = _only(_units(e) for level in levels for e in level.experts)
        if specific:
            factory, sizes["num_levels"] = PLE, len(levels)
            sizes |= {"num_experts_specific": specific, "num_experts_shared": shared}
        else:
            factory, sizes["num_experts"] = MMoE, shared
    activation, l2_reg, dropout, use_bn, seed = _only(
        (layer.activation, layer.l2_reg, layer.dropout_rate, layer.use_bn, layer.seed)
        for layer in model.layers
        if type(layer).__name__ == "DNN"
    )
    if not isinstance(activation, str):  # a layer class would pass for a function
        raise ValueError(
            "`dnn_activation` of `model` should be the name of a Keras activation. "
            f"Received: {activation!r}"
        )
    parts = _parts(x)
    _check_columns(columns, parts)
    embeddings = [part.embedding for part in parts.values() if part.embedding]
    target: MultiTaskModel = factory(
        columns,
        task_names=names,
        task_types=[maker(prediction).task for prediction in predictions],
        tower_dnn_units_lists=[_units(top) for top in tops],
        l2_reg_embedding=max((layer.embeddings_regularizer.l2 for layer in embeddings), default=0),
        l2_reg_dnn=l2_reg,
        seed=seed,
        dnn_dropout=dropout,
        dnn_activation=activation,
        dnn_use_bn=use_bn,
        **sizes,
    )

    read = _Reader(x, _rows(columns, parts))
    _set_embeddings(target, columns, parts)
    if factory is SharedBottom:
        _layer(target, DNN, "bottom").set_weights(read.dnn(inputs[0]))
    for number, level in enumerate(levels, start=1):
        if factory is PLE:
            extraction = _layer(target, Extraction, f"extraction_{number}")
            experts, gates = extraction.experts, extraction.gates
        else:
            experts = _layer(target, Experts, "experts")
            gates = [_layer(target, Gate, f"gate_{task.output_name}") for task in target.tasks]
        experts.set_weights(read.experts(level.experts))
        for gate, logit in zip(gates, level.gates, strict=True):
            gate.set_weights(read.dense(logit))
    towers = {layer.task.name: layer for layer in target.layers if isinstance(layer, Tower)}
    hidden = [names[0], "cvr"] if product else names
    for name, logit, prediction in zip(hidden, logits, predictions, strict=True):
        towers[name].set_weights([*read.dense(logit), _array(maker(prediction).global_bias)])
    return target


class _Level(NamedTuple):
    """A level of MMoE or PLE: the outputs of its experts, in our order, and its gates' logits."""

    experts: list[Any]
    gates: list[Any]
    specific: int
    shared: int


class _Part(NamedTuple):
    """A feature's part of x: its width, the embedding layer if any, the fields of its column."""

    width: int
    embedding: Any
    fields: dict[str, Any]


def _levels(outputs: list[Any], num_tasks: int) -> tuple[list[_Level], Any]:
    """Return the levels that lead to mixtures of experts, the first one first, and x."""
    mixtures = [_back(output, "Lambda") for output in outputs]
    if any(len(sources) != 2 for sources in mixtures):
        raise _unlike("a Lambda that isn't a mixture of experts")
    mixed = [_back(stack, "Lambda") for stack, _ in mixtures]
    gates = [_back(weights, "Lambda")[0] for _, weights in mixtures]
    shared = sum(a is b for a, b in zip(mixed[0], mixed[1], strict=False))
    specific = len(mixed[0]) - shared
    common = mixed[0][specific:]
    if not common:
        raise _unlike("a PLE without shared experts")
    groups = [*(own[:specific] for own in mixed[:num_tasks]), common]
    experts = list(chain.from_iterable(groups))
    inputs = [_back((group or common)[0], "DNN")[0] for group in groups]
    fed = [_back(expert, "DNN")[0] for expert in experts]
    asked = [_back(_back(gate, "Dense")[0], "DNN")[0] for gate in gates]
    if (
        mixed != [*(own + common for own in groups[:-1]), experts][: len(mixed)]
        or fed != [tensor for tensor, group in zip(inputs, groups, strict=True) for _ in group]
        or asked != inputs[: len(asked)]
    ):
        raise _unlike("experts and gates that are wired in another way")
    earlier, x = ([], inputs[0]) if len(set(inputs)) == 1 else _levels(inputs, num_tasks)
    return [*earlier, _Level(experts, gates, specific, shared)], x


def _parts(tensor: Any) -> dict[str, _Part]:
    """Return the parts of x by feature, in DeepCTR's order."""
    if _kind(tensor) in ("Concat", "Flatten", "NoMask"):
        return dict(chain.from_iterable(_parts(source).items() for source in arguments(tensor)))
    width, steps = tensor.shape[-1], {}
    while sources := arguments(tensor):
        steps[_kind(tensor)] = maker(tensor), [maker(source).name for source in sources]
        tensor = sources[0]
    name = maker(tensor).name
    if not steps.keys() <= _STEPS:
        raise _unlike(f"an input that goes through {list(steps)}")
    embedding, _ = steps.get("Embedding", (None, []))
    transform, _ = steps.get("Lambda", (None, []))
    pooling, pooled = steps.get("SequencePoolingLayer", (None, []))
    weighting, weighted = steps.get("WeightedSequenceLayer", (None, []))
    fields = {
        "use_hash": embedding and "Hash" in steps,
        "vocabulary_size": embedding and embedding.input_dim,
        "embedding_dim": embedding and embedding.output_dim,
        "maxlen": pooling and tensor.shape[1],
        "combiner": pooling and pooling.mode,
        "length_name": pooled[1] if len(pooled) > 1 else None,
        "weight_name": weighted[-1] if weighting else None,
        "dimension": None if embedding else width,
        "transform_fn": transform and transform.function,
    }
    if weighting:
        fields["weight_norm"] = weighting.weight_normalization
    return {name: _Part(width, embedding, fields)}


def _check_columns(columns: list[Any], parts: dict[str, _Part]) -> None:
    names = {column.name for column in columns}
    if names != parts.keys():
        raise ValueError(
            f"`feature_columns` should be those of `model`: {sorted(parts)}. Received: "
            f"{sorted(parts.keys() - names)} missing, {sorted(names - parts.keys())} unknown"
        )
    sharing: dict[Any, Any] = {}  # embedding layers by name, and names by embedding layer
    for column in columns:
        embedding, fields = parts[column.name].embedding, parts[column.name].fields
        for field, expected in fields.items():
            received = getattr(column, field, None)
            if received != expected:
                raise _unfit(column, field, f"{expected!r}, as in `model`", received)
        if fields["use_hash"]:
            raise _unfit(column, "use_hash", "False: ids fall into other buckets here", True)
        name = getattr(column, "embedding_name", None)
        pairs = ((name, embedding), (embedding, name))
        if any(sharing.setdefault(key, value) != value for key, value in pairs):
            raise _unfit(column, "embedding_name", "shared as in `model`", name)


def _rows(columns: list[Any], parts: dict[str, _Part]) -> Any:
    """Return where each entry of our x stands in DeepCTR's, which goes by `group_name`."""
    kinds = (SparseFeat, VarLenSparseFeat, DenseFeat)
    ours = [column.name for kind in kinds for column in columns if isinstance(column, kind)]
    theirs = [ours.index(name) for name, part in parts.items() for _ in range(part.width)]
    return np.argsort(theirs, kind="stable")


class _Reader:
    """Reads weights; the kernels that read x get their rows in our order."""

    def __init__(self, x: Any, rows: Any) -> None:
        self.x = x
        self.rows = rows

    def kernel(self, variable: Any, tensor: Any) -> Any:
        """Return a kernel that multiplies `tensor`."""
        # A DNN without units gives its input, and a mixture of such experts is in the order of x.
        while tensor is not self.x:
            if getattr(maker(tensor), "hidden_units", ()):
                return _array(variable)
            tensor = arguments(tensor)[0]
        return _array(variable)[self.rows]

    def blocks(self, output: Any) -> list[list[Any]]:
        """Return a DNN's weights by depth: kernel, bias, then those of batch normalisation."""
        dnn, (tensor,), blocks = maker(output), arguments(output), []
        for depth, (kernel, bias) in enumerate(zip(dnn.kernels, dnn.bias, strict=True)):
            block = [_array(kernel) if depth else self.kernel(kernel, tensor), _array(bias)]
            if dnn.use_bn:
                norm = dnn.bn_layers[depth]  # without weights before the first call
                initial = [np.full(bias.shape, value) for value in (1, 0, 0, 1)]
                block += norm.get_weights() if norm.built else initial
            blocks.append(block)
        return blocks

    def dnn(self, output: Any) -> list[Any]:
        """Return the weights of our DNN."""
        return list(chain.from_iterable(self.blocks(output)))

    def dense(self, output: Any) -> list[Any]:
        """Return the weights of a DNN and of the Dense layer on top of it."""
        (top,) = arguments(output)
        return [*self.dnn(top), self.kernel(maker(output).kernel, top)]

    def experts(self, outputs: list[Any]) -> list[Any]:
        """Return the weights of our stack of experts."""
        by_depth = zip(*(self.blocks(output) for output in outputs), strict=True)
        depths = [list(zip(*blocks, strict=True)) for blocks in by_depth]
        stacks = [np.stack(values) for depth in depths for values in depth[:2]]
        return stacks + [np.concatenate(values) for depth in depths for values in depth[2:]]


def _set_embeddings(target: Any, columns: list[Any], parts: dict[str, _Part]) -> None:
    embeddings = {getattr(c, "embedding_name", ""): parts[c.name].embedding for c in columns}
    for table, weight in target.encoder.tables:
        rows = np.zeros(table.shape, weight.dtype)  # the unknown rows stay so
        for part in table.slices.values():
            embedding = _array(embeddings[part.embedding_name].embeddings)
            rows[part.offset : part.offset + part.size] = embedding
        weight.assign(rows)


def _layer(target: Any, kind: Any, name: str) -> Any:
    """Return our layer of that name; factories append "_" to what inputs and tasks are named."""
    found = (layer for layer in target.layers if isinstance(layer, kind))
    return next(layer for layer in found if layer.name.rstrip("_") == name.rstrip("_"))


def _kind(tensor: Any) -> str:
    return type(maker(tensor)).__name__


def _back(tensor: Any, kind: str) -> list[Any]:
    """Return the tensors that a tensor was made from, by a layer of that class."""
    if _kind(tensor) != kind:
        raise _unlike(f"{maker(tensor)} where a {kind} should be")
    return arguments(tensor)


def _units(output: Any) -> tuple[int, ...]:
    """Return the widths of the DNN that made a tensor."""
    _back(output, "DNN")
    return tuple(maker(output).hidden_units)


def _only(values: Iterable[Any]) -> Any:
    """Return the value that all of them are."""
    found = set(values)
    if len(found) != 1:
        raise _unlike(f"{found} where all should be the same")
    return found.pop()


def _array(variable: Any) -> Any:
    return keras.ops.convert_to_numpy(variable)


def _unlike(received: str) -> ValueError:
    return ValueError(
        "`model` should be a SharedBottom, MMOE, PLE or ESMM of DeepCTR, built under Keras 3. "
        f"Received: {received}"
    )


def _unfit(column: Any, field: str, expected: str, received: Any) -> ValueError:
    return ValueError(
        f"`{field}` of feature {column.name!r} should be {expected}. Received: {received!r}"
    )
