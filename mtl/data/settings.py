"""The settings of a TableEncoder's columns, and their checks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mtl import checks
from mtl.data.scaler import SCALINGS
from mtl.encodings import BY_NAME


def _encoding(name: str, value: Any) -> str | None:
    if value is not None and value not in tuple(BY_NAME):
        raise ValueError(f"`{name}` should be None or one of {tuple(BY_NAME)}. Received: {value!r}")
    return value  # type: ignore[no-any-return]


OF_CATEGORICAL: dict[str, Callable[[str, Any], Any]] = {
    "embedding_dim": checks.positive_int,
    "min_count": checks.positive_int,
}
OF_NUMERIC: dict[str, Callable[[str, Any], Any]] = {
    "scaling": checks.one_of(*SCALINGS),
    "encoding": _encoding,
    "bins": checks.positive_int,
}
SETTINGS = {**OF_CATEGORICAL, **OF_NUMERIC}  # and their checks


def check_settings(where: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings, each checked; `where` says in errors whose they are."""
    return {key: SETTINGS[key](f"{key}{where}", value) for key, value in settings.items()}


def settings_by_column(
    argument: str, columns: Any, names: list[str], defaults: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Return the settings of each column: its own ones before the defaults."""
    own = columns if isinstance(columns, Mapping) else {}
    settings = {}
    for name in names:
        chosen = own.get(name, {})
        if not isinstance(chosen, Mapping):
            raise TypeError(
                f"`{argument}[{name!r}]` should be a dict of settings. Received: {chosen!r}"
            )
        for key in chosen:
            if key not in defaults:
                raise ValueError(
                    f"`{argument}[{name!r}]` should have settings out of {list(defaults)}. "
                    f"Received: {key!r}"
                )
        settings[name] = check_settings(f" of {name}", {**defaults, **chosen})
    return settings


def among(config: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """Return those entries of a dict that have one of the keys."""
    return {key: config[key] for key in keys if key in config}
