"""Tables and plots of results: means over seeds, and what of them is more than chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from mtl.benchmark.config import extra
from mtl.inspection.transfer import Interval, interval
from mtl.metrics import HEADLINES, Headline

SIGNIFICANCE = 0.05
SINGLE, BOOSTED = "single-task", "LightGBM"  # the references
TRANSFER = "against single-task"

# What a table beside the first one shows of binary tasks.
FURTHER = (
    Headline("group_auc", "group AUC", 1, ""),
    Headline("log_loss", "log loss", -1, ""),
    Headline("ece", "calibration error", -1, ""),
)

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """One task: its metric, and each row's values by seed.

    Attributes:
        task: str.
        headline: the metric.
        values: dict from row to dict from seed to value.
    """

    task: str
    headline: Headline
    values: dict[str, dict[int, float]]

    @property
    def title(self) -> str:
        """The head of the column."""
        return f"{self.task} {self.headline.title}"

    def best(self) -> list[str]:
        """Return the rows that nothing is shown to beat, best mean first.

        Each row is compared with the best mean over the seeds that both have, by a paired t-test
        whose p-values are corrected for their number (Holm). One row is the significant best;
        several are not told apart, which few seeds hardly do. Rows that have no two seeds in
        common with the best take no part, and one row alone is no best.
        """
        means = {row: np.mean([*v.values()]) for row, v in self.values.items() if len(v) > 1}
        order = sorted(means, key=lambda row: -self.headline.sign * means[row])
        order = [row for row in order if len(self._seeds(order[0], row)) > 1]
        if len(order) < 2:
            return []
        p_values = {row: self.p_value(order[0], row) for row in order[1:]}
        worse, left = set(), len(p_values)
        for row in sorted(p_values, key=lambda row: p_values[row]):
            if not p_values[row] * left < SIGNIFICANCE:
                break
            worse.add(row)
            left -= 1
        return [row for row in order if row not in worse]

    def p_value(self, better: str, worse: str) -> float:
        """Return the two-sided p-value of a paired t-test over common seeds; NaN below two."""
        seeds = self._seeds(better, worse)
        if len(seeds) < 2:
            return float("nan")
        difference = [self.values[better][s] - self.values[worse][s] for s in seeds]
        spread = np.std(difference, ddof=1)
        if not spread:
            return 0.0 if difference[0] else 1.0
        t = np.mean(difference) / (spread / np.sqrt(len(seeds)))
        return float(2 * stats.t.sf(abs(t), len(seeds) - 1))

    def gain(self, row: str, over: str) -> Interval | None:
        """Return how much better a row is than another over the seeds of both, if there are any.

        The mean of the differences in the metric's unit, with its interval.
        """
        seeds = self._seeds(row, over)
        differences = [self.values[row][s] - self.values[over][s] for s in seeds]
        if not differences:
            return None
        return interval([self.headline.sign * d for d in differences], 1 - SIGNIFICANCE)

    def _seeds(self, row: str, other: str) -> list[int]:
        return sorted(self.values.get(row, {}).keys() & self.values.get(other, {}).keys())


def columns(records: Sequence[Record], further: Headline | None = None) -> list[Column]:
    """Return a column per task, of its headline metric, or of another that some tasks have."""
    types: Mapping[str, str] = records[0]["types"]
    found = []
    for task, kind in types.items():
        headline = further or HEADLINES[kind]
        values: dict[str, dict[int, float]] = {}
        for record in records:
            value = record["metrics"].get(task, {}).get(headline.metric)
            if value is not None:
                values.setdefault(row_of(record), {})[record["seed"]] = value
        if values or not further:
            found.append(Column(task, headline, values))
    return found


def row_name(model: str, balancer: str | None) -> str:
    """Return the row of a model with a balancer."""
    return f"{model} + {balancer}" if balancer else model


def row_of(record: Record) -> str:
    """Return the row that a result belongs to."""
    return row_name(record["model"], record["balancer"])


def cells(
    records: Sequence[Record], bold: str = "", further: Headline | None = None
) -> list[list[str]]:
    """Return the table's rows, the head first.

    Args:
        records: results of one grid.
        bold: str. What to put around the significant best.
        further: one of `FURTHER`, for a table of this metric alone, or None. Defaults to None: the
            tasks' headline metrics, beside the single-task networks, the size and the time.
    """
    every = columns(records, further)
    rows = list(dict.fromkeys(map(row_of, records)))
    transfer = [TRANSFER] if SINGLE in rows else []
    titles = [column.title for column in every]
    beside = [] if further else [*transfer, "parameters", "epochs", "seconds"]
    lines = [["", *titles, *beside]]
    best = {column.task: column.best() for column in every}
    for row in rows:
        runs = [record for record in records if row_of(record) == row]
        line = [row]
        for column in every:
            text = mean_text([*column.values.get(row, {}).values()])
            if row in best[column.task]:
                alone = len(best[column.task]) == 1
                text = f"{bold}{text}{bold or ' *'}" if alone else f"{text} ="
            line.append(text)
        if not further:
            means = [f"{np.mean([run[key] for run in runs]):,.0f}" for key in ("epochs", "seconds")]
            line += [against_single(every, row)] if transfer else []
            line += [f"{runs[0]['parameters']:,}", *means]
        lines.append(line)
    return lines


def against_single(every: Sequence[Column], row: str) -> str:
    """Return how much better each task is in a row than in a network of its own.

    The mean difference over seeds and its interval, below 0 where it is worse (negative
    transfer), and what that tells: see `mtl.inspection.transfer.Interval.verdict`.
    """
    if row in (SINGLE, BOOSTED):
        return ""
    gains = {column.task: column.gain(row, SINGLE) for column in every}
    return "; ".join(f"{task} {_gain_text(gain)}" for task, gain in gains.items() if gain)


def _gain_text(gain: Interval) -> str:
    text = f"{gain.mean:+.4f}"
    if gain.pairs > 1:
        text += f" [{gain.low:+.4f}, {gain.high:+.4f}]"
    return f"{text} {gain.verdict}"


def text_table(records: Sequence[Record]) -> str:
    """Return the table for a terminal; * is the significant best, = what isn't told from it."""
    rows = cells(records)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def markdown_table(records: Sequence[Record], further: Headline | None = None) -> str:
    """Return the table in Markdown; the significant best is bold, = is not told from it.

    Args:
        records: results of one grid.
        further: one of `FURTHER`, for a table of this metric. Defaults to None: see `cells`.
    """
    head, *body = cells(records, "**", further)
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *body])


def legend(records: Sequence[Record]) -> str:
    """Return what the table's reader has to know."""
    seeds = sorted({record["seed"] for record in records})
    text = f"Test rows, mean ± standard deviation over seeds {', '.join(map(str, seeds))}"
    transfer = any(record["model"] == SINGLE for record in records)
    if len(seeds) > 1:
        text += (
            "; a paired t-test over seeds (5 %, Holm) tells the best row from the others, but for "
            "those with ="
        )
    if transfer:
        text += (
            f"; {TRANSFER}: how much better each task is than in a network of its own, with the "
            "95 % interval over seeds: worse or better where it excludes 0 (each test for itself)"
        )
    if len(seeds) == 1:
        return f"{text}. One seed tells no difference from chance: give --seeds 5."
    if len(seeds) < 3:
        return f"{text}. Two seeds hardly tell any difference from chance: give --seeds 5."
    return text + "."


def plot(records: Sequence[Record], path: str | Path) -> None:
    """Draw a panel per task: a point per seed, and a line at the mean.

    Raises:
        ModuleNotFoundError: without the extra `plot`.
    """
    extra("matplotlib", "plot")
    from matplotlib.figure import Figure  # no pyplot: it would keep the figure, and ask for windows

    every = columns(records)
    rows = list(dict.fromkeys(map(row_of, records)))
    size = (1.5 + 3.6 * len(every), 1.2 + 0.36 * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(every), sharey=True, squeeze=False)[0]
    for column, axes in zip(every, panels, strict=True):
        for place, row in enumerate(rows):
            values = [*column.values.get(row, {}).values()]
            reference = row in (SINGLE, BOOSTED)
            axes.plot(
                values,
                [place] * len(values),
                "s" if reference else "o",
                color="black",
                markerfacecolor="white" if reference else "0.6",
            )
            if len(values) > 1:
                axes.plot([np.mean(values)] * 2, [place - 0.35, place + 0.35], color="black")
        axes.set_xlabel(column.title)
        axes.margins(x=0.1)
        axes.set_ylim(-0.6, len(rows) - 0.4)  # points lie off the frame
        axes.grid(axis="x", alpha=0.3)
        axes.locator_params(axis="x", nbins=4)
    panels[0].set_yticks(range(len(rows)), rows)
    panels[0].invert_yaxis()
    figure.suptitle("A point per seed, a line at the mean; squares: references")
    figure.savefig(path, dpi=150)


def mean_text(values: Sequence[float]) -> str:
    """Return a mean over seeds with its standard deviation, if there are several."""
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:.4f}"
    return f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}"
