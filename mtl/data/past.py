"""What was known before each day: counts, rates and histories of a log, without a look ahead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

Array = npt.NDArray[Any]


def rates_before(
    log: pd.DataFrame, key: Sequence[str], outcomes: Sequence[str], strength: float
) -> pd.DataFrame:
    """Return how often each row's key was seen, and with what outcomes, on all days before its own.

    A rate over few rows says little: it is drawn towards the rate of the whole log before that
    day, which counts as much as `strength` rows do.

    Args:
        log: pd.DataFrame of N rows with the columns of `key`, `outcomes` (0, 1, or NaN where
            unknown) and `day` (whole numbers).
        key: list of str. The columns whose values together are one key; a missing value is one.
        outcomes: list of str.
        strength: float. Above 0.

    Returns:
        A pd.DataFrame of N rows with the float64 columns `seen`, the number of rows of the key;
        `since`, the days since the last of them, NaN if there is none; and by outcome its rate, NaN
        on days before which no row's outcome is known.
    """
    known = log[list(outcomes)].notna().add_prefix("known_")
    days = pd.concat([log[list(outcomes)].fillna(0), known], axis=1).astype(float)
    days["seen"] = 1.0
    days["last"] = log["day"].astype(float)
    own = _codes(log, key)
    mine = _before(days, own, log["day"])
    all_of_them = _before(days, np.zeros_like(own), log["day"])
    rates = {"seen": mine["seen"], "since": log["day"] - mine["last"]}
    for outcome in outcomes:
        told = all_of_them[f"known_{outcome}"]
        prior = all_of_them[outcome] / told.where(told > 0)
        rates[outcome] = (mine[outcome] + strength * prior) / (mine[f"known_{outcome}"] + strength)
    return pd.DataFrame(rates)


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


def _before(days: pd.DataFrame, codes: Array, day: pd.Series[Any]) -> pd.DataFrame:
    """Return for each row the sums over the rows of its code on days before its own.

    Of the column "last" it is the greatest value, not the sum.
    """
    by_day = days.groupby([codes, day.to_numpy()])
    daily = by_day.sum()
    before = daily.groupby(level=0).cumsum() - daily
    before["last"] = by_day["last"].max().groupby(level=0).shift()
    rows = pd.MultiIndex.from_arrays([codes, day.to_numpy()])
    return before.take(before.index.get_indexer(rows)).set_index(days.index)
