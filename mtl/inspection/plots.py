"""The plots of what the rest of this package measures; they read in greyscale, too."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from mtl.inspection.figures import pyplot, saved

_BAR = 0.2  # inches per expert
_GROUP = 1.0  # inches per group of experts, at least
_CHARACTER = 0.08  # inches of a character
_CELL = 0.7  # inches of a cell in a map
_FEW_TASKS = 3  # whose pairs are no more than they
_FILLS = (
    {"facecolor": "0.9", "hatch": "////"},
    {"facecolor": "0.55"},
    {"facecolor": "1.0", "hatch": "...."},
    {"facecolor": "0.75", "hatch": "xxxx"},
)
_LINES = list(itertools.product(("0", "0.55"), ("-", "--", ":")))
_MARKERS = "osD^vPX*<>"


def plot_expert_utilization(utilization: pd.DataFrame, path: Any = None) -> Any:
    """Draw the mean weight of each expert in each gate, as bars with their standard deviation.

    One column of panels per level, one row per gate; experts that a gate doesn't mix are shaded.

    Args:
        utilization: what `expert_utilization` returned.
        path: str, path or None. Image file to write, too. Defaults to None.

    Returns:
        A matplotlib Figure.

    Raises:
        ImportError: matplotlib isn't installed.

    References:
        - Tang et al., Progressive Layered Extraction (PLE): A Novel Multi-Task Learning (MTL)
          Model for Personalized Recommendations, RecSys 2020, figure 8
    """
    levels: dict[Any, Any] = dict(list(utilization.groupby("level")))
    gates = {level: list(table["gate"].unique()) for level, table in levels.items()}
    groups = {level: _groups(table) for level, table in levels.items()}
    widths = [_starts(experts)[-1] * _BAR for experts in groups.values()]
    rows = max(map(len, gates.values()))
    figure, axes = pyplot().subplots(
        rows,
        len(levels),
        figsize=(max(sum(widths) + 1, 5.5), 1.5 * rows + 1.1),
        width_ratios=widths,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for (level, table), column, width in zip(levels.items(), axes.T, widths, strict=True):
        for ax, gate in zip(column, gates[level], strict=False):
            title = f"level {level}, {gate} gate" if len(levels) > 1 else f"{gate} gate"
            ax.set_title(_wrap(title, width), fontsize="medium", loc="left")
            experts = table[table["gate"] == gate].set_index("expert")
            _bars(ax, experts, groups[level], named=gate == gates[level][-1])
        for ax in column[len(gates[level]) :]:
            ax.set_axis_off()
    axes[0, 0].set_ylim(0, 1.05 * min(1, (utilization["mean"] + utilization["std"]).max()))
    figure.supylabel("mean gate weight", fontsize="medium")
    figure.supxlabel("expert", fontsize="medium")
    legend = dict(zip(*axes[0, 0].get_legend_handles_labels()[::-1], strict=True))
    figure.legend(
        legend.values(),
        legend.keys(),
        loc="outside upper center",
        ncols=3,
        fontsize="small",
        frameon=False,
    )
    return saved(figure, path)


def plot_gate_history(history: Any, path: Any = None) -> Any:
    """Draw what `GateMonitor` logged: the gates' entropy and the dead experts, by epoch.

    Args:
        history: the `History` that `fit` returned, or its dict of lists.
        path: str, path or None. Image file to write, too. Defaults to None.

    Returns:
        A matplotlib Figure.

    Raises:
        ImportError: matplotlib isn't installed.
        ValueError: a history without a `GateMonitor`.
    """
    logs = history if isinstance(history, Mapping) else history.history
    dead = _series(logs, "dead_experts_")
    if not dead:
        raise ValueError(
            f"`history` should come from a `fit` with a GateMonitor. Received: {list(logs)}"
        )
    entropy = {
        "{}, level {}".format(*name.rsplit("_", 1)): values
        for name, values in _series(logs, "gate_entropy_").items()
    }
    heights = max(3.4, 0.35 * len(entropy)), max(1.2, 0.25 * len(dead))
    figure, (above, below) = pyplot().subplots(
        2,
        1,
        figsize=(7.5, sum(heights) + 0.6),
        height_ratios=heights,
        sharex=True,
        layout="constrained",
    )
    _lines(above, entropy, "gate entropy\n(0: one expert, 1: even mixture)")
    above.set_ylim(-0.08, 1.08)  # markers at 0 and 1 are whole
    _lines(below, {f"level {name}": values for name, values in dead.items()}, "dead experts")
    most = max(1, *map(max, dead.values()))
    below.set_ylim(-0.2 * most, 1.2 * most)
    for axis in (below.xaxis, below.yaxis):
        axis.get_major_locator().set_params(integer=True)
    below.set_xlabel("epoch")
    return saved(figure, path)


def plot_gradient_conflict(conflict: pd.DataFrame, path: Any = None) -> Any:
    """Draw the cosines between the tasks' gradients, as a map with numbers: dark is conflict.

    Two or three tasks have a line per pair instead, between conflict (-1) and agreement (1).

    Args:
        conflict: what `gradient_conflict` returned.
        path: str, path or None. Image file to write, too. Defaults to None.

    Returns:
        A matplotlib Figure.

    Raises:
        ImportError: matplotlib isn't installed.
    """
    if 2 <= len(conflict) <= _FEW_TASKS:
        return saved(_pairs(conflict), path)
    names, space = _margin(conflict.columns)
    side = max(_CELL * len(names), 2)
    upright = space > side / len(names)
    figure, ax = pyplot().subplots(
        figsize=(side + space + 1.5, side + (space if upright else 0) + 0.6), layout="constrained"
    )
    values = conflict.to_numpy("float64")
    image = ax.imshow(values, cmap="gray", vmin=-1, vmax=1)
    for (row, column), value in np.ndenumerate(values):
        if row == column and not np.isnan(value):
            continue  # a task agrees with itself
        color = "white" if value < 0 else "black"
        ax.text(column, row, _signed(value), ha="center", va="center", color=color)
    ax.patch.set(facecolor="0.95", edgecolor="0.75", hatch="////")  # seen where there is no value
    ax.set_xticks(range(len(names)), names, rotation=90 if upright else 0)
    ax.set_yticks(range(len(names)), names)
    figure.colorbar(image, label="cosine of the tasks' gradients", shrink=0.8)
    return saved(figure, path)


def plot_negative_transfer(transfer: pd.DataFrame, path: Any = None) -> Any:
    """Draw each task's difference to its single-task model, with its interval, beside zero.

    A full dot is a difference whose interval excludes zero. Metrics have a panel each.

    Args:
        transfer: what `negative_transfer` returned.
        path: str, path or None. Image file to write, too. Defaults to None.

    Returns:
        A matplotlib Figure.

    Raises:
        ImportError: matplotlib isn't installed.
    """
    names, space = _margin(transfer.index)
    labels = pd.Series(names, transfer.index)
    tables: dict[Any, pd.DataFrame] = dict(list(transfer.groupby("metric", sort=False)))
    figure, axes = pyplot().subplots(
        len(tables),
        1,
        figsize=(5.2 + space, 0.5 * len(transfer) + 0.9 * len(tables)),
        height_ratios=[len(table) for table in tables.values()],
        squeeze=False,
        layout="constrained",
    )
    for ax, (metric, table) in zip(axes[:, 0], tables.items(), strict=True):
        intervals = table[["ci_low", "difference", "ci_high"]].to_numpy("float64")
        for row, (low, value, high) in enumerate(intervals):
            ax.errorbar(
                value,
                row,
                xerr=[[value - low], [high - value]],
                fmt="o",
                color="black",
                markerfacecolor="white" if low <= 0 <= high else "black",
                capsize=4,
            )
        ax.axvline(0, color="0.4", linestyle="--", linewidth=1)
        ax.set_yticks(range(len(table)), labels[table.index])
        ax.set_ylim(len(table) - 0.5, -0.5)
        ax.margins(x=0.15)
        ax.set_xlabel(
            f"{metric}, multi-task minus single-task: mean and interval over seeds\n"
            "(right of 0: better together; hollow: not told from chance)"
        )
    return saved(figure, path)


def plot_permutation_importance(
    importance: pd.DataFrame, path: Any = None, *, most: int = 20
) -> Any:
    """Draw how much worse each task gets without each feature, the most important on top.

    A panel per task, each with its own order; bars have the standard deviation over repeats.

    Args:
        importance: what `permutation_importance` returned.
        path: str, path or None. Image file to write, too. Defaults to None.
        most: int. Features per panel. Defaults to 20.

    Returns:
        A matplotlib Figure.

    Raises:
        ImportError: matplotlib isn't installed.
    """
    tables = {
        task: table.sort_values("importance", ascending=False, na_position="last").head(most)
        for task, table in importance.groupby("task", sort=False)
    }
    _, space = _margin(importance["feature"])
    figure, axes = pyplot().subplots(
        1,
        len(tables),
        figsize=((3 + space) * len(tables), 0.3 * max(map(len, tables.values())) + 1.2),
        squeeze=False,
        layout="constrained",
    )
    for ax, (task, table) in zip(axes[0], tables.items(), strict=True):
        places = range(len(table))
        ax.barh(places, table["importance"], 0.7, edgecolor="black", linewidth=0.6, color="0.75")
        ax.errorbar(
            table["importance"], places, xerr=table["std"], fmt="none", ecolor="black", capsize=2
        )
        ax.axvline(0, color="0.4", linewidth=1)
        ax.set_yticks(places, _margin(table["feature"])[0], fontsize="small")
        ax.set_ylim(len(table) - 0.5, -0.5)
        ax.locator_params(axis="x", nbins=4)
        ax.set_title(_wrap(str(task), 2.2 + space), fontsize="medium", loc="left")
        ax.set_xlabel(f"loss of {table['metric'].iloc[0]} when shuffled")
    return saved(figure, path)


def _signed(value: float) -> str:
    """Return a number with its sign, which is never a hyphen, for a picture."""
    return "none" if np.isnan(value) else f"{value:+.2f}".replace("-", "−")


def _wrap(text: str, inches: float) -> str:
    """Break a text into lines, after underscores too."""
    width = max(int(inches / _CHARACTER), 8)
    return textwrap.fill(text.replace("_", "_ "), width).replace("_ ", "_")


def _margin(names: Iterable[Any]) -> tuple[list[str], float]:
    """Return names broken into lines, and the inches that the longest line takes."""
    wrapped = [_wrap(str(name), 2.2) for name in names]
    return wrapped, max(len(line) for name in wrapped for line in name.split("\n")) * _CHARACTER


def _groups(table: pd.DataFrame) -> dict[str, list[str]]:
    """Return a level's experts by group; the groups that most gates mix come last."""
    experts: dict[str, dict[str, None]] = {}
    readers: dict[str, set[str]] = {}
    for gate, expert in zip(table["gate"], table["expert"], strict=True):
        group = expert.rsplit(" ", 1)[0]
        experts.setdefault(group, {})[expert] = None
        readers.setdefault(group, set()).add(gate)
    order = sorted(experts, key=lambda group: len(readers[group]))
    return {group: list(experts[group]) for group in order}


def _starts(groups: Mapping[str, list[str]]) -> list[float]:
    """Return where each group of experts begins, and where the last ends, in bars."""
    spans = [max(len(experts), _GROUP / _BAR) + 0.8 for experts in groups.values()]
    return [0.0, *itertools.accumulate(spans)]


def _bars(ax: Any, table: pd.DataFrame, groups: Mapping[str, list[str]], named: bool) -> None:
    """Draw one gate's experts; name them below the axis if `named`."""
    ax.axhline(1 / len(table), color="0.4", linestyle="--", linewidth=1, label="even mixture")
    ends, ticks, numbers = _starts(groups), [], []
    for (group, experts), start, end, fill in zip(
        groups.items(), ends[:-1], ends[1:], itertools.cycle(_FILLS), strict=False
    ):
        middle = (start + end) / 2
        places = [middle + i - (len(experts) - 1) / 2 for i in range(len(experts))]
        ticks += places
        numbers += [expert.rsplit(" ", 1)[1] for expert in experts]
        if experts[0] not in table.index:
            ax.axvspan(start, end, color="0.92", linewidth=0, label="not mixed by this gate")
        else:
            mean, std = table.loc[experts, "mean"], table.loc[experts, "std"]
            ax.bar(places, mean, 0.8, edgecolor="black", linewidth=0.6, **fill)
            ax.errorbar(
                places,
                mean,
                [np.minimum(std, mean), np.minimum(std, 1 - mean)],
                fmt="none",
                ecolor="black",
                elinewidth=1,
                capsize=2,
                label="± 1 standard deviation",
            )
        if named and len(groups) > 1:
            ax.annotate(
                _wrap(group, (end - start) * _BAR),
                (middle, 0),
                (0, -18),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                ha="center",
                va="top",
                fontsize="small",
            )
    ax.set_xlim(0, ends[-1])
    ax.set_xticks(ticks, numbers if named else [""] * len(ticks), fontsize="x-small")
    ax.tick_params(axis="x", length=0)


def _pairs(conflict: pd.DataFrame) -> Any:
    """Draw the cosine of each pair of tasks on a line of its own."""
    pairs = list(itertools.combinations(range(len(conflict)), 2))
    values = [conflict.to_numpy("float64")[pair] for pair in pairs]
    names, space = _margin(f"{conflict.index[i]} and {conflict.index[j]}" for i, j in pairs)
    figure, ax = pyplot().subplots(
        figsize=(5 + space, 0.6 * len(pairs) + 1.1), layout="constrained"
    )
    ax.axvline(0, color="0.4", linestyle="--", linewidth=1)
    ax.hlines(range(len(pairs)), 0, values, color="0.55", linewidth=3)
    ax.plot(values, range(len(pairs)), "o", color="black", markersize=8)
    for row, value in enumerate(values):
        at = 0 if np.isnan(value) else value
        ax.annotate(
            _signed(value), (at, row), (0, 8), textcoords="offset points", ha="center", va="bottom"
        )
    ax.set_xlim(-1.1, 1.1)
    ax.set_ylim(len(pairs) - 0.4, -0.7)
    ax.set_yticks(range(len(pairs)), names)
    ax.set_xlabel("cosine of the tasks' gradients\n(−1: conflict, 0: unrelated, 1: agreement)")
    return figure


def _lines(ax: Any, series: Mapping[str, list[float]], label: str) -> None:
    """Draw values by epoch, told apart by line, marker and grey."""
    for (name, values), (color, line), marker in zip(
        series.items(), itertools.cycle(_LINES), itertools.cycle(_MARKERS), strict=False
    ):
        ax.plot(
            range(1, len(values) + 1),
            values,
            color=color,
            linestyle=line,
            marker=marker,
            markersize=5,
            label=_wrap(name, 2.2),
        )
    ax.margins(x=0.08)
    ax.set_ylabel(label)
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize="small", frameon=False)


def _series(logs: Mapping[str, list[float]], prefix: str) -> dict[str, list[float]]:
    """Return the logs whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): v for name, v in logs.items() if name.startswith(prefix)}
