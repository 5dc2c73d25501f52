"""Whether the code still gives what its tables say: some of their runs, again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import keras

from mtl import checks
from mtl.benchmark import config
from mtl.benchmark.recipes import Recipe, zoo
from mtl.benchmark.runs import train
from mtl.data import MultiTaskData

EXPECTED = Path(__file__).parent / "expected.toml"


class Run(NamedTuple):
    """One run, and what it should score.

    Attributes:
        command: str. The data set and its options, as on the command line.
        model: str.
        seed: int.
        auc: dict by task of floats. What was scored on test rows when the table was made.
        tolerance: float. How far off a score may be: what seeds differ by, and backends.
    """

    command: str
    model: str
    seed: int
    auc: dict[str, float]
    tolerance: float


def read(path: Path) -> list[Run]:
    """Read the runs of a TOML file, a table each.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something else.
    """
    file = config.read(path)
    runs = []
    for name, values in file.rest().items():
        section = config.Section(values, name)
        runs.append(
            Run(
                section.take("command", config.text),
                section.take("model", checks.one_of(*zoo())),
                section.take("seed", checks.non_negative_int),
                section.section("auc").rest(),
                section.take("tolerance", checks.positive_float),
            )
        )
        section.close()
    if not runs:
        raise ValueError(f"{path} should hold runs. Received: none")
    return runs


def verify(
    runs: list[Run], load: Callable[[str], tuple[MultiTaskData, Recipe]]
) -> Iterator[tuple[Run, str, bool | None]]:
    """Do each run, and tell what it scored.

    Args:
        runs: list of `Run`.
        load: function of a command to the data set and its recipe. It raises a FileNotFoundError
            where data that nobody may hand on isn't there.

    Yields:
        The run; what is to be said of it; and whether all scores are within its tolerance, or
        None if it couldn't be done without its data.
    """
    for run in runs:
        begin = time.perf_counter()
        try:
            data, recipe = load(run.command)
        except FileNotFoundError as error:
            yield run, f"left out: {error}", None
            continue
        _, result = train(data, recipe, run.model, run.seed, verbose=False)
        keras.backend.clear_session()
        found = {task: result.metrics[task]["auc"] for task in run.auc}
        off = {task: not abs(found[task] - run.auc[task]) <= run.tolerance for task in run.auc}
        said = ", ".join(
            f"{task} {found[task]:.4f} ({'not ' if off[task] else ''}within {run.tolerance:g} of "
            f"{run.auc[task]:.4f})"
            for task in run.auc
        )
        yield run, f"{said}, {time.perf_counter() - begin:.0f} s", not any(off.values())
