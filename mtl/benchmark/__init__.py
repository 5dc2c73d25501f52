"""Train models on one data set, score them, and print the table: `python -m mtl.benchmark`."""

from mtl.benchmark.recipes import ADULT, CENSUS_INCOME, Recipe, Training
from mtl.benchmark.report import markdown_table, text_table
from mtl.benchmark.runs import Result, compare, train

__all__ = [
    "ADULT",
    "CENSUS_INCOME",
    "Recipe",
    "Result",
    "Training",
    "compare",
    "markdown_table",
    "text_table",
    "train",
]
