"""Callbacks of `fit`: checkpoints from which a training goes on where it was killed."""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from pathlib import Path
from typing import Any

import keras

from mtl import checks, devices

__all__ = ["Checkpoint"]

_WEIGHTS, _POSITION = "model.weights.h5", "position.json"
_NAME = re.compile("[0-9]+-[0-9]+")  # of a checkpoint, and of none that is being written


class Checkpoint(keras.callbacks.Callback):
    """Saves a training as it goes on, and lets the same script go on where it was killed.

    ```python
    stream = ParquetStream("log/", encoder, tasks=["click", "buy"], batch_size=4096)
    model.fit(stream, epochs=3, callbacks=[Checkpoint("run", every=1000)])
    ```

    Run again after a stop, whatever stopped it, `fit` of the models of `mtl.models` finds the
    newest checkpoint in the folder, restores the model, the states of optimizer, balancer and
    dropout, and the place in the stream, and trains what is left: on JAX to the bit what it would
    have been. A finished training trains no further; begin another in another folder.

    A checkpoint is a folder that is there whole or not at all. What other callbacks remember, such
    as the best epoch of `EarlyStopping`, isn't part of it, and the logs of the epoch in which the
    training was stopped are those of its rest.

    Args:
        folder: str or path. Where checkpoints are; it is made if it isn't there.
        every: int or None. Steps between two checkpoints, beside those at the end of each epoch,
            for a `mtl.data.ParquetStream`; a few more where a call of the compiled function runs
            several (see `steps_per_execution` of `compile`). Defaults to None: at the end of each
            epoch alone, for any data; then the order of arrays in later epochs is another.
        keep: int. How many checkpoints to keep, the newest. Defaults to 3.
        sharded: bool. Whether each process writes the parts of tables that it holds (JAX, by
            Orbax, of the extra `scale`), for tables that no process has memory for: the training
            then goes on with as many devices. Defaults to False: the first process writes all, and
            the training goes on with any number of devices.

    Raises:
        ImportError: `sharded` without Orbax.
        TypeError: an argument of a wrong type.
        ValueError: an argument out of range; at the start of `fit`, `every` with other data, or a
            checkpoint of other data or of another model.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        every: int | None = None,
        keep: int = 3,
        sharded: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(folder, (str, os.PathLike)):
            raise TypeError(f"`folder` should be a path. Received: {folder!r}")
        self.folder = Path(folder)
        self.every = checks.positive_int_or_none("every", every)
        self.keep = checks.positive_int("keep", keep)
        self._format: Any = _Sharded() if sharded else _Whole()
        self._stream: Any = None
        self._epoch = self._first = 0

    @property
    def most_steps(self) -> int | None:
        """The most steps that a call of the compiled function may run, or None: any number."""
        return self.every

    def checkpoints(self) -> list[Path]:
        """Return the folders of the checkpoints, the oldest first."""
        found = self.folder.glob("[0-9]*-[0-9]*")
        return sorted(path for path in found if _NAME.fullmatch(path.name))

    def resume(self, model: Any, data: Any) -> tuple[int, int]:
        """Restore a model from the newest checkpoint, if there is one.

        Args:
            model: a compiled model.
            data: what it is to train on.

        Returns:
            The epoch and the step of it to begin with; (0, 0) without a checkpoint.
        """
        self._stream = data if hasattr(data, "by_pool") else None
        if self.every is not None and self._stream is None:
            raise ValueError(
                "`every` should be None without a ParquetStream: no other data can go on amid an "
                f"epoch. Received: {self.every} with `x` of type {type(data).__name__}"
            )
        if self.every is not None and model.optimizer.use_ema:
            raise ValueError(
                "`every` should be None with an optimizer that averages weights: Keras puts them "
                f"in place whenever a part of a training ends. Received: {self.every}"
            )
        found = self.checkpoints()
        if not found:
            return 0, 0
        try:
            position = self._format.position(found[-1])
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(
                "`folder` should hold checkpoints that were written with the same `sharded`. "
                f"Received: {found[-1]} ({error})"
            ) from error
        if position["data"] != self._state():
            raise ValueError(
                f"`folder` should hold checkpoints of this training. Received: {found[-1]}, whose "
                f"data or order of rows differs in {_difference(position['data'], self._state())}"
            )
        model.optimizer.build(model.trainable_variables)
        try:
            self._format.restore(found[-1], model)
        except (KeyError, OSError, ValueError) as error:
            raise ValueError(
                f"`folder` should hold checkpoints of this model. Received: {found[-1]}, which is "
                f"of another, or damaged ({error})"
            ) from error
        return position["epoch"], position["step"]

    def begin(self, epoch: int, step: int) -> None:
        """Take notice of where the training begins."""
        self._epoch, self._first = epoch, step

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Take notice of the epoch."""
        if epoch != self._epoch:
            self._epoch, self._first = epoch, 0
        self._saved = self._first

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Save every so many steps."""
        step = self._first + batch + 1
        if self.every is not None and step // self.every > self._saved // self.every:
            self._saved = step
            if step < self._stream.batches_per_epoch:  # the epoch's end saves as well
                self._save(self._epoch, step)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Save."""
        self._save(epoch + 1, 0)

    def _state(self) -> Any:
        return None if self._stream is None else self._stream.state()

    def _save(self, epoch: int, step: int) -> None:
        path = self.folder / f"{epoch:06d}-{step:010d}"
        self._format.write(path, self.model, {"epoch": epoch, "step": step, "data": self._state()})
        if devices.is_first():
            for old in self.checkpoints()[: -self.keep]:
                shutil.rmtree(old, ignore_errors=True)


class _Whole:
    """A checkpoint that one process writes, for any number of devices."""

    def write(self, path: Path, model: Any, position: dict[str, Any]) -> None:
        """Write a model's state, and where the training is, whole or not at all."""
        with model.written_once() as first:
            if not first:
                return
            temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}.tmp"
            temporary.mkdir(parents=True)
            try:
                model.save_weights(temporary / _WEIGHTS)
                (temporary / _POSITION).write_text(json.dumps(position), encoding="utf-8")
                if path.exists():
                    shutil.rmtree(path)
                os.replace(temporary, path)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)

    def position(self, path: Path) -> Any:
        """Return where the training was."""
        return json.loads((path / _POSITION).read_text(encoding="utf-8"))

    def restore(self, path: Path, model: Any) -> None:
        """Give a model its state."""
        model.load_weights(path / _WEIGHTS)


class _Sharded:
    """A checkpoint of which each process writes what it holds."""

    def __init__(self) -> None:
        if keras.backend.backend() != "jax":
            raise ValueError(
                "`sharded` should be False with other backends than JAX. "
                f"Received: True with KERAS_BACKEND={keras.backend.backend()}"
            )
        try:
            from orbax import checkpoint
        except ImportError as error:
            raise ImportError("`sharded` needs Orbax: pip install 'keras-mtl[scale]'") from error
        self._orbax: Any = checkpoint

    def write(self, path: Path, model: Any, position: dict[str, Any]) -> None:
        """Write a model's state, and where the training is, whole or not at all."""
        state = [variable.value for variable in _variables(model)]
        items = {"state": self._args.StandardSave(state), "position": self._args.JsonSave(position)}
        with self._checkpointer() as checkpointer:
            checkpointer.save(path.absolute(), self._args.Composite(**items), force=True)

    def position(self, path: Path) -> Any:
        """Return where the training was."""
        return self._read(path, position=self._args.JsonRestore())

    def restore(self, path: Path, model: Any) -> None:
        """Give a model its state, in the layout that it has."""
        variables = _variables(model)
        like = [self._orbax.utils.to_shape_dtype_struct(variable.value) for variable in variables]
        values = self._read(path, state=self._args.StandardRestore(like))
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)

    @property
    def _args(self) -> Any:
        return self._orbax.args

    def _checkpointer(self) -> Any:
        return self._orbax.Checkpointer(self._orbax.CompositeCheckpointHandler())

    def _read(self, path: Path, **item: Any) -> Any:
        with self._checkpointer() as checkpointer:
            [found] = checkpointer.restore(path.absolute(), self._args.Composite(**item)).values()
        return found


def _variables(model: Any) -> list[Any]:
    trained = [*model.trainable_variables, *model.non_trainable_variables]
    return [*trained, *model.optimizer.variables]


def _difference(then: Any, now: Any) -> str:
    if not isinstance(then, dict) or not isinstance(now, dict):
        return "its kind"
    return ", ".join(f"`{key}`" for key in now if then.get(key) != now[key])
