"""Train on Parquet files that needn't fit into memory, be killed, and go on.

A synthetic log of clicks and conversions is written as Parquet, a folder per day. An encoder is
fitted on the files in one pass, and an MMoE is trained on a stream of them, with a checkpoint every
so many steps. The training is killed in the middle; the same call then goes on from the last
checkpoint, and the model ends as one that was never stopped: on JAX to the bit.
"""

# %%
import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before mtl, which loads TensorFlow

import mtl  # noqa: F401

# isort: split
import keras
import numpy as np
import pandas as pd

from mtl.benchmark.command import positive
from mtl.callbacks import Checkpoint
from mtl.data import ParquetStream, TableEncoder, make_funnel
from mtl.metrics import evaluate_tasks
from mtl.models import MMoE
from mtl.optimizers import LazyAdam

# %%
TASKS = ["ctr", "ctcvr"]
DAYS = 8


# %%
def write(folder: Path, rows: int) -> None:
    """Write a log, a folder per day: ids as text, as logs have them, and the labels."""
    data = make_funnel(num_samples=rows * 5 // 4)  # of which a fifth is held out
    x, y = data.train
    log = pd.DataFrame({name: values.reshape(-1) for name, values in x.items()})
    for name in list(log.select_dtypes("integer")):
        log[name] = f"{name}-" + log[name].astype(str)
    log[TASKS] = np.stack([label.reshape(-1) for label in y], axis=1)
    for day, part in enumerate(np.array_split(np.arange(len(log)), DAYS)):
        (folder / f"day={day}").mkdir(parents=True)
        log.iloc[part].to_parquet(folder / f"day={day}" / "log.parquet", row_group_size=10_000)


# %%
def fitted(log: Path) -> TableEncoder:
    """Fit an encoder on all days but the last, in one pass."""
    columns = pd.read_parquet(log / "day=0" / "log.parquet").drop(columns=TASKS).dtypes
    numeric = [name for name, dtype in columns.items() if dtype.kind == "f"]
    encoder = TableEncoder([name for name in columns.index if name not in numeric], numeric)
    return encoder.fit_parquet([log / f"day={day}" for day in range(DAYS - 1)])


# %%
def train(log: Path, run: Path, args: argparse.Namespace, kill_at: int | None) -> MMoE:
    """Train for so many epochs, from the last checkpoint of this run if there is one."""
    files = [log / f"day={day}" for day in range(DAYS - 1)]
    encoder = TableEncoder.load(log / "encoder.json")
    stream = ParquetStream(files, encoder, TASKS, args.batch_size, pool_rows=50_000)
    model = MMoE(stream.feature_columns, task_names=TASKS, dnn_dropout=0.1, seed=1)
    model.compile(LazyAdam(0.002))
    watching = [Checkpoint(run, every=args.every)]
    if kill_at is not None:
        watching.append(Kill(kill_at))
    model.fit(stream, epochs=args.epochs, callbacks=watching, verbose=2)
    return model


# %%
class Kill(keras.callbacks.Callback):
    """Kills the process at a step, without a word."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self._left = step

    def on_train_batch_end(self, batch: int, logs=None) -> None:
        """Count down."""
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


# %%
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--rows", type=positive, default=400_000, help="of the log")
    parser.add_argument("--batch-size", type=positive, default=1024, help="rows per step")
    parser.add_argument("--epochs", type=positive, default=2)
    parser.add_argument("--every", type=positive, default=50, help="steps between checkpoints")
    parser.add_argument("--folder", type=Path, help="where the log is written (default: for now)")
    parser.add_argument("--kill-at", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.kill_at is not None:
        train(args.folder / "log", args.folder / "run", args, args.kill_at)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        log = folder / "log"
        write(log, args.rows)
        start = time.perf_counter()
        encoder = fitted(log)
        encoder.save(log / "encoder.json")
        print(f"{encoder} after {time.perf_counter() - start:.1f} s")

        steps = len(ParquetStream(log, encoder, TASKS, args.batch_size)) * (DAYS - 1) // DAYS
        here = [sys.executable, __file__, *sys.argv[1:], "--folder", str(folder)]
        done = subprocess.run([*here, "--kill-at", str(steps * 2 // 3)], check=False)
        saved = [path.name for path in Checkpoint(folder / "run").checkpoints()]
        print(f"killed (exit status {done.returncode}), with the checkpoints {saved}")
        model = train(log, folder / "run", args, None)
        whole = train(log, folder / "another run", args, None)
        pairs = zip(model.get_weights(), whole.get_weights(), strict=True)
        apart = [np.abs(a - b).max() for a, b in pairs]
        print(f"greatest difference to the training that was not killed: {max(apart):.1e}")
        test = pd.read_parquet(log / f"day={DAYS - 1}" / "log.parquet")
        print(evaluate_tasks(model, encoder.transform(test), test[TASKS])[["rows", "auc"]])


# %%
if __name__ == "__main__":
    main()
