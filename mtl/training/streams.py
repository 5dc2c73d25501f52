"""Data sets, generators and `PyDataset`s: each batch gets the form and the checks of arrays.

What Python yields is checked as `fit` checks its arrays. Batches of tf.data are put into form in
its graph, where labels and weights out of range raise, too. Keras takes PyTorch's DataLoader as it
is: the model puts its batches into form, and labels out of range make the loss NaN.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from mtl.tasks import Task
from mtl.training import arrays, labels, packing
from mtl.training.kinds import Kind
from mtl.training.spread import by_task


@dataclass(frozen=True)
class Form:
    """The form of a model's batches.

    Attributes:
        tasks: the model's tasks.
        inputs: its inputs.
        kinds: the labels that each task's loss takes.
        class_weight: each task's weights by class, or None.
        labelled: bool. Whether there should be labels: not to predict.
    """

    tasks: Sequence[Task]
    inputs: arrays.Inputs
    kinds: Sequence[Kind | None] = ()
    class_weight: Sequence[Any] | None = None
    labelled: bool = True

    def checked(self, batch: Any) -> Any:
        """Return a batch of numpy, pandas or plain Python as a tuple in the model's form."""
        x, y, weights = _unpacked(batch, self.labelled)
        x = self.inputs.check(x)
        if not self.labelled:
            return (x,)
        rows = len(keras.tree.flatten(x)[0])
        # Of one type, though a batch may have missing labels and the first ones none.
        y = keras.tree.map_structure(
            lambda label: label.astype("float32", copy=False),
            labels.check_labels(self.tasks, y, self.kinds, rows),
        )
        weights = labels.check_sample_weights(self.tasks, weights, rows)
        if self.class_weight is not None:
            weights = labels.weighted_by_class(self.tasks, y, weights, self.class_weight)
        parts = (x, y) if weights is None else (x, y, weights)
        return tuple(tuple(part) if isinstance(part, list) else part for part in parts)


class _Checked(keras.utils.PyDataset):
    """A `PyDataset` in a model's form."""

    def __init__(self, data: Any, form: Form) -> None:
        super().__init__(data.workers, data.use_multiprocessing, data.max_queue_size)
        self._data = data
        self._form = form

    @property
    def num_batches(self) -> int | None:
        """The number of batches, or None if there is no end."""
        return self._data.num_batches  # type: ignore[no-any-return]

    def __getitem__(self, index: int) -> Any:
        return self._form.checked(self._data[index])

    def on_epoch_begin(self) -> None:
        """Pass on that an epoch begins."""
        self._data.on_epoch_begin()

    def on_epoch_end(self) -> None:
        """Pass on that an epoch ends."""
        self._data.on_epoch_end()


class EpochOf(keras.callbacks.Callback):
    """Tells a stream which epoch begins: Keras begins one more where it builds metrics."""

    def __init__(self, stream: Any) -> None:
        super().__init__()
        self._stream = stream

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Pass it on."""
        self._stream.start(epoch)


def in_form(data: Any, form: Form) -> Any:
    """Return a data set whose batches are in a model's form.

    Args:
        data: a data set, or anything else, which is returned as it is.
        form: the form.

    Raises:
        ValueError: weights by class for a data set whose batches aren't seen here.
    """
    if isinstance(data, _Checked) or getattr(data, _MARK, False):
        return data
    if hasattr(data, "by_pool"):  # it checks, and packs, many batches at once
        return data.by_pool(lambda batch: _packed(form.checked(batch)), not form.labelled)
    if isinstance(data, keras.utils.PyDataset):
        return _Checked(data, form)
    if isinstance(data, types.GeneratorType):
        return _generated(data, form)
    if is_tf_data(data):
        spec = data.element_spec
        import tensorflow as tf

        convert = tf.autograph.experimental.do_not_convert
        mapped = data.map(convert(lambda *parts: _in_graph(_again(parts, spec), form)))
        setattr(mapped, _MARK, True)
        return mapped
    if form.class_weight is not None:
        raise ValueError(
            "`class_weight` goes with arrays, tf.data, PyDataset and generators; other data sets "
            f"should yield sample weights. Received: `x` of type {type(data).__name__}"
        )
    return data


def _packed(batch: tuple[Any, ...]) -> tuple[Any, ...]:
    return (packing.pack(batch[0]), *batch[1:])


_MARK = "_in_form_of_mtl"


def is_tf_data(data: Any) -> bool:
    """Return whether these are tf.data's; TensorFlow isn't imported to find out."""
    kinds = type(data).__mro__
    return any(k.__name__ == "DatasetV2" and "tensorflow" in k.__module__ for k in kinds)


def _generated(data: Iterator[Any], form: Form) -> Iterator[Any]:
    for batch in data:
        yield form.checked(batch)


def _again(parts: tuple[Any, ...], spec: Any) -> Any:
    """Return the batch that `map` passes as arguments."""
    return parts if isinstance(spec, tuple) else parts[0]


def _unpacked(batch: Any, labelled: bool) -> tuple[Any, Any, Any]:
    """Return a batch's inputs, labels and sample weights, None where it has none."""
    parts = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
    if not 1 <= len(parts) <= 3:
        raise ValueError(
            "A data set should yield (x, y) or (x, y, sample_weight). "
            f"Received: batches of {len(parts)} parts"
        )
    x, y, weights = (*parts, None, None)[:3]
    if labelled and y is None:
        raise ValueError(
            "A data set should yield (x, y) or (x, y, sample_weight). Received: batches without y"
        )
    return x, y, weights


def _in_graph(batch: Any, form: Form) -> Any:
    """Return a batch of tf.data in a model's form."""
    import tensorflow as tf

    x, y, weights = _unpacked(batch, form.labelled)
    if isinstance(x, Mapping):
        x = _inputs(form.inputs, x)
    if not form.labelled:
        return (x,)
    found = by_task(form.tasks, "y", y)
    absent = [t.name for t, v in zip(form.tasks, found, strict=True) if v is None]  # type: ignore[arg-type]
    if absent:
        raise ValueError(
            f"`y` should hold labels of every task. Received: none of {absent} (a missing label "
            "is NaN)"
        )
    checked = []
    for k, task in enumerate(form.tasks):
        label = tf.cast(found[k], "float32")  # type: ignore[index]
        kind = form.kinds[k] if form.kinds else None
        if kind is not None:
            expected = f"should hold labels that its loss {kind.loss} takes, or NaN if missing"
            label = _where(kind.valid(task, label), label, f"`y` of {task.name} {expected}")
        checked.append(label)
    weighted = by_task(form.tasks, "sample_weight", weights)
    if weighted is None and form.class_weight is None:
        return x, _joined(checked)
    rows = tf.shape(checked[0])[0]
    done = []
    for k, task in enumerate(form.tasks):
        weight = weighted[k] if weighted is not None else None
        weight = tf.ones((rows, 1)) if weight is None else tf.cast(weight, "float32")
        expected = f"`sample_weight` of {task.name} should hold weights of at least 0"
        weight = _where(weight >= 0, weight, expected)
        classes = checked[k]
        if form.class_weight is not None and form.class_weight[k]:
            if classes.shape[-1] != 1:  # one-hot
                classes = tf.cast(tf.argmax(classes, axis=-1), "float32")[:, None]
            for number, factor in form.class_weight[k].items():
                weight = tf.where(classes == float(number), weight * factor, weight)
        done.append(weight)
    return x, _joined(checked), _joined(done)


def _inputs(inputs: arrays.Inputs, x: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tensors of the model's inputs; what else there is stays, unless it is text."""
    import tensorflow as tf

    named = dict(x)
    for spec in inputs.specs:
        if spec.name not in named:
            raise ValueError(
                f"`x` should hold every feature. Missing: {spec.name!r}. Received: {list(x)}"
            )
        value = named[spec.name]
        if spec.shape == (1,) and len(value.shape) == 1:
            value = value[:, None]
        if spec.dtype == "int32" and value.dtype in (tf.int64, tf.uint32):
            value = _narrow(value, spec.name in inputs.hashed)
        named[spec.name] = value
    return named


def _narrow(ids: Any, hashed: bool) -> Any:
    """Return ids in 32 bits as `mtl.training.arrays` does, whatever the backend."""
    import tensorflow as tf

    wide = tf.cast(ids, "int64")
    low = tf.cast(wide, "int32")
    other = tf.fill(tf.shape(low), -1)
    if hashed:
        folded = tf.bitwise.bitwise_xor(low, tf.cast(tf.bitwise.right_shift(wide, 32), "int32"))
        other = tf.where(folded == 0, arrays.NO_PADDING, folded)
    return tf.where(tf.cast(low, "int64") == wide, low, other)


def _where(valid: Any, values: Any, message: str) -> Any:
    """Return values if all are valid; otherwise raise, in the graph, which escapes quotes."""
    import tensorflow as tf

    message, wrong = f"{message}. Received:", tf.boolean_mask(values, ~valid)
    with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(valid), [message, wrong])]):
        return tf.identity(values)


def _joined(parts: list[Any]) -> Any:
    return tuple(parts) if len(parts) > 1 else parts[0]
