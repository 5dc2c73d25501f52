"""TableEncoder: from a DataFrame to the inputs of a model."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pandas as pd

from mtl import checks
from mtl.data.files import atomic_path
from mtl.data.frames import check_frame, column_names
from mtl.data.scaler import SCALINGS, Scaler
from mtl.data.vocabulary import Vocabulary
from mtl.features import DenseFeat, SparseFeat

_FORMAT = "mtl.TableEncoder"
_VERSION = 1


class TableEncoder:
    """Encodes the columns of a table as ids and scaled numbers.

    Fit it on training rows only: what is fitted on validation or test rows leaks into them.

    ```python
    encoder = TableEncoder(categorical=["city"], numeric=["age"])
    x_train = encoder.fit_transform(train_frame)
    x_test = encoder.transform(test_frame)
    model = MMoE(encoder.feature_columns, task_names=["click", "buy"])
    ```

    A categorical value becomes an id: 0 for what was not seen in fit, 1 to V for the values seen
    in fit in sorted order (a missing value among them counts as a value, the last one). A numeric
    value is scaled; a missing one becomes the training mean before scaling.

    Args:
        categorical: list of str. Categorical columns: strings, integers, floats or booleans.
        numeric: list of str. Numeric columns. Defaults to none.
        embedding_dim: int. Embedding size of every categorical column. Defaults to 4.
        scaling: str. "minmax" to [0, 1] over the training rows (a constant column becomes 0),
            "standard" to mean 0 and standard deviation 1, or "none". Defaults to "minmax".

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: no column, a column given twice, or an unknown scaling.
    """

    def __init__(
        self,
        categorical: Iterable[str],
        numeric: Iterable[str] = (),
        embedding_dim: int = 4,
        scaling: str = "minmax",
    ) -> None:
        self.categorical = column_names("categorical", categorical)
        self.numeric = column_names("numeric", numeric)
        self.embedding_dim = checks.positive_int("embedding_dim", embedding_dim)
        self.scaling = scaling
        if scaling not in SCALINGS:
            raise ValueError(f"`scaling` should be one of {SCALINGS}. Received: {scaling!r}")
        columns = self.categorical + self.numeric
        if not columns:
            raise ValueError("`categorical` and `numeric` should name a column. Received: none.")
        for column in columns:
            if columns.count(column) > 1:
                raise ValueError(
                    "`categorical` and `numeric` should name each column once. "
                    f"Received: {column!r} twice"
                )
        self._vocabularies: dict[str, Vocabulary] = {}
        self._scalers: dict[str, Scaler] = {}

    def fit(self, frame: pd.DataFrame) -> TableEncoder:
        """Learn the vocabularies and scalings of a training frame; see `fit_transform`."""
        self.fit_transform(frame)
        return self

    def fit_transform(self, frame: pd.DataFrame) -> dict[str, npt.NDArray[Any]]:
        """Learn the vocabularies and scalings of a training frame, and encode it.

        Args:
            frame: pd.DataFrame of N rows, N at least 1. Columns not listed are ignored.

        Returns:
            As `transform`.

        Raises:
            TypeError: no DataFrame, or values that a column can't hold.
            ValueError: a column is missing, infinite or empty, or the frame has no rows.
        """
        check_frame(frame, self.categorical + self.numeric)
        if not len(frame):
            raise ValueError("`frame` should have at least one row to fit. Received: 0 rows.")
        vocabularies = {name: Vocabulary.fit(name, frame[name]) for name in self.categorical}
        scalers = {name: Scaler.fit(name, frame[name], self.scaling) for name in self.numeric}
        # Only now, so that a failed fit leaves the encoder as it was.
        self._vocabularies = {name: vocabulary for name, (vocabulary, _) in vocabularies.items()}
        self._scalers = {name: scaler for name, (scaler, _) in scalers.items()}
        return {name: values for name, (_, values) in (vocabularies | scalers).items()}

    def transform(self, frame: pd.DataFrame) -> dict[str, npt.NDArray[Any]]:
        """Encode a frame with what was learnt in fit.

        Args:
            frame: pd.DataFrame of N rows. Columns not listed are ignored.

        Returns:
            A dict of (N,) arrays by column, in the order of `feature_columns`: int32 ids of the
            categorical columns, then float32 values of the numeric ones.

        Raises:
            RuntimeError: the encoder isn't fitted.
            TypeError: no DataFrame, or values that a column can't hold.
            ValueError: a column is missing or infinite.
        """
        self._check_fitted("transform")
        check_frame(frame, self.categorical + self.numeric)
        ids = {name: vocab.ids(name, frame[name]) for name, vocab in self._vocabularies.items()}
        values = {name: s.transform(name, frame[name]) for name, s in self._scalers.items()}
        return {**ids, **values}

    @property
    def feature_columns(self) -> list[Any]:
        """The list of `SparseFeat` (id 0 included in the vocabulary) and `DenseFeat`."""
        self._check_fitted("feature_columns")
        sparse = [
            SparseFeat(name, vocabulary.size, self.embedding_dim, dtype="int32")
            for name, vocabulary in self._vocabularies.items()
        ]
        return sparse + [DenseFeat(name, 1) for name in self._scalers]

    def to_json(self) -> dict[str, Any]:
        """Return the fitted encoder as a JSON-compatible dict (see `from_json`)."""
        self._check_fitted("to_json")
        return {
            "format": _FORMAT,
            "version": _VERSION,
            "embedding_dim": self.embedding_dim,
            "scaling": self.scaling,
            "categorical": [[name, v.to_json()] for name, v in self._vocabularies.items()],
            "numeric": [[name, scaler.to_json()] for name, scaler in self._scalers.items()],
        }

    @classmethod
    def from_json(cls, config: dict[str, Any]) -> TableEncoder:
        """Return the encoder that `to_json` described; ValueError if it is no such dict."""
        if not isinstance(config, dict) or config.get("format") != _FORMAT:
            raise ValueError(
                f'`config` should be a TableEncoder\'s JSON form, with "format": {_FORMAT!r}. '
                f"Received: {str(config)[:80]}"
            )
        if config.get("version") != _VERSION:
            raise ValueError(
                f"`config` should be of version {_VERSION}, which this release of mtl reads. "
                f"Received: version {config.get('version')!r}"
            )
        try:
            vocabularies = {name: Vocabulary.from_json(v) for name, v in config["categorical"]}
            scalers = {name: Scaler.from_json(s) for name, s in config["numeric"]}
            encoder = cls(vocabularies, scalers, config["embedding_dim"], config["scaling"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"`config` should be a whole TableEncoder's JSON form. "
                f"Received: one with {type(error).__name__}: {error}"
            ) from error
        encoder._vocabularies, encoder._scalers = vocabularies, scalers
        return encoder

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted encoder to a JSON file; an interrupted write leaves the old file."""
        content = json.dumps(self.to_json(), ensure_ascii=False)
        with atomic_path(Path(path)) as temporary:
            temporary.write_text(content, encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TableEncoder:
        """Read an encoder that `save` wrote; ValueError names the file if it is no such file."""
        try:
            return cls.from_json(json.loads(Path(path).read_text(encoding="utf-8")))
        except ValueError as error:
            raise ValueError(
                f"`path` should be a file that TableEncoder.save wrote. "
                f"Received: {os.fspath(path)!r} ({error})"
            ) from error

    def _check_fitted(self, use: str) -> None:
        if not self._vocabularies and not self._scalers:
            raise RuntimeError(
                f"`TableEncoder` should be fitted before `{use}`: call `fit` on the training frame."
            )
