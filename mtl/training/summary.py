"""A summary that stays short with many inputs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

_FEW = 6  # layers that are shown one by one
_LISTS = "Connected to"  # the column that lists layers


def fold_inputs(text: str) -> str:
    """Return a table of `keras.Model.summary` with many inputs as one row, and not listed again.

    Args:
        text: str. What `summary` prints. A table of another form comes back as it is.
    """
    lines = text.splitlines()
    starts = [i + 1 for i, line in enumerate(lines) if line[:1] in ("┡", "├")]
    ends = [i for i, line in enumerate(lines) if line[:1] in ("├", "└")]
    if len(starts) != len(ends):
        return text
    rows = [lines[start:end] for start, end in zip(starts, ends, strict=True)]
    inputs = [row for row in rows if "".join(_cells(row, 0)).endswith("(InputLayer)")]
    if len(inputs) <= _FEW:
        return text
    headers = [cell.strip() for cell in lines[starts[0] - 2].split("┃")[1:-1]]
    lists = headers.index(_LISTS) if _LISTS in headers else None
    first = [
        _with(inputs[0][0], dict.fromkeys(range(len(headers)), "") | {0: f"{len(inputs)} inputs"})
    ]
    folded = [first, *(_without_list(row, lists) for row in rows if row not in inputs)]
    table = itertools.chain.from_iterable([lines[ends[0]], *row] for row in folded)
    return "\n".join([*lines[: starts[0]], *itertools.islice(table, 1, None), *lines[ends[-1] :]])


def _cells(row: list[str], column: int) -> list[str]:
    return [line.split("│")[1:-1][column].strip() for line in row]


def _with(line: str, texts: Mapping[int, str]) -> str:
    """Return a line with other texts in some of its cells."""
    cells = line.split("│")[1:-1]
    for column, text in texts.items():
        cells[column] = f" {text}".ljust(len(cells[column]))
    return f"│{'│'.join(cells)}│"


def _without_list(row: list[str], column: int | None) -> list[str]:
    """Return a row in which a column counts layers, if it would list many."""
    listed = [] if column is None else " ".join(_cells(row, column)).split(", ")
    if column is None or len(listed) <= _FEW:
        return row
    texts = itertools.chain([f"{len(listed)} layers"], itertools.repeat(""))
    lines = [_with(line, {column: text}) for line, text in zip(row, texts, strict=False)]
    return [line for line in lines if line.strip("│ ")]
