"""Every balancer on PLE and Census-income: what it costs, and what it scores.

A step's time is that of `fit` over the training rows, all methods taking turns in one process, as
a ratio to the plain sum of the losses; the row "missing labels" is the plain sum with one label
missing, which puts the mask into the step. Scores are AUCs on the test rows.
"""

# %%
import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before mtl, which loads TensorFlow

import mtl  # noqa: F401

# isort: split
import keras
import numpy as np

from mtl.balancing import BY_NAME
from mtl.benchmark import CENSUS_INCOME
from mtl.benchmark.report import mean_text
from mtl.data import load_census_income
from mtl.metrics import evaluate_tasks
from mtl.models import PLE

# %%
PLAIN, MISSING = "plain sum", "missing labels"
BATCH = 1024


# %%
def build(data, method: str, seed: int):
    """Return a PLE with a balancer."""
    keras.utils.set_random_seed(seed)
    model = PLE(
        data.feature_columns, task_names=data.task_names, seed=seed, **CENSUS_INCOME.sizes["PLE"]
    )
    balancer = None if method in (PLAIN, MISSING) else method
    model.compile(keras.optimizers.Adam(CENSUS_INCOME.training.learning_rate), balancer=balancer)
    return model


# %%
def labels_of(data, method: str, rows: int) -> list:
    """Return the training labels, of which one is missing where the mask is to be timed."""
    labels = [label[:rows].astype("float32") for label in data.train[1]]
    if method == MISSING:
        labels[0][0] = np.nan
    return labels


# %%
def epoch_times(data, methods: list[str], rows: int, repeats: int) -> dict[str, list[float]]:
    """Return milliseconds per step of each method, a number per repeat."""
    x = {name: values[:rows] for name, values in data.train[0].items()}
    settings = {"batch_size": BATCH, "verbose": 0}
    models = {method: build(data, method, 0) for method in methods}
    for method, model in models.items():
        model.fit(x, labels_of(data, method, rows), **settings)
        print(f"compiled: {method}", flush=True)
    times: dict[str, list[float]] = {method: [] for method in methods}
    for _ in range(repeats):
        for method, model in models.items():
            y = labels_of(data, method, rows)
            start = time.perf_counter()
            model.fit(x, y, **settings)
            steps = -(-rows // BATCH)
            times[method].append(1000 * (time.perf_counter() - start) / steps)
    return times


# %%
def scores(data, method: str, seed: int, epochs: int) -> list[float]:
    """Train a model and return the AUC of each task on the test rows."""
    model = build(data, method, seed)
    model.fit(*data.train, batch_size=BATCH, epochs=epochs, verbose=0)
    return evaluate_tasks(model, *data.test)["auc"].tolist()


# %%
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--balancers", nargs="+", default=list(BY_NAME), choices=BY_NAME)
    parser.add_argument("--seed", type=int, nargs="+", default=[0], help="of the scored models")
    parser.add_argument("--epochs", type=int, default=5, help="of the scored models; 0 for none")
    parser.add_argument("--repeats", type=int, default=5, help="of the timed epochs; 0 for none")
    parser.add_argument("--rows", type=int, default=50 * BATCH, help="of a timed epoch")
    args = parser.parse_args()

    data = load_census_income(group=1)
    rows = min(args.rows, len(data.train[1][0]))
    methods = [PLAIN, MISSING, *args.balancers]
    times = epoch_times(data, methods, rows, args.repeats) if args.repeats else {}
    keras.backend.clear_session()
    results: dict[str, list] = {}
    for seed in args.seed if args.epochs else []:
        for method in (m for m in methods if m != MISSING):
            result = scores(data, method, seed, args.epochs)
            results.setdefault(method, []).append(result)
            print(f"seed {seed}  {method}: {', '.join(f'{v:.4f}' for v in result)}", flush=True)

    head = [f"{name} AUC" for name in data.task_names]
    print(f"\n{keras.backend.backend()}, keras {keras.__version__}, PLE, batches of {BATCH:,}")
    print(f"{'':<16}{'ms per step':>24}{'ratio':>8}" + "".join(f"{h:>20}" for h in head))
    for method in methods:
        line = f"{method:<16}"
        if times:
            median, low, high = (f(times[method]) for f in (np.median, min, max))
            line += f"{f'{median:.1f} ({low:.1f}-{high:.1f})':>24}"
            line += f"{np.median(np.divide(times[method], times[PLAIN])):>8.2f}"
        else:
            line += " " * 32
        for values in zip(*results.get(method, []), strict=True):
            line += f"{mean_text(values):>20}"
        print(line)


# %%
if __name__ == "__main__":
    main()
