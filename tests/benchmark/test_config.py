"""Configurations: every mistake gets an error that names the key."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import toy
from sklearn.metrics import r2_score

from mtl.benchmark import Grid, boosted, config, train
from mtl.benchmark.own_table import load_table, read_table
from mtl.benchmark.recipes import CENSUS_INCOME, CENSUS_INCOME_3, KUAIRAND, OWN, zoo
from mtl.benchmark.tune import to_toml
from mtl.features import SparseFeat
from mtl.inspection.transfer import alone
from mtl.tasks import resolve_tasks

WHOLE = """
[columns]
categorical = ["city"]
embedding_dim = 2
[columns.numeric]
age = { encoding = "bins", bins = 4 }
[tasks]
bought = { type = "binary", positive = "yes" }
spent = { type = "regression", standardize = true }
reason = "multiclass"
[split]
validation = 0.2
test = 0.2
seed = 1
[training]
epochs = 2
[models.PLE]
num_levels = 1
[models.PLE.training]
learning_rate = 0.1
"""

BY_COLUMN = WHOLE.replace(
    "validation = 0.2\ntest = 0.2\nseed = 1", 'method = "column"\ncolumn = "part"'
)


def table(rows=100):
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "city": rng.choice(["a", "b", "c"], rows),
            "age": rng.uniform(18, 80, rows),
            "bought": rng.choice(["yes", "no", None], rows),
            "spent": np.where(rng.random(rows) < 0.2, np.nan, rng.normal(50, 10, rows)),
            "reason": rng.choice(["x", "y", "z"], rows),
            "part": ["train"] * (rows - 20) + ["val"] * 10 + ["test"] * 10,
        }
    )


@pytest.fixture
def files(tmp_path):
    def write(text=WHOLE, frame=None):
        (tmp_path / "c.toml").write_text(text)
        (table() if frame is None else frame).to_parquet(tmp_path / "t.parquet")
        return tmp_path / "t.parquet", config.read(tmp_path / "c.toml")

    return write


def load(files, *arguments):
    path, file = files(*arguments)
    recipe = config.recipe(file, OWN)
    data = load_table(path, file)
    file.close()
    return recipe, data


def test_a_whole_configuration(files):
    recipe, data = load(files)
    assert data.task_types == ["binary", "regression", ("multiclass", 3)]
    assert [len(split[1][0]) for split in (data.train, data.val, data.test)] == [60, 20, 20]
    assert recipe.training.epochs == 2
    assert recipe.training_of("PLE").learning_rate == 0.1
    assert recipe.training_of("MMoE").learning_rate == OWN.training.learning_rate
    assert recipe.sizes["PLE"] == {**OWN.sizes["PLE"], "num_levels": 1}
    city, age = data.feature_columns
    assert (city.embedding_dim, len(age.transform_fn.edges)) == (2, 3)
    every = [np.concatenate([s[1][k] for s in (data.train, data.val, data.test)]) for k in range(3)]
    frame = table()
    assert np.isnan(every[0]).sum() == frame["bought"].isna().sum()
    assert (every[0] == 1).sum() == (frame["bought"] == "yes").sum()
    assert np.nanmean(data.train[1][1]) == pytest.approx(0, abs=1e-6)
    assert np.nanstd(data.train[1][1]) == pytest.approx(1, abs=1e-6)
    counts = frame["reason"].value_counts().sort_index().tolist()
    assert np.bincount(every[2].astype(int)).tolist() == counts


def test_a_column_of_lifetime_values(files):
    frame = table()
    frame["worth"] = np.where(np.arange(100) % 3, 0.0, frame["age"])
    frame.loc[5, "worth"] = np.nan
    text = WHOLE.replace("[split]", 'worth = "lifetime_value"\n[split]')
    _, data = load(files, text, frame)
    assert data.task_types[-1] == "lifetime_value"
    labels = np.concatenate([split[1][-1] for split in (data.train, data.val, data.test)])
    np.testing.assert_allclose(np.nansum(labels), np.nansum(frame["worth"]), rtol=1e-5)
    assert np.isnan(labels).sum() == 1
    frame.loc[7, "worth"] = -3
    with pytest.raises(ValueError, match=r"worth` should hold amounts of at least 0.*-3"):
        load(files, text, frame)


def test_errors_of_a_standardised_regression_are_in_its_own_unit(files, tmp_path):
    recipe, data = load(files)
    train_rows, test_rows = [
        np.random.default_rng(1).permutation(100)[part] for part in (slice(0, 60), slice(80, 100))
    ]
    spent = table()["spent"].to_numpy()
    mean, spread = np.nanmean(spent[train_rows]), np.nanstd(spent[train_rows])
    assert data.label_scale == {"spent": pytest.approx(spread)}
    small = recipe.with_training(epochs=1)
    model, result = train(data, small, "SharedBottom", seed=0, verbose=False)
    predicted = np.ravel(model.predict(data.test[0], verbose=0)[1]) * spread + mean
    error = predicted - spent[test_rows]
    rmse, mae = np.sqrt(np.nanmean(error**2)), np.nanmean(np.abs(error))
    assert result.metrics["spent"]["rmse"] == pytest.approx(rmse, rel=1e-4)
    assert result.metrics["spent"]["mae"] == pytest.approx(mae, rel=1e-4)
    known = ~np.isnan(spent[test_rows])
    r2 = r2_score(spent[test_rows][known], predicted[known])
    assert result.metrics["spent"]["r2"] == pytest.approx(r2, rel=1e-3)
    # Standardised, the column's deviation is 1: an RMSE of some 10 is in its own unit.
    assert 5 < result.validation["spent"]["rmse"] < 30
    name, path = {"dataset": "table"}, tmp_path / "r.jsonl"
    grid = Grid(name, data, small, ["SharedBottom"], [0], [None], boosted.available(), path)
    grid.run(lambda done, cell: None, verbose=False)
    for record in grid.records():  # a network per task and trees, too
        assert 5 < record["metrics"]["spent"]["rmse"] < 30
        assert record["label_scale"] == data.label_scale
    plain = load(files, WHOLE.replace("standardize = true", "standardize = false"))[1]
    assert plain.label_scale is None


def test_splits(files):
    ordered = WHOLE.replace("seed = 1", 'method = "ordered"')
    data = load(files, ordered)[1]
    ages = TableEncoderAges(table())
    np.testing.assert_allclose(data.test[0]["age"], ages(slice(80, None), slice(0, 60)), rtol=1e-5)
    data = load(files, BY_COLUMN)[1]
    np.testing.assert_allclose(data.val[0]["age"], ages(slice(80, 90), slice(0, 80)), rtol=1e-5)
    none = load(files, WHOLE.replace("validation = 0.2", "validation = 0.0"))[1]
    assert none.val is None


class TableEncoderAges:
    """Min-max scaled ages of some rows, by the range of others."""

    def __init__(self, frame):
        self.ages = frame["age"].to_numpy()

    def __call__(self, rows, train):
        low, high = self.ages[train].min(), self.ages[train].max()
        return (self.ages[rows] - low) / (high - low)


def test_categories_and_classes_that_training_rows_lack(files):
    frame = table()
    frame.loc[95, ["city", "reason"]] = ["elsewhere", "never seen"]
    with pytest.warns(UserWarning, match="1 rows have a class of `tasks.reason`"):
        data = load(files, BY_COLUMN, frame)[1]
    assert data.test[0]["city"][5] == 0
    assert np.isnan(data.test[1][2][5])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[columns]", "[colums]", "`colums` should be one of"),
        ("embedding_dim = 2", "embeding_dim = 2", "`columns.embeding_dim` should be one of"),
        ("embedding_dim = 2", "embedding_dim = 0", "`embedding_dim` should be a positive integer"),
        ('categorical = ["city"]', 'categorical = "city"', "`categorical` should be a list"),
        (
            'categorical = ["city"]',
            'categorical = ["town"]',
            "`columns.town` should be a column of",
        ),
        ("bins = 4", "bin = 4", r"`numeric\['age'\]` should have settings .*Received: 'bin'"),
        ('encoding = "bins"', 'encoding = "bin"', "`encoding of age` should be one of None"),
        ('"multiclass"', '"multi"', "`tasks.reason.type` should be one of .*Received: 'multi'"),
        ('"multiclass"', "3", "`tasks.reason` should be a table. Received: 3"),
        ('positive = "yes"', 'positve = "yes"', "`tasks.bought.positve` should be one of"),
        ('positive = "yes"', 'positive = "y"', "`tasks.bought.positive` should be a value of"),
        (', positive = "yes"', "", "`tasks.bought` should hold numbers"),
        ("standardize = true", "standardize = 1", "`tasks.spent.standardize` should be true or"),
        ('reason = "mul', 'age = "mul', "`tasks.age` should be no feature"),
        ('reason = "mul', 'cause = "mul', "`tasks.cause` should be a column of the table"),
        ('reason = "multiclass"', 'part = "binary"', "`tasks.part` should hold numbers"),
        ("validation = 0.2", "validaton = 0.2", "`split.validaton` should be one of"),
        (
            "validation = 0.2",
            "validation = 0.9",
            "`split.validation` and `split.test` should leave",
        ),
        ("validation = 0.2", "validation = -1", r"`split.validation` should be a number in \[0, 1"),
        ("test = 0.2", "test = 0", "`split.test` should be above 0"),
        ("seed = 1", "seed = -1", "`split.seed` should be a non-negative integer"),
        ("seed = 1", 'method = "rows"', "`split.method` should be one of"),
        ("seed = 1", 'method = "column"', "`split.column` should be given"),
        ("epochs = 2", "epoch = 2", "`training.epoch` should be one of"),
        ("epochs = 2", 'epochs = "2"', "`training.epochs` should be a positive integer"),
        ("epochs = 2", 'optimizer = "sgd"', "`training.optimizer` should be one of"),
        ("epochs = 2", "ema = 1.5", r"`training.ema` should be a number in \[0, 1\)"),
        (
            "epochs = 2",
            'optimizer = "lazy_adam"\nema = 0.9',
            "`training.ema` should be 0 with lazy",
        ),
        ("num_levels = 1", "levels = 1", "`models.PLE.levels` should be one of"),
        ("num_levels = 1", "seed = 1", "`models.PLE.seed` should be one of"),
        ("[models.PLE]", "[models.PEL]\n[models.PLE]", "`models.PEL` should be one of"),
        ("learning_rate = 0.1", "learning_rate = 0", "`models.PLE.training.learning_rate` should"),
        (
            'categorical = ["city"]\nembedding_dim = 2\n[columns.numeric]',
            "[columns.numeric]\ncity = {}",
            r"\[columns\] Numeric column 'city' should hold numbers",
        ),
        ("[split]", "[splits]\n[split]", "`splits` should be one of"),
        ("[split]", "[split", "c.toml should be a TOML file"),
    ],
)
def test_mistakes(files, old, new, message):
    assert old in WHOLE
    with pytest.raises(ValueError, match=message):
        load(files, WHOLE.replace(old, new))


@pytest.mark.parametrize(
    ("click", "conversion", "expected"),
    [("a", "b", (0, 1)), ("b", "a", (1, 0)), ("a", "a", "another task"), ("a", "c", "one of")],
)
def test_funnel(click, conversion, expected):
    file = config.Section({"funnel": {"click": click, "conversion": conversion}})
    if isinstance(expected, tuple):
        assert config.funnel(file, ["a", "b"]) == expected
        return
    with pytest.raises(ValueError, match=rf"`funnel.conversion` .*{expected}"):
        config.funnel(file, ["a", "b"])
    assert config.funnel(config.Section({}), ["a", "b"]) is None


def test_tables_that_cannot_be_read(tmp_path):
    with pytest.raises(ValueError, match=r"`--table` should be a .parquet or .csv file"):
        read_table(tmp_path / "t.xlsx")
    with pytest.raises(FileNotFoundError, match="`--table` should be a file"):
        read_table(tmp_path / "t.csv")
    table(30).to_csv(tmp_path / "t.csv", index=False)
    assert read_table(tmp_path / "t.csv").shape == (30, 6)


def test_what_tune_writes_is_read_again(tmp_path):
    options = {"num_levels": 1, "tower_dnn_units_lists": [[8], []], "dnn_dropout": 0.25}
    settings = {"learning_rate": 0.003, "schedule": "cosine", "monitor": "score"}
    (tmp_path / "t.toml").write_text(to_toml("PLE", options, settings))
    recipe = config.recipe(config.read(tmp_path / "t.toml"), OWN)
    assert recipe.sizes["PLE"] == {**OWN.sizes["PLE"], **options}
    assert recipe.training_of("PLE").schedule == "cosine"


def test_later_files_come_before_earlier_ones(tmp_path):
    (tmp_path / "a.toml").write_text("[training]\nepochs = 2\nema = 0.9\n[models.PLE]\nseed = 1\n")
    (tmp_path / "b.toml").write_text("[training]\nepochs = 3\n[models.MMoE]\n")
    both = config.read(tmp_path / "a.toml", tmp_path / "b.toml")
    assert both.rest() == {
        "training": {"epochs": 3, "ema": 0.9},
        "models": {"PLE": {"seed": 1}, "MMoE": {}},
    }
    assert config.read().rest() == {}


@pytest.mark.parametrize(
    ("group", "base"), [(1, CENSUS_INCOME), (2, CENSUS_INCOME), (3, CENSUS_INCOME_3)]
)
def test_tuned_recipes_are_whole(group, base):
    recipe = config.tuned(f"census-income-{group}", base)
    assert recipe.encoder
    tuned = Path(config.__file__).parent / "tuned" / f"census-income-{group}.toml"
    assert set(config.read(tuned).rest()["models"]) == set(base.sizes)


@pytest.mark.parametrize("name", CENSUS_INCOME_3.sizes)
def test_recipes_of_three_tasks_have_three_towers(name):
    tuned = config.tuned("census-income-3", CENSUS_INCOME_3)
    for recipe in (CENSUS_INCOME_3, tuned):
        assert len(toy.build(name, 3, **recipe.sizes[name]).outputs) == 3


def test_single_networks_of_three_tasks_have_their_recipes_tower():
    sizes = CENSUS_INCOME_3.sizes["SharedBottom"]
    tasks = resolve_tasks(3)
    every = alone(zoo()["SharedBottom"], toy.columns(), sizes, tasks, size=100_000)
    assert [own["tower_dnn_units_lists"] for own in every] == [[(32,)]] * 3


@pytest.mark.parametrize("tasks", [2, 4, 7])
def test_kuairands_recipe_builds_every_model_for_as_many_tasks(tasks):
    recipe = config.tuned("kuairand", KUAIRAND).with_funnel((0, 1))
    names = ["user_active_degree", "video_type", "tab", "tag"]
    columns = [SparseFeat(name, 5, 2) for name in names]
    for name in recipe.sizes if tasks == 2 else ("SharedBottom", "PEPNet", "DBMTL"):
        assert recipe.fits(name)
        model = zoo()[name](columns, num_tasks=tasks, **recipe.sizes[name])
        assert len(model.outputs) == tasks
