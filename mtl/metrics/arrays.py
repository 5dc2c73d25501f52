"""Metrics of arrays of predictions, in numpy: ranking, likelihood and calibration.

Arrays have shape `(N,)` or `(N, 1)` and are computed with in float64. Rows whose label is NaN are
missing, and they and rows of weight 0 are left out. What is not defined on the rows that remain
is NaN: any metric of no rows, the AUC of a single class, a ratio to no positives.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from mtl import checks


def auc(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
    """Return the exact area under the ROC curve: P(a positive scores above a negative).

    Ties count half.

    Args:
        y_true: array of 0 and 1, or NaN where missing.
        y_pred: array of scores, such as probabilities or logits.
        sample_weight: array of non-negative weights, or None. Defaults to None: 1 each.

    Returns:
        A float; NaN unless both classes occur.

    Raises:
        TypeError: arrays that hold no numbers.
        ValueError: other labels than 0 and 1, values that are not finite, negative weights,
            wrong shapes, or lengths that differ.
    """
    y, p, w = labelled(y_true, y_pred, sample_weight)
    return weighted_mean(*_auc_of_groups(y, p, w, np.zeros(len(y), "int64")))


def group_auc(y_true: Any, y_pred: Any, groups: Any, sample_weight: Any = None) -> float:
    """Return the mean AUC within groups, weighted by the groups' impressions.

    With users as groups it tells how well each user's impressions are ranked. A group in which
    one class alone occurs has no AUC and is left out.

    Args:
        y_true: array of 0 and 1, or NaN where missing.
        y_pred: array of scores, such as probabilities or logits.
        groups: array of what the rows are grouped by, such as user ids: numbers or strings.
        sample_weight: array of non-negative weights, or None. The weight of a group is the sum
            over its rows. Defaults to None: 1 each.

    Returns:
        A float; NaN unless both classes occur in some group.

    Raises:
        TypeError: arrays that hold no numbers.
        ValueError: as for `auc`, or a missing group.

    References:
        - Zhu et al., Optimized Cost per Click in Taobao Display Advertising, KDD 2017
    """
    y, p, w, codes = labelled(y_true, y_pred, sample_weight, _codes(groups))
    if (codes < 0).any():
        raise ValueError(
            "`groups` should hold no missing values. "
            f"Received: {np.count_nonzero(codes < 0)} rows without a group"
        )
    return weighted_mean(*_auc_of_groups(y, p, w, codes))


def log_loss(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
    """Return the mean negative log-likelihood, -y log p - (1 - y) log(1 - p), in nats.

    Probabilities are kept from 0 and 1 by the machine epsilon, as in scikit-learn: that of
    float64 for arrays of it, and of float32 for others, which are predictions of models.

    Args:
        y_true: array of 0 and 1, or NaN where missing.
        y_pred: array of probabilities.
        sample_weight: array of non-negative weights, or None. Defaults to None: 1 each.

    Returns:
        A float; NaN if there are no rows.

    Raises:
        TypeError: arrays that hold no numbers.
        ValueError: as for `auc`, or predictions outside of [0, 1].
    """
    y, p, w = labelled(y_true, y_pred, sample_weight)
    wide = np.asarray(y_pred).dtype.itemsize > 4
    epsilon = np.finfo("float64" if wide else "float32").eps
    p = np.clip(_probabilities(p), epsilon, 1 - epsilon)
    return weighted_mean(-np.log(np.where(y == 1, p, 1 - p)), w)


def normalized_entropy(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
    """Return the log loss over that of predicting the base rate: 1 is no better than it.

    Args:
        y_true: array of 0 and 1, or NaN where missing.
        y_pred: array of probabilities.
        sample_weight: array of non-negative weights, or None. Defaults to None: 1 each.

    Returns:
        A float; NaN unless both classes occur.

    Raises:
        TypeError: arrays that hold no numbers.
        ValueError: as for `auc`, or predictions outside of [0, 1].

    References:
        - He et al., Practical Lessons from Predicting Clicks on Ads at Facebook, ADKDD 2014
    """
    loss = log_loss(y_true, y_pred, sample_weight)
    y, _, w = labelled(y_true, y_pred, sample_weight)
    if not 0 < (rate := weighted_mean(y, w)) < 1:
        return np.nan
    return float(loss / -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate)))


def expected_calibration_error(
    y_true: Any,
    y_pred: Any,
    sample_weight: Any = None,
    *,
    bins: int = 10,
    strategy: str = "uniform",
) -> float:
    """Return the mean distance of predicted and observed rate, Σ_b w_b |p̄_b - ȳ_b| / Σ_b w_b.

    Bins are closed on the right, so that equal predictions fall into one bin.

    Args:
        y_true: array of 0 and 1, or NaN where missing.
        y_pred: array of probabilities.
        sample_weight: array of non-negative weights, or None. Defaults to None: 1 each.
        bins: int. Number of bins. Defaults to 10.
        strategy: str. `"uniform"`: bins of equal width; or `"quantile"`: of equal weight, for
            rates so low that few of the others hold anything. Defaults to `"uniform"`.

    Returns:
        A float in [0, 1]; NaN if there are no rows.

    Raises:
        TypeError: arrays that hold no numbers, or `bins` that is no integer.
        ValueError: as for `log_loss`, `bins` below 1, or an unknown strategy.

    References:
        - Naeini et al., Obtaining Well Calibrated Probabilities Using Bayesian Binning, AAAI 2015
        - Guo et al., On Calibration of Modern Neural Networks, ICML 2017
    """
    bins = checks.positive_int("bins", bins)
    if strategy not in ("uniform", "quantile"):
        raise ValueError(f"`strategy` should be 'uniform' or 'quantile'. Received: {strategy!r}")
    y, p, w = labelled(y_true, y_pred, sample_weight)
    p = _probabilities(p)
    if not len(y):
        return np.nan
    inner = np.arange(1, bins)
    if strategy == "uniform":
        edges = inner / bins
    else:
        order = np.argsort(p)
        mass = np.cumsum(w[order])
        edges = p[order][np.searchsorted(mass, inner * mass[-1] / bins)]
    distance = np.bincount(np.searchsorted(edges, p), w * (p - y))
    return float(np.abs(distance).sum() / w.sum())


def pcoc(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
    """Return predicted over observed, Σ p / Σ y: above 1 the rate is overestimated.

    Args:
        y_true: array of 0 and 1, or NaN where missing.
        y_pred: array of probabilities.
        sample_weight: array of non-negative weights, or None. Defaults to None: 1 each.

    Returns:
        A float; NaN if there are no positives.

    Raises:
        TypeError: arrays that hold no numbers.
        ValueError: as for `log_loss`.
    """
    y, p, w = labelled(y_true, y_pred, sample_weight)
    observed = np.sum(w * y)
    return float(np.sum(w * _probabilities(p)) / observed) if observed else np.nan


def labelled(
    y_true: Any,
    y_pred: Any,
    sample_weight: Any = None,
    groups: np.ndarray | None = None,
    *,
    name: str = "y_true",
    binary: bool = True,
) -> tuple[np.ndarray, ...]:
    """Return labels, predictions and weights of the rows that count, in float64.

    Args:
        y_true: array of labels.
        y_pred: array of predictions.
        sample_weight: array of weights, or None.
        groups: array of group numbers to return too, or None.
        name: str. What errors call the labels.
        binary: bool. Whether labels should be 0 or 1.

    Returns:
        Three arrays of equal length, or four.

    Raises:
        TypeError: arrays that hold no numbers.
        ValueError: as for `auc`.
    """
    columns = {name: _numbers(name, y_true), "y_pred": _numbers("y_pred", y_pred)}
    if sample_weight is not None:
        columns["sample_weight"] = _numbers("sample_weight", sample_weight)
    if groups is not None:
        columns["groups"] = groups
    lengths = {key: len(column) for key, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"Arrays should have equal lengths. Received: {lengths}")
    columns.setdefault("sample_weight", np.ones(lengths[name]))
    counts = ~np.isnan(columns[name]) & (columns["sample_weight"] != 0)
    columns = {key: column[counts] for key, column in columns.items()}
    y, p, w = columns[name], columns["y_pred"], columns["sample_weight"]
    if binary:
        check_all(name, y, (y == 0) | (y == 1), "0 and 1, or NaN where missing")
    else:
        check_all(name, y, np.isfinite(y), "finite numbers, or NaN where missing")
    check_all("y_pred", p, np.isfinite(p), "finite numbers")
    check_all("sample_weight", w, np.isfinite(w) & (w >= 0), "finite numbers of at least 0")
    return (y, p, w) if groups is None else (y, p, w, columns["groups"])


def _auc_of_groups(
    y: np.ndarray, p: np.ndarray, w: np.ndarray, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the AUC and the weight of each group that has both classes."""
    if not len(y):
        return np.empty(0), np.empty(0)
    order = np.argsort(p)
    # By group, then by prediction: sorting whole numbers takes a quarter of a stable argsort.
    keys = np.sort(groups[order] * len(p) + np.arange(len(p)))
    order = order[keys % len(p)]
    y, p, w, groups = (array[order] for array in (y, p, w, groups))
    first = np.ones(len(y), bool)
    first[1:] = (groups[1:] != groups[:-1]) | (p[1:] != p[:-1])
    ties = np.flatnonzero(first)  # where each run of equal predictions in a group starts
    groups = groups[ties]
    positives, negatives = np.add.reduceat(w * y, ties), np.add.reduceat(w * (1 - y), ties)
    # A cumulative sum over all groups would lose the digits of a small one's weights.
    below = pd.Series(negatives).groupby(groups).cumsum().to_numpy() - negatives / 2
    won = np.bincount(groups, positives * below)
    positives, negatives = np.bincount(groups, positives), np.bincount(groups, negatives)
    both = (positives > 0) & (negatives > 0)
    pairs = positives[both] * negatives[both]
    return won[both] / pairs, positives[both] + negatives[both]


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> float:
    """Return the mean of values, each by its weight; NaN if there are none."""
    return float(np.sum(values * weights) / np.sum(weights)) if len(weights) else np.nan


def _probabilities(p: np.ndarray) -> np.ndarray:
    check_all("y_pred", p, (p >= 0) & (p <= 1), "probabilities")
    return p


def _codes(groups: Any) -> np.ndarray:
    """Return an integer from 0 for each group, and -1 for what is missing."""
    if isinstance(groups, (list, tuple)):
        groups = np.asarray(groups, object)  # or NaN among strings would become one
    if not isinstance(groups, (pd.Series, pd.Index, pd.api.extensions.ExtensionArray)):
        groups = _column("groups", np.asarray(groups))
    codes: np.ndarray = pd.factorize(groups)[0]
    return codes


def _numbers(name: str, values: Any) -> np.ndarray:
    array: np.ndarray = np.asarray(values)
    if array.dtype.kind not in "fiubOV":  # bfloat16 is a V to numpy
        raise TypeError(f"`{name}` should hold numbers. Received: dtype {array.dtype}")
    try:
        array = array.astype("float64")
    except (TypeError, ValueError) as error:
        raise TypeError(f"`{name}` should hold numbers. Received: {error}") from error
    return _column(name, array)


def _column(name: str, array: np.ndarray) -> np.ndarray:
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(f"`{name}` should have shape (N,) or (N, 1). Received: {array.shape}")
    return array


def check_all(name: str, array: np.ndarray, valid: np.ndarray, expected: str) -> None:
    """Raise a ValueError, which names the first wrong entry, unless all are valid."""
    if not valid.all():
        raise ValueError(f"`{name}` should hold {expected}. Received: {array[~valid][0]}")
