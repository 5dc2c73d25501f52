"""Tables of results: means, significance, negative transfer."""

import numpy as np
import pytest
from scipy import stats

from mtl.benchmark import report


def record(model, seed, a, b=0.5, balancer=None):
    return {
        "model": model,
        "seed": seed,
        "balancer": balancer,
        "types": {"a": "binary", "b": "regression"},
        "metrics": {"a": {"auc": a}, "b": {"rmse": b}},
        "parameters": 1234,
        "epochs": seed + 1,
        "seconds": 2.0,
    }


A = [0.80, 0.81, 0.79, 0.80, 0.82]
NOISE = [0.001, -0.002, 0.002, -0.001, 0.0005]


def results(**rows):
    """Return records of rows, whose values are A plus something."""
    return [
        record(model, seed, value + shift)
        for model, shifts in rows.items()
        for seed, (value, shift) in enumerate(zip(A, np.broadcast_to(shifts, 5), strict=True))
    ]


def column(records):
    return report.columns(records)[0]


def test_means_and_deviations():
    table = report.markdown_table([record("PLE", 0, 0.90), record("PLE", 1, 0.92)])
    assert "| PLE | 0.9100 ± 0.0141 | 0.5000 ± 0.0000 | 1,234 | 2 | 2 |" in table
    assert "| PLE | 0.9000 | 0.5000 | 1,234 | 1 | 2 |" in report.markdown_table(
        [record("PLE", 0, 0.90)]
    )


def test_the_p_value_is_that_of_scipy():
    records = results(X=0.0, Y=NOISE)
    x, y = ([*column(records).values[row].values()] for row in "XY")
    assert column(records).p_value("X", "Y") == pytest.approx(stats.ttest_rel(x, y).pvalue)


def test_one_best_where_it_is_significant_and_ties_where_not():
    clear = results(X=0.0, Y=np.array(NOISE) - 0.02, Z=np.array(NOISE[::-1]) - 0.03)
    assert column(clear).best() == ["X"]
    assert "**0.8040 ± 0.0114**" in report.markdown_table(clear)
    assert "0.8040 ± 0.0114 *" in report.text_table(clear)
    tied = results(X=0.0, Y=NOISE, Z=np.array(NOISE) - 0.02)
    assert set(column(tied).best()) == {"X", "Y"}
    assert "**" not in report.markdown_table(tied)
    assert report.text_table(tied).count(" =") == 2 + 3  # and all rows of the other task


def test_the_p_values_are_corrected_for_their_number():
    shifts = -0.0045 + 2 * np.array(NOISE)
    assert 0.03 < column(results(X=0.0, Y=shifts)).p_value("X", "Y") < 0.05
    assert column(results(X=0.0, Y=shifts)).best() == ["X"]
    three = results(X=0.0, Y=shifts, Z=shifts[::-1])
    assert column(three).best()[0] == "X"
    assert len(column(three).best()) == 3


def test_the_smaller_error_is_the_better_one():
    records = [record(m, s, 0.5, b + s / 100) for m, b in (("X", 1), ("Y", 2)) for s in range(3)]
    assert report.columns(records)[1].best() == ["X"]
    assert report.columns(records)[1].gain("X", "Y") == pytest.approx(1)


def test_a_single_seed_ranks_nothing():
    records = [record("X", 0, 0.9), record("Y", 0, 0.1)]
    assert column(records).best() == []
    mixed = [*results(X=0.0, Y=-0.1), record("LightGBM", 0, 0.99)]
    assert column(mixed).best() == ["X"]  # the reference of one seed takes no part


def test_negative_transfer_is_what_is_worse_than_a_network_of_its_own():
    records = results(
        **{"single-task": 0.0, "X": np.array(NOISE) - 0.02, "Y": NOISE, "Z": np.array(NOISE) + 0.02}
    )
    rows = {row[0]: row[3] for row in report.cells(records)}
    assert rows[""] == "negative transfer"
    assert rows["X"] == f"a {0.02 - np.mean(NOISE):.4f}"
    assert (rows["Y"], rows["Z"], rows["single-task"]) == ("none", "none", "")
    assert "negative transfer" not in report.text_table(results(X=0.0))


def test_balancers_have_rows_of_their_own():
    records = [record("PLE", s, 0.9, balancer=b) for b in (None, "pcgrad") for s in (0, 1)]
    assert [row[0] for row in report.cells(records)] == ["", "PLE", "PLE + pcgrad"]


def test_plot(tmp_path):
    pytest.importorskip("matplotlib")
    report.plot(results(X=0.0, Y=NOISE), tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
