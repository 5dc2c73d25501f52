"""Train the model zoo on the UCI Census-income data and print the test AUCs.

Group 1 predicts income over 50K and never-married; group 2 education at least college and
never-married. The default protocol fits encoders on training rows only; the reference protocol
repeats how published tables were made. The models have the published sizes.
"""

# %%
import argparse
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before mtl, which loads TensorFlow

import mtl  # noqa: F401

# isort: split
import keras

from mtl import models
from mtl.benchmark import CENSUS_INCOME, text_table
from mtl.benchmark.command import check_folder, positive, write_json
from mtl.data import load_census_income
from mtl.metrics import evaluate_tasks
from mtl.optimizers import LazyAdam

# %%
OPTIMIZERS = {"adam": keras.optimizers.Adam, "lazy_adam": LazyAdam}


# %%
def run(data, name: str, seed: int, args: argparse.Namespace) -> dict:
    """Train a model, stop at the best validation loss, and score it on the test rows."""
    start = time.perf_counter()
    keras.utils.set_random_seed(seed)
    # ESMM's first task is the click, which is more frequent than the conversion.
    tasks = data.task_names[::-1] if name == "ESMM" else data.task_names
    model = getattr(models, name)(
        data.feature_columns, task_names=tasks, seed=seed, **CENSUS_INCOME.sizes[name]
    )
    model.compile(OPTIMIZERS[args.optimizer](0.01))
    train, val, test = (
        (x, dict(zip(data.task_names, y, strict=True)))
        for x, y in (data.train, data.val, data.test)
    )
    best = keras.callbacks.EarlyStopping(patience=args.patience, restore_best_weights=True)
    history = model.fit(
        *train, batch_size=args.batch_size, epochs=args.epochs, validation_data=val,
        validation_batch_size=8192, callbacks=[best], verbose=2,
    )  # fmt: skip
    return {
        "model": name,
        "seed": seed,
        "balancer": None,
        "types": {task.name: task.type for task in data.tasks},
        "metrics": evaluate_tasks(model, *test).to_dict("index"),
        "parameters": model.count_params(),
        "epochs": len(history.epoch),
        "seconds": round(time.perf_counter() - start, 2),
    }


# %%
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--models", nargs="+", default=list(CENSUS_INCOME.sizes), choices=CENSUS_INCOME.sizes
    )
    parser.add_argument("--group", type=int, default=1, choices=(1, 2), help="pair of tasks")
    parser.add_argument("--protocol", default="default", choices=("default", "reference"))
    parser.add_argument("--epochs", type=positive, help="at most (10; reference: 100)")
    parser.add_argument("--patience", type=positive, help="epochs without progress (3; 10)")
    parser.add_argument("--batch-size", type=positive, default=1024, help="rows per step")
    parser.add_argument("--optimizer", default="adam", choices=OPTIMIZERS)
    parser.add_argument("--seed", nargs="+", type=int, default=[0], help="one run per seed")
    parser.add_argument("--json", type=Path, help="write the results to this file, too")
    args = parser.parse_args()
    check_folder("--json", args.json)
    epochs, patience = (10, 3) if args.protocol == "default" else (100, 10)
    args.epochs, args.patience = args.epochs or epochs, args.patience or patience

    start, title = time.perf_counter(), f"Census-income group {args.group}"
    data = load_census_income(args.group, args.protocol)
    print(f"{title}: {data}", flush=True)
    results = []
    for seed in args.seed:
        for name in args.models:
            print(f"\n{name}, seed {seed}", flush=True)
            results.append(run(data, name, seed, args))
            keras.backend.clear_session()
    packages = ("keras-mtl", "keras", keras.backend.backend())
    versions = {"python": platform.python_version(), **{name: version(name) for name in packages}}
    environment = ", ".join(f"{name} {number}" for name, number in versions.items())
    print(f"\n{title}, {args.protocol} protocol, {environment}\n\n{text_table(results)}")
    if "ESMM" in args.models:
        print("\nThese tasks are no funnel: ESMM's row only shows that it runs.")
    print(f"\n{time.perf_counter() - start:.0f} s in all")
    if args.json:
        about = {"title": title, "arguments": vars(args), **versions}
        write_json(args.json, {**about, "results": results})


# %%
if __name__ == "__main__":
    main()
