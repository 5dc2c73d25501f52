"""TableEncoder: from a DataFrame to the inputs of a model."""

from __future__ import annotations

import copy
import json
import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pandas as pd

from mtl import checks
from mtl.data.files import atomic_path
from mtl.data.frames import check_frame, column_names
from mtl.data.learning import learn
from mtl.data.raw import KINDS, CategoricalColumn, Encoded, NumericColumn, RawColumn
from mtl.data.settings import (
    SETTINGS,
    among,
    check_distinct,
    check_settings,
    settings_by_column,
    settings_with_shared,
)
from mtl.data.vocabulary import kind_of

_FORMAT = "mtl.TableEncoder"
_VERSION = 2
_EXTENDED = 3  # with ids behind that of a missing value
_KINDS = 4  # with sequences, times and hashes
_CLIPPED = 5  # with numbers that are clipped
_READABLE = (1, _VERSION, _EXTENDED, _KINDS, _CLIPPED)  # 1 had one choice for all columns
_OLD = (CategoricalColumn, NumericColumn)  # the kinds before 4
_SHOWN = 10  # columns of a kind in the repr

Columns = Iterable[str] | Mapping[str, Mapping[str, Any]]


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
    value is scaled; a missing one becomes the training mean before scaling. Settings are those of
    all columns; a dict from column to dict of settings, in place of a list, says otherwise for one.

    Args:
        categorical: list of str, or dict from str to dict. Categorical columns: strings, integers,
            floats or booleans. Their settings are `embedding_dim`, `min_count`, and `hash`: a
            number of ids, for a vocabulary that is too open to list, by which a value's id is its
            hash, and 0 a missing value. Defaults to none.
        numeric: list of str, or dict from str to dict. Numeric columns. Their settings are
            `scaling`, `encoding`, `bins`, `clip` and `min_share`. Defaults to none.
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
        sequences: list of str, or dict from str to dict. Columns of lists of categorical values.
            Each becomes padded ids and, as "<column>_length", their number, and is pooled by the
            model. Settings, beside those of a categorical column: `separator`, for strings that
            are to be split; `vocabulary`, the categorical column whose ids, settings and embedding
            it shares, as a history those of the item; `maxlen`, of which the last entries are
            kept, 50 if not said; `combiner`, "mean", "sum" or "max". Defaults to none.
        times: list of str, or dict from str to dict. Columns of dates or times, or of strings such
            as "2024-05-31 13:45". Their setting `parts` tells what becomes of one, as
            "<column>_<part>": ids of its "month", "day", "weekday", "hour" and "minute", of
            `embedding_dim`, and its "days" since 1970 as a numeric value, with the settings of
            one. `parts` are ["weekday", "hour"] if not said. Defaults to none.
        clip: bool. Whether numbers end at the least and the greatest of the training rows. What
            grows with time passes these, and a network goes on as a line. Defaults to False.
        min_share: float in [0, 1). The least share of the training rows in a bin. Defaults to 0.

    Attributes:
        columns: dict from name to `mtl.data.raw.RawColumn`, in the order of `feature_columns`.
        settings: dict from name to dict. Each column's settings.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: no column, a column given twice, or an unknown setting, scaling or encoding.
    """

    def __init__(
        self,
        categorical: Columns = (),
        numeric: Columns = (),
        embedding_dim: int = 4,
        scaling: str = "minmax",
        encoding: str | None = None,
        bins: int = 32,
        min_count: int = 1,
        sequences: Columns = (),
        times: Columns = (),
        clip: bool = False,
        min_share: float = 0,
    ) -> None:
        given = {
            "categorical": categorical, "numeric": numeric, "sequences": sequences, "times": times,
        }  # fmt: skip
        names = {kind: column_names(kind, columns) for kind, columns in given.items()}
        self.categorical, self.numeric = names["categorical"], names["numeric"]
        check_distinct([name for columns in names.values() for name in columns])
        self._defaults = check_settings({
            "embedding_dim": embedding_dim, "scaling": scaling, "encoding": encoding, "bins": bins,
            "clip": clip, "min_count": min_count, "min_share": min_share,
        })  # fmt: skip
        self.columns: dict[str, RawColumn] = {}
        for kind in KINDS:
            columns = given[kind.argument]
            own = settings_by_column(kind, columns, names[kind.argument], self._defaults)
            self.columns |= {
                name: kind(name, settings_with_shared(name, settings, self.columns))
                for name, settings in own.items()
            }
        check_distinct([name for column in self.columns.values() for name in column.inputs])
        self.settings = {name: column.settings for name, column in self.columns.items()}
        self._fitted = False

    def fit(self, frame: pd.DataFrame) -> TableEncoder:
        """Learn the vocabularies and scalings of a training frame.

        Args:
            frame: pd.DataFrame of N rows, N at least 1. Columns not listed are ignored.

        Raises:
            TypeError: no DataFrame, or values that a column can't hold.
            ValueError: a column is missing, infinite or empty, or the frame has no rows.
        """
        check_frame(frame, list(self.columns))
        if not len(frame):
            raise ValueError("`frame` should have at least one row to fit. Received: 0 rows.")
        self._learn(frame, exact=True)
        return self

    def fit_transform(self, frame: pd.DataFrame) -> dict[str, npt.NDArray[Any]]:
        """Learn as `fit`, and return the same frame as `transform` does."""
        return _arrays(self.fit(frame)._encoded(frame))

    def _learn(self, data: Any, exact: bool, verbose: int = 0) -> None:
        learners: dict[str, Any] = {}
        for name, column in self.columns.items():
            learners[name] = column.learner(learners, exact)
        # Only then, so that a failed fit leaves the encoder as it was.
        self.columns = learn(data, self.columns, learners, verbose)
        self._fitted = True

    def _encoded(
        self, frame: pd.DataFrame, columns: Iterable[str] | None = None
    ) -> dict[str, Encoded]:
        names = list(self.columns if columns is None else columns)
        check_frame(frame, names)
        return {name: self.columns[name].encode(frame[name]) for name in names}

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
        self._learn(path, exact=False, verbose=verbose)
        return self

    def transform(
        self, frame: pd.DataFrame, columns: Iterable[str] | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        """Encode a frame with what was learnt in fit.

        A value that fit didn't see is unknown without a word: that is what id 0 is for. Values of
        another kind than all that fit saw, such as "7" where fit saw 7, tell of a mistake: one
        warning names their columns (see `report`, too).

        Args:
            frame: pd.DataFrame of N rows. Columns not listed are ignored.
            columns: list of str, or None. The columns to encode. Defaults to None: all.

        Returns:
            A dict of arrays of N rows by name, in the order of `feature_columns`: (N,) int32 ids of
            the categorical columns and the parts of times, (N, maxlen) ids and (N,) lengths of
            sequences, then (N,) float32 values of the numeric columns.

        Raises:
            RuntimeError: the encoder isn't fitted.
            TypeError: no DataFrame, or values that a column can't hold.
            ValueError: a column is missing or infinite.
        """
        self._check_fitted("transform")
        encoded = self._encoded(frame, columns)
        strange = [
            f"{kind_of(found.strange)} such as {found.strange!r} in {name!r}, fitted on "
            f"{self.columns[name].fitted_on} ({found.unknown.mean():.3g} of it unknown)"
            for name, one in encoded.items()
            if (found := one.found) is not None and found.strange is not None
        ]
        if strange:
            warnings.warn(
                "`frame` should hold values of the kind that the encoder was fitted on. "
                f"Received: {'; '.join(strange)}",
                stacklevel=2,
            )
        return _arrays(encoded)

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
        learners: dict[str, Any] = {}
        for name, column in self.columns.items():
            if (learner := column.extender(learners, min_count)) is not None:
                learners[name] = learner
        other = copy.copy(self)
        other.columns = learn(data, self.columns, learners)
        return other

    def report(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Tell how much of a frame the encoder doesn't know, column by column.

        ```python
        encoder.report(serving_frame).query("unknown > 0.1")
        ```

        Args:
            frame: pd.DataFrame of N rows. Columns not listed are ignored.

        Returns:
            A DataFrame with one row per column of the encoder: "unknown", the share of rows, or of
            a sequence's entries, whose value has no id of its own (NaN for numbers and times, which
            are all known); "missing", the share of rows without a value; "fitted" and "received",
            the kinds of values that fit saw and that the frame holds, out of booleans, integers,
            floats and strings, or "numbers" or "times". Shares of no rows are NaN.

        Raises:
            RuntimeError: the encoder isn't fitted.
            TypeError: no DataFrame, or values that a column can't hold.
            ValueError: a column is missing or infinite.
        """
        self._check_fitted("report")
        rows = {
            name: (*one.shares, self.columns[name].fitted_on, one.received)
            for name, one in self._encoded(frame).items()
        }
        return pd.DataFrame.from_dict(
            rows, orient="index", columns=["unknown", "missing", "fitted", "received"]
        ).rename_axis("column")

    @property
    def feature_columns(self) -> list[Any]:
        """The list of `SparseFeat` (id 0 included), `VarLenSparseFeat` and `DenseFeat`."""
        self._check_fitted("feature_columns")
        return [feature for column in self.columns.values() for feature in column.feature_columns]

    def to_json(self) -> dict[str, Any]:
        """Return the fitted encoder as a JSON-compatible dict (see `from_json`)."""
        self._check_fitted("to_json")
        learnt = {name: column.to_json() for name, column in self.columns.items()}
        version = _EXTENDED if any("before" in one for one in learnt.values()) else _VERSION
        if any(type(c) not in _OLD or c.settings.get("hash") for c in self.columns.values()):
            version = _KINDS
        if any(column.settings.get("clip") for column in self.columns.values()):
            version = _CLIPPED
        return {
            "format": _FORMAT,
            "version": version,
            **self._defaults,
            **{
                kind.argument: [
                    [name, {**column.settings, **learnt[name]}]
                    for name, column in self.columns.items()
                    if type(column) is kind
                ]
                for kind in (KINDS if version >= _KINDS else _OLD)
            },
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
            kinds = KINDS if config["version"] >= _KINDS else _OLD
            described = {kind: dict(config[kind.argument]) for kind in kinds}
            columns: dict[str, Any] = {
                kind.argument: {name: among(one, kind.options) for name, one in columns.items()}
                for kind, columns in described.items()
            }
            encoder = cls(**columns, **among(config, SETTINGS))
            for described_columns in described.values():
                for name, one in described_columns.items():
                    column = encoder.columns[name]
                    encoder.columns[name] = column.from_json(one, encoder.columns)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"`config` should be a whole TableEncoder's JSON form. "
                f"Received: one with {type(error).__name__}: {error}"
            ) from error
        encoder._fitted = True
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
        for kind in sorted(KINDS, key=_OLD.__contains__, reverse=True):
            shown = [str(column) for column in self.columns.values() if type(column) is kind]
            rest = len(shown) - _SHOWN
            if shown:
                more = f" and {rest} more" if rest > 0 else ""
                parts.append(f"{kind.argument}: {', '.join(shown[:_SHOWN])}{more}")
        fitted = "fitted" if self._fitted else "not fitted"
        return f"TableEncoder({'; '.join([*parts, fitted])})"

    def _check_fitted(self, use: str) -> None:
        if not self._fitted:
            raise RuntimeError(
                f"`TableEncoder` should be fitted before `{use}`: call `fit` on the training frame."
            )


def _arrays(encoded: Mapping[str, Encoded]) -> dict[str, npt.NDArray[Any]]:
    return {name: array for one in encoded.values() for name, array in one.arrays.items()}
