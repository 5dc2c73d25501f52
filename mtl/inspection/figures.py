"""Figures of matplotlib, which is an extra."""

from __future__ import annotations

from typing import Any


def pyplot() -> Any:
    """Return `matplotlib.pyplot`."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("Plots need matplotlib: pip install 'keras-mtl[plot]'") from error
    return plt


def saved(figure: Any, path: Any) -> Any:
    """Return a figure, written to a file if there is a path."""
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure
