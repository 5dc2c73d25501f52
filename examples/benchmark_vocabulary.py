"""Time and memory of a training step as the vocabulary grows.

A small Shared-Bottom reads eight features from one table of V rows of 16 numbers, in batches of
1,024 rows: with Keras' Adam and with LazyAdam, on each backend, and as DeepCTR's model. Each
measurement runs in a process of its own, and they take turns; the medians count.
"""

# %%
import argparse
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before mtl, which loads TensorFlow

import numpy as np

from mtl.benchmark.command import check_folder, write_json
from mtl.benchmark.processes import in_turns, measure, report

# %%
CONTENDERS = {
    "LazyAdam, TensorFlow": ("tensorflow", "lazy"),
    "Adam, TensorFlow": ("tensorflow", "adam"),
    "LazyAdam, JAX": ("jax", "lazy"),
    "Adam, JAX": ("jax", "adam"),
    "Adam, PyTorch": ("torch", "adam"),
    "DeepCTR, TensorFlow": ("tensorflow", "deepctr"),
}
FEATURES, DIM, BATCH = 8, 16, 1024
MARKERS = "osD^vX"


# %%
def build(kind: str, vocabulary: int):
    """Return the compiled model."""
    import keras

    from mtl.features import SparseFeat
    from mtl.migrate import to_deepctr
    from mtl.models import SharedBottom
    from mtl.optimizers import LazyAdam

    columns = [
        SparseFeat(f"feature_{i}", vocabulary, DIM, embedding_name="shared")
        for i in range(FEATURES)
    ]
    if kind == "deepctr":
        columns = to_deepctr(columns)  # first: it keeps deepctr from asking the package index
        from deepctr.models import SharedBottom as DeepCTR

        model = DeepCTR(columns, bottom_dnn_hidden_units=(64,), tower_dnn_hidden_units=(16,))
        model.compile("adam", ["binary_crossentropy"] * 2)
        return model
    model = SharedBottom(
        columns, num_tasks=2, bottom_dnn_units=(64,), tower_dnn_units_lists=[[16], [16]]
    )
    model.compile(LazyAdam() if kind == "lazy" else keras.optimizers.Adam())
    return model


# %%
def measure_here(kind: str, vocabulary: int, seconds: float) -> None:
    """Time the steps of one contender, and print the result."""
    rng = np.random.default_rng(0)
    model = build(kind, vocabulary)

    def fit(steps: int) -> float:
        rows = steps * BATCH
        x = {f"feature_{i}": rng.integers(0, vocabulary, rows, "int32") for i in range(FEATURES)}
        y = [rng.integers(0, 2, rows).astype("float32") for _ in range(2)]
        start = time.perf_counter()
        model.fit(x, y, batch_size=BATCH, verbose=0)
        return (time.perf_counter() - start) / steps

    fit(2)  # compiles
    steps = int(np.clip(seconds / fit(4), 4, 300))
    report(ms=1000 * fit(steps), steps=steps)


# %%
def table(results: list[dict], vocabularies: list[int]) -> str:
    """Return the medians: milliseconds per step, and the peak memory in MiB."""
    lines = ["contender".ljust(22) + "".join(f"{v:>16,}" for v in vocabularies)]
    for name in dict.fromkeys(result["contender"] for result in results):
        cells = []
        for v in vocabularies:
            runs = [r for r in results if r["contender"] == name and r["vocabulary"] == v]
            fine = [r for r in runs if "ms" in r]
            ms, mib = (np.median([r[key] for r in fine] or [np.nan]) for key in ("ms", "peak_mib"))
            cells.append(f"{ms:8.1f} {mib:7,.0f}" if fine else "no result")
        lines.append(name.ljust(22) + "".join(cell.rjust(16) for cell in cells))
    return "\n".join(lines)


# %%
def plot(results: list[dict], path: Path) -> None:
    """Draw milliseconds per step over the vocabulary, both logarithmic."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    greys = np.linspace(0, 0.6, len(CONTENDERS))
    for (name, marker), grey in zip(zip(CONTENDERS, MARKERS, strict=True), greys, strict=True):
        fine = [r for r in results if r["contender"] == name and "ms" in r]
        sizes = sorted({r["vocabulary"] for r in fine})
        medians = [np.median([r["ms"] for r in fine if r["vocabulary"] == v]) for v in sizes]
        style = "-" if "Lazy" in name else "--"
        axes.plot(sizes, medians, style, marker=marker, color=str(grey), label=name)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="rows of the embedding table",
        ylabel="milliseconds per step",
        title=f"A training step, {FEATURES} features of {DIM} numbers, batch {BATCH:,}",
    )
    axes.grid(which="both", alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)


# %%
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    sizes = [10_000, 100_000, 1_000_000, 5_000_000, 20_000_000]
    parser.add_argument("--vocabularies", type=int, nargs="+", default=sizes)
    parser.add_argument("--contenders", nargs="+", default=list(CONTENDERS), choices=CONTENDERS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--json", type=Path, help="write the results to this file, too")
    parser.add_argument("--plot", type=Path, help="draw them into this file (extra: plot)")
    parser.add_argument("--here", nargs=2, metavar=("KIND", "V"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here:
        measure_here(args.here[0], int(args.here[1]), args.seconds)
        return
    check_folder("--json", args.json)
    check_folder("--plot", args.plot)
    results = []
    cases = [(name, v) for v in args.vocabularies for name in args.contenders]
    for repeat, (name, vocabulary) in in_turns(cases, args.repeats):
        backend, kind = CONTENDERS[name]
        command = [__file__, "--here", kind, str(vocabulary), "--seconds", str(args.seconds)]
        result = measure(command, {"KERAS_BACKEND": backend})
        results.append({"contender": name, "vocabulary": vocabulary, "repeat": repeat, **result})
        print({k: v for k, v in results[-1].items() if k != "steps"}, file=sys.stderr, flush=True)
    print("\nmilliseconds per step and peak memory (MiB), medians\n")
    print(table(results, args.vocabularies))
    if args.json:
        write_json(args.json, {"cores": os.cpu_count(), "results": results})
    if args.plot:
        plot(results, args.plot)


# %%
if __name__ == "__main__":
    main()
