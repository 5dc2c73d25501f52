"""Speed of every model of the zoo, beside an MMoE with as many dense parameters.

The models train on Census-income (40 named features), batches of 1,024, with layers as wide as the
recipe's MMoE has. Each has a twin, an MMoE with the number of experts that comes nearest to its
number of dense parameters; they take turns in one process, and medians of rows per second in `fit`
count, after the first epoch.
"""

# %%
import argparse
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before mtl, which loads TensorFlow

import mtl  # noqa: F401

# isort: split
import keras
import pandas as pd

from mtl import models
from mtl.benchmark.command import positive
from mtl.benchmark.processes import versions
from mtl.data import load_census_income
from mtl.training.pace import dense_parameters

# %%
BATCH = 1024
TOWERS = ((8,), (8,))
EXPERTS = {"expert_dnn_units": (16,)}
LEVELS = {"num_experts_specific": 4, "num_experts_shared": 4, "expert_dnn_units": (16,)}
SIZES = {
    "SharedBottom": {"bottom_dnn_units": (16,)},
    "MoE": {"num_experts": 8, "expert_dnn_units": (16,)},
    "MMoE": {"num_experts": 8, "expert_dnn_units": (16,)},
    "CGC": LEVELS,
    "PLE": LEVELS,
    "ESMM": {},
    "AITM": {"bottom_dnn_units": (64, 16)},
    "AdaTT": {**LEVELS, "expert_dnn_units": (16, 16)},
    "CrossStitch": {"column_dnn_units": (64, 16)},
    "DBMTL": {"bottom_dnn_units": (16,), "num_experts": 8, "relation_dnn_units": (8,)},
    "ESCM2": {"num_experts": 8, "expert_dnn_units": (16,)},
    "Funnel": {},
    "HoME": {
        "num_experts_specific": 2,
        "num_experts_group": 2,
        "num_experts_shared": 4,
        "expert_dnn_units": (16,),
        "feature_gate_rank": 4,
    },
    "PEPNet": {
        "scenario_feature": "sex",
        "prior_features": ["race", "age"],
        "gate_dnn_units": (16,),
        "tower_dnn_units_lists": ((64, 16), (64, 16)),
    },
    "SNR": {"num_experts": 8, "expert_dnn_units": (16,)},
    "STAR": {"scenario_feature": "sex", "star_dnn_units": (64, 16), "auxiliary_dnn_units": (8,)},
    "STEM": {**LEVELS, "gate_dnn_units": (8,)},
}


# %%
def build(name: str, data, **sizes):
    """Build and compile a model of these sizes."""
    # A funnel's first step is the more frequent label.
    tasks = data.task_names[::-1] if getattr(models, name).funnel else data.task_names
    sizes = {"tower_dnn_units_lists": TOWERS, **sizes}
    model = getattr(models, name)(data.feature_columns, task_names=tasks, **sizes)
    model.compile("adam")
    return model


# %%
def twin(parameters: int, data):
    """Build the MMoE whose number of dense parameters comes nearest."""
    one, two = (dense_parameters(build("MMoE", data, num_experts=n, **EXPERTS)) for n in (1, 2))
    experts = max(1, 1 + round((parameters - one) / (two - one)))
    return build("MMoE", data, num_experts=experts, **EXPERTS)


# %%
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(SIZES), choices=SIZES)
    parser.add_argument("--repeats", type=positive, default=5)
    parser.add_argument("--rows", type=positive, help="the first rows only (default: all)")
    args = parser.parse_args()

    data = load_census_income(group=1, encoder={"encoding": None})
    x = {name: values[: args.rows] for name, values in data.train[0].items()}
    y = {n: v[: args.rows] for n, v in zip(data.task_names, data.train[1], strict=True)}
    rows = len(y[data.task_names[0]])
    table = []
    for name in args.models:
        model = build(name, data, **SIZES[name])
        pair = [model, twin(dense_parameters(model), data)]
        rates: list[list[float]] = [[], []]
        for repeat in range(args.repeats + 1):  # the first compiles
            for one, rate in zip(pair, rates, strict=True):
                start = time.perf_counter()
                one.fit(x, y, batch_size=BATCH, verbose=0)
                if repeat:
                    rate.append(rows / (time.perf_counter() - start))
        own, other = map(statistics.median, rates)
        shares = [a / b for a, b in zip(*rates, strict=True)]
        table.append(
            [
                name,
                f"{dense_parameters(model):,}",
                f"{own / 1000:.0f}k",
                f"{dense_parameters(pair[1]):,}",
                f"{other / 1000:.0f}k",
                f"{statistics.median(shares):.2f} ({min(shares):.2f}-{max(shares):.2f})",
            ]
        )
        print(f"{name}: {table[-1][-1]}", flush=True)
    header = ["model", "dense parameters", "rows/s", "MMoE's", "its rows/s", "ratio (range)"]
    print(f"\n{keras.backend.backend()}, {rows:,} rows, {versions()}\n")
    print(pd.DataFrame(table, columns=header).to_string(index=False))


# %%
if __name__ == "__main__":
    main()
