"""What averaging models of several seeds gains on Census-income, and what it costs.

The models are trained by the recipe of `python -m mtl.benchmark census-income`. One Keras model
then averages their predictions: it is saved and served as any other.
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

from mtl.benchmark import CENSUS_INCOME, train
from mtl.benchmark.command import positive
from mtl.benchmark.config import tuned
from mtl.benchmark.recipes import zoo
from mtl.benchmark.report import mean_text
from mtl.data import load_census_income
from mtl.metrics import auc
from mtl.training.model import MultiTaskModel


# %%
def average(models: list[MultiTaskModel]) -> keras.Model:
    """Return a model of the mean prediction for each task."""
    inputs, names = models[0].input, models[0].output_names
    by_task = zip(*(model(inputs) for model in models), strict=True)
    outputs = [keras.layers.Average(name=n)(p) for n, p in zip(names, by_task, strict=True)]
    return keras.Model(inputs, outputs)


# %%
def scores(model: keras.Model, data) -> tuple[list[float], float]:
    """Return the test AUC of each task, and the seconds of predicting."""
    model.predict({k: v[:8192] for k, v in data.test[0].items()}, batch_size=8192, verbose=0)
    start = time.perf_counter()
    predictions = model.predict(data.test[0], batch_size=8192, verbose=0)
    seconds = time.perf_counter() - start
    return [auc(y, p) for y, p in zip(data.test[1], predictions, strict=True)], seconds


# %%
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--group", type=int, default=1, choices=(1, 2))
    names = [name for name, factory in zoo().items() if not (factory.funnel or factory.needs)]
    parser.add_argument("--model", default="SharedBottom", choices=names)
    parser.add_argument("--seeds", type=positive, default=5, help="how many models, from 2")
    parser.add_argument("--epochs", type=positive, help="instead of the recipe's")
    args = parser.parse_args()
    if args.seeds < 2:
        parser.error(f"--seeds should be at least 2. Received: {args.seeds}")

    recipe = tuned(f"census-income-{args.group}", CENSUS_INCOME).with_training(epochs=args.epochs)
    data = load_census_income(args.group, encoder=recipe.encoder)
    models, single = [], []
    for seed in range(args.seeds):
        models.append(train(data, recipe, args.model, seed, verbose=False)[0])
        single.append(scores(models[-1], data))
        print(f"seed {seed}: " + ", ".join(f"{v:.4f}" for v in single[-1][0]), flush=True)

    def show(name: str, cells: list[str], model: keras.Model, seconds: float) -> None:
        print(f"{name:<14}" + "".join(f"{cell:>18}" for cell in cells), end="")
        print(f"{model.count_params():>14,}{seconds:>22.2f}", flush=True)

    print(f"\n{args.model}, test AUC, {keras.backend.backend()}, keras {keras.__version__}")
    print(f"{'':<14}" + "".join(f"{name:>18}" for name in data.task_names), end="")
    print(f"{'parameters':>14}{'seconds to predict':>22}")
    aucs, seconds = zip(*single, strict=True)
    cells = [mean_text(values) for values in zip(*aucs, strict=True)]
    show("one model", cells, models[0], np.mean(seconds))
    for number in range(2, args.seeds + 1):
        averaged = average(models[:number])
        values, time_taken = scores(averaged, data)
        show(f"average of {number}", [f"{v:.4f}" for v in values], averaged, time_taken)


# %%
if __name__ == "__main__":
    main()
