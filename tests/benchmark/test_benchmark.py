"""The comparison of models: training, early stopping, scoring and tables."""

import json

import pytest
from sklearn.metrics import roc_auc_score

from mtl.benchmark import Recipe, Training, compare, train
from mtl.benchmark import command as command_line

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


def test_compare_runs_each_model_with_each_seed_and_prints_its_progress(data, capsys):
    results = compare(data, RECIPE.with_training(epochs=1), ["ESMM"], seeds=[1, 2])
    assert [(r.model, r.seed, r.epochs) for r in results] == [("ESMM", 1, 1), ("ESMM", 2, 1)]
    assert results[0].metrics != results[1].metrics
    assert capsys.readouterr().out.count("validation loss") == 2


def test_command_writes_json_whole_or_not_at_all(data, tmp_path, capsys):
    path = tmp_path / "out.json"
    arguments = ["--models", "ESMM", "--epochs", "1", "--seed", "5", "--json", str(path)]
    command_line.run(command_line.parser("d").parse_args(arguments), "Funnel", lambda: data, RECIPE)
    written = json.loads(path.read_text())
    assert written["results"][0]["seed"] == 5
    assert written["title"] == "Funnel"
    assert [p.name for p in tmp_path.iterdir()] == ["out.json"]
    assert "Funnel, default protocol" in capsys.readouterr().out


def test_command_refuses_a_missing_folder_before_training(tmp_path):
    arguments = ["--json", str(tmp_path / "missing" / "out.json")]

    def load():
        raise AssertionError("loaded before the arguments were checked")

    with pytest.raises(FileNotFoundError, match="existing folder"):
        command_line.run(command_line.parser("d").parse_args(arguments), "t", load, RECIPE)
