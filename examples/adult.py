"""Compare the model zoo on the UCI Adult data and print the test AUCs.

The tasks are income over 50K and never-married. The files are downloaded on first use, or read
from MTL_DATA_HOME. The reference protocol has no validation rows: all five epochs count. The
results are those of `python -m mtl.benchmark adult`, and are kept in the same file: runs that are
in it aren't repeated.
"""

# %%
import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before mtl, which loads TensorFlow

from mtl.benchmark import ADULT, Grid, text_table
from mtl.benchmark.command import positive
from mtl.data import load_adult


# %%
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(ADULT.sizes), choices=ADULT.sizes)
    parser.add_argument("--protocol", default="default", choices=("default", "reference"))
    parser.add_argument("--epochs", type=positive, help="at most (recipe: 5)")
    parser.add_argument("--seed", nargs="+", type=int, default=[0], help="one run per seed")
    parser.add_argument("--output", type=Path, default=Path("benchmark"), help="folder of results")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)

    grid = Grid(
        name={"dataset": "adult", "protocol": args.protocol, "encoder": ADULT.encoder},
        data=load_adult(args.protocol),
        recipe=ADULT.with_training(epochs=args.epochs),
        model_names=args.models,
        seeds=args.seed,
        balancers=[None],
        lightgbm=False,
        path=args.output / f"adult-{args.protocol}.jsonl",
    )

    def started(done, cell) -> None:
        print(f"[{done + 1}/{len(grid.cells)}] {cell.row}, seed {cell.seed}", flush=True)

    grid.run(started, verbose=True)
    print(f"\nAdult, {args.protocol} protocol\n\n{text_table(grid.records())}")
    if "ESMM" in args.models:
        print("\nThese tasks are no funnel: ESMM's row only shows that it runs.")


# %%
if __name__ == "__main__":
    main()
