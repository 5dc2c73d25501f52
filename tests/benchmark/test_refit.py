"""Validation rows that are given back, trees of other settings, tables beside the first, verify."""

import dataclasses

import numpy as np
import pytest

from mtl.benchmark import boosted, config, report
from mtl.benchmark.__main__ import main
from mtl.benchmark.recipes import OWN, Recipe, Training
from mtl.benchmark.runs import train
from mtl.data import make_funnel
from mtl.features import VarLenSparseFeat

RECIPE = Recipe(
    sizes={"SharedBottom": {"bottom_dnn_units": (4,), "tower_dnn_units_lists": ((), ())}},
    training=Training(batch_size=64, epochs=3, patience=1, refit=True),
    funnel=None,
)


@pytest.fixture(scope="module")
def data():
    small = make_funnel(1000)
    users = {
        name: np.arange(len(getattr(small, name)[1][0])) % 7 for name in ("train", "val", "test")
    }
    return dataclasses.replace(small, groups=users)


def test_validation_rows_become_training_rows(data):
    whole = data.refitted()
    rows = len(data.train[1][0])
    assert whole.val is None
    for name, values in whole.train[0].items():
        np.testing.assert_array_equal(values[:rows], data.train[0][name])
        np.testing.assert_array_equal(values[rows:], data.val[0][name])
    np.testing.assert_array_equal(whole.train[1][1][rows:], data.val[1][1])
    np.testing.assert_array_equal(whole.groups["train"][rows:], data.groups["val"])
    assert whole.test is data.test
    assert set(whole.truth) == {"train", "test"}
    assert whole.refitted() is whole


def test_a_refit_trains_all_epochs_on_all_rows(data):
    keras_model, result = train(data, RECIPE, "SharedBottom", seed=0, verbose=False)
    steps = 3 * -(-sum(len(part[1][0]) for part in (data.train, data.val)) // 64)
    assert int(keras_model.optimizer.iterations) == steps
    assert result.epochs == 3
    assert result.validation is None
    assert 0 < result.metrics["ctr"]["group_auc"] < 1


def test_trees_are_grown_anew_as_many_as_did_best(data):
    pytest.importorskip("lightgbm")
    settings = {**boosted.SETTINGS, "rounds": 40, "patience": 5, "categorical": False}
    once = boosted.run(data, 0, settings)
    again = boosted.run(data, 0, settings, refit=True)
    assert again.validation is None
    assert once.validation is not None
    assert again.epochs == once.epochs
    assert again.metrics["ctr"]["auc"] != once.metrics["ctr"]["auc"]
    assert "group_auc" in again.metrics["ctr"]


def test_trees_read_no_sequences(data):
    pytest.importorskip("lightgbm")
    history = VarLenSparseFeat(data.feature_columns[0]._replace(name="history"), 3)

    def longer(split):
        x, y = split
        return {**x, "history": np.ones((len(y[0]), 3), "int32")}, y

    with_history = dataclasses.replace(
        data,
        feature_columns=[*data.feature_columns, history],
        **{name: longer(getattr(data, name)) for name in ("train", "val", "test")},
    )
    assert boosted.run(with_history, 0) == boosted.run(data, 0)


def test_networks_are_not_given_what_is_left_out(data):
    first, *others = (column.name for column in data.feature_columns)
    recipe = dataclasses.replace(RECIPE, leave_out=[first])
    model, _ = train(data, recipe, "SharedBottom", seed=0, verbose=False)
    assert list(model.input) == others
    unknown = dataclasses.replace(RECIPE, leave_out=["age"])
    with pytest.raises(ValueError, match=r"\[networks\] `features` .*Received: 'age'"):
        train(data, unknown, "SharedBottom", seed=0)


def test_trees_and_refit_are_configured(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text('[networks]\nleave_out = ["a"]\n')
    assert config.recipe(config.read(path), OWN).leave_out == ["a"]
    path.write_text("[networks]\nleave_out = [1]\n")
    with pytest.raises(ValueError, match=r"`networks.leave_out` should .*Received: 1"):
        config.recipe(config.read(path), OWN)
    path.write_text("[training]\nrefit = true\n[trees]\ncategorical = false\nnum_leaves = 7\n")
    recipe = config.recipe(config.read(path), OWN)
    assert recipe.training.refit
    assert recipe.trees == {"categorical": False, "num_leaves": 7}
    path.write_text("[trees]\nfeature_fraction = 2\n")
    with pytest.raises(ValueError, match=r"`trees.feature_fraction`.*Received: 2"):
        config.recipe(config.read(path), OWN)


def test_further_metrics_have_tables_of_their_own():
    records = [
        {
            "model": model, "seed": seed, "balancer": None,
            "types": {"a": "binary", "b": "regression"},
            "metrics": {"a": {"auc": 0.7, "log_loss": loss + seed / 100}, "b": {"rmse": 1.0}},
            "parameters": 1, "epochs": 1, "seconds": 1.0,
        }
        for model, loss in (("PLE", 0.3), ("MMoE", 0.5))
        for seed in range(2)
    ]  # fmt: skip
    group_auc, log_loss, _ = report.FURTHER
    assert report.columns(records, group_auc) == []
    lines = report.markdown_table(records, log_loss).splitlines()
    assert lines[0] == "|  | a log loss |"
    assert lines[2] == "| PLE | **0.3050 ± 0.0071** |"


EXPECTED = """
[first]
command = "funnel --rows 1000"
model = "SharedBottom"
seed = 0
tolerance = {tolerance}
auc = {{ ctr = {ctr} }}
"""


def test_verify_compares_runs_with_what_they_gave(tmp_path, capsys, monkeypatch):
    path = tmp_path / "expected.toml"
    path.write_text(EXPECTED.format(tolerance=0.5, ctr=0.5))
    main(["verify", "--expected", str(path)])
    assert "within 0.5 of 0.5000" in capsys.readouterr().out
    path.write_text(EXPECTED.format(tolerance=0.01, ctr=0.1))
    with pytest.raises(SystemExit, match="1 runs should give"):
        main(["verify", "--expected", str(path)])
    assert "not within 0.01 of 0.1000" in capsys.readouterr().out
    # What needs data that isn't there is left out, and said so.
    monkeypatch.setenv("MTL_DATA_HOME", str(tmp_path))
    path.write_text(
        EXPECTED.format(tolerance=0.01, ctr=0.1).replace("funnel --rows 1000", "kuairand")
    )
    main(["verify", "--expected", str(path)])
    assert "left out" in capsys.readouterr().out
    path.write_text(EXPECTED.format(tolerance=0.01, ctr=0.1).replace("SharedBottom", "Bottom"))
    with pytest.raises(SystemExit, match=r"`first.model`.*'Bottom'"):
        main(["verify", "--expected", str(path)])
