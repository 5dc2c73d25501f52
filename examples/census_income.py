"""Train the model zoo on the UCI Census-income data and print the test AUCs.

Group 1 predicts income over 50K and never-married; group 2 education at least college and
never-married. The default protocol fits encoders on training rows only; the reference protocol
repeats how published tables were made.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # no notes on the CPU between the progress lines

from mtl.benchmark import CENSUS_INCOME, command
from mtl.data import load_census_income


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--group", type=int, default=1, choices=(1, 2), help="pair of tasks")
    args = parser.parse_args()
    recipe = CENSUS_INCOME
    if args.protocol == "default":
        recipe = recipe.with_training(epochs=10, patience=3)
    command.run(
        args,
        f"Census-income group {args.group}",
        lambda: load_census_income(args.group, args.protocol),
        recipe,
    )


if __name__ == "__main__":
    main()
