"""One of several processes that train together; what it finds goes to a file.

together.py FOLDER RUN PROCESS PROCESSES PORT [KILL_AT]
"""

import os
import sys
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"
os.environ["XLA_FLAGS"] += " --xla_force_host_platform_device_count=2"  # the last one counts
os.environ["NPROC"] = "16"

import keras
import numpy as np
import pytest
import toy

from mtl.callbacks import Checkpoint
from mtl.data import ParquetStream
from mtl.optimizers import LazyAdam
from mtl.training import join, shard_tables

BATCH, EVERY, EPOCHS = 8, 4, 2
TASKS = ["task_1", "task_2"]


class Kill(keras.callbacks.Callback):
    """Ends the process at a step, without a word."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.left = step

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.left -= 1
        if self.left == 0:
            os._exit(9)


class SideBySide(keras.utils.PyDataset):
    """The batches of all processes as one process has them."""

    def __init__(self, streams: list[ParquetStream]) -> None:
        super().__init__()
        self.streams = streams

    def __len__(self) -> int:
        return len(self.streams[0])

    def __getitem__(self, index: int) -> Any:
        batches = [stream[index] for stream in self.streams]
        return keras.tree.map_structure(lambda *parts: np.concatenate(parts), *batches)

    def start(self, epoch: int, logs: Any = None) -> None:
        for stream in self.streams:
            stream.start(epoch)
            stream.on_epoch_begin()


def stream(folder: Path, **options: Any) -> ParquetStream:
    return ParquetStream(folder / "rows.parquet", toy.columns(), TASKS, BATCH, **options)


def model() -> Any:
    one = toy.build("SharedBottom", l2_reg_embedding=0.01, dnn_dropout=0.2)
    one.compile(LazyAdam(0.01), balancer="pcgrad", metrics=["mae"])
    return one


def main(folder: Path, run: str, process: int, processes: int, port: str, kill_at: int) -> None:
    if processes > 1:
        join(f"localhost:{port}", processes, process)
        shard_tables()
        rows: Any = stream(folder)
    else:
        rows = SideBySide([stream(folder, shard=(i, 2)) for i in range(2)])
    keras.utils.set_random_seed(1)
    trained = model()
    callbacks: list[Any] = [keras.callbacks.LambdaCallback(on_epoch_begin=rows.start)]
    if processes > 1:
        callbacks = [Checkpoint(folder / run, every=EVERY, sharded=run == "killed")]
    if kill_at and process == 1:
        callbacks.append(Kill(kill_at))
    history = trained.fit(rows, epochs=EPOCHS, callbacks=callbacks, verbose=0, shuffle=False)
    found = {name: np.array(values) for name, values in history.history.items()}
    found |= {f"weight_{i}": weight for i, weight in enumerate(trained.get_weights())}
    found["item"] = trained.encoder.embeddings("item")
    trained.save(folder / run / f"{processes}.keras")
    if processes > 1:
        # Of unequal numbers of rows each process gets its own, and of batches an error.
        x, y = toy.features(20), toy.labels(rows=20)
        own = 20 - 13 * process
        x, y = {name: v[:own] for name, v in x.items()}, [v[:own] for v in y]
        found["predicted"] = np.concatenate(trained.predict(x, batch_size=4, verbose=0), axis=1)
        found["on_batch"] = np.concatenate(trained.predict_on_batch(x), axis=1)
        found["evaluated"] = np.array(trained.evaluate(rows, verbose=0))
        for method in (trained.fit, trained.evaluate):
            with pytest.raises(ValueError, match="as many batches") as refused:
                method(x, y, batch_size=4, verbose=0)
            found[f"refused_{method.__name__}"] = np.array(str(refused.value))
        loaded = keras.models.load_model(folder / run / "2.keras")
        found["loaded"] = np.concatenate(loaded.predict(x, batch_size=4, verbose=0), axis=1)
    np.savez(folder / run / f"{process}-of-{processes}.npz", **found)


if __name__ == "__main__":
    given, name, *numbers = sys.argv[1:]
    index, count, at, *kill = numbers
    main(Path(given), name, int(index), int(count), at, int(kill[0]) if kill else 0)
