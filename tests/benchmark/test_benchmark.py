"""Training and scoring of one model, and what command lines share."""

import json

import pytest
from sklearn.metrics import roc_auc_score

from mtl.benchmark import Recipe, Training, command, train

RECIPE = Recipe(
    sizes={
        "SharedBottom": {"bottom_dnn_units": (4,), "tower_dnn_units_lists": ((4,), (4,))},
        "ESMM": {"tower_dnn_units_lists": ((4,), (4,))},
    },
    training=Training(learning_rate=0.01, batch_size=256, epochs=2, patience=1),
    funnel=(0, 1),
)


def test_train_scores_each_task_on_the_test_rows(data):
    model, result = train(data, RECIPE, "SharedBottom", seed=3, verbose=False)
    predictions = model.predict(data.test[0], verbose=0)
    for name, labels, predicted in zip(data.task_names, data.test[1], predictions, strict=True):
        assert result.metrics[name]["auc"] == pytest.approx(roc_auc_score(labels, predicted))
    assert result.parameters == model.count_params()
    assert 1 <= result.epochs <= 2


def test_esmm_gets_its_tasks_in_the_order_of_the_funnel(data):
    model, result = train(data, RECIPE.with_funnel((1, 0)), "ESMM", seed=3, verbose=False)
    assert model.task_names == ["ctcvr", "ctr"]
    assert {"ctr", "ctcvr"} <= set(result.metrics)


def test_a_model_that_must_be_told_a_feature_fits_a_recipe_that_tells_it(data):
    assert RECIPE.fits("ESMM")
    assert not RECIPE.with_funnel(None).fits("ESMM")
    assert not RECIPE.fits("PEPNet")
    lack = r"PEPNet should have `scenario_feature` or `prior_features` in \[models.PEPNet\]"
    with pytest.raises(ValueError, match=lack):
        train(data, RECIPE, "PEPNet", seed=3, verbose=False)
    recipe = RECIPE.with_sizes("PEPNet", {"scenario_feature": "user_segment"})
    assert recipe.fits("PEPNet")
    assert train(data, recipe, "PEPNet", seed=3, verbose=False)[1].epochs >= 1


def test_seeds_differ_and_every_epoch_prints_a_line(data, capsys):
    recipe = RECIPE.with_training(epochs=1)
    results = [train(data, recipe, "ESMM", seed)[1] for seed in (1, 2)]
    assert [result.epochs for result in results] == [1, 1]
    assert results[0].metrics != results[1].metrics
    printed = capsys.readouterr().out.splitlines()
    assert [line[:19] for line in printed] == ["ESMM         seed 1", "ESMM         seed 2"]
    assert all("validation loss" in line for line in printed)


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "out.json"
    command.write_json(path, {"results": [1], "path": path})
    assert json.loads(path.read_text()) == {"results": [1], "path": str(path)}
    with pytest.raises(TypeError, match="keys must be"):
        command.write_json(path, {"results": {(1, 2): 3}})
    assert json.loads(path.read_text())["results"] == [1]
    assert [p.name for p in tmp_path.iterdir()] == ["out.json"]


def test_a_file_to_write_needs_a_folder(tmp_path):
    command.check_folder("--json", None)
    command.check_folder("--json", tmp_path / "out.json")
    with pytest.raises(FileNotFoundError, match="`--json` should be in an existing folder"):
        command.check_folder("--json", tmp_path / "missing" / "out.json")
