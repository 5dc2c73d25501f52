"""The settings of a TableEncoder's columns, and their checks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from mtl.data.raw import KINDS, CategoricalColumn, NumericColumn, RawColumn

# Those that may be given for all columns at once, and their checks.
SETTINGS = {
    key: check
    for key, (_, check) in {**CategoricalColumn.options, **NumericColumn.options}.items()
    if key != "hash"
}


def check_distinct(names: list[str]) -> None:
    """Raise unless there are names, of columns or of the inputs that they become, all different."""
    lists = ", ".join(f"`{kind.argument}`" for kind in KINDS)
    if not names:
        raise ValueError(f"{lists} should name a column. Received: none.")
    for name, count in Counter(names).items():
        if count > 1:
            raise ValueError(f"{lists} should name each column once. Received: {name!r} twice")


def check_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of all columns, each checked."""
    return {key: SETTINGS[key](key, value) for key, value in settings.items()}


def settings_by_column(
    kind: type[RawColumn], columns: Any, names: Iterable[str], common: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Return the settings of each column of a kind: its own, the common ones, or the defaults.

    Args:
        kind: subclass of `RawColumn`.
        columns: what the user listed: names, or a dict from name to settings.
        names: list of str. The names.
        common: dict. Settings of all columns that have such a one.
    """
    own = columns if isinstance(columns, Mapping) else {}
    defaults = {key: common.get(key, default) for key, (default, _) in kind.options.items()}
    settings = {}
    for name in names:
        chosen = own.get(name, {})
        if not isinstance(chosen, Mapping):
            raise TypeError(
                f"`{kind.argument}[{name!r}]` should be a dict of settings. Received: {chosen!r}"
            )
        for key in chosen:
            if key not in defaults:
                raise ValueError(
                    f"`{kind.argument}[{name!r}]` should have settings out of {list(defaults)}. "
                    f"Received: {key!r}"
                )
        settings[name] = {
            key: kind.options[key][1](f"{key} of {name}", value)
            for key, value in {**defaults, **chosen}.items()
        }
    return settings


def settings_with_shared(
    name: str, settings: dict[str, Any], columns: Mapping[str, RawColumn]
) -> dict[str, Any]:
    """Return a column's settings, with those of the column whose vocabulary it shares, if it does.

    Raises:
        ValueError: there is no such categorical column.
    """
    shared = settings.get("vocabulary")
    if shared is None:
        return settings
    if type(columns.get(shared)) is not CategoricalColumn:
        known = [n for n, column in columns.items() if type(column) is CategoricalColumn]
        raise ValueError(
            f"`vocabulary of {name}` should be one of the categorical columns {known}. "
            f"Received: {shared!r}"
        )
    return {**settings, **columns[shared].settings}


def among(config: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """Return those entries of a dict that have one of the keys."""
    return {key: config[key] for key in keys if key in config}
