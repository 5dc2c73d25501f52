"""What was known before each day: counts, rates and histories of a log, without a look ahead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

Array = npt.NDArray[Any]


def rates_before(
    log: pd.DataFrame,
    keys: Mapping[str, tuple[Sequence[str], float]],
    outcomes: Sequence[str],
    rows: Array | slice = slice(None),
) -> pd.DataFrame:
    """Return how often each row's keys were seen, and with what outcomes, on days before its own.

    A rate over few rows says little: it is drawn towards the rate of the whole log before that
    day, which counts as much as some number of rows does.

    Args:
        log: pd.DataFrame of N rows with the columns of `keys`, `outcomes` (0, 1, or NaN where
            unknown) and `day` (whole numbers).
        keys: dict from name to the columns whose values together are one key, a missing value
            being one, and the number of rows, above 0, that the whole log's rate counts as.
        outcomes: list of str.
        rows: (N,) bool array or slice. The rows that are asked for. Defaults to all.

    Returns:
        A pd.DataFrame of these rows with float64 columns for each key: `<key>_seen`, the number of
        rows of the key; `<key>_since`, the days since the last of them, NaN if there is none; and
        `<key>_<outcome>_rate`, NaN on days before which no row's outcome is known.
    """
    values = log[list(outcomes)].to_numpy(float)
    known = ~np.isnan(values)
    days = log["day"].to_numpy()
    counts = np.column_stack([np.ones(len(log)), known, np.where(known, values, 0)])
    of_all, _ = _before(counts, np.zeros(len(log), np.int64), days, rows)
    told, positive = np.split(of_all[:, 1:], 2, axis=1)
    with np.errstate(invalid="ignore"):
        prior = positive / told
    columns: dict[str, Array] = {}
    for name, (key, strength) in keys.items():
        before, since = _before(counts, _codes(log, key), days, rows)
        told, positive = np.split(before[:, 1:], 2, axis=1)
        rates = (positive + strength * prior) / (told + strength)
        columns |= {f"{name}_seen": before[:, 0], f"{name}_since": since}
        columns |= {f"{name}_{what}_rate": rates[:, k] for k, what in enumerate(outcomes)}
    return pd.DataFrame(columns, log.index[rows])


def history_before(
    events: pd.DataFrame, rows: pd.DataFrame, key: str, item: str, length: int
) -> list[Array]:
    """Return the last items that each row's key had on all days before the row's own.

    Args:
        events: pd.DataFrame with the columns `key`, `item` and `day`, in the order of time.
        rows: pd.DataFrame of N rows with the columns `key` and `day`.
        key: str. Such as a user's id.
        item: str. Such as a video's id.
        length: int. The most items.

    Returns:
        A list of N arrays of at most `length` items, the oldest first.
    """
    events = events.sort_values([key, "day"], kind="stable")
    keys = pd.Index(events[key].unique())
    first = min(events["day"].min(), rows["day"].min())
    days = int(max(events["day"].max(), rows["day"].max()) - first) + 1
    # One number for a key and a day, in which the events are sorted.
    places = keys.get_indexer(events[key]) * days + (events["day"] - first).to_numpy()
    codes = keys.get_indexer(rows[key])
    begins = np.searchsorted(places, codes * days)
    ends = np.searchsorted(places, codes * days + (rows["day"] - first).to_numpy())
    ends = np.where(codes < 0, begins, ends)
    items = events[item].to_numpy()
    return [
        items[begin:end] for begin, end in zip(np.maximum(begins, ends - length), ends, strict=True)
    ]


def _codes(frame: pd.DataFrame, key: Sequence[str]) -> Array:
    """Return a number for each row, the same for the same values."""
    codes = np.zeros(len(frame), np.int64)
    for name in key:
        own, values = pd.factorize(frame[name], use_na_sentinel=False)
        codes = codes * len(values) + own
    return codes


def _before(counts: Array, codes: Array, days: Array, rows: Array | slice) -> tuple[Array, Array]:
    """Return for each row what counts add up to on the days before its own, of rows of its code.

    Args:
        counts: array `(N, K)`.
        codes: array `(N,)` of whole numbers.
        days: array `(N,)` of whole numbers.
        rows: the M rows that are asked for.

    Returns:
        An array `(M, K)` of sums, and one `(M,)` of days since the last of these rows, NaN if there
        is none.
    """
    first, last = days.min(), days.max()
    cells, place = np.unique(codes * (last - first + 1) + days - first, return_inverse=True)
    code, day = np.divmod(cells, last - first + 1)
    own = np.column_stack([np.bincount(place, column) for column in counts.T])
    earlier = np.cumsum(own, axis=0) - own
    begins = np.searchsorted(code, code)  # where the cells of each one's code begin
    before = earlier - earlier[begins]
    since = np.full(len(cells), np.nan)
    since[1:] = np.where(code[1:] == code[:-1], np.diff(day), np.nan)
    return before[place[rows]], since[place[rows]]
