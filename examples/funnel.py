"""Conversion rates learned from clicked impressions, scored where they are used: on all of them.

Real logs have no pCVR = P(conversion | click) of impressions without a click; the synthetic funnel
knows it. Its impressions and probabilities stand, and each seed draws clicks, conversions and the
networks' first weights anew: the error of pCVR over the test impressions is a bias, which all seeds
share, and a spread over the seeds. `--hide` keeps features from the networks, as a log that
doesn't have all that users act on.
"""

# %%
import argparse
import functools
import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before mtl, which loads TensorFlow

import mtl  # noqa: F401

# isort: split
import keras
import numpy as np

from mtl.data import MultiTaskData, make_funnel
from mtl.models import ESCM2, ESMM, MMoE

# One body for all but ESMM, so that the rows differ by what the network is trained on.
EXPERTS = {"num_experts": 4, "expert_dnn_units": (32, 32)}
CLICKED = functools.partial(MMoE, task_names=["cvr"], tower_dnn_units_lists=[(16, 8)], **EXPERTS)
FUNNEL = functools.partial(ESCM2, **EXPERTS)
MODELS: dict[str, Callable[..., Any]] = {
    "clicked rows": CLICKED,
    "clicked rows / true pCTR": CLICKED,
    "ESMM": functools.partial(ESMM, tower_dnn_units_lists=[(32, 16)] * 2),
    "ESCM2, no risk": functools.partial(FUNNEL, risk_weight=0),
    "ESCM2, ips": FUNNEL,
    "ESCM2, dr": functools.partial(FUNNEL, estimator="dr"),
    "ESCM2, dr, joint=False": functools.partial(FUNNEL, estimator="dr", joint=False),
}
MIN_PROPENSITY = 0.05  # ESCM2's default


# %%
class Contender:
    """A network that is compiled once, and trained anew for each seed."""

    def __init__(self, name: str, columns: list[Any]) -> None:
        self._build = functools.partial(MODELS[name], columns)
        self._clicked = name.startswith("clicked")
        self._weighted = name.endswith("pCTR")
        self._model = self._build(seed=0)
        self._model.compile(keras.optimizers.Adam(0.003))
        self._model.optimizer.build(self._model.trainable_variables)
        self._start = [keras.ops.convert_to_numpy(v) for v in self._model.optimizer.variables]

    def fit(self, train: Any, val: Any, epochs: int, seed: int) -> None:
        """Train from new weights until the validation loss has been no better for two epochs."""
        keras.utils.set_random_seed(seed)
        self._model.set_weights(self._build(seed=seed).get_weights())
        for variable, value in zip(self._model.optimizer.variables, self._start, strict=True):
            variable.assign(value)
        x, y, weights = self._rows(*train)
        self._model.fit(
            x,
            y,
            sample_weight=weights,
            validation_data=self._rows(*val),
            batch_size=512,
            epochs=epochs,
            callbacks=[keras.callbacks.EarlyStopping(patience=2, restore_best_weights=True)],
            verbose=0,
        )

    def predict(self, x: dict[str, np.ndarray]) -> np.ndarray:
        """Return pCVR, `(N,)`: of the funnels, pCTCVR / pCTR."""
        outputs = self._model.predict(x, batch_size=8192, verbose=0)
        cvr = outputs if self._clicked else outputs[1] / outputs[0]
        return cvr.reshape(-1).astype(float)

    def _rows(self, x: Any, click: np.ndarray, ctcvr: np.ndarray, ctr: np.ndarray) -> Any:
        """Return inputs, labels and weights of the rows that the network learns from."""
        weights = 1 / np.maximum(ctr, MIN_PROPENSITY) if self._weighted else np.ones_like(ctr)
        if not self._clicked:
            return x, [click, ctcvr], weights
        rows = click == 1
        weights = weights[rows] / weights[rows].mean()
        return {name: values[rows] for name, values in x.items()}, ctcvr[rows], weights


def draw(data: MultiTaskData, split: str, hidden: list[str], rng: np.random.Generator) -> Any:
    """Return a split's inputs, newly drawn clicks and conversions, and the true pCTR."""
    x, truth = getattr(data, split)[0], data.truth[split]
    click = rng.random(len(truth["ctr"])) < truth["ctr"]
    conversion = rng.random(len(click)) < truth["cvr"]
    seen = {name: values for name, values in x.items() if name not in hidden}
    return seen, click.astype("float32"), (click & conversion).astype("float32"), truth["ctr"]


def cross_entropy(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return the expected log loss of predicted probabilities under the true ones, by row."""
    predicted = np.clip(predicted, 1e-7, 1 - 1e-7)
    return -np.mean(truth * np.log(predicted) + (1 - truth) * np.log(1 - predicted), axis=-1)


def report(truth: np.ndarray, predictions: dict[str, np.ndarray]) -> None:
    """Print what is left of each network's error, of predictions `(seeds, N)`."""
    titles = ("mean pCVR", "bias", "spread", "excess log loss")
    print(f"{'':<26}{titles[0]:>10}{titles[1]:>8}{titles[2]:>8}  {titles[3]}")
    print(f"{'truth':<26}{truth.mean():>10.4f}")
    for name, predicted in predictions.items():
        bias = np.sqrt(np.mean((predicted.mean(axis=0) - truth) ** 2))
        spread = np.sqrt(np.mean(predicted.var(axis=0)))
        excess = cross_entropy(truth, predicted) - cross_entropy(truth, truth)
        print(
            f"{name:<26}{predicted.mean():>10.4f}{bias:>8.4f}{spread:>8.4f}"
            f"  {excess.mean():.4f} ± {excess.std(ddof=1):.4f}"
        )


# %%
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=50_000, help="impressions")
    parser.add_argument("--selection-bias", type=float, default=0.7, help="-1 to 1")
    parser.add_argument("--hide", nargs="+", default=[], metavar="FEATURE", help="such as user_id")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--epochs", type=int, default=20, help="upper limit")
    parser.add_argument("--seeds", type=int, default=20, help="at least 2")
    args = parser.parse_args()
    if args.seeds < 2:
        parser.error(f"`--seeds` should be at least 2, to have a spread. Received: {args.seeds}")

    data = make_funnel(args.samples, selection_bias=args.selection_bias)
    columns = [column for column in data.feature_columns if column.name not in args.hide]
    contenders = {name: Contender(name, columns) for name in args.models}
    predictions: dict[str, list[np.ndarray]] = {name: [] for name in args.models}
    progress = keras.utils.Progbar(args.seeds, unit_name="seed")
    for seed in range(args.seeds):
        rng = np.random.default_rng(seed)
        train, val, (x_test, *_) = (
            draw(data, split, args.hide, rng) for split in ("train", "val", "test")
        )
        for name, contender in contenders.items():
            contender.fit(train, val, args.epochs, seed)
            predictions[name].append(contender.predict(x_test))
        progress.update(seed + 1)
    report(data.truth["test"]["cvr"], {n: np.array(p) for n, p in predictions.items()})


# %%
if __name__ == "__main__":
    main()
