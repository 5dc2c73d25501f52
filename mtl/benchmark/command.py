"""What the command lines of the example scripts share."""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras

from mtl.benchmark.recipes import MODELS, Recipe
from mtl.benchmark.report import text_table
from mtl.benchmark.runs import OPTIMIZERS, compare, types_of
from mtl.data import MultiTaskData
from mtl.data.files import atomic_path


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that every comparison has."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--protocol", default="default", choices=("default", "reference"))
    parser.add_argument("--epochs", type=positive, help="upper limit of epochs")
    parser.add_argument("--patience", type=positive, help="epochs without a better validation loss")
    parser.add_argument("--batch-size", type=positive, help="rows per step")
    parser.add_argument("--optimizer", default="adam", choices=OPTIMIZERS)
    parser.add_argument("--seed", nargs="+", type=int, default=[0], help="one run per seed")
    parser.add_argument("--json", metavar="FILE", help="write the results to this file, too")
    return parser


def run(
    args: argparse.Namespace, title: str, load: Callable[[], MultiTaskData], recipe: Recipe
) -> None:
    """Load, train, print the table and, if asked, write the results as JSON.

    Args:
        args: what `parser` parsed.
        title: str. What is compared on, for the reader.
        load: function that loads the data.
        recipe: sizes and training settings, which `args` may override.

    Raises:
        FileNotFoundError: the folder of `--json` doesn't exist; before any training.
    """
    check_folder("--json", args.json)
    start = time.perf_counter()
    recipe = recipe.with_training(
        epochs=args.epochs,
        patience=args.patience,
        batch_size=args.batch_size,
        optimizer=args.optimizer,
    )
    data = load()
    rows = len(data.train[1][0])
    print(f"{title}: {rows:,} training rows, {len(data.feature_columns)} features", flush=True)
    results = [
        {"types": types_of(data), **result.to_json()}
        for result in compare(data, recipe, args.models, args.seed)
    ]
    print(f"\n{title}, {args.protocol} protocol, {_environment()}\n")
    print(text_table(results))
    if "ESMM" in args.models:
        print("\nThese tasks are no funnel: ESMM's row only shows that it runs.")
    print(f"\n{time.perf_counter() - start:.0f} s in all")
    if args.json:
        _write_json(args.json, {"title": title, "arguments": vars(args), **_versions()}, results)


def check_folder(option: str, path: str | Path | None) -> None:
    """Raise a FileNotFoundError if a file that is to be written, if any, has no folder."""
    if path and not Path(path).absolute().parent.is_dir():
        raise FileNotFoundError(f"`{option}` should be in an existing folder. Received: {path}")


def _write_json(path: str, head: dict[str, Any], results: list[dict[str, Any]]) -> None:
    content = json.dumps({**head, "results": results}, indent=2)
    with atomic_path(Path(path)) as part:
        part.write_text(content + "\n", encoding="utf-8")


def _versions() -> dict[str, str]:
    backend = keras.backend.backend()
    packages = ("keras-mtl", "keras", backend)
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def _environment() -> str:
    return ", ".join(f"{name} {number}" for name, number in _versions().items())


def positive(text: str) -> int:
    """Return a positive integer of a command line, or raise argparse's error."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"should be a positive integer. Received: {text}")
    return value
