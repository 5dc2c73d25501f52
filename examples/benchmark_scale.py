"""Rows streamed from Parquet against rows in memory, to train and to score, and several devices.

`stream`: a Shared-Bottom, or with `--experts 4` an MMoE of so many, is trained on 40 columns (32 of
ids, 8 of numbers) and two tasks, in batches of 4,096 rows: from arrays, from a ParquetStream of
ids, and of raw values through a TableEncoder, with 20 times as many rows as well (the same file
under 20 names). Rows per second of the epochs after the first, and the peak of the process' memory.

`score`: the same model and its TableEncoder score raw rows in memory, and 20 times as many in files
by `mtl.serving.scoring`.

`devices` (JAX): a Shared-Bottom reads eight features from one table of V rows of 16 numbers, in
batches of 8,192 rows, with LazyAdam: on one device, on four that each hold the whole table, and on
four that share it. Milliseconds per step, memory of weights and optimizer on a device, and what
the devices send each other in a step, by the compiled program. The devices are four parts of this
machine's processor (or its GPUs, where there are several): their memory and what they send are
those of four machines, their speed is not.

Each measurement runs in a process of its own, and they take turns; the medians count.
"""

# %%
import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before mtl, which may load TensorFlow

import mtl  # noqa: F401

# isort: split
import numpy as np
import pandas as pd

from mtl.benchmark.command import positive, write_json
from mtl.benchmark.processes import in_turns, measure, report

# %%
IDS, NUMBERS, VOCABULARY, BATCH, TIMES = 32, 8, 1000, 4096, 20
TASKS = ["click", "buy"]
FEATURES, DIM, TABLE_BATCH = 8, 16, 8192
SOURCES = {
    "stream": ["arrays", "ids", "raw", f"ids, {TIMES} times the rows"],
    "score": ["arrays", f"files, {TIMES} times the rows"],
}
SPREAD = {"one": 1, "batches": 4, "tables": 4}


# %%
def columns() -> list:
    """Return the feature columns of `stream`."""
    from mtl.features import DenseFeat, SparseFeat

    ids = [SparseFeat(f"id_{i}", VOCABULARY + 1, 8) for i in range(IDS)]
    return ids + [DenseFeat(f"number_{i}") for i in range(NUMBERS)]


# %%
def write(folder: Path, rows: int) -> None:
    """Write the files: ids, the same as text, and the encoder of these."""
    from mtl.data import TableEncoder

    rng = np.random.default_rng(0)
    data = {f"id_{i}": rng.integers(1, VOCABULARY, rows, "int32") for i in range(IDS)}
    data |= {f"number_{i}": rng.random(rows, "float32") for i in range(NUMBERS)}
    data |= {task: rng.integers(0, 2, rows).astype("float32") for task in TASKS}
    frame = pd.DataFrame(data)
    options = {"row_group_size": 50_000, "index": False}
    (folder / "many").mkdir(parents=True)
    frame.to_parquet(folder / "ids.parquet", **options)
    for i in range(TIMES):
        (folder / "many" / f"{i:02}.parquet").symlink_to(folder / "ids.parquet")
    names = [f"id_{i}" for i in range(IDS)]
    text = frame.assign(**{name: "value " + frame[name].astype(str) for name in names})
    text.to_parquet(folder / "raw.parquet", **options)
    encoder = TableEncoder(names, [f"number_{i}" for i in range(NUMBERS)], embedding_dim=8)
    encoder.fit(text.head(100_000)).save(folder / "encoder.json")


# %%
def network(features: list, experts: int = 0) -> Any:
    """Return the Shared-Bottom of `stream` and `score`, or the MMoE of `stream`."""
    from mtl.models import MMoE, SharedBottom

    options = {"task_names": TASKS, "tower_dnn_units_lists": [[16], [16]]}
    if experts:
        return MMoE(features, num_experts=experts, expert_dnn_units=(128, 64), **options)
    return SharedBottom(features, bottom_dnn_units=(64, 32), **options)


# %%
def stream_here(source: str, folder: Path, experts: int) -> None:
    """Train from one source, and report rows per second."""
    from mtl.data import ParquetStream, TableEncoder

    y = None
    if source == "arrays":
        frame = pd.read_parquet(folder / "ids.parquet")
        x = {column.name: frame[column.name].to_numpy() for column in columns()}
        y = [frame[task].to_numpy() for task in TASKS]
        rows = len(frame)
    else:
        file, encoder = folder / "ids.parquet", columns()
        if source == "raw":
            file, encoder = folder / "raw.parquet", TableEncoder.load(folder / "encoder.json")
        elif source != "ids":
            file = folder / "many"
        x = ParquetStream(file, encoder, TASKS, BATCH, pool_rows=200_000)
        rows = x.table.rows
    model = network(columns(), experts)
    model.compile("adam")
    epochs = 1 if source.startswith("ids,") else 3
    ends = []

    import keras

    watch = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: ends.append(time.perf_counter()),
        on_train_end=lambda logs: ends.append(time.perf_counter()),
    )
    model.fit(x, y, batch_size=BATCH, epochs=epochs, verbose=0, callbacks=[watch])
    seconds = np.diff(ends)[1:] if epochs > 1 else np.diff(ends)
    report(thousand_rows=rows / np.median(seconds) / 1000)


# %%
def score_here(source: str, folder: Path) -> None:
    """Score raw rows in memory or in files, and report rows per second."""
    from mtl.data import TableEncoder
    from mtl.serving import Pipeline
    from mtl.serving.scoring import score_files

    encoder, file = TableEncoder.load(folder / "encoder.json"), folder / "raw.parquet"
    pipeline = Pipeline(encoder, network(encoder.feature_columns))
    if source == "arrays":
        frame = pd.read_parquet(file)
        pipeline.predict(frame[:BATCH])
        start = time.perf_counter()
        pipeline.predict(frame)
        rows = len(frame)
    else:
        pipeline.save(folder / "pipeline")
        (folder / "log").mkdir(exist_ok=True)
        for i in range(TIMES):
            (folder / "log" / f"{i:02}.parquet").unlink(missing_ok=True)
            (folder / "log" / f"{i:02}.parquet").symlink_to(file)
        start = time.perf_counter()
        scores = score_files(folder / "pipeline", folder / "log", folder / "scores", verbose=0)
        rows = sum(len(pd.read_parquet(path)) for path in scores)
    report(thousand_rows=rows / (time.perf_counter() - start) / 1000)


# %%
def devices_here(spread: str, vocabulary: int) -> None:
    """Time a step, and report what a device holds and sends."""
    import keras

    from mtl.features import SparseFeat
    from mtl.inspection import collectives
    from mtl.models import SharedBottom
    from mtl.optimizers import LazyAdam
    from mtl.training import shard_tables

    if spread == "tables":
        shard_tables()
    elif spread == "batches":
        keras.distribution.set_distribution(keras.distribution.DataParallel())
    names = [f"feature_{i}" for i in range(FEATURES)]
    model = SharedBottom(
        [SparseFeat(name, vocabulary, DIM, embedding_name="shared") for name in names],
        num_tasks=2,
        bottom_dnn_units=(64,),
        tower_dnn_units_lists=[[16], [16]],
    )
    model.compile(LazyAdam())
    rng = np.random.default_rng(0)
    steps = 12
    x = {name: rng.integers(0, vocabulary, steps * TABLE_BATCH, "int32") for name in names}
    y = [rng.integers(0, 2, steps * TABLE_BATCH).astype("float32") for _ in range(2)]
    model.fit(x, y, batch_size=TABLE_BATCH, verbose=0)
    start = time.perf_counter()
    model.fit(x, y, batch_size=TABLE_BATCH, verbose=0)
    ms = (time.perf_counter() - start) / steps * 1000
    variables = {id(v): v for v in [*model.weights, *model.optimizer.variables]}.values()
    held = sum(v.value.addressable_shards[0].data.nbytes for v in variables)
    sent = {}
    if spread != "one":
        table = collectives(
            model, {k: v[:TABLE_BATCH] for k, v in x.items()}, [v[:TABLE_BATCH] for v in y]
        )
        sent = {"operations": len(table), "sent_mib": table["bytes"].sum() / 2**20}
    report(ms=ms, held_mib=held / 2**20, **sent)


# %%
def show(results: list[dict], keys: dict[str, str]) -> None:
    """Print the medians, a line per case, and each case relative to the first of its kind."""
    frame = pd.DataFrame(results)
    for error in frame.get("error", pd.Series(dtype=str)).dropna().unique():
        print(f"no result: {error}", file=sys.stderr)
    known = [key for key in keys if key in frame]
    table = frame.groupby("case", sort=False)[known].median().rename(columns=keys)
    print(table.to_string(float_format=lambda value: f"{value:,.1f}"))


# %%
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=[*SOURCES, "devices"], default="stream")
    parser.add_argument(
        "--rows", type=positive, default=1_000_000, help="of stream and score (1000000)"
    )
    parser.add_argument(
        "--backends", nargs="+", default=["jax", "tensorflow"], help="of stream and score"
    )
    parser.add_argument(
        "--experts", type=positive, default=0, help="of stream: an MMoE instead of a Shared-Bottom"
    )
    parser.add_argument(
        "--vocabularies", type=positive, nargs="+", default=[1_000_000, 20_000_000], help="V"
    )
    parser.add_argument("--repeats", type=positive, default=3, help="of each measurement (3)")
    parser.add_argument("--json", type=Path, help="write the results to this file, too")
    parser.add_argument("--here", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here:
        case, value = args.here
        if args.what == "stream":
            stream_here(case, Path(value), args.experts)
        elif args.what == "score":
            score_here(case, Path(value))
        else:
            devices_here(case, int(value))
        return
    results = []

    def run(repeat: int, case: str, here: tuple[str, str], environment: dict[str, str]) -> None:
        options = ["--experts", str(args.experts)] if args.experts else []
        found = measure([__file__, args.what, *options, "--here", *here], environment)
        results.append({"case": case, "repeat": repeat, **found})
        shown = {k: v for k, v in results[-1].items() if k != "versions"}
        print(shown, file=sys.stderr, flush=True)

    if args.what in SOURCES:
        with tempfile.TemporaryDirectory() as temporary:
            write(Path(temporary), args.rows)
            cases = [
                (backend, source) for backend in args.backends for source in SOURCES[args.what]
            ]
            for repeat, (backend, source) in in_turns(cases, args.repeats):
                environment = {"KERAS_BACKEND": backend}
                run(repeat, f"{backend}: {source}", (source, temporary), environment)
        show(results, {"thousand_rows": "thousand rows/s", "peak_mib": "peak MiB"})
    else:
        cases = [(v, spread) for v in args.vocabularies for spread in SPREAD]
        for repeat, (v, spread) in in_turns(cases, args.repeats):
            flags = f"--xla_force_host_platform_device_count={SPREAD[spread]}"
            environment = {"KERAS_BACKEND": "jax", "XLA_FLAGS": flags, "NPROC": "16"}
            run(repeat, f"{v:,} rows: {spread}", (spread, str(v)), environment)
        names = {"ms": "ms/step", "held_mib": "MiB on a device"}
        show(results, names | {"operations": "collectives", "sent_mib": "MiB sent"})
    if args.json:
        write_json(args.json, {"cores": os.cpu_count(), "results": results})


# %%
if __name__ == "__main__":
    main()
