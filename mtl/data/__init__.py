"""Data sets with several tasks, and the encoder of one's own tables."""

from mtl.data.adult import load_adult
from mtl.data.census_income import load_census_income
from mtl.data.dataset import MultiTaskData
from mtl.data.funnel import make_funnel
from mtl.data.kuairand import load_kuairand
from mtl.data.regressions import make_related_regressions
from mtl.data.stream import ParquetStream
from mtl.data.table import TableEncoder

__all__ = [
    "MultiTaskData",
    "ParquetStream",
    "TableEncoder",
    "load_adult",
    "load_census_income",
    "load_kuairand",
    "make_funnel",
    "make_related_regressions",
]
