"""The command line of mtl.benchmark: runs that are kept, resumed, reported and searched."""

import inspect
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import keras
import numpy as np
import pytest
import toy
from sklearn.metrics import roc_auc_score

from mtl.benchmark import boosted, grid
from mtl.benchmark.__main__ import _latest, main
from mtl.benchmark.recipes import Recipe, Training
from mtl.benchmark.runs import build, train
from mtl.benchmark.tune import FIRST, first_of, open_storage, space
from mtl.data import adult
from mtl.models.options import Widths
from mtl.training.pace import count_parameters

RECIPE = Recipe(
    sizes={
        "SharedBottom": {"bottom_dnn_units": (4,), "tower_dnn_units_lists": ((4,), (4,))},
        "MMoE": {"num_experts": 4, "expert_dnn_units": (8,)},
        "ESMM": {"tower_dnn_units_lists": ((4,), (4,))},
    },
    training=Training(learning_rate=0.01, batch_size=256, epochs=1, patience=1),
    funnel=(0, 1),
)


def make(data, path, **changes):
    arguments = {
        "name": {"dataset": "funnel"},
        "data": data,
        "recipe": RECIPE,
        "model_names": ["SharedBottom", "MMoE"],
        "seeds": [0, 1],
        "balancers": [None],
        "lightgbm": False,
        "path": path,
    }
    return grid.Grid(**{**arguments, **changes})


def rows(cells):
    return [(cell.model, cell.seed, cell.balancer) for cell in cells]


def test_finished_runs_are_kept_and_a_killed_grid_goes_on(data, tmp_path):
    path = tmp_path / "r.jsonl"
    first = make(data, path)
    seen = []

    def stop_at_the_third(done, cell):
        seen.append((done, cell.row))
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        first.run(stop_at_the_third, verbose=False)
    assert seen == [(0, "SharedBottom"), (1, "MMoE"), (2, "single-task")]
    with path.open("a") as file:
        file.write('{"key": "half a li')
    second = make(data, path)
    assert rows(second.pending()) == rows(second.cells)[2:]
    second.run(lambda done, cell: None, verbose=False)
    assert second.pending() == []
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == len({line["key"] for line in lines}) == 6
    assert lines[0]["metrics"]["ctr"]["auc"] == first.records()[0]["metrics"]["ctr"]["auc"]
    assert make(data, path).pending() == []
    other = Recipe(RECIPE.sizes, Training(epochs=2), RECIPE.funnel)
    assert len(make(data, path, recipe=other).pending()) == 6
    assert rows(make(data, path, seeds=[0, 1, 2]).pending()) == [
        ("SharedBottom", 2, None),
        ("MMoE", 2, None),
        ("single-task", 2, None),
    ]


def test_a_record_tells_what_was_run(data, tmp_path):
    path = tmp_path / "r.jsonl"
    one = make(data, path, model_names=["MMoE"], seeds=[3], balancers=["pcgrad"])
    one.run(lambda done, cell: None, verbose=False)
    record, single = one.records()
    assert (record["model"], record["seed"], record["balancer"]) == ("MMoE", 3, "pcgrad")
    assert record["recipe"]["training"]["learning_rate"] == 0.01
    assert record["recipe"]["sizes"]["num_experts"] == 4
    assert record["backend"] == keras.backend.backend()
    assert record["versions"]["keras"] == keras.__version__
    assert set(record["metrics"]["ctcvr"]) >= {"auc", "log_loss", "ece"}
    assert set(record["validation"]) == {"ctr", "ctcvr"}
    assert abs(single["parameters"] / record["parameters"] - 1) < 0.03
    assert set(single["metrics"]) == {"ctr", "ctcvr"}


def test_a_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text("notes\n")
    with pytest.raises(ValueError, match=r"r.jsonl:1 should be a result .* Received: notes"):
        grid.read(path)


@pytest.mark.parametrize(
    "settings",
    [
        {"monitor": "score", "ema": 0.9, "schedule": "cosine", "weight_decay": 0.01},
        {"monitor": "score", "optimizer": "lazy_adam", "warmup": 0.2},
    ],
)
@pytest.mark.filterwarnings("ignore:LazyAdam received the gradient of a whole:UserWarning")
def test_every_training_setting_trains(data, settings):
    recipe = RECIPE.with_training(epochs=3, patience=5, **settings)
    model, result = train(data, recipe, "SharedBottom", 0, verbose=False)
    assert result.epochs == 3
    assert result.parameters == count_parameters(model.trainable_variables)
    # The weights that stay are those that were scored best: no NaN, no mixture of swaps.
    predictions = model.predict(data.val[0], verbose=0)
    for name, y, p in zip(data.task_names, data.val[1], predictions, strict=True):
        assert result.validation[name]["auc"] == pytest.approx(roc_auc_score(y, p))


@pytest.mark.parametrize(
    ("schedule", "last"), [("constant", 0.01), ("cosine", 0.005 * (1 + np.cos(np.pi * 29 / 30)))]
)
def test_the_learning_rate_rises_over_its_share_of_the_steps(data, schedule, last):
    settings = {"learning_rate": 0.01, "schedule": schedule, "warmup": 0.25, "batch_size": 40}
    rates = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            rates.append(float(self.model.optimizer.learning_rate))

    recipe = RECIPE.with_training(epochs=1, **settings)
    train(data, recipe, "SharedBottom", 0, verbose=False, callbacks=[Watch()])
    assert len(rates) == 40
    np.testing.assert_allclose(rates[:11], np.arange(11) * 0.001, atol=1e-8)
    assert rates[-1] == pytest.approx(last, rel=1e-4)


def test_runs_of_before_the_warmup_keep_their_keys(data, tmp_path):
    settings = {"model_names": ["SharedBottom"], "seeds": [0]}
    for warmup in (0.0, 0.1):
        recipe = RECIPE.with_training(warmup=warmup)
        made = make(data, tmp_path / "r.jsonl", recipe=recipe, **settings)
        made.run(lambda done, cell: None, verbose=False)
    known = [r["recipe"]["training"].get("warmup") for r in grid.read(tmp_path / "r.jsonl")]
    assert sorted(known, key=str) == [0.1, 0.1, None, None]  # single-task has a row, too


def test_the_best_epoch_of_averaged_weights_is_restored(data):
    recipe = RECIPE.with_training(epochs=4, patience=5, monitor="score", ema=0.8)
    scores = []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            scores.append(logs["val_score"])

    _, result = train(data, recipe, "SharedBottom", 0, verbose=False, callbacks=[Watch()])
    restored = np.mean([task["auc"] for task in result.validation.values()])
    assert restored == pytest.approx(max(scores))


def test_boosted_trees_score_each_task(data):
    pytest.importorskip("lightgbm")
    result = boosted.run(data, seed=0)
    assert 0.6 < result.metrics["ctr"]["auc"] < 1
    assert set(result.validation) == {"ctr", "ctcvr"}


def test_boosted_trees_run_once_for_each_seed_that_they_follow_from(data, tmp_path):
    pytest.importorskip("lightgbm")

    def seeds(**trees):
        recipe = replace(RECIPE, trees=trees)
        made = make(data, tmp_path / "r.jsonl", recipe=recipe, lightgbm=True)
        return [cell.seed for cell in made.cells if cell.model == "LightGBM"], made

    assert seeds()[0] == [0]
    assert seeds(feature_fraction=0.5)[0] == [0, 1]
    drawn, made = seeds(bagging_fraction=0.5)
    assert drawn == [0, 1]
    scores = [
        boosted.run(data, seed, {**boosted.SETTINGS, **made._recipe.trees}).metrics["ctr"]["auc"]
        for seed in drawn
    ]
    assert scores[0] != scores[1]


CONFIG = """
[training]
epochs = 1
batch_size = 256
[models.SharedBottom]
bottom_dnn_units = [4]
"""


def test_command_compares_resumes_and_reports(tmp_path, capsys):
    pytest.importorskip("lightgbm")
    (tmp_path / "c.toml").write_text(CONFIG)
    command = ["funnel", "--rows", "2000", "--models", "SharedBottom", "--seeds", "2"]
    command += ["--config", str(tmp_path / "c.toml"), "--output", str(tmp_path / "out")]
    main(command)
    output = capsys.readouterr().out
    assert "0 of 5 runs are done" in output
    assert "[5/5, " in output
    assert "against single-task" in output
    names = ["funnel-2000.jsonl", "funnel-2000.md", "funnel-2000.png"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == names
    table = (tmp_path / "out" / "funnel-2000.md").read_text()
    main(command)
    output = capsys.readouterr().out
    assert "5 of 5 runs are done" in output
    assert "[1/5" not in output
    (tmp_path / "out" / "funnel-2000.md").unlink()
    main(["report", str(tmp_path / "out" / "funnel-2000.jsonl")])
    assert (tmp_path / "out" / "funnel-2000.md").read_text() == table


def test_a_command_without_network_ends_in_one_line(tmp_path, monkeypatch):
    def load_files(*arguments):
        raise OSError("Could not download 'adult.data'")

    monkeypatch.setattr(adult, "load_files", load_files)
    with pytest.raises(
        SystemExit, match=r"^mtl.benchmark: error: Could not download 'adult.data'$"
    ):
        main(["adult", "--output", str(tmp_path)])


@pytest.mark.parametrize(
    "changes",
    [
        {"encoder": {"bins": 96}},
        {"backend": "jax"},
        {"recipe": {"sizes": {}}},
        {"label_scale": {"a": 2.0}},
    ],
)
def test_a_report_shows_what_made_the_newest_results_only(changes):
    old = {"model": "MMoE", "seed": 0, "balancer": None, "recipe": {}, "backend": "tensorflow"}
    new = {**old, **changes}
    assert _latest([old, new]) == [new]
    assert _latest([new, old, {**old, "seed": 1}]) == [old, {**old, "seed": 1}]


OWN_TABLE = """
[columns]
categorical = ["city"]
numeric = ["age"]
[tasks]
bought = "binary"
spent = "regression"
reason = "multiclass"
[training]
epochs = 2
batch_size = 128
[models.MMoE]
num_experts = 2
expert_dnn_units = [4]
"""


def test_a_table_of_ones_own_with_missing_labels_and_an_unknown_category(tmp_path, capsys):
    pytest.importorskip("pyarrow")
    import pandas as pd

    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"city": rng.choice(["a", "b"], 1_000), "age": rng.normal(size=1_000)})
    frame["bought"] = np.where(rng.random(1_000) < 0.3, np.nan, frame["age"] > 0)
    frame["spent"] = frame["age"] * 3
    frame["reason"] = np.where(frame["age"] > 0.5, "x", np.where(frame["city"] == "a", "y", "z"))
    frame.loc[999, "city"] = "elsewhere"
    frame.to_parquet(tmp_path / "t.parquet")
    (tmp_path / "c.toml").write_text(OWN_TABLE + '[split]\nmethod = "ordered"\n')
    command = ["--table", str(tmp_path / "t.parquet"), "--config", str(tmp_path / "c.toml")]
    main([*command, "--models", "MMoE", "--seeds", "2", "--output", str(tmp_path / "out")])
    output = capsys.readouterr().out
    assert "bought AUC" in output
    assert "spent RMSE" in output
    assert "reason accuracy" in output
    (tmp_path / "c.toml").write_text(OWN_TABLE.replace("epochs", "epoch"))
    with pytest.raises(SystemExit, match=r"`training.epoch` should be one of"):
        main([*command, "--output", str(tmp_path / "out2")])
    assert not (tmp_path / "out2").exists()
    (tmp_path / "c.toml").write_text(OWN_TABLE)
    with pytest.raises(SystemExit, match="should hold ESMM only with a funnel"):
        main([*command, "--models", "ESMM", "--output", str(tmp_path / "out2")])
    with pytest.raises(SystemExit, match="should hold PEPNet only with `scenario_feature` or"):
        main([*command, "--models", "PEPNet", "--output", str(tmp_path / "out2")])
    (tmp_path / "c.toml").write_text(OWN_TABLE.replace("num_experts = 2", 'num_experts = "two"'))
    with pytest.raises(SystemExit, match=r"\[models.MMoE\] `num_experts` should be a positive"):
        main([*command, "--models", "MMoE", "--output", str(tmp_path / "out2")])


def test_processes_that_begin_at_once_share_a_new_data_base(tmp_path):
    optuna = pytest.importorskip("optuna")
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    barrier = threading.Barrier(4)

    def begin(number):
        barrier.wait()
        optuna.create_study(storage=open_storage(url), study_name=str(number))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(begin, range(4)))
    assert sorted(optuna.get_all_study_names(url)) == ["0", "1", "2", "3"]


@pytest.mark.parametrize("name", toy.MODELS)
def test_every_search_begins_with_a_trial_that_builds(data, name):
    optuna = pytest.importorskip("optuna")
    trial = optuna.trial.FixedTrial(first_of(name))
    options, settings = space(trial, name, 2)
    assert Training(**settings).learning_rate == FIRST["learning_rate"]
    features = {"scenario_feature": "user_segment", "prior_features": ["user_id"]}
    needed = {key: features[key] for key in toy.needed(name)}
    recipe = RECIPE.with_sizes(name, {**needed, **options})
    model = build(data, recipe, name, seed=0)
    assert model.encoder.dense_embedding_dim == FIRST["dense_embedding_dim"]
    given = inspect.signature(toy.zoo()[name]).parameters
    for option, values in toy.zoo()[name].search.items():
        assert option in options
        default = given[option].default
        if not isinstance(values, Widths):
            assert options[option] in values
            assert all(type(value) is type(default) for value in values)


@pytest.mark.parametrize("model", ["SharedBottom", "Newcomer"])
def test_tune_goes_on_with_its_study_and_writes_what_the_benchmark_runs(model, tmp_path, capsys):
    pytest.importorskip("optuna")
    command = ["tune", "funnel", "--rows", "1000", "--model", model, "--epochs", "1"]
    command += ["--output", str(tmp_path)]
    main([*command, "--trials", "1"])
    main([*command, "--trials", "2"])
    assert "trial" in capsys.readouterr().out
    import optuna

    name, storage = f"funnel-1000-{model}", f"sqlite:///{tmp_path / 'studies.db'}"
    trials = optuna.load_study(study_name=name, storage=storage).trials
    assert len(trials) == 2
    assert trials[0].params == {key: FIRST[key] for key in trials[0].params}
    with pytest.raises(SystemExit, match="should go on with what it began with"):
        main([*command, "--trials", "3", "--epochs", "2"])
    command = ["funnel", "--rows", "1000", "--models", model, "--seeds", "1"]
    main([*command, "--config", str(tmp_path / f"{name}.toml"), "--output", str(tmp_path)])
    record = grid.read(tmp_path / "funnel-1000.jsonl")[0]
    assert record["recipe"]["training"]["monitor"] == "score"
