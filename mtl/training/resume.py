"""A training that goes on in the middle: from a checkpoint, and amid an epoch of a stream."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import keras

from mtl.training.callbacks import listed, with_callbacks


def trained(model: Any, x: Any, callbacks: Any, first: int, **options: Any) -> Callable[..., Any]:
    """Return a function that trains from where checkpoints say, by a `fit` of Keras.

    Args:
        model: the model.
        x: what it is trained on.
        callbacks: the callbacks of `fit`.
        first: int. The epoch to begin with, if no checkpoint is further.
        **options: `epochs` and `verbose` of `fit`.

    Raises:
        ValueError: a checkpoint of another training.

    Warns:
        UserWarning: nothing is left to train.
    """
    step = 0
    for callback in listed(callbacks):
        if hasattr(callback, "resume"):
            epoch, step = callback.resume(model, x)
            first = max(first, epoch)
            callback.begin(first, step)
            if epoch >= options["epochs"]:
                warnings.warn(
                    f"`epochs` should be more than {epoch} to train on: the checkpoint is of that "
                    f"epoch's end. Received: {options['epochs']}",
                    stacklevel=4,
                )
    if hasattr(x, "by_pool"):
        callbacks = with_callbacks(callbacks, first=_EpochOf(x, first, step))
    return lambda fit: _train(fit, model, x, callbacks, first, step, **options)


def _train(
    fit: Any, model: Any, x: Any, callbacks: Any, first: int, step: int, epochs: int, verbose: Any
) -> Any:
    if not step:
        return fit(callbacks=callbacks, initial_epoch=first, epochs=epochs, verbose=verbose)
    # Keras counts the batches of an epoch once: the rest of one is a training of its own.
    parts = _InParts(
        listed(callbacks),
        add_history=True,
        add_progbar=verbose != 0,
        verbose=verbose,
        epochs=epochs,
        steps=x.batches_per_epoch,
        model=model,
    )
    fit(callbacks=parts, initial_epoch=first, epochs=first + 1, verbose=verbose)
    parts.last = True
    if model.stop_training:
        parts.on_train_end()
        return model.history
    x.start(first + 1)
    return fit(callbacks=parts, initial_epoch=first + 1, epochs=epochs, verbose=verbose)


class _EpochOf(keras.callbacks.Callback):
    """Tells a stream which epoch begins: Keras begins one more where it builds metrics.

    Args:
        stream: the stream.
        epoch: int. The first epoch.
        step: int. The step of it to begin with.
    """

    def __init__(self, stream: Any, epoch: int, step: int) -> None:
        super().__init__()
        self._stream, self._first = stream, (epoch, step)
        stream.start(epoch, step)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Pass it on."""
        self._stream.start(epoch, self._first[1] if epoch == self._first[0] else 0)
        self._stream.goes_on = epoch + 1 < self.params["epochs"]


class _InParts(keras.callbacks.CallbackList):
    """The callbacks of a training of which Keras is told in two parts, and they in one.

    Args:
        callbacks: list of callbacks.
        **kwargs: as for `keras.callbacks.CallbackList`.
    """

    last = False
    _begun = False

    def on_train_begin(self, logs: Any = None) -> None:
        """Pass on the first begin."""
        if not self._begun:
            self._begun = True
            super().on_train_begin(logs)

    def on_train_end(self, logs: Any = None) -> None:
        """Pass on the last end."""
        if self.last:
            super().on_train_end(logs)
