"""Train the model zoo on one data set, score it, and print the table."""

from mtl.benchmark.recipes import ADULT, CENSUS_INCOME, Recipe
from mtl.benchmark.runs import Result, compare, train
from mtl.benchmark.tables import markdown_table, text_table

__all__ = [
    "ADULT",
    "CENSUS_INCOME",
    "Recipe",
    "Result",
    "compare",
    "markdown_table",
    "text_table",
    "train",
]
