"""The operations of `mtl.serving.raw` as nodes of an ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

ML = "ai.onnx.ml"
ML_VERSION = 4  # with tables from any type to any other
SPLIT_VERSION = 20  # the first version of ONNX with StringSplit
TYPES = {"string": 8, "float64": 11, "float32": 1, "int64": 7, "int32": 6, "bool": 9}


class Value:
    """A tensor of a graph, with Python's operators.

    Args:
        ops: `OnnxOps`. The graph.
        name: str. The tensor's name.
        dtype: str. Its type, out of `TYPES`.
    """

    def __init__(self, ops: OnnxOps, name: str, dtype: str) -> None:
        self.ops, self.name, self.dtype = ops, name, dtype

    def _with(self, op: str, other: Any, dtype: str | None = None) -> Value:
        return self.ops.node(op, [self, self.ops.like(self, other)], dtype or self.dtype)

    def __add__(self, other: Any) -> Value:
        return self._with("Add", other)

    def __sub__(self, other: Any) -> Value:
        return self._with("Sub", other)

    def __rsub__(self, other: Any) -> Value:
        return self.ops.node("Sub", [self.ops.like(self, other), self], self.dtype)

    def __mul__(self, other: Any) -> Value:
        return self._with("Mul", other)

    __radd__, __rmul__ = __add__, __mul__

    def __truediv__(self, other: Any) -> Value:
        return self._with("Div", other)

    def __mod__(self, other: Any) -> Value:
        return self._with("Mod", other)

    def __floordiv__(self, other: Any) -> Value:
        rest = self._with("Mod", other)
        return (self - rest)._with("Div", other)  # Div alone cuts off

    def __gt__(self, other: Any) -> Value:
        return self._with("Greater", other, "bool")

    def __lt__(self, other: Any) -> Value:
        return self._with("Less", other, "bool")


class OnnxOps:
    """See `mtl.serving.raw.Ops`.

    Attributes:
        nodes: list of the graph's nodes.
        constants: list of its initializers.
    """

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def node(
        self, op: str, inputs: list[Any], dtype: str, outputs: int = 1, **attributes: Any
    ) -> Value:
        """Add a node, and return its first output."""
        from onnx import helper

        names = [f"raw/{len(self.nodes)}/{i}" for i in range(outputs)]
        given = [value.name for value in inputs]
        self.nodes.append(helper.make_node(op, given, names, **attributes))
        return Value(self, names[0], dtype)

    def constant(self, value: Any, dtype: str) -> Value:
        """Add a constant."""
        from onnx import numpy_helper

        name = f"constant/{len(self.constants)}"
        array = np.asarray(value, object if dtype == "string" else dtype)
        self.constants.append(numpy_helper.from_array(array, name))
        return Value(self, name, dtype)

    def like(self, x: Value, other: Any) -> Any:
        """Return a tensor, or a value as a constant of the type of x."""
        return other if isinstance(other, Value) else self.constant(other, x.dtype)

    def dtype(self, x: Value) -> str:
        """Return the type of a tensor."""
        return x.dtype

    def cast(self, x: Value, dtype: str) -> Value:
        """Return a tensor as another type."""
        return x if x.dtype == dtype else self.node("Cast", [x], dtype, to=TYPES[dtype])

    def equal(self, x: Value, value: Any) -> Value:
        """Return where a tensor equals one value; None stands for NaN."""
        if value is None:
            return self.node("IsNaN", [x], "bool")
        if x.dtype == "string":  # which Equal takes in later versions only
            return self.cast(self.look_up(x, {value: 1}), "bool")
        return self.node("Equal", [x, self.like(x, value)], "bool")

    def where(self, condition: Value, x: Any, y: Any) -> Value:
        """Return x where the condition holds, and y elsewhere; one of the two may be a value."""
        tensor = x if isinstance(x, Value) else y
        both = [self.like(tensor, x), self.like(tensor, y)]
        return self.node("Where", [condition, *both], tensor.dtype)

    def signed_log(self, x: Value) -> Value:
        """Return sign(x) · log(1 + |x|)."""
        size = self.node("Log", [self.node("Abs", [x], x.dtype) + 1.0], x.dtype)
        return self.node("Sign", [x], x.dtype) * size

    def look_up(self, x: Value, table: Mapping[Any, int]) -> Value:
        """Return the int64 entries of a table, 0 for what it doesn't hold."""
        from onnx import numpy_helper

        kind: Any = object if x.dtype == "string" else x.dtype
        return self.node(
            "LabelEncoder",
            [x],
            "int64",
            domain=ML,
            keys_tensor=numpy_helper.from_array(np.array(list(table), kind), "keys"),
            values_tensor=numpy_helper.from_array(np.array(list(table.values()), "int64"), "ids"),
            default_tensor=numpy_helper.from_array(np.zeros(1, "int64"), "unknown"),
        )

    def hashed(self, x: Value, buckets: int) -> Value:
        """Refuse: there is no such operation."""
        raise NotImplementedError("ONNX has no operation that hashes strings")

    def split(self, x: Value, separator: str) -> Value:
        """Return the parts of N texts as `(N, L)` texts, padded with "" at the end."""
        return self.node("StringSplit", [x], "string", outputs=2, delimiter=separator)

    def running(self, x: Value) -> Value:
        """Return the sums of the `(N, L)` integers up to each place of their row."""
        return self.node("CumSum", [x, self.constant(1, "int64")], x.dtype)

    def total(self, x: Value) -> Value:
        """Return the `(N, 1)` sums of the rows."""
        return self.node("ReduceSum", [x, self.constant([1], "int64")], x.dtype, keepdims=1)

    def placed(self, x: Value, places: Value, size: int) -> Value:
        """Return `(N, size)` integers: those of x at their places, unless `size` is one; else 0."""
        first, last = self.constant([0], "int64"), self.constant([1], "int64")
        shape = self.node("Shape", [x], "int64")
        rows = self.node("Slice", [shape, first, last], "int64")
        wide = self.node("Concat", [rows, self.constant([size + 1], "int64")], "int64", axis=0)
        zeros = self.node("ConstantOfShape", [wide], "int64", value=_zero())
        filled = self.node("ScatterElements", [zeros, places, x], "int64", axis=1)
        end, axis = self.constant([size], "int64"), self.constant([1], "int64")
        return self.node("Slice", [filled, first, end, axis], "int64")

    def reshaped(self, x: Value, shape: list[int], name: str) -> None:
        """Add x in another shape as an output of that name."""
        self.node("Reshape", [x, self.constant(shape, "int64")], x.dtype)
        self.nodes[-1].output[0] = name


def _zero() -> Any:
    from onnx import numpy_helper

    return numpy_helper.from_array(np.zeros(1, "int64"))
