"""A Keras model whose batches any number of devices, and processes, can share."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from mtl import devices
from mtl.training import internals, replicas
from mtl.training.filled import Filled, fill, rows_of


class DistributedModel(keras.Model):
    """A Keras model that fills batches up, where JAX runs under a `keras.distribution`.

    On TensorFlow replicas of a `MirroredStrategy` take parts of any length. Without either,
    everything is Keras' own.
    """

    @property
    def distributed(self) -> bool:
        """Whether several devices share a batch."""
        return devices.distribution() is not None

    @property
    def replicas(self) -> int:
        """How many replicas on TensorFlow compute a step, each a part of the batch."""
        return replicas.number(self)

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        *,
        batch_size: int | None = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        sample_weight: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Train the model, as `keras.Model.fit` does."""
        if self.distributed:
            data = x, y, sample_weight
            if validation_split and validation_data is None:
                data, validation_data = _split(data, validation_split)
            if validation_data is not None:
                given = keras.utils.unpack_x_y_sample_weight(validation_data)
                size = kwargs.get("validation_batch_size") or batch_size
                steps = kwargs.get("validation_steps")
                validation_data = Filled(*given, batch_size=size, steps_per_epoch=steps)
            steps = kwargs.get("steps_per_epoch")
            x = Filled(*data, batch_size=batch_size, steps_per_epoch=steps, shuffle=shuffle)
            y = sample_weight = None
            validation_split = 0.0
        return super().fit(
            x,
            y,
            batch_size=batch_size,
            validation_split=validation_split,
            validation_data=validation_data,
            shuffle=shuffle,
            sample_weight=sample_weight,
            **kwargs,
        )

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: Any = "auto",
        sample_weight: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Return losses and metrics, as `keras.Model.evaluate` does."""
        if self.distributed and not isinstance(x, Filled):
            steps = kwargs.get("steps")
            x = Filled(x, y, sample_weight, batch_size=batch_size, steps_per_epoch=steps)
            y = sample_weight = None
        return super().evaluate(
            x, y, batch_size=batch_size, verbose=verbose, sample_weight=sample_weight, **kwargs
        )

    def predict(
        self, x: Any, batch_size: int | None = None, verbose: Any = "auto", **kwargs: Any
    ) -> Any:
        """Return the predictions for the rows of this process."""
        if not self.distributed:
            return super().predict(x, batch_size=batch_size, verbose=verbose, **kwargs)
        steps = kwargs.get("steps")
        data = Filled(x, batch_size=batch_size, steps_per_epoch=steps, may_end_early=True)
        return data.only_real(super().predict(data, verbose=verbose, **kwargs))

    def predict_step(self, *args: Any) -> Any:
        """Predict a batch."""
        result = super().predict_step(*args)
        if not self.distributed:
            return result
        outputs, state = result
        return devices.in_rows(outputs), state

    def train_on_batch(
        self, x: Any, y: Any = None, sample_weight: Any = None, **kwargs: Any
    ) -> Any:
        """Run one training step, as `keras.Model.train_on_batch` does."""
        x, y, sample_weight = self._shared(x, y, sample_weight)
        logs = super().train_on_batch(x, y, sample_weight, **kwargs)
        return self._logs_of_all(logs)

    def test_on_batch(self, x: Any, y: Any = None, sample_weight: Any = None, **kwargs: Any) -> Any:
        """Evaluate one batch, as `keras.Model.test_on_batch` does."""
        x, y, sample_weight = self._shared(x, y, sample_weight)
        logs = super().test_on_batch(x, y, sample_weight, **kwargs)
        return self._logs_of_all(logs)

    def predict_on_batch(self, x: Any) -> Any:
        """Predict one batch: the rows of this process."""
        if not self.distributed:
            return super().predict_on_batch(*self._shared(x))
        filled = devices.shared_out(self.filled(x)[0])
        outputs = super().predict_on_batch(filled)
        return keras.tree.map_structure(lambda v: v[: rows_of(x)], outputs)

    def _shared(self, *batch: Any) -> Any:
        """Return a batch as the devices share it, in equal parts or as replicas get it in `fit`."""
        if self.replicas > 1:
            return replicas.shared_out(self, batch)
        return self.filled(*batch) if self.distributed else batch

    def _logs_of_all(self, logs: Any) -> Any:
        """Return the logs of one batch, of which Keras took the mean over replicas."""
        if self.replicas == 1:
            return logs
        whole = {name: float(value) for name, value in self.get_metrics_result().items()}
        return whole if isinstance(logs, dict) else self._flatten_metrics_in_order(whole)

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Create the variables of metrics, from one replica's part of a batch.

        Keras takes the mean of all parts, which it has of equal ones alone.
        """
        if self.replicas > 1:
            compiled = internals.compiled_metrics(self)
            if compiled is None or compiled.built:
                iterator = data_batch = None
            elif iterator is not None:
                data_batch, iterator = next(next(iter(iterator))[-1]), None
            data_batch = replicas.first_part(self, data_batch)
        super()._maybe_symbolic_build(iterator=iterator, data_batch=data_batch)

    def filled(self, *batch: Any) -> Any:
        """Return a batch in a length that the devices can share."""
        length = devices.of_every_process(devices.shareable(rows_of(batch[0]))).max()
        return fill(batch, int(length))


def _split(data: Any, share: float) -> tuple[Any, Any]:
    """Return the first rows of arrays, and the last share of them, as Keras' trainer does."""
    arrays = [v for v in keras.tree.flatten(data) if v is not None]
    rows = len(arrays[0])
    at = math.floor(rows * (1 - share))
    if not 0 < at < rows or not all(isinstance(v, np.ndarray) for v in arrays):
        raise ValueError(
            "`validation_split` should leave rows of arrays on both sides. "
            f"Received: {share} of {rows} rows of {type(arrays[0]).__name__}"
        )
    sides = [
        keras.tree.map_structure(lambda v, s=side: None if v is None else v[s], data)
        for side in (slice(at), slice(at, None))
    ]
    return tuple(sides[0]), tuple(sides[1])
