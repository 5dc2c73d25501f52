"""Train in two processes that share embedding tables, on rows streamed from Parquet (JAX).

Started without arguments it writes a synthetic log, starts two processes on this machine with two
devices each, and kills one of them in the middle: the other ends, too. It starts both again, which
go on from the last checkpoint, and compares the model with that of a training without a kill.

The same file under a launcher, one process for each machine (or for each GPU), on a log that is
written already and in a folder that all of them see:

    a shell  python distributed.py --folder F --address HOST:PORT --processes 2 --process 0  # and 1
    Slurm    srun --ntasks=2 python distributed.py --folder F --cluster
    Ray      see `under_ray` below
"""

# %%
import argparse
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["KERAS_BACKEND"] = "jax"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before mtl, which may load TensorFlow

import mtl

# isort: split
import keras
import numpy as np
import pandas as pd

import mtl.training
from mtl.benchmark.command import positive
from mtl.callbacks import Checkpoint
from mtl.data import ParquetStream, TableEncoder, make_funnel
from mtl.models import MMoE
from mtl.optimizers import LazyAdam

# %%
TASKS = ["ctr", "ctcvr"]
GLOBAL_BATCH = 1024
GROUP = 5_000  # rows of a row group, which one process reads


# %%
def write(folder: Path, rows: int) -> None:
    """Write a log, of which a tenth of the clicks is missing, and an encoder fitted on it."""
    x, y = make_funnel(num_samples=rows * 5 // 4).train
    log = pd.DataFrame({name: values.reshape(-1) for name, values in x.items()})
    log[TASKS] = np.stack([label.reshape(-1) for label in y], axis=1)
    log.loc[log.index % 10 == 0, "ctr"] = np.nan
    folder.mkdir(parents=True)
    log.to_parquet(folder / "log.parquet", row_group_size=GROUP)
    numeric = [name for name in x if log[name].dtype.kind == "f"]
    encoder = TableEncoder([name for name in x if name not in numeric], numeric)
    encoder.fit_parquet(folder / "log.parquet", verbose=0).save(folder / "encoder.json")


# %%
def train(folder: Path, run: str, epochs: int, kill_at: int | None = None) -> dict[str, float]:
    """Train what is left of a run; every process calls this with the same arguments."""
    import jax

    if len(jax.devices()) > 1:
        mtl.training.shard_tables()
    processes = jax.process_count()
    encoder = TableEncoder.load(folder / "log" / "encoder.json")
    log = folder / "log" / "log.parquet"
    batch_size = GLOBAL_BATCH // processes
    stream = ParquetStream(log, encoder, TASKS, batch_size, pool_rows=4 * GROUP)
    model = MMoE(stream.feature_columns, task_names=TASKS, seed=1)
    model.compile(LazyAdam(0.002), metrics="default")
    watching = [Checkpoint(folder / run, every=20)]
    if kill_at is not None:
        watching.append(Kill(kill_at))
    verbose = 2 if jax.process_index() == 0 else 0
    model.fit(stream, epochs=epochs, callbacks=watching, verbose=verbose)
    model.save(folder / run / "model.keras")  # all call it, the first one writes
    return model.evaluate(stream, verbose=0, return_dict=True)


# %%
class Kill(keras.callbacks.Callback):
    """Ends the process at a step, without a word."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self._left = step

    def on_train_batch_end(self, batch: int, logs=None) -> None:
        """Count down."""
        self._left -= 1
        if self._left == 0:
            os._exit(9)


# %%
def under_ray(folder: Path, address: str, processes: int, epochs: int) -> None:
    """Start the processes as tasks of a Ray cluster, which starts a lost one again."""
    import ray

    @ray.remote(num_cpus=1, max_retries=3, retry_exceptions=True)
    def one(process: int) -> dict[str, float]:
        mtl.training.join(address, processes, process)
        return train(folder, "run", epochs)

    print(ray.get([one.remote(process) for process in range(processes)])[0])


# %%
def free_port() -> int:
    """Return a port of this machine that nobody listens at."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


# %%
def start(args: argparse.Namespace, folder: Path, *more: str) -> list[int]:
    """Start two processes with two devices each, and return how they ended."""
    devices = "--xla_force_host_platform_device_count=2"
    environment = {**os.environ, "XLA_FLAGS": devices, "NPROC": "16"}
    address = f"localhost:{free_port()}"
    here = [sys.executable, __file__, "--folder", str(folder), "--epochs", str(args.epochs)]
    here += ["--address", address, "--processes", "2", *more]
    running = [
        subprocess.Popen([*here, "--process", str(process)], env=environment)
        for process in range(2)
    ]
    return [process.wait() for process in running]


# %%
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=positive, default=100_000, help="of the log (100000)")
    parser.add_argument("--epochs", type=positive, default=2, help="(2)")
    parser.add_argument("--folder", type=Path, help="where the log and the run are")
    parser.add_argument("--address", help="host and port of the first process")
    parser.add_argument("--processes", type=positive, help="how many there are")
    parser.add_argument("--process", type=int, help="which of them this one is, from 0")
    parser.add_argument("--run", default="run", help="the training's folder in that folder (run)")
    parser.add_argument("--cluster", action="store_true", help="ask the cluster for all of that")
    parser.add_argument("--kill-at", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.address or args.cluster:
        mtl.training.join(args.address, args.processes, args.process)
        kill_at = args.kill_at if args.process == 1 else None
        print(train(args.folder, args.run, args.epochs, kill_at))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        write(folder / "log", args.rows)
        steps = args.rows // GLOBAL_BATCH
        print(f"ended with {start(args, folder, '--kill-at', str(steps * 3 // 2))}, one was killed")
        print(f"checkpoints: {[path.name for path in Checkpoint(folder / 'run').checkpoints()]}")
        print(f"started again, ended with {start(args, folder)}")
        print(f"without a kill, ended with {start(args, folder, '--run', 'another run')}")
        models = [
            keras.models.load_model(folder / run / "model.keras") for run in ("run", "another run")
        ]
        pairs = zip(*(model.get_weights() for model in models), strict=True)
        print(f"greatest difference: {max(np.abs(a - b).max() for a, b in pairs):.1e}")


# %%
if __name__ == "__main__":
    main()
