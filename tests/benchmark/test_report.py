"""Tables of results: means, what of them is more than chance, and what can't be told."""

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
    gain = report.columns(records)[1].gain("X", "Y")
    assert (gain.mean, gain.low, gain.high) == pytest.approx((1, 1, 1))
    assert report.columns(records)[1].gain("Y", "X").verdict == "worse"


def test_a_single_seed_ranks_nothing():
    records = [record("X", 0, 0.9), record("Y", 0, 0.1)]
    assert column(records).best() == []
    mixed = [*results(X=0.0, Y=-0.1), record("LightGBM", 0, 0.99)]
    assert column(mixed).best() == ["X"]  # the reference of one seed takes no part


def test_each_task_against_a_network_of_its_own_has_an_interval():
    noise = np.array(NOISE)
    records = results(**{"single-task": 0.0, "X": noise - 0.02, "Y": NOISE, "Z": noise + 0.02})
    rows = {row[0]: row[3] for row in report.cells(records)}
    assert rows[""] == "against single-task"
    assert rows["single-task"] == ""
    single, x = ([*column(records).values[row].values()] for row in ("single-task", "X"))
    low, high = stats.ttest_rel(x, single).confidence_interval(0.95)
    same = "b +0.0000 [+0.0000, +0.0000] unclear"
    assert rows["X"] == f"a {noise.mean() - 0.02:+.4f} [{low:+.4f}, {high:+.4f}] worse; {same}"
    assert rows["Y"].startswith("a +0.0001 [-0.00")
    assert rows["Y"].endswith(f"] unclear; {same}")
    assert " better; b" in rows["Z"]
    assert "95 % interval" in report.legend(records)
    assert "single-task" not in report.text_table(results(X=0.0)) + report.legend(results(X=0.0))


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_test_without_power_finds_nothing_and_says_so(seeds):
    """Two seeds of .681 against .768: no "none"."""
    values = {"single-task": [0.768, 0.771], "PLE": [0.660, 0.702]}
    records = [
        record(model, seed, value)
        for model, every in values.items()
        for seed, value in enumerate(every[:seeds])
    ]
    cell = report.cells(records)[-1][3]
    assert report.cells(records)[-1][0] == "PLE"
    shown = {1: "a -0.1080 too few seeds", 2: "a -0.0885 [-0.3363, +0.1593] too few seeds"}
    assert cell.split("; ")[0] == shown[seeds]
    assert "none" not in report.text_table(records)
    assert "give --seeds 5" in report.legend(records)
    assert "give --seeds" not in report.legend(results(X=0.0, Y=NOISE))


def test_a_row_without_common_seeds_is_neither_best_nor_tied():
    records = [record("X", s, 0.9 + s / 1000) for s in range(4)]
    records += [record("Y", s, 0.8 + s / 999) for s in range(4)]
    records += [record("Z", s, 0.85) for s in (7, 8)]
    assert column(records).best() == ["X"]


def test_a_reference_of_one_seed_is_not_compared():
    records = [*results(**{"single-task": 0.0, "X": NOISE}), record("LightGBM", 0, 0.99)]
    assert {row[0]: row[3] for row in report.cells(records)}["LightGBM"] == ""


def test_balancers_have_rows_of_their_own():
    records = [record("PLE", s, 0.9, balancer=b) for b in (None, "pcgrad") for s in (0, 1)]
    assert [row[0] for row in report.cells(records)] == ["", "PLE", "PLE + pcgrad"]


def watched(method, seen):
    def call(self, *arguments, **options):
        seen.append(self)
        return method(self, *arguments, **options)

    return call


def test_plot(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    drawn = []
    monkeypatch.setattr(Figure, "savefig", watched(Figure.savefig, drawn))
    report.plot(results(X=0.0, Y=NOISE), tmp_path / "p.png")
    for ax in drawn[0].axes:
        frame = ax.get_window_extent()
        for line in ax.lines[::2]:  # the points; the others are the means
            points, size = ax.transData.transform(line.get_xydata()), line.get_markersize()
            assert (points - size > [frame.x0, frame.y0]).all()
            assert (points + size < [frame.x1, frame.y1]).all()
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
