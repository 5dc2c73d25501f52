"""A grid of runs, model x balancer x seed, whose results are kept line by line.

A killed grid goes on where it stopped: each finished run is a line of a file, under a key that
tells what was run. Runs with another recipe, data set or backend have other keys.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import keras

from mtl.benchmark import boosted
from mtl.benchmark.processes import versions
from mtl.benchmark.recipes import Recipe
from mtl.benchmark.report import BOOSTED, SINGLE, row_name
from mtl.benchmark.runs import Result, build, given, train
from mtl.data import MultiTaskData
from mtl.inspection.transfer import alone
from mtl.models import SharedBottom
from mtl.training.pace import count_parameters


@dataclass(frozen=True)
class Cell:
    """One run.

    Attributes:
        model: str. Name of a factory, "single-task" or "LightGBM".
        seed: int.
        balancer: str or None.
    """

    model: str
    seed: int
    balancer: str | None = None

    @property
    def row(self) -> str:
        """The table's row that the run belongs to."""
        return row_name(self.model, self.balancer)


class Grid:
    """Runs of one data set, and the file of their results.

    Args:
        name: dict. What the data set is, such as `{"dataset": "census-income", "group": 1}`.
        data: the data set.
        recipe: sizes and training settings.
        model_names: list of factories' names.
        seeds: list of int.
        balancers: list of str and None. Each is a row of every model.
        lightgbm: bool. Whether the grid has a row for LightGBM.
        path: Path. The file of results, a JSON object per line.

    Raises:
        ValueError: the file holds something else, or a recipe doesn't fit.
    """

    def __init__(
        self,
        name: Mapping[str, Any],
        data: MultiTaskData,
        recipe: Recipe,
        model_names: Sequence[str],
        seeds: Sequence[int],
        balancers: Sequence[str | None],
        lightgbm: bool,
        path: Path,
    ) -> None:
        self._name, self._data, self._recipe, self._path = dict(name), data, recipe, path
        # As large as the largest: a task of its own doesn't lose for being smaller.
        self._single_size = max(
            count_parameters(build(given(data, recipe), recipe, model, 0).trainable_variables)
            for model in model_names
        )
        keras.backend.clear_session()
        self.cells = [
            Cell(model, seed, balancer)
            for seed in seeds
            for model in (*model_names, SINGLE)
            for balancer in ([None] if model == SINGLE else balancers)
        ]
        if lightgbm:
            drawn = boosted.draws(self._trees)
            self.cells += [Cell(BOOSTED, seed) for seed in (seeds if drawn else seeds[:1])]
        self._records = {record["key"]: record for record in read(path)}

    def pending(self) -> list[Cell]:
        """Return the runs that are still to do."""
        return [cell for cell in self.cells if self._key(cell) not in self._records]

    def records(self) -> list[dict[str, Any]]:
        """Return the results of this grid's runs, as far as they are done."""
        return [r for cell in self.cells if (r := self._records.get(self._key(cell)))]

    def run(self, started: Callable[[int, Cell], None], verbose: bool) -> None:
        """Do the runs that are still to do, and append each to the file.

        Args:
            started: function of the number of finished runs and the next one.
            verbose: bool. Whether to print a line per epoch.
        """
        for cell in self.pending():
            started(len(self.records()), cell)
            begin = time.perf_counter()
            result = self._run(cell, verbose)
            record = {
                "key": self._key(cell),
                **self._identity(cell),
                "types": {task.name: task.type for task in self._data.tasks},
                **asdict(result),
                "seconds": round(time.perf_counter() - begin, 2),
                "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                **_surroundings(),
            }
            _append(self._path, record)
            self._records[record["key"]] = record
            keras.backend.clear_session()

    def _run(self, cell: Cell, verbose: bool) -> Result:
        if cell.model == BOOSTED:
            return boosted.run(self._data, cell.seed, self._trees, self._recipe.training.refit)
        if cell.model == SINGLE:
            return self._single(cell.seed, verbose)
        return train(self._data, self._recipe, cell.model, cell.seed, cell.balancer, verbose)[1]

    def _single(self, seed: int, verbose: bool) -> Result:
        """Train a plain network per task, as large as the grid's largest model."""
        parts = []
        for k, recipe in enumerate(self._single_recipes):
            data = _one_task(self._data, k)
            parts.append(train(data, recipe, "SharedBottom", seed, None, verbose)[1])
        return Result(
            metrics={task: scores for part in parts for task, scores in part.metrics.items()},
            validation=self._data.val
            and {task: s for part in parts for task, s in (part.validation or {}).items()},
            epochs=max(part.epochs for part in parts),
            parameters=max(part.parameters for part in parts),
        )

    @cached_property
    def _single_recipes(self) -> list[Recipe]:
        data, sizes = self._data, self._recipe.sizes.get("SharedBottom", {})
        columns = given(data, self._recipe).feature_columns
        every = alone(SharedBottom, columns, sizes, data.tasks, self._single_size)
        keras.backend.clear_session()
        for own in every:  # which `build` adds
            for name in ("num_tasks", "task_names", "task_types"):
                del own[name]
        return [replace(self._recipe, sizes={"SharedBottom": own}) for own in every]

    @property
    def _trees(self) -> dict[str, Any]:
        return {**boosted.SETTINGS, **self._recipe.trees}

    def _identity(self, cell: Cell) -> dict[str, Any]:
        identity: dict[str, Any] = {**self._name, **asdict(cell)}
        if self._data.label_scale:  # which tells the results from those in other units
            identity["label_scale"] = self._data.label_scale
        if cell.model == BOOSTED:
            recipe = {**self._trees, "refit": self._recipe.training.refit}
            return identity | {"recipe": recipe}
        model = "SharedBottom" if cell.model == SINGLE else cell.model
        recipe = {
            "sizes": self._recipe.sizes.get(model, {}),
            "training": self._recipe.training_of(model).identity(),
        }
        if self._recipe.leave_out:
            recipe["leave_out"] = list(self._recipe.leave_out)
        if cell.model == SINGLE:
            recipe["as_large_as"] = self._single_size
        return identity | {"recipe": recipe, "backend": keras.backend.backend()}

    def _key(self, cell: Cell) -> str:
        content = json.dumps(self._identity(cell), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]


def read(path: Path) -> list[dict[str, Any]]:
    """Return the results in a file, none if there is no file.

    A last line without an end is what a killed run left half written: it counts as not written.

    Raises:
        ValueError: a line holds something else.
    """
    if not path.exists():
        return []
    *lines, _ = path.read_text(encoding="utf-8").split("\n")
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            record["key"], record["metrics"], record["model"]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{path}:{number} should be a result of mtl.benchmark. Received: {line[:80]}"
            ) from error
        records.append(record)
    return records


def _append(path: Path, record: Mapping[str, Any]) -> None:
    line = json.dumps(record, allow_nan=False) + "\n"
    with path.open("r+b" if path.exists() else "w+b") as file:
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)
        file.seek(whole)
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


def _one_task(data: MultiTaskData, k: int) -> MultiTaskData:
    """Return the data with task k alone."""

    def part(split: Any) -> Any:
        return split and (split[0], [split[1][k]])

    return MultiTaskData(
        data.feature_columns,
        [data.task_names[k]],
        [data.task_types[k]],
        part(data.train),
        part(data.val),
        part(data.test),
        label_scale={n: s for n, s in (data.label_scale or {}).items() if n == data.task_names[k]},
        groups=data.groups,
    )


def _surroundings() -> dict[str, Any]:
    """Return what else a result depends on: the versions, the commit and the machine."""
    return {
        "versions": {"python": platform.python_version(), **versions()},
        "commit": _commit(),
        "cores": os.cpu_count(),
    }


def _commit() -> str | None:
    """Return the commit of the clone that this file lies in, with a + if files have changed."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "") or None
