"""Metrics of predicted amounts, such as watch times and lifetime values, in numpy: their ranking.

Arrays as in `mtl.metrics.arrays`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mtl.metrics.arrays import check_all, labelled


def normalized_gini(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
    """Return how well predictions rank values by what share of all value their top rows hold.

    With the rows in order of falling predictions, the gain curve is the share of all value over
    the share of rows; the Gini coefficient is twice its area above the diagonal. It is divided by
    that of the values' own order: 1 is the best ranking, 0 is that of chance, below is worse.
    Along rows of equal predictions the curve is straight.

    Args:
        y_true: array of values of at least 0, or NaN where missing.
        y_pred: array of scores, such as expected values.
        sample_weight: array of non-negative weights, or None. Defaults to None: 1 each.

    Returns:
        A float in [-1, 1]; NaN unless values differ.

    Raises:
        TypeError: arrays that hold no numbers.
        ValueError: as for `auc`, or values below 0.

    References:
        - Wang et al., A Deep Probabilistic Model for Customer Lifetime Value Prediction, 2019
    """
    y, p, w = labelled(y_true, y_pred, sample_weight, binary=False)
    check_all("y_true", y, y >= 0, "values of at least 0")
    best = _gini(y, y, w)
    return _gini(y, p, w) / best if best > 1e-12 else np.nan


def _gini(y: np.ndarray, p: np.ndarray, w: np.ndarray) -> float:
    if not np.sum(w * y):
        return 0.0
    ties = np.unique(-p, return_inverse=True)[1]
    rows, value = np.bincount(ties, w), np.bincount(ties, w * y)
    gain = np.cumsum(value) - value / 2
    return float(2 * np.sum(rows * gain) / (rows.sum() * value.sum()) - 1)


def xauc(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
    """Return the share of pairs of rows that predictions order as their values are ordered.

    A pair of equal predictions counts half; one of equal values has no order, and is left out. For
    values 0 and 1 it is the AUC. All pairs count, not a sample of them, in time of O(n log² n).

    Args:
        y_true: array of values, such as watch times, or NaN where missing.
        y_pred: array of scores.
        sample_weight: array of non-negative weights, or None. A pair weighs the product of its
            rows'. Defaults to None: 1 each.

    Returns:
        A float in [0, 1]; NaN unless values differ.

    Raises:
        TypeError: arrays that hold no numbers.
        ValueError: as for `auc`.

    References:
        - Zhan et al., Deconfounding Duration Bias in Watch-time Prediction for Video
          Recommendation, KDD 2022
    """
    y, p, w = labelled(y_true, y_pred, sample_weight, binary=False)
    if not len(y) or y.min() == y.max():
        return np.nan
    w = w / w.sum()
    scores, ranks = np.unique(p, return_inverse=True)
    places = np.unique(y, return_inverse=True)[1]
    # Twice the weights of the pairs that have an order, and of those whose predictions have none.
    ordered = 1 - _squares(places, w)
    tied = _squares(ranks, w) - _squares(places * len(scores) + ranks, w)
    # Of equal values the greatest prediction comes first: no such pair rises.
    order = np.lexsort((-ranks, places))
    return float((2 * _rising(ranks[order], w[order]) + tied / 2) / ordered)


def _squares(groups: np.ndarray, w: np.ndarray) -> float:
    """Return the sum of the groups' squared weights: twice that of the pairs within, and Σ w²."""
    codes = np.unique(groups, return_inverse=True)[1]
    return float(np.sum(np.bincount(codes, w) ** 2))


def _rising(ranks: np.ndarray, w: np.ndarray) -> float:
    """Return the weight of the pairs of which the later one has the greater rank.

    The ranks of a pair first differ in one of their bits. From the highest on, rows are sorted by
    the bits above, and stay in order otherwise: pairs that are alike in these are neighbours.
    """
    total = 0.0
    for bit in reversed(range(int(ranks.max()).bit_length())):
        prefix, one = ranks >> (bit + 1), (ranks >> bit) & 1 == 1
        starts = np.flatnonzero(np.r_[True, prefix[1:] != prefix[:-1]])
        zeros = np.r_[0.0, np.cumsum(np.where(one, 0.0, w))]
        before = zeros[:-1] - np.repeat(zeros[starts], np.diff(np.r_[starts, len(ranks)]))
        total += float(np.sum(w[one] * before[one]))
        order = np.argsort(ranks >> bit, kind="stable")
        ranks, w = ranks[order], w[order]
    return total
