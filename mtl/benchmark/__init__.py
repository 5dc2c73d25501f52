"""Train models on one data set, score them, and print the table: `python -m mtl.benchmark`."""

from mtl.benchmark.grid import Grid
from mtl.benchmark.recipes import ADULT, CENSUS_INCOME, Recipe, Training
from mtl.benchmark.report import markdown_table, text_table
from mtl.benchmark.runs import Result, train

__all__ = [
    "ADULT",
    "CENSUS_INCOME",
    "Grid",
    "Recipe",
    "Result",
    "Training",
    "markdown_table",
    "text_table",
    "train",
]
