"""Batches that devices can share: filled up with rows that count nowhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from mtl import devices
from mtl.rows import count, only_real, real, replicas_mean
from mtl.training import internals

# Beside the inputs of a batch: which of its rows are real, `(B, 1)`.
_REAL = "mtl/real"


def mask_of(data: Any) -> Any:
    """Return which rows of a step's data are real, `(B,)`, or None: all."""
    x = keras.utils.unpack_x_y_sample_weight(data)[0]
    return ops.reshape(x[_REAL], (-1,)) if isinstance(x, dict) and _REAL in x else None


def fill(batch: Any, length: int) -> tuple[Any, ...]:
    """Return a batch `(x, …)` with its last row repeated up to a length, and marked.

    Raises:
        ValueError: the batch is longer.
    """
    x, *rest = batch
    rows = rows_of(x)
    if rows > length:
        raise ValueError(
            f"Every batch should have at most {length} rows, as the first of some process has. "
            f"Received: a batch of {rows}"
        )

    def longer(value: Any) -> Any:
        if value is None or rows == length:
            return value
        value = np.asarray(value)
        return np.concatenate([value, np.repeat(value[-1:], length - rows, axis=0)])

    x, *rest = keras.tree.map_structure(longer, (x, *rest))
    return {**x, _REAL: np.arange(length)[:, None] < rows}, *rest


def unlabelled(labels: Any) -> Any:
    """Return labels `(B, …)` of the batch, which are missing in rows that aren't real."""
    if labels is None or real() is None:
        return labels
    if not keras.backend.is_float_dtype(keras.backend.standardize_dtype(labels.dtype)):
        labels = ops.cast(labels, "float32")
    return only_real(labels, otherwise=float("nan"))


def rows_of(x: Any) -> int:
    """Return the number of rows of a batch's inputs."""
    return int(keras.tree.flatten(x)[0].shape[0])


class Filled(internals.DataAdapter):
    """Data of any kind, in batches that the devices can share.

    Under several processes every one needs as many batches, all of one length.

    Args:
        *data: inputs, labels and sample weights, as Keras' trainer takes them.
        may_end_early: bool. Whether to fill up with whole batches where other processes have
            more of them. Defaults to False.
        **options: `batch_size`, `steps_per_epoch` and `shuffle` of Keras' trainer.

    Raises:
        ValueError: under several processes, data whose number of batches isn't known, or of which
            another process has more, or less.
    """

    def __init__(self, *data: Any, may_end_early: bool = False, **options: Any) -> None:
        self._adapter = internals.adapter_of(*data, **options)
        self._length: int | None = None
        self._batches = self._adapter.num_batches
        self._sizes: list[tuple[int, int]] = []  # of each batch: its rows, and up to how many
        if devices.processes() > 1:
            self._agree(data[0], may_end_early)

    def _agree(self, x: Any, may_end_early: bool) -> None:
        if self._batches is None or not isinstance(x, (dict, keras.utils.PyDataset)):
            raise ValueError(
                "`x` should be arrays, a PyDataset or a ParquetStream under several processes, "
                "which need equally many batches. Received: `x` of type "
                f"{type(x).__name__}"
            )
        longest = self._adapter.batch_size
        longest = min(longest, rows_of(x)) if longest else rows_of(_listed(x[0])[0])
        every = devices.of_every_process(self._batches, devices.shareable(longest))
        batches, lengths = every.T.tolist()
        if len(set(batches)) > 1 and not may_end_early:
            raise ValueError(
                "Every process should have as many batches: others would wait for those that one "
                f"hasn't. Received: {batches} batches in the {len(batches)} processes"
            )
        self._batches, self._length = max(batches), max(lengths)

    def get_jax_iterator(self) -> Iterator[Any]:
        """Yield the batches."""
        self._sizes = []
        for batch in map(_listed, self._adapter.get_jax_iterator()):
            rows = rows_of(batch[0])
            length = self._length or devices.shareable(rows)
            self._sizes.append((rows, length))
            yield (filled := fill(batch, length))
        while self._length and len(self._sizes) < self._batches:
            self._sizes.append((0, self._length))
            yield {**filled[0], _REAL: np.zeros((self._length, 1), bool)}, *filled[1:]

    def only_real(self, outputs: Any) -> Any:
        """Return the rows, of predictions for all batches, that are real."""
        kept = np.concatenate([np.arange(length) < rows for rows, length in self._sizes])
        return keras.tree.map_structure(lambda v: v[kept], outputs)

    @property
    def num_batches(self) -> Any:
        """The number of batches, or None."""
        return self._batches if self._length else self._adapter.num_batches

    def on_epoch_begin(self) -> None:
        """Pass it on."""
        self._adapter.on_epoch_begin()

    def on_epoch_end(self) -> None:
        """Pass it on."""
        self._adapter.on_epoch_end()


def _listed(batch: Any) -> Any:
    """Return a batch `(x, …)`, which without labels may be given as x."""
    return batch if isinstance(batch, (list, tuple)) else (batch,)


class MeanOverRows(keras.metrics.Mean):
    """The mean of the total loss, weighted by the real rows of each batch."""

    def update_state(self, values: Any, sample_weight: Any = None) -> None:
        """Add a batch's loss; `sample_weight` is the number of its rows."""
        rows = replicas_mean(sample_weight) if real() is None else count(values)
        super().update_state(values, rows)
