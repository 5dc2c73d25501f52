"""`python -m mtl.serving`: scores of raw rows in files, by a pipeline that was saved.

    python -m mtl.serving score pipeline log.parquet -o scores.parquet
    python -m mtl.serving score pipeline log/*.csv -o scores --task click --columns user item

A command that was killed goes on with the files that are left when it is given again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mtl.serving.scoring import score_files


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    args = _parser().parse_args(arguments)
    try:
        score_files(
            args.pipeline, args.inputs, args.output, args.task, args.columns, int(not args.quiet)
        )
    except (ValueError, TypeError, OSError, ImportError) as error:
        sys.exit(f"mtl.serving: error: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mtl.serving",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    score = commands.add_parser("score", help="score Parquet and CSV files")
    score.add_argument("pipeline", type=Path, help="a folder that Pipeline.save wrote")
    score.add_argument("inputs", type=Path, nargs="+", help="Parquet or CSV files, or folders")
    score.add_argument("-o", "--output", type=Path, required=True, help="a .parquet, or a folder")
    score.add_argument("--task", action="append", help="a task to score, several times; all if not")
    score.add_argument("--columns", nargs="+", default=[], help="columns of the input to keep")
    score.add_argument("--quiet", action="store_true", help="show no progress")
    return parser


if __name__ == "__main__":
    main()
