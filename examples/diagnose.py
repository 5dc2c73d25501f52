"""What a PLE does inside, on Census-income: four tables, and a plot of each.

Expert utilisation (as in figure 8 of the PLE paper), the gates' entropy over the epochs, the angle
between the tasks' gradients, and whether each task is better off than in a model of its own.
Plots need matplotlib: pip install -e ".[plot]"
"""

# %%
import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before mtl, which loads TensorFlow

import mtl  # noqa: F401

# isort: split
import keras
import pandas as pd

from mtl.data import load_census_income
from mtl.data.dataset import take
from mtl.inspection import (
    GateMonitor,
    expert_utilization,
    gradient_conflict,
    negative_transfer,
    plot_expert_utilization,
    plot_gate_history,
    plot_gradient_conflict,
    plot_negative_transfer,
)
from mtl.models import PLE


# %%
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=20_000, help="training and test rows, each")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--output", type=Path, default=Path("output"), help="folder of the plots")
    args = parser.parse_args()
    try:  # now, not after minutes of training
        import matplotlib
    except ImportError:
        parser.error("plots need matplotlib: pip install 'keras-mtl[plot]'")
    matplotlib.use("Agg")  # files alone, no windows
    args.output.mkdir(parents=True, exist_ok=True)

    data = load_census_income(group=1)
    train, test = (take(*split, slice(args.rows)) for split in (data.train, data.test))
    sample = {name: values[:4096] for name, values in data.val[0].items()}
    options = {
        "task_names": data.task_names,
        "num_experts_specific": 4,
        "num_experts_shared": 4,
        "expert_dnn_units": [16],
        "tower_dnn_units_lists": [[8], [8]],
    }
    fit = {"batch_size": 512, "epochs": args.epochs}
    # On TensorFlow's CPU, XLA takes longer to compile than these runs take.
    jit_compile = False if keras.backend.backend() == "tensorflow" else "auto"
    compile = {"optimizer": keras.optimizers.Adam(0.01), "jit_compile": jit_compile}

    keras.utils.set_random_seed(args.seeds[0])
    model = PLE(data.feature_columns, seed=args.seeds[0], **options)
    model.compile(**compile)
    print(f"Training a PLE on {len(train[1][0]):,} rows for {args.epochs} epochs", flush=True)
    history = model.fit(*train, **fit, verbose=2, callbacks=[GateMonitor(sample)])

    print("Measuring its gates and gradients", flush=True)
    utilization = expert_utilization(model, test[0])
    conflict = gradient_conflict(model, *train, batch_size=512)
    runs = len(args.seeds) * (1 + len(data.task_names))
    print(f"Training {runs} models, of both tasks and of each alone", flush=True)
    transfer = negative_transfer(
        PLE, data.feature_columns, train, test,
        options=options, compile=compile, fit=fit, seeds=args.seeds, verbose=True,
    )  # fmt: skip

    gates = pd.DataFrame(history.history).filter(regex="^(gate_entropy|dead_experts)_")
    gates.index = pd.Index(history.epoch, name="epoch") + 1
    tables = {
        "Expert utilisation": utilization.pivot(
            index=["level", "expert"], columns="gate", values="mean"
        ),
        "Gates by epoch": gates.T,
        "Cosine of the tasks' gradients": conflict,
        "Multi-task against single-task": transfer.T,
    }
    for title, table in tables.items():
        print(f"\n{title}\n{table.round(4).to_string(na_rep='-')}")

    plot_expert_utilization(utilization, args.output / "expert_utilization.png")
    plot_gate_history(history, args.output / "gate_history.png")
    plot_gradient_conflict(conflict, args.output / "gradient_conflict.png")
    plot_negative_transfer(transfer, args.output / "negative_transfer.png")
    print(f"\nFour plots are in {args.output}.")


# %%
if __name__ == "__main__":
    main()
