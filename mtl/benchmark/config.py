"""Configurations: TOML files whose every key is read, checked and named in errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

from mtl import checks
from mtl.benchmark.recipes import Recipe, zoo
from mtl.checks import one_of
from mtl.data.settings import SETTINGS

_REQUIRED, _ABSENT = object(), object()


class Section:
    """A table of a TOML file. `close` raises for the keys that nobody took.

    Args:
        values: dict. The table.
        where: str. Its name in error messages; empty for the whole file.
    """

    def __init__(self, values: Any, where: str = "") -> None:
        if not isinstance(values, Mapping):
            raise ValueError(f"`{where}` should be a table. Received: {values!r}")
        self.where = where
        self._values = dict(values)
        self._known: list[str] = []

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def name(self, key: str) -> str:
        """Return a key's full name."""
        return f"{self.where}.{key}" if self.where else key

    def take(self, key: str, check: Callable[[str, Any], Any], default: Any = _REQUIRED) -> Any:
        """Return a checked value.

        Args:
            key: str.
            check: function of full name and value to the value, which raises if it is wrong.
            default: what an absent key means. Defaults to an error.

        Raises:
            ValueError: the key is absent, or its value wrong.
        """
        self._known.append(key)
        if key not in self._values:
            if default is _REQUIRED:
                raise ValueError(f"`{self.name(key)}` should be given. Received: no such key")
            return default
        try:
            return check(self.name(key), self._values.pop(key))
        except TypeError as error:
            raise ValueError(str(error)) from error

    def section(self, key: str) -> Section:
        """Return a table within; an empty one if it is absent."""
        self._known.append(key)
        return Section(self._values.pop(key, {}), self.name(key))

    def rest(self) -> dict[str, Any]:
        """Return all that nobody took, and regard it as taken."""
        rest, self._values = self._values, {}
        return rest

    def close(self) -> None:
        """Raise a ValueError if a key is left that nobody took."""
        for key in self._values:
            raise ValueError(
                f"`{self.name(key)}` should be one of {sorted(set(self._known))}. "
                "Received: an unknown key"
            )


def read(*paths: str | Path) -> Section:
    """Read TOML files as one.

    Args:
        *paths: str or Path. Where two files have the same key, the later one holds.

    Returns:
        The files as a `Section`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: one is no TOML.
        ModuleNotFoundError: Python 3.10 without the extra `bench`.
    """
    values: dict[str, Any] = {}
    for path in paths:
        values = _merged(values, _parsed(path))
    return Section(values)


def _parsed(path: str | Path) -> Any:
    try:
        toml: Any = import_module("tomllib")
    except ModuleNotFoundError:
        toml = extra("tomli", "bench")
    try:
        return toml.loads(Path(path).read_text(encoding="utf-8"))
    except (toml.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} should be a TOML file. Received: {error}") from error


def _merged(first: Any, second: Any) -> Any:
    """Return two tables as one; of two other values the second."""
    if not (isinstance(first, dict) and isinstance(second, dict)):
        return second
    both = {key: _merged(first[key], second[key]) for key in first.keys() & second.keys()}
    return {**first, **second, **both}


def extra(module: str, name: str) -> Any:
    """Import an optional package, or raise a ModuleNotFoundError that names the extra."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'{module} is not installed: pip install "keras-mtl[{name}]"'
        ) from error


@contextmanager
def within(section: str) -> Iterator[None]:
    """Turn an error about a value of the configuration into one that names its table."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ValueError(f"[{section}] {error}") from error


def text(name: str, value: Any) -> str:
    """Return a non-empty string, or raise."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"`{name}` should be a non-empty string. Received: {value!r}")
    return value


def boolean(name: str, value: Any) -> bool:
    """Return a bool, or raise."""
    if not isinstance(value, bool):
        raise ValueError(f"`{name}` should be true or false. Received: {value!r}")
    return value


def anything(name: str, value: Any) -> Any:
    """Return the value: whoever gets it checks it."""
    return value


def _names(name: str, value: Any) -> list[str]:
    """Return a list of names, or raise."""
    return [text(name, entry) for entry in checks.entries(name, value, "a list of names")]


# What the benchmark itself tells a factory.
_OURS = {"dnn_feature_columns", "num_tasks", "task_names", "task_types", "seed", "name"}
_TRAINING: dict[str, Callable[[str, Any], Any]] = {
    "learning_rate": checks.positive_float,
    "batch_size": checks.positive_int,
    "epochs": checks.positive_int,
    "patience": checks.positive_int,
    "monitor": one_of("loss", "score"),
    "optimizer": one_of("adam", "lazy_adam"),
    "schedule": one_of("constant", "cosine"),
    "warmup": checks.rate,
    "weight_decay": checks.non_negative_float,
    "ema": checks.rate,
    "refit": boolean,
}
_TREES: dict[str, Callable[[str, Any], Any]] = {
    "num_leaves": checks.positive_int,
    "learning_rate": checks.positive_float,
    "rounds": checks.positive_int,
    "patience": checks.positive_int,
    "categorical": boolean,
    "min_data_in_leaf": checks.positive_int,
    "feature_fraction": checks.positive_share,
    "bagging_fraction": checks.positive_share,
}


def recipe(config: Section, base: Recipe) -> Recipe:
    """Read what a file says of encoders, networks and trees.

    That is `[encoder]`, `[training]`, `[networks]`, `[trees]`, `[models.NAME]` and
    `[models.NAME.training]`.

    Args:
        config: the file; its other keys are left alone.
        base: what holds where the file is silent.

    Returns:
        The recipe.

    Raises:
        ValueError: an unknown key, or a wrong value.
    """
    encoder = settings(config.section("encoder"), SETTINGS)
    training = _training(config.section("training"))
    networks = settings(config.section("networks"), {"leave_out": _names})
    trees = settings(config.section("trees"), _TREES)
    every = config.section("models")
    sizes, own = dict(base.sizes), {}
    factories = zoo()
    for name, factory in factories.items():
        if name not in every:
            continue
        section = every.section(name)
        own[name] = _training(section.section("training"))
        options = dict.fromkeys(signature(factory).parameters.keys() - _OURS, anything)
        sizes[name] = {**sizes.get(name, {}), **settings(section, options)}
    for key in every.rest():
        raise ValueError(
            f"`models.{key}` should be one of {tuple(factories)}. Received: an unknown model"
        )
    result = base.with_training(**training)
    before = result.own_training
    return replace(
        result,
        sizes=sizes,
        own_training={**before, **{m: {**before.get(m, {}), **s} for m, s in own.items()}},
        encoder={**result.encoder, **encoder},
        trees={**result.trees, **trees},
        **networks,
    )


def tuned(data_set: str, base: Recipe) -> Recipe:
    """Return the recipe that was found for a data set by its validation rows.

    Args:
        data_set: str. "census-income-1", "-2" or "-3".
        base: what holds where the configuration is silent.
    """
    return recipe(read(Path(__file__).parent / "tuned" / f"{data_set}.toml"), base)


def _training(section: Section) -> dict[str, Any]:
    own = settings(section, _TRAINING)
    if own.get("optimizer") == "lazy_adam" and own.get("ema"):
        raise ValueError(
            f"`{section.name('ema')}` should be 0 with lazy_adam. Received: {own['ema']}"
        )
    return own


def settings(
    section: Section, checks_by_key: Mapping[str, Callable[[str, Any], Any]]
) -> dict[str, Any]:
    """Return the checked settings that a section holds; it may hold no others."""
    taken = {key: section.take(key, check, _ABSENT) for key, check in checks_by_key.items()}
    section.close()
    return {key: value for key, value in taken.items() if value is not _ABSENT}


def funnel(config: Section, task_names: Sequence[str]) -> tuple[int, int] | None:
    """Read `[funnel]`, the names of its two steps, as positions among the tasks.

    Raises:
        ValueError: an unknown key, or a task that isn't there.
    """
    if "funnel" not in config:
        return None
    section = config.section("funnel")
    click, conversion = (section.take(key, one_of(*task_names)) for key in ("click", "conversion"))
    section.close()
    if click == conversion:
        raise ValueError(
            f"`funnel.conversion` should be another task than the click. Received: {conversion!r}"
        )
    return task_names.index(click), task_names.index(conversion)
