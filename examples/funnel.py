"""ESMM against a CVR model trained on clicks, scored where both are used: on every impression.

The synthetic funnel's true probabilities are known, so P(conversion | click) can be scored over
the entire space and over the clicked rows. With selection bias, clicked rows convert at another
rate than all rows: a model that only saw clicks has to extrapolate.
"""

# %%
import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before mtl, which loads TensorFlow

import mtl  # noqa: F401

# isort: split
import keras
import numpy as np

from mtl.data import make_funnel
from mtl.models import ESMM, SharedBottom, extract_task


# %%
def cross_entropy(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Return the expected log loss of predicted probabilities under the true ones."""
    predicted = np.clip(predicted.reshape(-1), 1e-7, 1 - 1e-7)
    return float(-np.mean(truth * np.log(predicted) + (1 - truth) * np.log(1 - predicted)))


# %%
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=200_000, help="impressions")
    parser.add_argument("--selection-bias", type=float, default=0.7, help="-1 to 1")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    keras.utils.set_random_seed(args.seed)
    data = make_funnel(args.samples, selection_bias=args.selection_bias, seed=args.seed)
    (x, (click, ctcvr)), (x_test, (click_test, _)) = data.train, data.test
    settings = {"batch_size": 1024, "epochs": args.epochs, "verbose": 2}

    print("ESMM, trained on every impression")
    esmm = ESMM(data.feature_columns, tower_dnn_units_lists=[[32, 16]] * 2, seed=args.seed)
    esmm.compile(keras.optimizers.Adam(0.005))
    esmm.fit(x, [click, ctcvr], **settings)
    cvr = extract_task(esmm, "cvr")

    print("CVR model, trained on the clicked impressions")
    clicked = click == 1
    click_only = SharedBottom(
        data.feature_columns,
        task_names=["conversion"],
        bottom_dnn_units=[32, 16],
        tower_dnn_units_lists=[[]],
        seed=args.seed,
    )
    click_only.compile(keras.optimizers.Adam(0.005))
    click_only.fit(
        {name: values[clicked] for name, values in x.items()}, ctcvr[clicked], **settings
    )

    truth = data.truth["test"]["cvr"]
    rows = {"entire space": np.ones(len(truth), bool), "clicked rows": click_test == 1}
    print(f"\nP(conversion | click), cross-entropy against the truth, bias {args.selection_bias}")
    print(f"{'':<14}{'truth':>10}{'constant':>10}{'click-only':>12}{'ESMM':>10}")
    for name, mask in rows.items():
        constant = np.full(mask.sum(), ctcvr[clicked].mean())
        predictions = [
            model.predict(x_test, batch_size=8192, verbose=0) for model in (click_only, cvr)
        ]
        scores = [
            cross_entropy(truth[mask], predicted)
            for predicted in (truth[mask], constant, *(p[mask] for p in predictions))
        ]
        print(f"{name:<14}{scores[0]:>10.4f}{scores[1]:>10.4f}{scores[2]:>12.4f}{scores[3]:>10.4f}")


# %%
if __name__ == "__main__":
    main()
