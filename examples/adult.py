"""Train the model zoo on the UCI Adult data and print the test AUCs.

The tasks are income over 50K and never-married. The files are downloaded on first use, or read
from MTL_DATA_HOME. With the reference protocol there are no validation rows: five epochs.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from mtl.benchmark import ADULT, command
from mtl.data import load_adult


def main() -> None:
    args = command.parser(__doc__).parse_args()
    command.run(args, "Adult", lambda: load_adult(args.protocol), ADULT)


if __name__ == "__main__":
    main()
