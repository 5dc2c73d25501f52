"""From raw values to a model's inputs inside a graph, as `TableEncoder.transform` does it.

What a column becomes is written once here, in the operations of `Ops`, which TensorFlow and ONNX
have both. The tables, numbers and rules are those of `mtl.data`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from mtl.data.hashes import Hashes
from mtl.data.raw import CategoricalColumn, NumericColumn, RawColumn, SequenceColumn, TimeColumn
from mtl.data.raw.times import DAYS, MISSING, PARTS, SECONDS_OF_DAY
from mtl.data.vocabulary import text_of

# Missing values of integers and times; that of floats is NaN.
_INTEGER = MISSING


class Ops(Protocol):
    """The operations of a graph.

    Tensors have the operators of Python with numbers and with each other, of which `//` and `%`
    round down, and types by their names: "string", "float64", "float32", "int64", "int32", "bool".
    """

    def dtype(self, x: Any) -> str:
        """Return the type of a tensor."""

    def cast(self, x: Any, dtype: str) -> Any:
        """Return a tensor as another type."""

    def equal(self, x: Any, value: Any) -> Any:
        """Return where a tensor equals one value; None stands for NaN."""

    def where(self, condition: Any, x: Any, y: Any) -> Any:
        """Return x where the condition holds, and y elsewhere; one of the two may be a value."""

    def signed_log(self, x: Any) -> Any:
        """Return sign(x) · log(1 + |x|)."""

    def look_up(self, x: Any, table: Mapping[Any, int]) -> Any:
        """Return the int64 entries of a table, 0 for what it doesn't hold."""

    def hashed(self, x: Any, buckets: int) -> Any:
        """Return the int64 bucket of each text, or of each integer's text."""

    def split(self, x: Any, separator: str) -> Any:
        """Return the parts of N texts as `(N, L)` texts, padded with "" at the end."""

    def running(self, x: Any) -> Any:
        """Return the sums of the `(N, L)` integers up to each place of their row."""

    def total(self, x: Any) -> Any:
        """Return the `(N, 1)` sums of the rows."""

    def placed(self, x: Any, places: Any, size: int) -> Any:
        """Return `(N, size)` integers: those of x at their places, unless `size` is one; else 0."""


@dataclass(frozen=True)
class RawInput:
    """An input of an exported file: a raw column.

    Attributes:
        column: str. The column's name.
        name: str. That of the input, which is the column's, made safe for the formats.
        dtype: str. "string", "float64", or "int64"; times are seconds since 1970.
        rank: int. 1, or 2 of a sequence of `(N, L)` entries.
        missing: str, int or None. What stands for a missing value; None is NaN.
        kind: str. The argument of `TableEncoder` that lists the column.
    """

    column: str
    name: str
    dtype: str
    rank: int
    missing: Any
    kind: str

    def to_json(self) -> dict[str, Any]:
        """Return the attributes as a JSON-compatible dict."""
        return asdict(self)


def raw_inputs(
    columns: Mapping[str, RawColumn], names: Mapping[str, str], missing: str
) -> list[RawInput]:
    """Return the inputs of the columns.

    Args:
        columns: dict from name to column.
        names: dict from the column's name to that of the input.
        missing: str. What stands for a missing string.

    Raises:
        ValueError: a column of several kinds of values, or one that has `missing` as a value.
    """
    inputs = []
    for name, column in columns.items():
        dtype = _dtype(column)
        marker = {"string": missing, "float64": None, "int64": _INTEGER}[dtype]
        if dtype == "string" and missing in _known(column):
            raise ValueError(
                f"`missing` should be no value of column {name!r}. Received: {missing!r}, which is "
                "one: choose another string, and send it for a missing value"
            )
        lists = isinstance(column, SequenceColumn) and column.settings["separator"] is None
        inputs.append(RawInput(name, names[name], dtype, 1 + lists, marker, column.argument))
    return inputs


def _dtype(column: RawColumn) -> str:
    if isinstance(column, TimeColumn):
        return "int64"
    if isinstance(column, SequenceColumn) and column.settings["separator"] is not None:
        return "string"
    if not isinstance(column, CategoricalColumn):
        return "float64"
    try:
        return str(column.vocabulary.dtype)
    except ValueError as error:
        raise ValueError(
            f"Column {column.name!r} should hold, to be served raw, {error} (such as all as "
            "strings: `.astype(str)` before fit)"
        ) from error


def _known(column: Any) -> Any:
    if isinstance(column, SequenceColumn) and column.settings["separator"] is not None:
        return ()  # an empty text has no entries, and another marker is none that is split
    return getattr(getattr(column, "vocabulary", None), "categories", ())


def encode(column: RawColumn, x: Any, missing: Any, ops: Ops) -> dict[str, Any]:
    """Return what a raw column becomes, by the name of the model's input.

    Args:
        column: a fitted column.
        x: tensor of N raw values, or `(N, L)` of a sequence.
        missing: what stands for a missing value.
        ops: the operations of the graph that x is in.
    """
    if isinstance(column, SequenceColumn):
        return _sequence(column, x, missing, ops)
    if isinstance(column, CategoricalColumn):
        return {column.name: _ids(column.vocabulary, x, missing, ops)}
    if isinstance(column, NumericColumn):
        return {column.name: _scaled(column, x, ops)}
    if isinstance(column, TimeColumn):
        return _parts(column, x, missing, ops)
    raise NotImplementedError(type(column))


def _ids(vocabulary: Any, x: Any, missing: Any, ops: Ops, texts: bool = False) -> Any:
    if isinstance(vocabulary, Hashes):
        ids = ops.hashed(x, vocabulary.size - 1) + 1
        if ops.dtype(x) == "string" and missing != "":
            ids = ops.where(ops.equal(x, ""), 0, ids)
    else:
        table = vocabulary.entries or {0 if ops.dtype(x) != "string" else "": 0}
        ids = ops.look_up(x, {text_of(v): i for v, i in table.items()} if texts else table)
    return ops.where(ops.equal(x, missing), vocabulary.missing_id, ids)


def _sequence(column: SequenceColumn, x: Any, missing: Any, ops: Ops) -> dict[str, Any]:
    separator, maxlen = column.settings["separator"], column.settings["maxlen"]
    if separator is not None:
        x = x if missing == "" else ops.where(ops.equal(x, missing), "", x)
        x, missing = ops.split(x, separator), ""
    ids = _ids(column.vocabulary, x, missing, ops, column.of_texts)
    gone = ops.equal(x, missing)
    there = 1 - ops.cast(gone, "int64")
    total = ops.total(there)
    length = ops.where(total > maxlen, maxlen, total)
    # Missing entries leave no gap, and of too many the first are left out.
    place = ops.running(there) - 1 - (total - length)
    place = ops.where(gone, maxlen, ops.where(place < 0, maxlen, place))
    padded = ops.placed(ids, place, maxlen)
    return dict(zip(column.inputs, (padded, length), strict=True))


def _scaled(column: NumericColumn, x: Any, ops: Ops) -> Any:
    scaler = column.scaler
    x = ops.where(ops.equal(x, None), scaler.mean, x)
    if scaler.log:
        x = ops.signed_log(x)
    if scaler.low is not None:
        x = ops.where(x < scaler.low, scaler.low, x)
    if scaler.high is not None:
        x = ops.where(x > scaler.high, scaler.high, x)
    # A column that was constant tells nothing.
    return (x - scaler.shift) / scaler.scale if scaler.scale else x * 0.0


def _parts(column: TimeColumn, x: Any, missing: Any, ops: Ops) -> dict[str, Any]:
    gone, parts = ops.equal(x, missing), {}
    for part, name in zip(column.settings["parts"], column.inputs, strict=True):
        if part == DAYS and column.days is not None:
            days = ops.cast(x, "float64") / float(SECONDS_OF_DAY)
            parts[name] = _scaled(column.days, ops.where(gone, float("nan"), days), ops)
        else:
            parts[name] = ops.where(gone, 0, PARTS[part][1](x) + 1)
    return parts
