"""TableEncoder: from a DataFrame to the inputs of a model."""

from __future__ import annotations

import copy
import json
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mtl import checks
from mtl.data.files import atomic_path
from mtl.data.frames import check_frame, column_names
from mtl.data.learning import frames_of, learn
from mtl.data.scaler import Scaler
from mtl.data.settings import (
    OF_CATEGORICAL,
    OF_NUMERIC,
    SETTINGS,
    among,
    check_settings,
    settings_by_column,
)
from mtl.data.vocabulary import Vocabulary, kind_of
from mtl.encodings import BY_NAME
from mtl.features import DenseFeat, SparseFeat

_FORMAT = "mtl.TableEncoder"
_VERSION = 2
_EXTENDED = 3  # with ids behind that of a missing value
_READABLE = (1, _VERSION, _EXTENDED)  # 1 had one choice for all columns
_SHOWN = 10  # columns of a kind in the repr


class TableEncoder:
    """Encodes the columns of a table as ids and scaled numbers.

    Fit it on training rows only: what is fitted on validation or test rows leaks into them.

    ```python
    encoder = TableEncoder(
        categorical=["city", "device"],
        numeric={"age": {}, "spent": {"scaling": "log"}},  # all else as for the other columns
        encoding="piecewise_linear",
        min_count=10,
    )
    x_train = encoder.fit_transform(train_frame)
    x_test = encoder.transform(test_frame)
    model = MMoE(encoder.feature_columns, task_names=["click", "buy"], dense_embedding_dim=8)
    ```

    A categorical value becomes an id: 0 for what was not seen in fit, 1 to V for the values seen
    in fit in sorted order (a missing value among them counts as a value, the last one). A numeric
    value is scaled; a missing one becomes the training mean before scaling.

    Every setting after `numeric` is that of all columns which don't say otherwise: a dict from
    column to dict of settings, in place of a list of columns, says it for one.

    Args:
        categorical: list of str, or dict from str to dict. Categorical columns: strings, integers,
            floats or booleans. Their settings are `embedding_dim` and `min_count`. Defaults to
            none.
        numeric: list of str, or dict from str to dict. Numeric columns. Their settings are
            `scaling`, `encoding` and `bins`. Defaults to none.
        embedding_dim: int. Embedding size. Defaults to 4.
        scaling: str. "minmax" to [0, 1] over the training rows (a constant column becomes 0),
            "standard" to mean 0 and standard deviation 1, and for heavy tails "robust" to median
            0 and interquartile range 1 or "log", the standard scaling of sign(v) · log(1 + |v|);
            or "none". Defaults to "minmax".
        encoding: str or None. What the model makes of the scaled number: "bins" or
            "piecewise_linear", with bins equally full on the training rows. It is the
            `transform_fn` of the feature column (see `mtl.encodings`) and thus saved and exported
            with the model. Defaults to None: the number as it is.
        bins: int. The most bins of an encoding. Defaults to 32.
        min_count: int. Training rows that a category needs to have an id of its own. The rows of
            rarer ones train the unknown id. Defaults to 1.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: no column, a column given twice, or an unknown setting, scaling or encoding.
    """

    def __init__(
        self,
        categorical: Iterable[str] | Mapping[str, Mapping[str, Any]] = (),
        numeric: Iterable[str] | Mapping[str, Mapping[str, Any]] = (),
        embedding_dim: int = 4,
        scaling: str = "minmax",
        encoding: str | None = None,
        bins: int = 32,
        min_count: int = 1,
    ) -> None:
        self.categorical = column_names("categorical", categorical)
        self.numeric = column_names("numeric", numeric)
        columns = self.categorical + self.numeric
        if not columns:
            raise ValueError("`categorical` and `numeric` should name a column. Received: none.")
        for column in columns:
            if columns.count(column) > 1:
                raise ValueError(
                    "`categorical` and `numeric` should name each column once. "
                    f"Received: {column!r} twice"
                )
        ids = {"embedding_dim": embedding_dim, "min_count": min_count}
        numbers = {"scaling": scaling, "encoding": encoding, "bins": bins}
        self._defaults = check_settings("", {**ids, **numbers})
        self.settings = {
            **settings_by_column("categorical", categorical, self.categorical, ids),
            **settings_by_column("numeric", numeric, self.numeric, numbers),
        }
        self._vocabularies: dict[str, Vocabulary] = {}
        self._scalers: dict[str, Scaler] = {}
        self._encodings: dict[str, Any] = {}

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
        vocabularies = {
            name: Vocabulary.fit(name, frame[name], self.settings[name]["min_count"])
            for name in self.categorical
        }
        scalers = {
            name: Scaler.fit(name, frame[name], self.settings[name]["scaling"])
            for name in self.numeric
        }
        encodings = {
            name: BY_NAME[self.settings[name]["encoding"]].fit(values, self.settings[name]["bins"])
            for name, (_, values) in scalers.items()
            if self.settings[name]["encoding"]
        }
        # Only now, so that a failed fit leaves the encoder as it was.
        self._vocabularies = {name: vocabulary for name, (vocabulary, _) in vocabularies.items()}
        self._scalers = {name: scaler for name, (scaler, _) in scalers.items()}
        self._encodings = encodings
        return {name: values for name, (_, values) in (vocabularies | scalers).items()}

    def fit_parquet(self, path: Any, verbose: int = 1) -> TableEncoder:
        """Learn vocabularies and scalings from Parquet files, a row group at a time.

        One pass, in memory that grows with the vocabularies alone. They are those of `fit` on all
        rows, and so are means, deviations, minima and maxima, up to rounding. Quantiles, which
        "robust" scaling and the encodings need, are those of a KLL sketch: their ranks are off by
        7e-4 at most, in 99 of 100 columns.

        Args:
            path: str, path, or list of them. Files, folders or globs, as for `ParquetStream`.
            verbose: int. 0 shows no progress. Defaults to 1.

        Raises:
            FileNotFoundError: no such file.
            ImportError: pyarrow, or datasketches, isn't installed.
            TypeError: values that a column can't hold.
            ValueError: a damaged file, or a column that is missing, infinite or empty.
        """
        learnt = learn(path, self.categorical, self.numeric, self.settings, verbose)
        self._vocabularies, self._scalers, self._encodings = learnt
        return self

    def transform(self, frame: pd.DataFrame) -> dict[str, npt.NDArray[Any]]:
        """Encode a frame with what was learnt in fit.

        A value that fit didn't see is unknown without a word: that is what id 0 is for. Values of
        another kind than all that fit saw, such as "7" where fit saw 7, tell of a mistake: one
        warning names their columns (see `report`, too).

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
        found = {n: v.look_up(n, frame[n]) for n, v in self._vocabularies.items()}
        values = {name: s.transform(name, frame[name]) for name, s in self._scalers.items()}
        strange = [
            f"{kind_of(one.strange)} such as {one.strange!r} in {name!r}, fitted on "
            f"{', '.join(self._vocabularies[name].kinds)} ({one.unknown.mean():.3g} of it unknown)"
            for name, one in found.items()
            if one.strange is not None
        ]
        if strange:
            warnings.warn(
                "`frame` should hold values of the kind that the encoder was fitted on. "
                f"Received: {'; '.join(strange)}",
                stacklevel=2,
            )
        return {**{name: one.ids for name, one in found.items()}, **values}

    def extend(self, data: Any, min_count: int | None = None) -> TableEncoder:
        """Return an encoder that knows the new categories of a later day, too.

        No id moves: what was known keeps its id, and what is new gets ids behind them, so that a
        model grows by rows (see `mtl.training.grow`). Numeric columns are scaled as before. Stale
        categories stay: ids are neither evicted nor merged.

        Args:
            data: pd.DataFrame of N rows; or files, folders or globs of Parquet, which are read a
                row group at a time.
            min_count: int or None. Rows of `data` that a category needs. Defaults to that of fit.

        Returns:
            A new `TableEncoder`; this one stays as it is.

        Raises:
            FileNotFoundError: no such file.
            RuntimeError: the encoder isn't fitted.
            TypeError: neither a DataFrame nor paths, or values that a column can't hold.
            ValueError: a column is missing, or an argument out of range.
        """
        self._check_fitted("extend")
        if min_count is not None:
            min_count = checks.positive_int("min_count", min_count)
        counts: dict[str, Counter[Any]] = {name: Counter() for name in self._vocabularies}
        for frame in frames_of(data, list(self._vocabularies)):
            for name, vocabulary in self._vocabularies.items():
                counts[name] += vocabulary.count(name, frame[name])
        other = copy.copy(self)
        other._vocabularies = {
            name: vocabulary.extended(counts[name], min_count or self.settings[name]["min_count"])
            for name, vocabulary in self._vocabularies.items()
        }
        return other

    def report(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Tell how much of a frame the encoder doesn't know, column by column.

        ```python
        encoder.report(serving_frame).query("unknown > 0.1")
        ```

        Args:
            frame: pd.DataFrame of N rows. Columns not listed are ignored.

        Returns:
            A DataFrame with one row per column of the encoder: "unknown", the share of rows whose
            value has no id of its own (NaN for a numeric column, which knows every number);
            "missing", the share without a value; "fitted" and "received", the kinds of values
            that fit saw and that the frame holds, out of booleans, integers, floats and strings,
            or "numbers". Shares of no rows are NaN.

        Raises:
            RuntimeError: the encoder isn't fitted.
            TypeError: no DataFrame, or values that a column can't hold.
            ValueError: a column is missing or infinite.
        """
        self._check_fitted("report")
        check_frame(frame, self.categorical + self.numeric)
        rows = {}
        for name, vocabulary in self._vocabularies.items():
            found = vocabulary.look_up(name, frame[name])
            kinds = ", ".join(vocabulary.kinds), ", ".join(found.kinds)
            rows[name] = (_share(found.unknown), _share(found.missing), *kinds)
        for name, scaler in self._scalers.items():
            missing = scaler.missing(name, frame[name])
            kinds = "numbers", "" if missing.all() else "numbers"
            rows[name] = (np.nan, _share(missing), *kinds)
        return pd.DataFrame.from_dict(
            rows, orient="index", columns=["unknown", "missing", "fitted", "received"]
        ).rename_axis("column")

    @property
    def feature_columns(self) -> list[Any]:
        """The list of `SparseFeat` (id 0 included in the vocabulary) and `DenseFeat`."""
        self._check_fitted("feature_columns")
        sparse = [
            SparseFeat(name, vocabulary.size, self.settings[name]["embedding_dim"], dtype="int32")
            for name, vocabulary in self._vocabularies.items()
        ]
        return sparse + [
            DenseFeat(name, 1, transform_fn=self._encodings.get(name)) for name in self._scalers
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the fitted encoder as a JSON-compatible dict (see `from_json`)."""
        self._check_fitted("to_json")
        extended = any("before" in v.to_json() for v in self._vocabularies.values())
        edges = {name: {"edges": encoding.edges} for name, encoding in self._encodings.items()}
        return {
            "format": _FORMAT,
            "version": _EXTENDED if extended else _VERSION,
            **self._defaults,
            "categorical": [
                [name, {**self.settings[name], **v.to_json()}]
                for name, v in self._vocabularies.items()
            ],
            "numeric": [
                [name, {**self.settings[name], **scaler.to_json(), **edges.get(name, {})}]
                for name, scaler in self._scalers.items()
            ],
        }

    @classmethod
    def from_json(cls, config: dict[str, Any]) -> TableEncoder:
        """Return the encoder that `to_json` described; ValueError if it is no such dict."""
        if not isinstance(config, dict) or config.get("format") != _FORMAT:
            raise ValueError(
                f'`config` should be a TableEncoder\'s JSON form, with "format": {_FORMAT!r}. '
                f"Received: {str(config)[:80]}"
            )
        if config.get("version") not in _READABLE:
            raise ValueError(
                f"`config` should be of a version that this release of mtl reads: {_READABLE}. "
                f"Received: version {config.get('version')!r}"
            )
        try:
            vocabularies = {name: Vocabulary.from_json(v) for name, v in config["categorical"]}
            scalers = {name: Scaler.from_json(s) for name, s in config["numeric"]}
            encoder = cls(
                {name: among(v, OF_CATEGORICAL) for name, v in config["categorical"]},
                {name: among(s, OF_NUMERIC) for name, s in config["numeric"]},
                **among(config, SETTINGS),
            )
            encodings = {
                name: BY_NAME[encoder.settings[name]["encoding"]](s["edges"])
                for name, s in config["numeric"]
                if encoder.settings[name]["encoding"]
            }
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"`config` should be a whole TableEncoder's JSON form. "
                f"Received: one with {type(error).__name__}: {error}"
            ) from error
        encoder._vocabularies, encoder._scalers = vocabularies, scalers
        encoder._encodings = encodings
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

    def __repr__(self) -> str:
        parts = []
        for kind, names in (("categorical", self.categorical), ("numeric", self.numeric)):
            shown = [
                f"{name} ({self._vocabularies[name].size:,} ids)"
                if name in self._vocabularies
                else name
                for name in names[:_SHOWN]
            ]
            rest = len(names) - _SHOWN
            if names:
                more = f" and {rest} more" if rest > 0 else ""
                parts.append(f"{kind}: {', '.join(shown)}{more}")
        fitted = "fitted" if self._vocabularies or self._scalers else "not fitted"
        return f"TableEncoder({'; '.join([*parts, fitted])})"

    def _check_fitted(self, use: str) -> None:
        if not self._vocabularies and not self._scalers:
            raise RuntimeError(
                f"`TableEncoder` should be fitted before `{use}`: call `fit` on the training frame."
            )


def _share(rows: npt.NDArray[np.bool_]) -> float:
    return float(rows.mean()) if len(rows) else float("nan")
