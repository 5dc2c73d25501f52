"""Every example script runs, on small settings, in a process of its own."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mtl.benchmark import boosted
from mtl.benchmark.__main__ import main
from mtl.data import adult, download

EXAMPLES = Path(__file__).parents[2] / "examples"

slow = pytest.mark.slow
# Scripts that train many models, which JAX compiles sooner.
on_jax = pytest.mark.skipif(
    os.environ.get("KERAS_BACKEND") != "jax", reason="the script is run in the tests on JAX"
)


def run(script, *arguments, large=False):
    """Run a script, and return what it printed; one on a large data set computes as users do."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    if large:  # what the tests save in compiling it would lose in computing
        environment.pop("XLA_FLAGS", None)
        environment.pop("OMP_NUM_THREADS", None)
    result = subprocess.run(
        [sys.executable, EXAMPLES / script, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@slow
def test_quickstart_is_short_and_learns():
    assert len((EXAMPLES / "quickstart.py").read_text().splitlines()) <= 26
    scores = eval(run("quickstart.py", large=True).splitlines()[-1])
    assert scores["income_AUC"] > 0.9
    assert scores["marital_AUC"] > 0.98


@slow
def test_census_income_prints_a_table_and_writes_json(tmp_path):
    path = tmp_path / "results.json"
    output = run(
        "census_income.py", "--group", 2, "--models", "SharedBottom", "ESMM", "--epochs", 1,
        "--batch-size", 4096, "--seed", 0, "--json", path, large=True,
    )  # fmt: skip
    assert "education AUC" in output
    assert "no funnel" in output
    results = json.loads(path.read_text())
    assert [result["model"] for result in results["results"]] == ["SharedBottom", "ESMM"]
    assert results["results"][0]["metrics"]["marital"]["auc"] > 0.95
    assert results["arguments"]["group"] == 2
    assert results["title"] == "Census-income group 2"
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


@slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--group", "3"], "invalid choice: 3"),
        (["--models", "PEL"], "invalid choice: 'PEL'"),
        (["--epochs", "0"], "positive integer"),
        (["--json", "/nowhere/results.json"], "existing folder"),
    ],
)
def test_census_income_refuses_bad_arguments_before_it_loads(
    arguments, message, monkeypatch, capsys
):
    def load(*arguments):
        raise AssertionError("loaded before the arguments were checked")

    monkeypatch.setattr("mtl.data.load_census_income", load)
    monkeypatch.setattr(sys, "argv", ["census_income.py", *arguments])
    with pytest.raises((SystemExit, FileNotFoundError)) as error:
        runpy.run_path(str(EXAMPLES / "census_income.py"), run_name="__main__")
    assert message in capsys.readouterr().err + str(error.value)


@slow
def test_adult_keeps_the_results_of_the_benchmark(tmp_path, monkeypatch, capsys):
    if not all(download.find(file) for file in adult._FILES):
        pytest.skip("the Adult files are neither under MTL_DATA_HOME nor in the cache")
    arguments = ["--models", "SharedBottom", "--epochs", 1, "--protocol", "reference"]
    output = run("adult.py", *arguments, "--output", tmp_path, large=True)
    row = next(line for line in output.splitlines() if line.startswith("SharedBottom   "))
    assert float(row.split()[1]) > 0.85
    monkeypatch.setattr(boosted, "available", lambda: False)
    main(["adult", *map(str, arguments), "--seeds", "1", "--output", str(tmp_path)])
    assert "2 of 2 runs are done" in capsys.readouterr().out


@on_jax
def test_funnel_tells_the_bias_of_pcvr_from_its_spread():
    names = ["clicked rows", "clicked rows / true pCTR", "ESMM"]
    output = run("funnel.py", "--samples", 20_000, "--seeds", 2, "--epochs", 3, "--models", *names,
                 "--hide", "user_id", "user_segment")  # fmt: skip
    *_, header, truth, clicked, weighted, esmm = output.splitlines()
    assert header.split() == ["mean", "pCVR", "bias", "spread", "excess", "log", "loss"]
    true_mean = float(truth.split()[-1])
    cells = {}
    for name, line in zip(names, (clicked, weighted, esmm), strict=True):
        assert line.startswith(name)
        cells[name] = [float(cell) for cell in line[len(name) :].replace("±", "").split()]
        mean, bias, spread, excess, deviation = cells[name]
        assert bias >= abs(mean - true_mean) - 1e-4
        assert min(spread, excess, deviation) > 0  # nothing beats the truth
    # Clicked rows convert more often than others do, and only true propensities know why.
    assert cells["clicked rows"][0] > cells["clicked rows / true pCTR"][0] > true_mean


def test_funnel_refuses_one_seed_before_it_trains(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["funnel.py", "--seeds", "1"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(EXAMPLES / "funnel.py"), run_name="__main__")
    assert "at least 2, to have a spread. Received: 1" in capsys.readouterr().err


@on_jax
def test_diagnose_prints_four_tables_and_draws_four_plots(tmp_path):
    output = run(
        "diagnose.py", "--rows", 1024, "--epochs", 1, "--seeds", 0, 1,
        "--output", tmp_path / "new",
    )  # fmt: skip
    titles = ("Expert utilisation", "Gates by epoch", "Cosine of the tasks' gr", "Multi-task ag")
    assert all(f"\n{title}" in output for title in titles)
    steps = ("Training a PLE on 1,024 rows", "Measuring its gates", "Training 6 models")
    assert all(step in output for step in steps)
    assert "6/6" in output  # a bar, where minutes of silence were
    names = ("expert_utilization", "gate_history", "gradient_conflict", "negative_transfer")
    files = sorted((tmp_path / "new").iterdir())
    assert [file.name for file in files] == [f"{name}.png" for name in names]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)


def test_diagnose_misses_matplotlib_before_it_trains(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(sys, "argv", ["diagnose.py", "--output", str(tmp_path / "new")])
    with pytest.raises(SystemExit):
        runpy.run_path(str(EXAMPLES / "diagnose.py"), run_name="__main__")
    assert "plots need matplotlib: pip install 'keras-mtl[plot]'" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@on_jax
def test_missing_labels_compares_what_to_do_with_them():
    output = run("missing_labels.py", "--rows", 4096, "--epochs", 8, "--seed", 0,
                 "--balancers", "uncertainty")  # fmt: skip
    rows = {line[:22].strip(): line[22:].split() for line in output.splitlines()[-4:]}
    assert list(rows) == ["rows dropped", "masked", "masked, uncertainty", "all labels"]
    # Some hundred rows, a step per epoch: what drops rows has learned nothing yet.
    learned = [row for case, row in rows.items() if case != "rows dropped"]
    assert all(0.8 < float(cell) < 1 for row in learned for cell in row)


@on_jax
def test_balancing_times_and_scores_every_balancer():
    output = run("balancing.py", "--rows", 2048, "--repeats", 1, "--epochs", 1,
                 "--balancers", "pcgrad", large=True)  # fmt: skip
    rows = {line[:16].strip(): line[16:].split() for line in output.splitlines()[-3:]}
    assert list(rows) == ["plain sum", "missing labels", "pcgrad"]
    assert float(rows["plain sum"][2]) == 1
    assert all(float(cell) > 0.8 for cell in rows["pcgrad"][-2:])


@on_jax
def test_average_seeds_compares_one_model_with_several():
    output = run("average_seeds.py", "--model", "MMoE", "--seeds", 2, "--epochs", 1, large=True)
    one, two = (line.split() for line in output.splitlines()[-2:])
    assert one[:2] == ["one", "model"]
    assert two[:3] == ["average", "of", "2"]
    assert all(float(cell) > 0.9 for cell in two[3:5])
    assert int(two[5].replace(",", "")) == 2 * int(one[8].replace(",", ""))


@slow
def test_your_own_dataframe():
    *_, header, first, second, third, fourth, fifth = run("your_own_dataframe.py").splitlines()
    assert header.split()[-4:] == ["bought", "spent", "p_bought", "predicted_spent"]
    rows = [line.split() for line in (first, second, third, fourth, fifth)]
    assert rows[0][1] == "Atlantis"  # which no training row has
    bought, spent, p_bought, predicted = np.array([row[-4:] for row in rows], float).T
    assert p_bought[bought == 1].min() > p_bought[bought == 0].max()
    assert np.abs(predicted - spent).max() < 3


@slow
def test_benchmark_vocabulary_prints_a_table_and_writes_json(tmp_path):
    output = run(
        "benchmark_vocabulary.py", "--vocabularies", 50, "--contenders",
        "LazyAdam, JAX", "DeepCTR, TensorFlow", "--repeats", 1, "--seconds", 0.01,
        "--json", tmp_path / "results.json",
    )  # fmt: skip
    assert "no result" not in output
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    assert [(r["contender"], r["vocabulary"]) for r in results] == [
        ("LazyAdam, JAX", 50),
        ("DeepCTR, TensorFlow", 50),
    ]
    assert all(r["ms"] > 0 and r["peak_mib"] > 0 for r in results)


@slow
def test_benchmark_speed_prints_tables_and_writes_json(tmp_path):
    output = run(
        "benchmark_speed.py", "--models", "ESMM", "--contenders", "mtl, JAX", "DeepCTR",
        "--repeats", 1, "--epochs", 1, "--rows", 3000, "--json", tmp_path / "results.json",
    )  # fmt: skip
    assert "no result" not in output
    assert "torch-rechub is left out" not in output
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    assert [r["contender"] for r in results] == ["mtl, JAX", "DeepCTR"]
    for measured in ("first_epoch", "fit", "predict", "peak_mib"):
        assert all(r[measured] > 0 for r in results)


@slow
def test_profile_step_prints_a_table():
    output = run("profile_step.py", "--backends", "jax", "--repeats", 1, "--rows", 2048)
    table = {line[:22].strip(): line[22:].split() for line in output.splitlines()[-6:]}
    times = ["forward", "forward and backward", "step", "a batch in fit", "floor", "gflops"]
    assert list(table) == times
    assert all(float(cells[0]) > 0 for cells in table.values())


@on_jax
def test_stream_ends_as_a_training_that_was_not_killed(tmp_path):
    pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    output = run("stream.py", "--rows", 8000, "--every", 2, "--epochs", 1, "--batch-size", 500)
    assert "killed (exit status -9), with the checkpoints ['000000-" in output
    assert "not killed: 0.0e+00" in output


@slow
def test_draw_models_draws_the_readmes_picture(tmp_path):
    run("draw_models.py", "--output", tmp_path / "models.png")
    assert (tmp_path / "models.png").read_bytes().startswith(b"\x89PNG")


@on_jax
def test_benchmark_zoo_prints_a_table():
    output = run("benchmark_zoo.py", "--models", "STAR", "--rows", 2048, "--repeats", 1)
    assert re.search(r"STAR +[\d,]+ +\d+k +[\d,]+ +\d+k +\d", output)
