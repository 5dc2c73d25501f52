"""Results as a table for the terminal or for Markdown."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mtl.benchmark.runs import Result


def text_table(results: Sequence[Result]) -> str:
    """Return one aligned line per model: test AUC per task (mean ± std over seeds), size, time."""
    rows = _rows(results)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(pairs))
        for pairs in (list(zip(row, widths, strict=True)) for row in rows)
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def markdown_table(results: Sequence[Result]) -> str:
    """Return the same table in Markdown."""
    head, *body = _rows(results)
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *body])


def _rows(results: Sequence[Result]) -> list[list[str]]:
    tasks = list(results[0].auc)
    head = ["model", *(f"{task} AUC" for task in tasks), "parameters", "epochs", "seconds"]
    rows = [head]
    for model in dict.fromkeys(result.model for result in results):
        runs = [result for result in results if result.model == model]
        rows.append(
            [
                model,
                *(_mean([run.auc[task] for run in runs]) for task in tasks),
                f"{runs[0].parameters:,}",
                f"{np.mean([run.epochs for run in runs]):.0f}",
                f"{np.mean([run.seconds for run in runs]):.0f}",
            ]
        )
    return rows


def _mean(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.4f}"
    return f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}"
