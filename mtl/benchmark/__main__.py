"""`python -m mtl.benchmark`: models x seeds x balancers on one data set, as a table.

    python -m mtl.benchmark census-income --group 1 --models all --seeds 5
    python -m mtl.benchmark --table my.parquet --config my.toml
    python -m mtl.benchmark tune census-income --group 1 --model PLE --trials 50
    python -m mtl.benchmark report benchmark/census-income-1-default.jsonl
    python -m mtl.benchmark verify

Results are appended to a file, one line per run. A command that was killed goes on where it
stopped when it is given again, and finished runs aren't repeated.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from inspect import signature
from pathlib import Path
from typing import Any

import keras

from mtl.balancing import BY_NAME
from mtl.benchmark import boosted, config, report, verify
from mtl.benchmark.command import positive
from mtl.benchmark.grid import Cell, Grid, read
from mtl.benchmark.recipes import (
    ADULT,
    CENSUS_INCOME,
    CENSUS_INCOME_3,
    FUNNEL,
    KUAIRAND,
    OWN,
    REGRESSIONS,
    Recipe,
    zoo,
)
from mtl.data import (
    MultiTaskData,
    load_adult,
    load_census_income,
    load_kuairand,
    make_funnel,
    make_related_regressions,
)
from mtl.data.files import atomic_path
from mtl.data.protocol import PROTOCOLS


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    table = any(argument.split("=")[0] == "--table" for argument in given)
    if table and given[0] not in (*_DATA_SETS, "table", "tune"):
        given.insert(0, "table")
    args = _parser().parse_args(given)
    try:
        args.run(args)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.exit(f"mtl.benchmark: error: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mtl.benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="data set or command")
    _add_data_sets(commands, _add_grid, _compare)
    tune = commands.add_parser("tune", help="search a model's sizes and training settings")
    _add_data_sets(tune.add_subparsers(required=True, metavar="data set"), _add_search, _tune)
    again = commands.add_parser("report", help="tables and plots of results, again")
    again.add_argument("results", type=Path, nargs="+", help="files of results")
    again.set_defaults(run=_report)
    check = commands.add_parser("verify", help="some runs of the tables, against what they gave")
    check.add_argument("--expected", type=Path, default=verify.EXPECTED, help="a TOML file of runs")
    check.set_defaults(run=_verify)
    return parser


_COMMON = ("click", "long_view", "like", "profile_enter")
_FEEDBACK = {
    "four": _COMMON,
    "seven": (*_COMMON, "comment", "follow", "forward"),
    "funnel": ("click", "click_and_long_view"),
}


def _census_income(args: argparse.Namespace) -> Recipe:
    base = CENSUS_INCOME_3 if args.group == 3 else CENSUS_INCOME
    return config.tuned(f"census-income-{args.group}", base) if args.protocol == "default" else base


def _kuairand(args: argparse.Namespace) -> Recipe:
    recipe = config.tuned("kuairand", KUAIRAND)
    return recipe.with_funnel((0, 1)) if args.tasks == "funnel" else recipe


# What each is, how its models are sized and trained, and what loads it: the loader's parameters
# tell its variants apart, and are options of the command line.
_DATA_SETS: dict[
    str, tuple[str, Callable[[argparse.Namespace], Recipe], Callable[..., MultiTaskData]]
] = {
    "census-income": (
        "UCI Census-income, two or three binary tasks",
        _census_income,
        load_census_income,
    ),
    "adult": ("UCI Adult, two binary tasks", lambda args: ADULT, load_adult),
    "kuairand": (
        "KuaiRand-Pure, a recommender's log: four or seven kinds of feedback, or a funnel",
        _kuairand,
        lambda tasks, encoder: load_kuairand(tasks=_FEEDBACK[tasks], encoder=encoder),
    ),
    "funnel": (
        "synthetic impressions, clicks and conversions",
        lambda args: FUNNEL,
        lambda rows: make_funnel(rows),
    ),
    "related-regressions": (
        "synthetic: the MMoE paper's two regressions",
        lambda args: REGRESSIONS,
        lambda rows, cosine: make_related_regressions(rows, cosine=cosine),
    ),
}
_OPTIONS: dict[str, dict[str, Any]] = {
    "group": {"type": int, "default": 1, "choices": (1, 2, 3), "help": "of tasks"},
    "protocol": {"default": "default", "choices": PROTOCOLS},
    "tasks": {"default": "four", "choices": tuple(_FEEDBACK), "help": "of KuaiRand"},
    "rows": {"type": positive, "default": 100_000, "help": "default: 100,000"},
    "cosine": {"type": float, "default": 0.5, "help": "relatedness, -1 to 1"},
}


def _add_data_sets(
    commands: Any,
    add_options: Callable[[argparse.ArgumentParser], None],
    run: Callable[[argparse.Namespace], None],
) -> None:
    for name in (*_DATA_SETS, "table"):
        about = _DATA_SETS.get(name, ("a table of your own: --table and --config",))[0]
        command = commands.add_parser(name, help=about)
        _add_data(command, name)
        add_options(command)
        command.set_defaults(run=run, data_set=name)


def _add_data(command: argparse.ArgumentParser, name: str) -> None:
    if name == "table":
        command.add_argument("--table", type=Path, required=True, help=".parquet or .csv")
    else:
        for option in signature(_DATA_SETS[name][2]).parameters:
            if option in _OPTIONS:
                command.add_argument(f"--{option}", **_OPTIONS[option])
    command.add_argument(
        "--config",
        type=Path,
        nargs="+",
        default=[],
        required=name == "table",
        help="TOML files, read as one: sizes and training settings"
        + (", columns, tasks and split" if name == "table" else ""),
    )
    command.add_argument("--output", type=Path, default=Path("benchmark"), help="folder of results")


def _add_grid(command: argparse.ArgumentParser) -> None:
    command.add_argument("--models", nargs="+", default=["all"], choices=("all", *zoo()))
    command.add_argument("--seeds", type=positive, default=5, help="number of seeds (default: 5)")
    command.add_argument(
        "--balancers", nargs="+", default=["none"], choices=("none", *BY_NAME), help="default: none"
    )
    command.add_argument("--epochs", type=positive, help="upper limit of epochs")
    command.add_argument("--verbose", action="store_true", help="a line per epoch")


def _add_search(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", required=True, choices=list(zoo()))
    command.add_argument("--trials", type=positive, default=50, help="default: 50")
    command.add_argument("--epochs", type=positive, help="upper limit of epochs")
    command.add_argument("--storage", help="URL of the study (default: an SQLite file in --output)")


def _load(args: argparse.Namespace) -> tuple[dict[str, Any], Callable[[], MultiTaskData], Recipe]:
    """Return what the data set is, what loads it, and its recipe."""
    file = config.read(*args.config)
    if args.data_set == "table":
        return _load_table(args, file)
    _, recipe_of, load = _DATA_SETS[args.data_set]
    recipe = config.recipe(file, recipe_of(args))
    file.close()
    known = {**vars(args), "encoder": recipe.encoder}
    options = {name: known[name] for name in signature(load).parameters}
    return {"dataset": args.data_set, **options}, partial(load, **options), recipe


def _load_table(
    args: argparse.Namespace, file: config.Section
) -> tuple[dict[str, Any], Callable[[], MultiTaskData], Recipe]:
    """Return the same for a table of the user's own, which is loaded to check its configuration."""
    from mtl.benchmark.own_table import load_table

    if "encoder" in file:
        raise ValueError("`encoder` should be `columns` for a table. Received: an unknown key")
    recipe = config.recipe(file, OWN)
    loaded = load_table(args.table, file)
    funnel = config.funnel(file, loaded.task_names)
    file.close()
    content = b"".join(path.read_bytes() for path in (args.table, *args.config))
    name = {
        "dataset": "table",
        "table": args.table.name,
        "content": hashlib.sha256(content).hexdigest()[:16],
    }
    return name, lambda: loaded, recipe.with_funnel(funnel)


# Parts of a data set's name that its files share.
_NOT_IN_STEM = ("content", "encoder")


def _stem(name: dict[str, Any]) -> str:
    """Return what the files of a data set's results are called."""
    return "-".join(str(v) for key, v in name.items() if key not in _NOT_IN_STEM)


def _check_fit(argument: str, names: Sequence[str], recipe: Recipe) -> None:
    for name in names:
        if lack := recipe.lacks(name):
            raise ValueError(f"`{argument}` should hold {name} only with {lack}. Received: none")


def _compare(args: argparse.Namespace) -> None:
    name, load, recipe = _load(args)
    args.output.mkdir(parents=True, exist_ok=True)
    path = args.output / f"{_stem(name)}.jsonl"
    read(path)  # which tells before any training if it is something else
    data = load()
    possible = [model for model in zoo() if recipe.fits(model)]
    names = possible if "all" in args.models else list(dict.fromkeys(args.models))
    _check_fit("--models", names, recipe)
    _say_no_plot()  # now, not after hours
    lightgbm = boosted.available()
    if not lightgbm:
        print('without LightGBM\'s line: pip install "keras-mtl[bench]"', file=sys.stderr)
    grid = Grid(
        name,
        data,
        recipe.with_training(epochs=args.epochs),
        names,
        range(args.seeds),
        [None if b == "none" else b for b in dict.fromkeys(args.balancers)],
        lightgbm,
        path,
    )
    print(f"{data}\n{path}: {len(grid.records())} of {len(grid.cells)} runs are done", flush=True)
    progress = _Progress(len(grid.cells), len(grid.records()))
    grid.run(progress.started, args.verbose)
    progress.finished()
    _write(path, grid.records())


class _Progress:
    """A bar over the runs, with the time that is left."""

    def __init__(self, total: int, done: int) -> None:
        self._total, self._first, self._start = total, done, time.perf_counter()
        self._bar = keras.utils.Progbar(total, unit_name="run")

    def started(self, done: int, cell: Cell) -> None:
        """Show which run begins."""
        label = f"{cell.row}, seed {cell.seed}"
        if sys.stdout.isatty():
            self._bar.update(done)
            print(f"  {label}{' ' * 20}", end="", flush=True)
            return
        spent = time.perf_counter() - self._start
        new = done - self._first
        left = f", {spent / new * (self._total - done):.0f} s left" if new else ""
        print(f"[{done + 1}/{self._total}{left}] {label}", flush=True)

    def finished(self) -> None:
        """End the line."""
        if sys.stdout.isatty():
            self._bar.update(self._total)


def _write(path: Path, records: list[dict[str, Any]]) -> None:
    """Print the table, and write it and the plot beside the results."""
    print(f"\n{report.text_table(records)}\n\n{report.legend(records)}")
    tables = [
        report.markdown_table(records, metric)
        for metric in (None, *report.FURTHER)
        if metric is None or report.columns(records, metric)
    ]
    table = "\n\n".join([*tables, report.legend(records)]) + "\n"
    with atomic_path(path.with_suffix(".md")) as part:
        part.write_text(table, encoding="utf-8")
    written = [path, path.with_suffix(".md")]
    try:
        report.plot(records, path.with_suffix(".png"))
        written.append(path.with_suffix(".png"))
    except ModuleNotFoundError:
        pass  # said before
    print("Written: " + ", ".join(map(str, written)))


def _say_no_plot() -> None:
    try:
        config.extra("matplotlib", "plot")
    except ModuleNotFoundError as error:
        print(f"no plot: {error}", file=sys.stderr)


def _report(args: argparse.Namespace) -> None:
    _say_no_plot()
    for path in args.results:
        records = read(path)
        if not records:
            raise ValueError(f"{path} should be a file of results. Received: no results")
        _write(path, _latest(records))


def _verify(args: argparse.Namespace) -> None:
    @lru_cache(maxsize=1)  # runs of one command follow each other
    def load(command: str) -> tuple[MultiTaskData, Recipe]:
        _, load_data, recipe = _load(_parser().parse_args(command.split()))
        return load_data(), recipe

    wrong = 0
    for run, said, right in verify.verify(verify.read(args.expected), load):
        print(f"{run.command}, {run.model}, seed {run.seed}: {said}", flush=True)
        wrong += right is False
    if wrong:
        raise ValueError(f"{wrong} runs should give what they gave. Received: other scores")


def _latest(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what made each row's newest result alone: a file keeps what earlier recipes made."""

    def made_by(record: dict[str, Any]) -> list[Any]:
        return [record.get(key) for key in ("recipe", "backend", "label_scale", *_NOT_IN_STEM)]

    newest = {report.row_of(record): made_by(record) for record in records}
    return [r for r in records if made_by(r) == newest[report.row_of(r)]]


def _tune(args: argparse.Namespace) -> None:
    from mtl.benchmark.tune import tune

    name, load, recipe = _load(args)
    _check_fit("--model", [args.model], recipe)
    args.output.mkdir(parents=True, exist_ok=True)
    stem = _stem(name)
    tune(
        load(),
        recipe.with_training(epochs=args.epochs),
        args.model,
        args.trials,
        args.storage or f"sqlite:///{args.output / 'studies.db'}",
        f"{stem}-{args.model}",
        name,
        args.output / f"{stem}-{args.model}.toml",
    )


if __name__ == "__main__":
    main()
