"""SequenceColumn: several values per row, such as the items that a user has seen."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from mtl import checks
from mtl.data import arrow
from mtl.data.raw.base import Encoded, Options
from mtl.data.raw.categorical import CategoricalColumn, Counts
from mtl.data.vocabulary import Vocabulary, all_numbers, number_of
from mtl.features import VarLenSparseFeat


class SequenceColumn(CategoricalColumn):
    """A column of lists, or of strings with a separator: padded ids, and how many there are.

    Attributes:
        vocabulary: `Vocabulary` or `Hashes`; that of another column if it is shared.
    """

    argument = "sequences"
    options: ClassVar[Options] = {
        **CategoricalColumn.options,
        "vocabulary": (None, checks.text_or_none),
        "separator": (None, checks.text_or_none),
        "maxlen": (50, checks.positive_int),
        "combiner": ("mean", checks.one_of("sum", "mean", "max")),
    }

    @property
    def inputs(self) -> list[str]:
        """The ids, and their number."""
        return [self.name, f"{self.name}_length"]

    @property
    def holds(self) -> arrow.Kind:
        """Lists, or strings."""
        return arrow.categories if self.settings["separator"] is None else arrow.text

    @property
    def of_texts(self) -> bool:
        """Whether entries are the texts of a vocabulary's numbers."""
        return (
            self.settings["separator"] is not None
            and self.settings["vocabulary"] is not None
            and isinstance(self.vocabulary, Vocabulary)
            and all_numbers(self.vocabulary.categories)
        )

    def learner(self, others: Mapping[str, Any], exact: bool) -> Any:
        """Return what counts the entries, with the column whose vocabulary is shared."""
        shared = self.settings["vocabulary"]
        counts = others[shared] if shared else super().learner(others, exact)
        return _Entries(self, counts)

    def extender(self, others: Mapping[str, Any], min_count: int | None) -> Any:
        """Return what counts the new entries."""
        shared = self.settings["vocabulary"]
        counts = others[shared] if shared else super().extender(others, min_count)
        return _Entries(self, counts)

    def entries(self, column: pd.Series[Any]) -> tuple[npt.NDArray[np.intp], pd.Series[Any]]:
        """Return how many entries each of N rows has, and all of them.

        A missing entry, or an empty text between separators, is none; nor has a missing row any.

        Raises:
            TypeError: the column holds something else than lists, or strings with a separator.
        """
        rows = column.tolist()
        separator = self.settings["separator"]
        kinds: Any = (list, tuple, np.ndarray) if separator is None else str
        for i, row in enumerate(rows):
            if not isinstance(row, kinds):
                if not _is_missing(row):
                    expected = "lists" if separator is None else f"strings with {separator!r}"
                    raise TypeError(
                        f"Sequence column {self.name!r} should hold {expected}. "
                        f"Received: {row!r} of type {type(row).__name__}"
                    )
                rows[i] = ()
            elif separator is not None:
                rows[i] = [entry for entry in row.split(separator) if entry]
        lengths = np.fromiter(map(len, rows), np.intp, len(rows))
        if rows and all(isinstance(row, np.ndarray) and row.dtype != object for row in rows):
            flat = pd.Series(np.concatenate(rows))
        else:
            # As floats, large integers beside a missing one would lose digits.
            flat = pd.Series(list(chain.from_iterable(rows)), dtype=object)
        missing = flat.isna().to_numpy()
        if missing.any():
            row_of = np.repeat(np.arange(len(rows)), lengths)
            lengths = np.bincount(row_of[~missing], minlength=len(rows))
            flat = flat[~missing]
        return lengths, flat

    def encode(self, column: pd.Series[Any]) -> Encoded:
        """Return the (N, maxlen) int32 ids and the (N,) int32 lengths of N rows."""
        lengths, flat = self.entries(column)
        if self.of_texts:
            codes, texts = pd.factorize(flat)
            flat = pd.Series([number_of(text) for text in texts], dtype=object).take(codes)
        found = self.vocabulary.look_up(self.name, flat)
        maxlen = self.settings["maxlen"]
        arrays = arrow.pad(lengths, found.ids, maxlen), np.minimum(lengths, maxlen).astype(np.int32)
        received = ", ".join(found.kinds)
        return Encoded(dict(zip(self.inputs, arrays, strict=True)), lengths == 0, received, found)

    @property
    def feature_columns(self) -> list[Any]:
        """One `VarLenSparseFeat`, with the embedding of the column whose vocabulary is shared."""
        (sparse,) = super().feature_columns
        shared = self.settings["vocabulary"]
        return [
            VarLenSparseFeat(
                sparse._replace(embedding_name=shared or self.name),
                self.settings["maxlen"],
                self.settings["combiner"],
                length_name=self.inputs[1],
            )
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the vocabulary as a JSON-compatible dict, unless it is shared."""
        return {} if self.settings["vocabulary"] else super().to_json()

    def from_json(self, config: Mapping[str, Any], others: Mapping[str, Any]) -> Any:
        """Return the column with the vocabulary that `to_json` described, or the shared one."""
        shared = self.settings["vocabulary"]
        if shared:
            return self.having(vocabulary=others[shared].vocabulary)
        return super().from_json(config, others)


class _Entries:
    """Counts the entries of a column of sequences."""

    def __init__(self, column: SequenceColumn, counts: Counts) -> None:
        self._column, self._counts = column, counts

    def add(self, column: pd.Series[Any]) -> None:
        _, flat = self._column.entries(column)
        texts = self._column.settings["separator"] and self._column.settings["vocabulary"]
        (self._counts.add_texts if texts else self._counts.add)(flat)

    def done(self) -> Any:
        return self._column.having(vocabulary=self._counts.vocabulary)


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or value != value
