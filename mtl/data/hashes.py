"""Hashes: ids of an open vocabulary, which needs no list of its values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mtl import checks
from mtl.data.vocabulary import KINDS, Found, factorize, kinds_of, text_of

KEY = "mtl.TableEncoder"  # of the hash, whose values files and models hold: it can't change


@dataclass(frozen=True)
class Hashes:
    """Ids by the hash of a value's text, in the place of a `Vocabulary`.

    Id 0 is that of a missing value and of the empty string. Every other value has one of the ids
    1 to `size` - 1: 1 + SipHash-2-4 of its text modulo `size` - 1, so that two values may share
    one. 7, 7.0 and "7" have the same text.

    Attributes:
        size: int. Number of ids, at least 2.
        kinds: tuple of str. What the values seen in fit are (see `Vocabulary.kinds`).
    """

    size: int
    kinds: tuple[str, ...] = ()
    missing_id = 0

    @property
    def dtype(self) -> str:
        """The type of a tensor of its values: "string" or "int64".

        Raises:
            ValueError: no type holds all values.
        """
        if set(self.kinds) <= {"strings"}:
            return "string"
        if set(self.kinds) <= {"booleans", "integers"}:
            return "int64"
        raise ValueError(f"strings, or integers. Received: {', '.join(self.kinds)}")

    def count(self, name: str, column: pd.Series[Any]) -> Counter[Any]:
        """Return the kinds of a column's values, which are all there is to learn."""
        return Counter(kinds_of(factorize(name, column)[1]))

    def extended(self, counts: Mapping[Any, int], min_count: int) -> Hashes:
        """Return the hashes with what `count` returned; no id moves."""
        return Hashes(self.size, tuple(k for k in KINDS if k in self.kinds or k in counts))

    def look_up(self, name: str, column: pd.Series[Any]) -> Found:
        """Return the ids of a column of N values; raises as `Vocabulary.look_up`."""
        codes, values = factorize(name, column)
        texts = np.array([text_of(value) for value in values], dtype=object)
        ids = (_siphash(texts) % np.uint64(self.size - 1)).astype(np.int32) + 1
        ids = np.append(np.where(texts == "", 0, ids), 0).astype(np.int32)
        return Found(ids[codes], codes < 0, values, None)

    def to_json(self) -> dict[str, Any]:
        """Return what was learnt as a JSON-compatible dict."""
        return {"kinds": list(self.kinds)}

    @classmethod
    def from_json(cls, size: int, config: Mapping[str, Any]) -> Hashes:
        """Return the hashes that `to_json` described; ValueError if they are damaged."""
        kinds = config["kinds"]
        if not isinstance(kinds, list) or not set(kinds) <= set(KINDS):
            raise ValueError(f"`kinds` should be out of {KINDS}. Received: {kinds!r}")
        return cls(size, tuple(kinds))


def hash_size(name: str, value: Any) -> int | None:
    """Return `value`, a number of ids or None, or raise; there are two at least."""
    if value is not None and checks.positive_int(name, value) < 2:
        raise ValueError(f"`{name}` should be None or at least 2. Received: {value!r}")
    return None if value is None else int(value)


def _siphash(texts: npt.NDArray[np.object_]) -> npt.NDArray[np.uint64]:
    """Return SipHash-2-4 of the texts in UTF-8, as `tf.strings.to_hash_bucket_strong` has it."""
    # `pd.util.hash_array` would mix the hash further, in a way that graphs can't.
    from pandas._libs.hashing import hash_object_array  # type: ignore[import-not-found]

    hashed: npt.NDArray[np.uint64] = hash_object_array(texts, KEY)
    return hashed
