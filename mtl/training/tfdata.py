"""Batches of tf.data, put into a model's form and checked in its graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from mtl.training import arrays, host, labels
from mtl.training.form import Form
from mtl.training.kinds import check_shape
from mtl.training.spread import by_task


def mapped(data: Any, form: Form) -> Any:
    """Return a data set of tf.data whose batches are in a model's form.

    Args:
        data: a data set of tf.data.
        form: the form.
    """
    whole = isinstance(data.element_spec, tuple)  # which `map` passes as arguments
    convert = tf.autograph.experimental.do_not_convert
    return data.map(convert(lambda *parts: _in_form(parts if whole else parts[0], form)))


def _in_form(batch: Any, form: Form) -> Any:
    x, y, weights = form.unpacked(batch)
    if isinstance(x, Mapping):
        x = _inputs(form.inputs, x)
    if not form.labelled:
        return (x,)
    checked = _labels(y, form)
    done = _weights(weights, checked, form)
    rows = tf.shape(tf.nest.flatten(x)[0])[0]
    found = tf.stack([tf.shape(part)[0] for part in (*checked, *done)])
    expected = "`y` and `sample_weight` should have as many rows as `x`,"
    tf.debugging.Assert(tf.reduce_all(found == rows), [expected, rows, "Received:", found])
    return (x, *(tuple(part) if len(part) > 1 else part[0] for part in (checked, done) if part))


def _inputs(inputs: arrays.Inputs, x: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tensors of the model's inputs."""
    inputs.check_names(x)
    named, finite, whole = {}, {}, {}
    for spec in inputs.specs:
        name, label = spec.name, f"x[{spec.name!r}]"
        value = _shaped(label, x[name], spec.shape)
        if spec.dtype == "string":
            if value.dtype != tf.string:
                raise _wrong_type(label, "strings", value)
        elif name in inputs.numbers:
            value = _number(label, value, spec.dtype)
            if name not in inputs.free:
                finite[name] = tf.cast(value, "float32")
        else:
            if value.dtype.is_floating:
                whole[name] = value = tf.cast(value, "float64")
            value = _ids(label, value, spec.dtype, name in inputs.hashed)
        named[name] = value
    _check(finite, "finite numbers: fill missing values first", tf.math.is_finite)
    _check(whole, "integer ids", lambda ids: ids % 1 == 0)
    return named


def _check(values: dict[str, Any], expected: str, is_valid: Callable[[Any], Any]) -> None:
    """Raise, in the graph, if not all values are valid.

    All at once, for an assertion takes longer than what it looks at.
    """
    if not values:
        return
    columns = [value if len(value.shape) == 2 else value[..., 0] for value in values.values()]
    names = tf.repeat(list(values), [c.shape[1] or tf.shape(c)[1] for c in columns])
    matrix = tf.concat(columns, axis=1)
    valid = is_valid(matrix)
    where = tf.boolean_mask(names, ~tf.reduce_all(valid, axis=0))
    _assert(valid, matrix, f"`x` should hold {expected}", "of", where)


def _assert(valid: Any, values: Any, expected: str, *more: Any) -> None:
    """Raise, in the graph, which escapes quotes, if not all values are valid."""
    received = [f"{expected}. Received:", tf.boolean_mask(values, ~valid), *more]
    tf.debugging.Assert(tf.reduce_all(valid), received)


def _labels(y: Any, form: Form) -> list[Any]:
    """Return the labels in task order."""
    found = by_task(form.tasks, "y", y) or []
    labels.check_every_task(form.tasks, found)
    checked = []
    for task, kind, label in zip(form.tasks, form.kinds or [None] * len(found), found, strict=True):
        name = f"y[{task.name!r}]"
        check_shape(task, kind, label)
        label = _number(name, _shaped(name, label, *labels.shapes_of(task, kind)), "float32")
        valid, expected = ~tf.math.is_inf(label), "finite labels"
        if kind is not None:
            valid &= kind.valid(task, label)
            expected = f"labels that its loss {kind.loss} takes"
        _assert(valid, label, f"`y` of {task.name} should hold {expected}, or NaN if missing")
        checked.append(label)
    return checked


def _weights(sample_weight: Any, y: Sequence[Any], form: Form) -> list[Any]:
    """Return the sample weights in task order, those by class included; none if there are none."""
    found = by_task(form.tasks, "sample_weight", sample_weight)
    if found is None and form.class_weight is None:
        return []
    done = []
    for k, (task, classes) in enumerate(zip(form.tasks, y, strict=True)):
        name = f"sample_weight[{task.name!r}]"
        weight = found[k] if found is not None else None
        if weight is None:
            weight = tf.ones((tf.shape(classes)[0], 1))
        else:
            weight = _number(name, _shaped(name, weight, (1,)), "float32")
            expected = f"`sample_weight` of {task.name} should hold weights of at least 0"
            _assert((weight >= 0) & tf.math.is_finite(weight), weight, f"{expected}, all finite")
        if form.class_weight is not None and form.class_weight[k]:
            if classes.shape[-1] != 1:  # one-hot
                classes = tf.cast(tf.argmax(classes, axis=-1), "float32")[:, None]
            for number, factor in form.class_weight[k].items():
                weight = tf.where(classes == float(number), weight * factor, weight)
        done.append(weight)
    return done


def _ids(label: str, ids: Any, dtype: str, hashed: bool) -> Any:
    """Return ids in the type that the model takes, as `mtl.training.arrays` does."""
    if ids.dtype.is_floating:
        ids = tf.cast(tf.clip_by_value(ids, -(2.0**62), 2.0**62), "int64")
    if not (ids.dtype.is_integer or ids.dtype.is_bool):
        raise _wrong_type(label, f"integer ids ({arrays.MAP_STRINGS})", ids)
    if dtype != "int32" or ids.dtype not in (tf.int64, tf.uint32, tf.uint64):
        return tf.cast(ids, dtype)
    wide = tf.cast(ids, "int64")
    low = tf.cast(wide, "int32")
    fits = tf.cast(low, "int64") == wide
    if ids.dtype == tf.uint64:  # whose upper half is negative as int64
        fits &= wide >= 0
    other = tf.constant(-1)
    if hashed:
        folded = tf.bitwise.bitwise_xor(low, tf.cast(tf.bitwise.right_shift(wide, 32), "int32"))
        other = tf.where(folded == 0, arrays.NO_PADDING, folded)
    return tf.where(fits, low, other)


def _number(label: str, value: Any, dtype: str) -> Any:
    """Return numbers of a type, or raise a TypeError if they are none."""
    if not (value.dtype.is_floating or value.dtype.is_integer or value.dtype.is_bool):
        raise _wrong_type(label, "numbers", value)
    return tf.cast(value, dtype)


def _shaped(label: str, value: Any, *shapes: tuple[int, ...]) -> Any:
    """Do as `host.shaped` with a tensor, of which not every dimension need be known."""
    for shape in shapes:
        if value.shape.is_compatible_with((None, *shape)):
            return value
        if shape[-1] == 1 and value.shape.is_compatible_with((None, *shape[:-1])):
            return value[..., None]
    row = any(value.shape in (shape, shape[:-1]) for shape in shapes)
    hint = " (call .batch(…) on the data set)" if row else ""
    raise host.wrong_shape(label, tuple(value.shape), shapes, hint)


def _wrong_type(label: str, expected: str, value: Any) -> TypeError:
    return TypeError(f"`{label}` should hold {expected}. Received: dtype {value.dtype.name}")
