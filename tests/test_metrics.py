"""Metrics against scikit-learn and against what is worked out by hand."""

import time
from typing import Any

import keras
import ml_dtypes
import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from mtl.features import DenseFeat
from mtl.metrics import (
    HEADLINES,
    auc,
    evaluate_tasks,
    expected_calibration_error,
    group_auc,
    log_loss,
    normalized_entropy,
    normalized_gini,
    pcoc,
    scores_of,
    xauc,
)
from mtl.models import ESMM, SharedBottom, extract_task

NAN = np.nan
ALL = [auc, log_loss, normalized_entropy, expected_calibration_error, pcoc]
N = 400


class Rows:
    """Labels, predictions with ties, weights and groups of one class or both."""

    def __init__(self, n: int = N, groups: int = 60, digits: int = 2, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.p = rng.random(n).round(digits)
        self.y = (rng.random(n) < self.p**2).astype("float64")
        self.w = rng.exponential(size=n)
        self.w[rng.random(n) < 0.1] = 0
        self.g = rng.integers(0, groups, n)


ROWS = Rows()


def sklearn_group_auc(rows: Rows, w: np.ndarray) -> float:
    aucs, weights = [], []
    for g in np.unique(rows.g):
        own = (rows.g == g) & (w > 0)
        if len(np.unique(rows.y[own])) == 2:
            aucs.append(sk.roc_auc_score(rows.y[own], rows.p[own], sample_weight=w[own]))
            weights.append(w[own].sum())
    assert 1 < len(aucs) < rows.g.max()  # some have one class alone
    return float(np.average(aucs, weights=weights))


@pytest.mark.parametrize("weighted", [False, True])
def test_auc_and_log_loss_agree_with_scikit_learn(weighted: bool) -> None:
    w = ROWS.w if weighted else None
    p = np.clip(ROWS.p, 0.01, 0.99)
    expected = sk.roc_auc_score(ROWS.y, ROWS.p, sample_weight=w)
    assert auc(ROWS.y, ROWS.p, w) == pytest.approx(expected, abs=1e-12)
    assert auc(ROWS.y, 40 * ROWS.p - 30, w) == pytest.approx(expected, abs=1e-12)  # any scores
    expected = sk.log_loss(ROWS.y, p, sample_weight=w)
    assert log_loss(ROWS.y, p, w) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("digits", [1, 15])
def test_group_auc_agrees_with_scikit_learn_per_group(weighted: bool, digits: int) -> None:
    rows = Rows(digits=digits)
    w = rows.w if weighted else None
    expected = sklearn_group_auc(rows, np.ones(N) if w is None else w)
    names = np.char.add("user ", rows.g.astype(str))
    for groups in (rows.g, rows.g * -(10**12), rows.g / 7, names, list(names), names[:, None],
                   names.astype(object), pd.Series(rows.g, index=range(9, 9 + N)),
                   pd.Series(names, dtype="category"), pd.Index(names)):  # fmt: skip
        assert group_auc(rows.y, rows.p, groups, w) == pytest.approx(expected, abs=1e-9)


def test_group_auc_of_groups_whose_weights_differ_by_far() -> None:
    rows = Rows()
    w = np.maximum(rows.w, 0.01) * np.where(rows.g % 2 == 0, 1e12, 1e-3)
    expected = sklearn_group_auc(rows, w)
    assert group_auc(rows.y, rows.p, rows.g, w) == pytest.approx(expected, abs=1e-9)
    light = rows.g % 2 == 1
    w[~light], rows.y[~light] = 1e12, 0  # of one class: left out, but in the arrays
    expected = sklearn_group_auc(rows, w)
    assert group_auc(rows.y, rows.p, rows.g, w) == pytest.approx(expected, abs=1e-9)


def test_group_auc_weighs_groups_by_their_impressions() -> None:
    y = [1, 0, 1, 0, 0, 1, 1]
    p = [0.9, 0.1, 0.2, 0.2, 0.3, 0.5, 0.6]
    groups = ["a", "a", "b", "b", "b", "c", "c"]  # AUC 1, (1/2 + 0) / 2 and none
    assert group_auc(y, p, groups) == (2 * 1 + 3 * 0.25) / 5
    assert group_auc(y, p, groups, [1, 3, 1, 1, 1, 9, 9]) == (4 * 1 + 3 * 0.25) / 7


def test_group_auc_is_vectorised() -> None:
    rows = Rows(300_000, 30_000, 15)
    start = time.process_time()
    group_auc(rows.y, rows.p, rows.g)
    assert time.process_time() - start < 3  # a loop over groups takes half a minute


def test_entropy_by_hand() -> None:
    y, p = [1, 0, 0, 0], [0.5, 0.25, 0.25, 0.25]
    loss = -(np.log(0.5) + 3 * np.log(0.75)) / 4
    entropy = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    assert log_loss(y, p) == pytest.approx(loss, rel=1e-15)
    assert normalized_entropy(y, p) == pytest.approx(loss / entropy, rel=1e-15)
    assert normalized_entropy(y, [0.25] * 4) == pytest.approx(1, rel=1e-15)
    # The base rate is weighted too: one half here.
    loss = -(3 * np.log(0.5) + 3 * np.log(0.75)) / 6
    assert normalized_entropy(y, p, [3, 1, 1, 1]) == pytest.approx(loss / np.log(2), rel=1e-15)


def test_pcoc_by_hand() -> None:
    assert pcoc([1, 0, 1, 0], [0.5, 0.25, 0.5, 0.25]) == 0.75
    assert pcoc([1, 0, 1, 0], [0.5, 0.25, 0.5, 0.25], [1, 2, 1, 4]) == 1.25


def test_gini_by_hand() -> None:
    """Of values 6, 0, 2 in the best order, the curve goes by 6/8 and 1: areas 3/8, 7/8 and 1."""
    y = [6.0, 0, 2]
    best = 2 * (3 / 8 + 7 / 8 + 1) / 3 - 1
    assert normalized_gini(y, [3.0, 1, 2]) == pytest.approx(1)
    assert normalized_gini(y, [1.0, 3, 2]) == pytest.approx(-1)
    assert normalized_gini(y, [1.0, 1, 1]) == pytest.approx(0)
    # 2 first, then 6 and 0 alike: shares 2/8, 5/8, 1.
    tied = 2 * (1 / 8 + 7 / 16 + 13 / 16) / 3 - 1
    assert normalized_gini(y, [1.0, 1, 2]) == pytest.approx(tied / best)
    # A weight of 2 is a row twice; a missing value, none.
    twice = normalized_gini([6.0, 0, 2, 2], [3.0, 5, 4, 4])
    assert normalized_gini([6.0, 0, 2, NAN], [3.0, 5, 4, 9], [1, 1, 2, 1]) == pytest.approx(twice)
    assert np.isnan(normalized_gini([0.0, 0], [1.0, 2]))
    assert np.isnan(normalized_gini([3.0, 3], [1.0, 2]))
    with pytest.raises(ValueError, match=r"values of at least 0. Received: -1"):
        normalized_gini([3.0, -1], [1.0, 2])


def test_xauc_by_hand() -> None:
    """Of the pairs of 5, 1, 3, 3, one has no order; of the five others, 5 > 1 is a tie."""
    assert xauc([5, 1, 3, 3], [0.5, 0.5, 0.2, 0.8]) == pytest.approx((0.5 + 1 + 0 + 0 + 1) / 5)
    # A weight of 2 is a row twice: 5 and 1 twice, and twice one of the 3.
    weighted = xauc([5, 1, 3, 3], [0.5, 0.5, 0.2, 0.8], [1, 1, 2, 1])
    assert weighted == pytest.approx((0.5 + 2 * 1 + 0 + 2 * 0 + 1) / 7)
    assert np.isnan(xauc([3, 3], [1, 2]))
    assert np.isnan(xauc([], []))
    assert xauc([1, NAN, 2], [1, 9, 2]) == 1


@pytest.mark.parametrize("n", [2, 3, 17, 200])
def test_xauc_is_the_share_of_all_pairs_in_order(n: int) -> None:
    rng = np.random.default_rng(n)
    y, p, w = rng.integers(0, n, n) * 1.5, rng.random(n).round(1) - 0.5, rng.exponential(size=n)
    y[0] = -1
    i, j = np.triu_indices(n, 1)
    right = np.sign(y[i] - y[j]) * np.sign(p[i] - p[j])
    for weights in (None, w):
        pairs = np.where(y[i] != y[j], 1.0 if weights is None else w[i] * w[j], 0)
        expected = np.average((1 + right) / 2, weights=pairs)
        assert xauc(y, p, weights) == pytest.approx(expected, rel=1e-10)
        assert xauc(y, -p, weights) == pytest.approx(1 - expected, rel=1e-10)


def test_xauc_of_two_values_is_the_auc() -> None:
    expected = sk.roc_auc_score(ROWS.y, ROWS.p, sample_weight=ROWS.w)
    assert xauc(ROWS.y, ROWS.p, ROWS.w) == pytest.approx(expected, rel=1e-10)


def test_xauc_does_not_look_at_pairs_one_by_one() -> None:
    rng = np.random.default_rng(0)
    y = rng.exponential(size=300_000)
    start = time.process_time()
    assert xauc(y, y + rng.exponential(size=300_000)) == pytest.approx(0.75, abs=0.01)
    assert time.process_time() - start < 10  # all pairs would take an hour


def test_calibration_error_by_hand() -> None:
    y = [0, 1, 0, 1, 1]
    p = [0.0, 0.25, 0.5, 0.75, 1.0]
    # [0, 1/2] holds three rows, (1/2, 1] two.
    assert expected_calibration_error(y, p, bins=2) == pytest.approx((0.25 + 0.25) / 5)
    assert expected_calibration_error(y, p, bins=1) == pytest.approx(0.5 / 5)
    w = [1, 2, 4, 1, 1]
    assert expected_calibration_error(y, p, w, bins=2) == pytest.approx((0.5 + 0.25) / 9)
    ten = [abs(0.05 - 0.5) * 2, abs(0.11 - 0), abs(0.95 - 1)]
    assert expected_calibration_error([0, 1, 0, 1], [0.02, 0.08, 0.11, 0.95]) == pytest.approx(
        sum(ten) / 4
    )


def test_bins_of_equal_weight() -> None:
    y = [0, 1, 0, 1]
    p = [0.01, 0.02, 0.03, 0.04]
    options: dict[str, Any] = {"bins": 2, "strategy": "quantile"}
    both = (abs(0.03 - 1) + abs(0.07 - 1)) / 4
    assert expected_calibration_error(y, p, **options) == pytest.approx(both)
    assert expected_calibration_error(y[::-1], p[::-1], **options) == pytest.approx(both)
    # Half of the weight is the last row's.
    heavy = (abs(0.06 - 1) + abs(3 * (0.04 - 1))) / 6
    assert expected_calibration_error(y, p, [1, 1, 1, 3], **options) == pytest.approx(heavy)
    # Equal predictions aren't torn apart.
    assert expected_calibration_error(y, [0.5] * 4, **options) == 0


def test_saturated_predictions_lose_no_more_than_their_precision() -> None:
    assert log_loss([1, 0], [0.0, 0.0]) == pytest.approx(-np.log(np.finfo("float64").eps) / 2)
    for dtype in ("float32", "float16", ml_dtypes.bfloat16):
        p = np.zeros(2, dtype)
        assert log_loss([1, 0], p) == pytest.approx(-np.log(np.finfo("float32").eps) / 2)
        assert log_loss([0, 1], p + 1) == pytest.approx(-np.log(np.finfo("float32").eps) / 2)


@pytest.mark.parametrize("metric", ALL)
def test_missing_and_weightless_rows_are_left_out(metric: Any) -> None:
    y, p, w = ROWS.y.copy(), ROWS.p.copy(), ROWS.w
    y[:50], p[:20] = NAN, NAN
    kept = (np.arange(N) >= 50) & (w > 0)
    expected = metric(y[kept], p[kept], w[kept])
    assert metric(y, p, w) == expected
    assert metric(y[:, None], pd.Series(p, index=range(7, 7 + N)), list(w)) == expected
    assert metric(y.astype(object), p, w) == expected
    assert metric(y[50:].astype(bool), p[50:]) == metric(y[50:].astype("int8"), p[50:])
    unweighted = y[50:], p[50:].astype("float32")
    assert metric(*unweighted, np.full(N - 50, 7)) == pytest.approx(metric(*unweighted), rel=1e-12)


def test_what_is_undefined_is_nan() -> None:
    for y in ([], [NAN, NAN], [1, 0]):
        p, w = [0.5] * len(y), [0] * len(y)
        assert np.isnan([metric(y, p, w) for metric in ALL]).all()
        assert np.isnan(group_auc(y, p, p, w))
    for y in ([0, 0], [1, 1]):
        assert np.isnan([auc(y, [0.2, 0.4]), group_auc(y, [0.2, 0.4], [1, 1])]).all()
        assert np.isnan(normalized_entropy(y, [0.2, 0.4]))
    assert np.isnan(group_auc([0, 1], [0.2, 0.4], [1, 2]))
    assert np.isnan(pcoc([0, 0], [0.2, 0.4]))
    assert pcoc([1, 1], [0.2, 0.4]) == pytest.approx(0.3)
    assert expected_calibration_error([0, 0], [0.2, 0.4]) == pytest.approx(0.3)


@pytest.mark.parametrize("metric", [*ALL, lambda y, p, w=None: group_auc(y, p, np.ones(2), w)])
@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        (([0, 2], [0.5, 0.5]), ValueError, "`y_true` should hold 0 and 1.*Received: 2"),
        (([0, np.inf], [0.5, 0.5]), ValueError, "`y_true` should hold 0 and 1.*Received: inf"),
        (([0, 1], [0.5, NAN]), ValueError, "`y_pred` should hold finite.*Received: nan"),
        (([0, 1], [0.5, -np.inf]), ValueError, "`y_pred` should hold finite.*Received: -inf"),
        (([0, 1], [0.5, 0.5], [1, -1]), ValueError, "`sample_weight`.*at least 0.*Received: -1"),
        (([0, 1], [0.5, 0.5], [1, NAN]), ValueError, "`sample_weight`.*Received: nan"),
        (([0, 1], [0.5] * 3), ValueError, r"equal lengths.*'y_true': 2, 'y_pred': 3"),
        (([0, 1], [0.5] * 2, [1]), ValueError, r"equal lengths.*'sample_weight': 1"),
        (([0, 1], [[0.5, 0.5]]), ValueError, r"`y_pred`.*\(N,\) or \(N, 1\).*\(1, 2\)"),
        ((1, [0.5]), ValueError, r"`y_true`.*\(N,\) or \(N, 1\).*Received: \(\)"),
        ((["0", "1"], [0.5, 0.5]), TypeError, "`y_true` should hold numbers.*<U1"),
        (([0, 1], np.array([0.5, "a"], object)), TypeError, "`y_pred` should hold numbers.*'a'"),
    ],
)
def test_bad_arrays_are_refused(
    metric: Any, arguments: Any, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        metric(*arguments)


def test_bad_arguments_are_refused() -> None:
    for metric in ALL[1:]:
        with pytest.raises(ValueError, match=r"`y_pred` should hold probabilities.*Received: 1\.5"):
            metric([0, 1], [0.5, 1.5])
    for groups in (["a", None], ["a", NAN], [1, NAN], pd.Series(["a", None])):
        with pytest.raises(ValueError, match=r"`groups`.*no missing.*Received: 1 rows"):
            group_auc([0, 1], [0.2, 0.4], groups)
    with pytest.raises(ValueError, match=r"equal lengths.*'groups': 3"):
        group_auc([0, 1], [0.2, 0.4], [1, 2, 3])
    with pytest.raises(ValueError, match=r"`groups`.*Received: \(2, 2\)"):
        group_auc([0, 1], [0.2, 0.4], np.ones((2, 2)))
    with pytest.raises(ValueError, match=r"`bins`.*Received: 0"):
        expected_calibration_error([0], [0.5], bins=0)
    with pytest.raises(ValueError, match=r"`strategy` should be 'uniform'.*Received: 'mass'"):
        expected_calibration_error([0], [0.5], strategy="mass")


X = {"age": np.random.default_rng(1).normal(size=(N, 3)).astype("float32")}
COLUMNS = [DenseFeat("age", 3)]


def randomized(model: Any) -> Any:
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=w.shape) for w in model.weights])
    return model


class Mixed:
    """A model of a task of each type, and labels for it."""

    names = ("click", "watch time", "kind", "tags", "worth")

    def __init__(self) -> None:
        self.model = randomized(
            SharedBottom(
                COLUMNS,
                task_names=self.names,
                task_types=[
                    "binary",
                    "regression",
                    ("multiclass", 3),
                    ("multilabel", 2),
                    "lifetime_value",
                ],
                bottom_dnn_units=[4],
                tower_dnn_units_lists=[[]] * 5,
            )
        )
        rng = np.random.default_rng(2)
        self.y = {
            "click": (rng.random(N) < 0.3).astype("float32"),
            "watch time": rng.normal(size=N).astype("float32"),
            "kind": rng.integers(0, 3, N).astype("float32"),
            "tags": (rng.random((N, 2)) < 0.4).astype("float32"),
            "worth": (rng.exponential(9, N) * (rng.random(N) < 0.4)).astype("float32"),
        }
        self.p = dict(zip(self.names, self.model.predict(X, verbose=0), strict=True))
        self.p = {name: p.astype("float64") for name, p in self.p.items()}
        self.w = rng.integers(0, 4, N) / 2


@pytest.fixture(scope="module")
def mixed() -> Mixed:
    return Mixed()


def near(row: pd.Series, expected: dict[str, Any]) -> None:
    """Assert what a row holds; all else should be NaN."""
    assert set(row.dropna().index) == set(expected)
    assert row.dropna().to_dict() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_evaluate_tasks_of_every_type(mixed: Mixed, weighted: bool) -> None:
    y, p, w = mixed.y, mixed.p, mixed.w if weighted else np.ones(N)
    options = {"groups": ROWS.g, "sample_weight": w if weighted else None}
    table = evaluate_tasks(mixed.model, X, list(y.values()), **options)
    pd.testing.assert_frame_equal(table, evaluate_tasks(mixed.model, X, y, **options))
    assert list(table.index) == list(mixed.names)
    assert table["rows"].tolist() == [np.count_nonzero(w)] * 5
    weights = {"sample_weight": w}
    click, watch, kind, tags, worth = y.values()
    p_click, p_watch, p_kind, p_tags, p_worth = p.values()
    rate = np.average(click, weights=w)
    loss = sk.log_loss(click, p_click[:, 0], **weights)
    near(table.loc["click"], {
        "rows": np.count_nonzero(w),
        "positive_rate": rate,
        "auc": sk.roc_auc_score(click, p_click[:, 0], **weights),
        "group_auc": group_auc(click, p_click, ROWS.g, w),
        "log_loss": loss,
        "normalized_entropy": loss / sk.log_loss(click, np.full(N, rate), **weights),
        "ece": expected_calibration_error(click, p_click, w),
        "pcoc": np.average(p_click[:, 0], weights=w) / rate,
    })  # fmt: skip
    near(table.loc["watch time"], {
        "rows": np.count_nonzero(w),
        "mae": sk.mean_absolute_error(watch, p_watch, **weights),
        "rmse": sk.mean_squared_error(watch, p_watch, **weights) ** 0.5,
        "r2": sk.r2_score(watch, p_watch, **weights),
        "xauc": xauc(watch, p_watch, w),
    })  # fmt: skip
    near(table.loc["kind"], {
        "rows": np.count_nonzero(w),
        # scikit-learn's own refuses rows that sum to 1 in float32 only.
        "auc": np.mean(
            [sk.roc_auc_score(kind == k, p_kind[:, k], **weights) for k in range(3)]
        ),
        "log_loss": -np.average(np.log(p_kind[range(N), kind.astype(int)]), weights=w),
        "accuracy": sk.accuracy_score(kind, p_kind.argmax(axis=1), **weights),
    })  # fmt: skip
    near(table.loc["tags"], {
        "rows": np.count_nonzero(w),
        "auc": sk.roc_auc_score(tags, p_tags, average="macro", **weights),
        "log_loss": np.mean([sk.log_loss(tags[:, k], p_tags[:, k], **weights) for k in (0, 1)]),
        "accuracy": np.average((tags == (p_tags > 0.5)).mean(axis=1), weights=w),
    })  # fmt: skip
    value = p_worth[:, 0]
    near(table.loc["worth"], {
        "rows": np.count_nonzero(w),
        "positive_rate": np.average(worth > 0, weights=w),
        "auc": sk.roc_auc_score(worth > 0, p_worth[:, 1], **weights),
        "mae": sk.mean_absolute_error(worth, value, **weights),
        "rmse": sk.mean_squared_error(worth, value, **weights) ** 0.5,
        "r2": sk.r2_score(worth, value, **weights),
        "xauc": xauc(worth, value, w),
        "gini": normalized_gini(worth, value, w),
    })  # fmt: skip
    ungrouped = evaluate_tasks(mixed.model, X, y, sample_weight=options["sample_weight"])
    pd.testing.assert_frame_equal(ungrouped, table.drop(columns="group_auc"))


def test_headlines_are_better_for_better_predictions(mixed: Mixed) -> None:
    assert {task.type for task in mixed.model.tasks} == set(HEADLINES)
    for task, y, p in zip(mixed.model.tasks, mixed.y.values(), mixed.p.values(), strict=True):
        headline = HEADLINES[task.type]
        truth = np.eye(3)[y.astype(int)] if task.type == "multiclass" else y.reshape(N, -1)
        right, wrong = scores_of(task, y, truth), scores_of(task, y, p)
        assert headline.sign * right[headline.metric] > headline.sign * wrong[headline.metric]
        assert right[headline.unitless] == 1 > wrong[headline.unitless]


def test_evaluate_tasks_leaves_missing_labels_out_by_task(mixed: Mixed) -> None:
    part = {name: labels.copy() for name, labels in mixed.y.items()}
    part["click"][:100] = NAN
    part["watch time"][:200] = NAN
    part["kind"][:300] = NAN
    part["tags"][:350] = NAN
    part["worth"][:50] = NAN
    table = evaluate_tasks(mixed.model, X, part, groups=ROWS.g)
    for task, start in zip(mixed.model.tasks, (100, 200, 300, 350, 50), strict=True):
        # Of the same predictions: of fewer rows they may differ in the last digit, and in ties.
        y, p = mixed.y[task.name][start:], mixed.p[task.name][start:].astype("float32")
        alone = pd.Series(scores_of(task, y, p, None, ROWS.g[start:])).reindex(table.columns)
        assert alone["rows"] == N - start
        pd.testing.assert_series_equal(table.loc[task.name], alone, rtol=1e-6, check_names=False)
    # Of several labels each may be missing.
    part["tags"] = mixed.y["tags"].copy()
    part["tags"][:399, 0] = NAN
    row = evaluate_tasks(mixed.model, X, part).loc["tags"]
    truth, p = mixed.y["tags"], mixed.p["tags"]
    assert row["rows"] == N
    assert row["auc"] == pytest.approx(sk.roc_auc_score(truth[:, 1], p[:, 1]), rel=1e-6)
    right = np.append((truth == (p > 0.5))[:, 1], (truth == (p > 0.5))[-1, 0])
    assert row["accuracy"] == pytest.approx(right.mean())
    # A task without any label.
    for labels in part.values():
        labels[:] = NAN
    table = evaluate_tasks(mixed.model, X, part)
    assert (table.pop("rows") == 0).all()
    assert table.isna().all(axis=None)


def test_evaluate_tasks_takes_one_hot_classes(mixed: Mixed) -> None:
    one_hot = np.eye(3)[mixed.y["kind"].astype(int)]
    one_hot[:100, 0] = NAN
    missing = np.where(np.arange(N) < 100, NAN, mixed.y["kind"])
    tables = [evaluate_tasks(mixed.model, X, mixed.y | {"kind": y}) for y in (one_hot, missing)]
    pd.testing.assert_frame_equal(*tables)
    assert tables[0].loc["kind", "rows"] == N - 100


@pytest.mark.parametrize(
    ("name", "labels", "match"),
    [
        ("click", np.full(N, 0.5), r"`y\['click'\]` should hold 0 and 1.*Received: 0\.5"),
        ("watch time", np.full(N, np.inf), r"`y\['watch time'\]` should hold finite.*inf"),
        ("kind", np.full(N, 3), r"`y\['kind'\]` should hold classes from 0 to 2.*Received: 3"),
        ("kind", np.full(N, 0.5), r"`y\['kind'\]` should hold classes from 0 to 2.*0\.5"),
        ("tags", np.full((N, 2), 2), r"`y\['tags'\]` should hold 0 and 1.*Received: 2"),
        ("tags", np.ones(N), rf"`y\['tags'\]` should have shape \(N, 2\).*Received: \({N},\)"),
    ],
)
def test_labels_that_are_not_of_the_type_are_refused(
    mixed: Mixed, name: str, labels: Any, match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        evaluate_tasks(mixed.model, X, mixed.y | {name: labels})


@pytest.fixture(scope="module")
def funnel() -> tuple[Any, np.ndarray, np.ndarray]:
    model = randomized(ESMM(COLUMNS, tower_dnn_units_lists=[[4], [4]]))
    rng = np.random.default_rng(3)
    click = (rng.random(N) < 0.5).astype("float32")
    return model, click, click * (rng.random(N) < 0.4)


def test_esmm_scores_cvr_over_clicked_rows(funnel: Any) -> None:
    model, click, conversion = funnel
    before = model.get_weights()
    weights = {"ctr": ROWS.w, "ctcvr": ROWS.w[::-1]}
    table = evaluate_tasks(model, X, [click, conversion], ROWS.g, weights, batch_size=100)
    assert list(table.index) == ["ctr", "ctcvr", "cvr"]
    p_ctr, p_ctcvr = model.predict(X, verbose=0)
    p_cvr = extract_task(model, "cvr").predict(X, verbose=0)
    assert table.loc["ctr", "auc"] == pytest.approx(auc(click, p_ctr, weights["ctr"]), abs=1e-4)
    clicked = click == 1
    for name, rows, p in (("ctcvr", np.full(N, True), p_ctcvr), ("cvr", clicked, p_cvr)):
        label, w = conversion[rows], weights["ctcvr"][rows]
        assert table.loc[name, "rows"] == np.count_nonzero(w)
        assert table.loc[name, "positive_rate"] == pytest.approx(np.average(label, weights=w))
        assert table.loc[name, "pcoc"] == pytest.approx(pcoc(label, p[rows], w), rel=1e-5)
        assert table.loc[name, "log_loss"] == pytest.approx(log_loss(label, p[rows], w), rel=1e-5)
        expected = group_auc(label, p[rows], ROWS.g[rows], w)
        assert table.loc[name, "group_auc"] == pytest.approx(expected, abs=1e-4)
    for value, start in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, start)


def test_a_missing_click_is_no_clicked_row(funnel: Any) -> None:
    model, click, conversion = funnel
    missing = np.where(np.arange(N) < 200, NAN, click)
    table = evaluate_tasks(model, X, {"ctr": missing, "ctcvr": conversion})
    assert table["rows"].tolist() == [200, N, np.count_nonzero(click[200:])]


def test_a_part_of_an_esmm_has_no_hidden_row(funnel: Any) -> None:
    model, click, conversion = funnel
    for name, label in (("ctr", click), ("ctcvr", conversion), ("cvr", conversion)):
        table = evaluate_tasks(extract_task(model, name), X, label)
        assert list(table.index) == [name]
        assert table.loc[name, "rows"] == N


def test_predictions_of_half_precision_are_scored() -> None:
    before = keras.config.dtype_policy()
    for policy in ("mixed_float16", "mixed_bfloat16"):
        try:
            keras.config.set_dtype_policy(policy)
            model = randomized(ESMM(COLUMNS, tower_dnn_units_lists=[[4], [4]]))
        finally:
            keras.config.set_dtype_policy(before)
        table = evaluate_tasks(model, X, [ROWS.y, ROWS.y * (ROWS.g % 2)])
        assert table.loc["ctr", "auc"] == auc(
            ROWS.y, model.predict(X, batch_size=8192, verbose=0)[0]
        )
        assert table.notna().all(axis=None)
