"""The kinds of columns that a TableEncoder takes: what is learnt of one, and what it becomes."""

from mtl.data.raw.base import Encoded, Learner, RawColumn
from mtl.data.raw.categorical import CategoricalColumn
from mtl.data.raw.numeric import NumericColumn
from mtl.data.raw.sequence import SequenceColumn
from mtl.data.raw.times import TimeColumn

# In the order of the features that they give.
KINDS: tuple[type[RawColumn], ...] = (
    CategoricalColumn,
    TimeColumn,
    SequenceColumn,
    NumericColumn,
)

__all__ = [
    "KINDS",
    "CategoricalColumn",
    "Encoded",
    "Learner",
    "NumericColumn",
    "RawColumn",
    "SequenceColumn",
    "TimeColumn",
]
