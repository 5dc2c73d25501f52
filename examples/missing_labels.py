"""Census-income where 90 % of one task's labels are missing: what to do with these rows.

The labels of income over 50K are taken from random rows; those of never-married stay. Compared are
dropping the rows without an income label, training on all rows with missing labels as NaN (which
mask their loss), the same with a balancer, and, as what could be reached, all labels.
"""

# %%
import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before mtl, which loads TensorFlow

import mtl  # noqa: F401

# isort: split
import keras
import numpy as np

from mtl.benchmark import CENSUS_INCOME
from mtl.benchmark.report import mean_text
from mtl.data import load_census_income
from mtl.data.dataset import take
from mtl.metrics import evaluate_tasks
from mtl.models import MMoE


# %%
def scores(data, x, y, seed: int, epochs: int, balancer: str | None) -> list[float]:
    """Train a model, stop at the best validation loss, and return the tasks' test AUCs."""
    keras.utils.set_random_seed(seed)
    model = MMoE(
        data.feature_columns, task_names=data.task_names, seed=seed, **CENSUS_INCOME.sizes["MMoE"]
    )
    model.compile(keras.optimizers.Adam(0.005), balancer=balancer)
    best = keras.callbacks.EarlyStopping(patience=3, restore_best_weights=True)
    model.fit(
        x, y, batch_size=1024, epochs=epochs, validation_data=data.val, validation_batch_size=8192,
        callbacks=[best], verbose=0,
    )  # fmt: skip
    return evaluate_tasks(model, *data.test)["auc"].tolist()


# %%
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--missing", type=float, default=0.9, help="share of income labels")
    parser.add_argument("--rows", type=int, help="the first training rows only")
    parser.add_argument("--epochs", type=int, default=20, help="at most")
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--balancers", nargs="*", default=["uncertainty", "gradnorm", "pcgrad"])
    args = parser.parse_args()
    if not 0 < args.missing < 1:
        parser.error(f"--missing should be between 0 and 1. Received: {args.missing}")

    data = load_census_income(group=1)
    x, labels = take(*data.train, slice(args.rows))
    results: dict[str, list] = {}
    for seed in args.seed:
        kept = np.random.default_rng(seed).random(len(labels[0])) >= args.missing
        some = [np.where(kept, labels[0], np.nan).astype("float32"), labels[1]]
        cases = {
            "rows dropped": (*take(x, labels, kept), None),
            "masked": (x, some, None),
            **{f"masked, {balancer}": (x, some, balancer) for balancer in args.balancers},
            "all labels": (x, labels, None),
        }
        for name, (inputs, y, balancer) in cases.items():
            result = scores(data, inputs, y, seed, args.epochs, balancer)
            results.setdefault(name, []).append(result)
            print(f"seed {seed}  {name}: {', '.join(f'{v:.4f}' for v in result)}", flush=True)

    print(
        f"\n{args.missing:.0%} of the {data.task_names[0]} labels missing, MMoE, test AUC, ", end=""
    )
    print(f"{len(args.seed)} seeds, {keras.backend.backend()}, keras {keras.__version__}")
    print(f"{'':<22}" + "".join(f"{name:>20}" for name in data.task_names))
    for name, values in results.items():
        print(f"{name:<22}" + "".join(f"{mean_text(v):>20}" for v in zip(*values, strict=True)))


# %%
if __name__ == "__main__":
    main()
