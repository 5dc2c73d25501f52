"""CategoricalColumn: values that become ids, by a vocabulary or by their hash."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

import pandas as pd

from mtl import checks
from mtl.data.arrow import Kind, category
from mtl.data.hashes import Hashes, hash_size
from mtl.data.raw.base import Encoded, Options, RawColumn
from mtl.data.vocabulary import Vocabulary, all_numbers, number_of
from mtl.features import SparseFeat


class Counts:
    """Counts the values that a column's vocabulary doesn't know yet.

    Args:
        column: `CategoricalColumn`.
        min_count: int. Rows that a value needs.
    """

    def __init__(self, column: CategoricalColumn, min_count: int) -> None:
        self._column, self._vocabulary = column, column.vocabulary
        self._min_count = min_count
        self._counts: Counter[Any] = Counter()
        self._texts: Counter[Any] = Counter()

    def add(self, column: pd.Series[Any]) -> None:
        """Count some values."""
        self._counts += self._vocabulary.count(self._column.name, column)

    def add_texts(self, column: pd.Series[Any]) -> None:
        """Count values of which the texts are known: numbers, if all others are."""
        if isinstance(self._vocabulary, Vocabulary):
            self._texts += Vocabulary((), False).count(self._column.name, column)

    @cached_property
    def vocabulary(self) -> Any:
        """The vocabulary with the values that were counted."""
        texts: Mapping[Any, int] = self._texts
        if texts and all_numbers([*self._vocabulary.categories, *self._counts]):
            texts = {number_of(text): count for text, count in texts.items()}
        return self._vocabulary.extended(self._counts + Counter(texts), self._min_count)

    def done(self) -> Any:
        """Return the column with its vocabulary."""
        return self._column.having(vocabulary=self.vocabulary)


class CategoricalColumn(RawColumn):
    """A column of strings, integers, floats or booleans: one id per row.

    Attributes:
        vocabulary: `Vocabulary` or `Hashes`.
    """

    argument = "categorical"
    options: ClassVar[Options] = {
        "embedding_dim": (4, checks.positive_int),
        "min_count": (1, checks.positive_int),
        "hash": (None, hash_size),
    }

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        super().__init__(name, settings)
        self.vocabulary: Any = (
            Hashes(settings["hash"]) if settings["hash"] else Vocabulary((), False)
        )

    @property
    def holds(self) -> Kind:
        """Strings, numbers or booleans."""
        return category

    def learner(self, others: Mapping[str, Any], exact: bool) -> Counts:
        """Return what counts the column's values."""
        unfitted = type(self)(self.name, self.settings)
        return Counts(unfitted, self.settings["min_count"])

    def extender(self, others: Mapping[str, Any], min_count: int | None) -> Counts:
        """Return what counts the column's new values."""
        return Counts(self, min_count or self.settings["min_count"])

    def encode(self, column: pd.Series[Any]) -> Encoded:
        """Return the (N,) int32 ids of a column of N values."""
        found = self.vocabulary.look_up(self.name, column)
        return Encoded({self.name: found.ids}, found.missing, ", ".join(found.kinds), found)

    @property
    def fitted_on(self) -> str:
        """The kinds of the values that fit saw."""
        return ", ".join(self.vocabulary.kinds)

    @property
    def feature_columns(self) -> list[Any]:
        """One `SparseFeat`, id 0 included in the vocabulary."""
        return [
            SparseFeat(
                self.name, self.vocabulary.size, self.settings["embedding_dim"], dtype="int32"
            )
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the vocabulary as a JSON-compatible dict."""
        return self.vocabulary.to_json()  # type: ignore[no-any-return]

    def from_json(self, config: Mapping[str, Any], others: Mapping[str, RawColumn]) -> Any:
        """Return the column with the vocabulary that `to_json` described."""
        size = self.settings["hash"]
        return self.having(
            vocabulary=Hashes.from_json(size, config) if size else Vocabulary.from_json(config)
        )

    def __str__(self) -> str:
        size = self.vocabulary.size
        return f"{self.name} ({size:,} ids)" if size > 1 else self.name
