"""Speed of training and prediction, beside DeepCTR and torch-rechub.

Every contender trains the same model on the same rows of Census-income (40 named features), with
its library's own calls and default settings. Each measurement runs in a process of its own, and
they take turns; medians count. Measured are the time from the start of the process to the end of
the first epoch, how much of it is imports, rows per second of the epochs after it and of
prediction, and the peak memory.

DeepCTR is installed with this library. torch-rechub takes part if it is named, from an environment
of its own: `python -m venv rechub && rechub/bin/pip install torch-rechub==0.9.0`, and then
`--rechub-python rechub/bin/python`.
"""

# %%
import argparse
import importlib
import json
import os
import runpy
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

# A peer's environment lacks mtl: whatever needs it is imported where it is used.

# %%
CONTENDERS = {
    "mtl, JAX": ("mtl", "jax"),
    "mtl, TensorFlow": ("mtl", "tensorflow"),
    "DeepCTR": ("deepctr", "tensorflow"),
    "DeepCTR, XLA": ("deepctr_xla", "tensorflow"),
    "torch-rechub": ("rechub", ""),
    "torch-rechub, no loader": ("rechub_batches", ""),
}
IMPORTS = {
    "mtl": ["mtl.models"],
    "deepctr": ["deepctr.models"],
    "deepctr_xla": ["deepctr.models"],
    "rechub": ["torch_rechub.models.multi_task", "torch_rechub.trainers"],
    "rechub_batches": ["torch_rechub.models.multi_task"],
}
MODELS = ("SharedBottom", "MMoE", "PLE", "ESMM")
MEASURES = {
    "fit": ("rows per second in fit", 1000, "{:.0f}k"),
    "predict": ("rows per second in predict", 1000, "{:.0f}k"),
    "first_epoch": ("seconds to the end of the first epoch", 1, "{:.1f}"),
    "imports": ("of these, seconds of imports", 1, "{:.1f}"),
    "peak_mib": ("peak memory, MiB", 1, "{:.0f}"),
}
MARKERS = "os^vD<"


# %%
class Rows:
    """The rows that every contender gets, as it gets them: named arrays, and labels."""

    def __init__(self, path: Path) -> None:
        arrays = np.load(path)
        self.vocabularies = json.loads(str(arrays["vocabularies"]))
        self.dense = json.loads(str(arrays["dense"]))
        self.sizes = json.loads(str(arrays["sizes"]))
        self.batch = int(arrays["batch"])
        self.x = {name: arrays[f"x/{name}"] for name in [*self.vocabularies, *self.dense]}
        self.y = [arrays["y/0"], arrays["y/1"]]

    @staticmethod
    def write(path: Path, most: int | None, batch: int) -> int:
        """Write them to a file, the first ones or all, and return how many there are."""
        from mtl.benchmark import CENSUS_INCOME
        from mtl.data import load_census_income
        from mtl.features import SparseFeat

        data = load_census_income(group=1, protocol="reference")
        columns = data.feature_columns
        sparse = {c.name: int(c.vocabulary_size) for c in columns if isinstance(c, SparseFeat)}
        dense = [c.name for c in columns if c.name not in sparse]
        x, y = data.train
        arrays = {f"x/{name}": x[name][:most] for name in [*sparse, *dense]}
        labels = {f"y/{i}": label[:most].astype("float32") for i, label in enumerate(y)}
        facts = {"vocabularies": sparse, "dense": dense, "sizes": CENSUS_INCOME.sizes}
        facts = {name: json.dumps(fact) for name, fact in facts.items()}
        np.savez(path, batch=batch, **arrays, **labels, **facts)
        return len(labels["y/0"])

    def labels(self, model: str) -> list:
        """Return the labels of the model's tasks: ESMM's are a click and a conversion."""
        return self.y[::-1] if model == "ESMM" else self.y


# %%
def keras_calls(model, rows: Rows, name: str):
    """Return what fits a Keras model for some epochs, and what predicts."""
    y = rows.labels(name)

    def fit(epochs: int) -> None:
        model.fit(rows.x, y, batch_size=rows.batch, epochs=epochs, verbose=0)

    return fit, lambda: model.predict(rows.x, batch_size=rows.batch, verbose=0)


# %%
def mtl(name: str, rows: Rows):
    """Build this library's model; return its `fit` and `predict`."""
    import mtl.models
    from mtl.features import DenseFeat, SparseFeat

    columns = [SparseFeat(n, v, 4) for n, v in rows.vocabularies.items()]
    columns += [DenseFeat(n) for n in rows.dense]
    model = getattr(mtl.models, name)(columns, num_tasks=2, **rows.sizes[name])
    model.compile("adam")
    return keras_calls(model, rows, name)


# %%
def deepctr(name: str, rows: Rows, **settings):
    """Build DeepCTR's model; return its `fit` and `predict`."""
    import deepctr.models
    from deepctr.feature_column import DenseFeat, SparseFeat

    columns = [SparseFeat(n, v, 4) for n, v in rows.vocabularies.items()]
    columns += [DenseFeat(n) for n in rows.dense]
    sizes = {
        "SharedBottom": {"bottom_dnn_hidden_units": (16,)},
        "MMoE": {"num_experts": 8, "expert_dnn_hidden_units": (16,), "gate_dnn_hidden_units": ()},
        "PLE": {
            "shared_expert_num": 4,
            "specific_expert_num": 4,
            "num_levels": 2,
            "expert_dnn_hidden_units": (16,),
            "gate_dnn_hidden_units": (),
        },
        "ESMM": {},
    }
    build = getattr(deepctr.models, "MMOE" if name == "MMoE" else name)
    model = build(columns, tower_dnn_hidden_units=(8,), **sizes[name])
    model.compile("adam", loss=["binary_crossentropy"] * 2, **settings)
    return keras_calls(model, rows, name)


# %%
def deepctr_xla(name: str, rows: Rows):
    """Build DeepCTR's model, to be compiled by XLA."""
    return deepctr(name, rows, jit_compile=True)


# %%
def rechub_model(name: str, rows: Rows):
    """Build torch-rechub's model; return it with the names of its features."""
    from torch_rechub.basic.features import DenseFeature, SparseFeature
    from torch_rechub.models.multi_task import ESMM, MMOE, PLE, SharedBottom

    sparse = [SparseFeature(n, v, 4) for n, v in rows.vocabularies.items()]
    features = sparse + [DenseFeature(n) for n in rows.dense]
    tasks = {"task_types": ["classification"] * 2, "tower_params_list": [{"dims": [8]}] * 2}
    expert = {"dims": [16]}
    if name == "ESMM":  # it takes no dense features
        half = len(sparse) // 2
        return ESMM(sparse[:half], sparse[half:], {"dims": [8]}, {"dims": [8]}), sparse
    if name == "SharedBottom":
        return SharedBottom(features, bottom_params=expert, **tasks), features
    if name == "MMoE":
        return MMOE(features, n_expert=8, expert_params=expert, **tasks), features
    levels = {"n_level": 2, "n_expert_specific": 4, "n_expert_shared": 4}
    return PLE(features, **levels, expert_params=expert, **tasks), features


# %%
def rechub_rows(name: str, rows: Rows, features: list):
    """Return the inputs and labels of torch-rechub's model; its ESMM has three outputs."""
    y = rows.labels(name)
    y = [y[0], *y] if name == "ESMM" else y
    return {f.name: rows.x[f.name].reshape(-1) for f in features}, np.stack(y, axis=1)


# %%
def rechub(name: str, rows: Rows):
    """Return an epoch and a prediction of torch-rechub's trainer, through its data loader."""
    from torch.utils.data import DataLoader
    from torch_rechub.trainers import MTLTrainer
    from torch_rechub.utils.data import PredictDataset, TorchDataset

    model, features = rechub_model(name, rows)
    x, y = rechub_rows(name, rows, features)
    trainer = MTLTrainer(model, ["classification"] * y.shape[1], optimizer_params={"lr": 1e-3})
    loader = DataLoader(TorchDataset(x, y), batch_size=rows.batch, shuffle=True)

    def fit(epochs: int) -> None:
        for _ in range(epochs):
            trainer.train_one_epoch(loader)

    test = DataLoader(PredictDataset(x), batch_size=rows.batch)
    return fit, lambda: trainer.predict(model, test)


# %%
def rechub_batches(name: str, rows: Rows):
    """Return an epoch and a prediction of torch-rechub's model, on batches made by hand."""
    import torch

    model, features = rechub_model(name, rows)
    x, y = rechub_rows(name, rows, features)
    x = {key: torch.from_numpy(value) for key, value in x.items()}
    y = torch.from_numpy(y)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    trained = range(1 if name == "ESMM" else 0, y.shape[1])  # never on pCVR

    def fit(epochs: int) -> None:
        model.train()
        for _ in range(epochs):
            for batch in torch.randperm(len(y)).split(rows.batch):
                out = model({key: value[batch] for key, value in x.items()})
                labels = y[batch]
                loss = sum(
                    torch.nn.functional.binary_cross_entropy(out[:, i], labels[:, i])
                    for i in trained
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    def predict():
        model.eval()
        with torch.no_grad():
            parts = [
                model({key: value[i : i + rows.batch] for key, value in x.items()})
                for i in range(0, len(y), rows.batch)
            ]
            return torch.cat(parts).numpy()

    return fit, predict


# %%
def measure_here(kind: str, name: str, path: Path, start: float, epochs: int) -> None:
    """Time one contender with one model, and print the result."""

    def seconds(call, *args) -> float:
        begin = time.perf_counter()
        call(*args)
        return time.perf_counter() - begin

    rows = Rows(path)
    count = len(rows.y[0])
    for module in IMPORTS[kind]:
        importlib.import_module(module)
    imports = time.time() - start
    fit, predict = globals()[kind](name, rows)
    fit(1)
    first_epoch = time.time() - start
    rate = epochs * count / seconds(fit, epochs)
    predict()
    own = runpy.run_path(str(Path(__file__).parents[1] / "mtl" / "benchmark" / "processes.py"))
    own["report"](
        first_epoch=first_epoch,
        imports=imports,
        fit=rate,
        predict=count / np.median([seconds(predict) for _ in range(3)]),
    )


# %%
def runs(results: list[dict], contender: str, model: str, measure: str) -> list[float]:
    """Return what a contender's runs measured."""
    return [
        r[measure]
        for r in results
        if (r["contender"], r["model"]) == (contender, model) and measure in r
    ]


# %%
def tables(results: list[dict], models: list[str]) -> str:
    """Return a table per measure: median (min-max), and how far ahead of DeepCTR's best it is."""
    contenders = list(dict.fromkeys(r["contender"] for r in results))
    width = max(map(len, contenders))
    lines = []
    for measure, (title, unit, form) in MEASURES.items():
        lines += ["", title, " " * width + "".join(m.rjust(24) for m in models)]
        best = max if measure in ("fit", "predict") else min
        for contender in contenders:
            cells = []
            for model in models:
                values = [v / unit for v in runs(results, contender, model, measure)]
                if not values:
                    cells.append("no result")
                    continue
                median, low, high = (form.format(f(values)) for f in (np.median, min, max))
                cell = f"{median} ({low}-{high})"
                peers = [
                    np.median(v) / unit
                    for peer in ("DeepCTR", "DeepCTR, XLA")
                    if (v := runs(results, peer, model, measure))
                ]
                if peers and not contender.startswith("DeepCTR"):
                    ratio = np.median(values) / best(peers)
                    ahead = ratio if best is max else 1 / ratio
                    cell += f" {ahead:.1f}×" if ahead < 10 else f" {ahead:.0f}×"
                cells.append(cell)
            lines.append(contender.ljust(width) + "".join(c.rjust(24) for c in cells))
    return "\n".join(lines[1:])


# %%
def plot(results: list[dict], models: list[str], batch: int, path: Path) -> None:
    """Draw medians with their ranges, a panel per measure."""
    from matplotlib import ticker
    from matplotlib.figure import Figure

    contenders = [c for c in CONTENDERS if any(r["contender"] == c for r in results)]
    shown = list(MEASURES)[:3]
    figure = Figure(figsize=(12, 5))
    panels = figure.subplots(1, len(shown), sharey=True)
    offsets = np.linspace(-0.3, 0.3, len(contenders))
    for measure, axes in zip(shown, panels, strict=True):
        for contender, offset, marker in zip(contenders, offsets, MARKERS, strict=False):
            ours = contender.startswith("mtl")
            for i, model in enumerate(models):
                values = runs(results, contender, model, measure)
                if not values:
                    continue
                axes.plot([min(values), max(values)], [i + offset] * 2, color="0.6", zorder=1)
                axes.plot(
                    np.median(values),
                    i + offset,
                    marker,
                    color="black" if ours else "0.45",
                    markerfacecolor="black" if ours else "white",
                    label=contender if i == 0 else None,
                )
        axes.set(xscale="log", xlabel=MEASURES[measure][0])
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda v, _: f"{v / 1e3:g}k" if v >= 1000 else f"{v:g}")
        axes.xaxis.set_minor_locator(ticker.NullLocator())
        axes.grid(axis="x", which="both", alpha=0.3)
    panels[0].set_yticks(range(len(models)), models)
    panels[0].invert_yaxis()
    figure.suptitle(f"Census-income, batches of {batch:,}: median and range")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=len(contenders), frameon=False)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(path, dpi=150)


# %%
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--contenders", nargs="+", default=list(CONTENDERS), choices=CONTENDERS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=3, help="of the steady state (default: 3)")
    parser.add_argument("--batch-size", type=int, default=1024, help="default: 1024")
    parser.add_argument("--rows", type=int, help="the first rows only (default: all)")
    parser.add_argument("--rechub-python", help="interpreter of an environment with torch-rechub")
    parser.add_argument("--json", type=Path, help="write the results to this file, too")
    parser.add_argument("--plot", type=Path, help="draw them into this file (extra: plot)")
    parser.add_argument("--here", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here:
        kind, name, path, start = args.here
        measure_here(kind, name, Path(path), float(start), args.epochs)
        return
    from mtl.benchmark.command import check_folder, write_json
    from mtl.benchmark.processes import in_turns, measure

    check_folder("--json", args.json)
    check_folder("--plot", args.plot)
    asked = [c for c in args.contenders if c.startswith("torch-rechub")]
    if asked and not args.rechub_python:
        args.contenders = [c for c in args.contenders if c not in asked]
        print("torch-rechub is left out: --rechub-python is not given", file=sys.stderr)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npz"
        count = Rows.write(path, args.rows, args.batch_size)
        cases = [(name, contender) for name in args.models for contender in args.contenders]
        for repeat, (name, contender) in in_turns(cases, args.repeats):
            kind, backend = CONTENDERS[contender]
            python = args.rechub_python if kind.startswith("rechub") else sys.executable
            command = [__file__, "--epochs", str(args.epochs), "--here", kind, name, str(path)]
            result = measure([*command, str(time.time())], {"KERAS_BACKEND": backend}, python)
            results.append({"contender": contender, "model": name, "repeat": repeat, **result})
            print(results[-1], file=sys.stderr, flush=True)
    print(f"{count:,} rows, batches of {args.batch_size:,}, {os.cpu_count()} cores, ", end="")
    print(f"{args.repeats} runs: median (min-max), and")
    print("the ratio to DeepCTR at its better setting\n")
    print(tables(results, args.models))
    if args.json:
        write_json(args.json, {"cores": os.cpu_count(), "results": results})
    if args.plot:
        plot(results, args.models, args.batch_size, args.plot)


# %%
if __name__ == "__main__":
    main()
