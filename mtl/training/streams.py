"""Data sets, generators and `PyDataset`s: each batch gets the form and the checks of arrays.

What Python yields is checked as `fit` checks its arrays. Batches of tf.data are put into form, and
checked, in its graph. Keras takes PyTorch's DataLoader as it is: the model puts its batches into
form, and labels out of range make the loss NaN.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any

import keras

from mtl.training import packing
from mtl.training.form import Form


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
        from mtl.training import tfdata  # it imports TensorFlow

        mapped = tfdata.mapped(data, form)
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
