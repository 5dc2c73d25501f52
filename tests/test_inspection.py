"""Gates, gradients and transfer, against numpy, scikit-learn and scipy; the plots of all."""

import inspect
import itertools
import math
import sys
from collections import Counter

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import reference as ref
import toy
from scipy import stats
from sklearn.metrics import roc_auc_score

from mtl import inspection, models
from mtl.features import DenseFeat, SparseFeat, VarLenSparseFeat
from mtl.inspection.gates import GateProbe
from mtl.inspection.transfer import interval
from mtl.layers import Gate
from mtl.tasks import resolve_tasks
from mtl.training import steps
from mtl.training.model import MultiTaskModel

# --- gate weights


def test_gates_of_mmoe():
    model = toy.randomize(toy.build("MMoE", task_names=["buy it", "rate"], gate_temperature=0.5))
    x, w = toy.features(), ref.weights(model)
    v = ref.encode(model, x)
    weights = inspection.gate_weights(model, x)
    assert list(weights) == [(1, "buy it"), (1, "rate")]
    for k, table in enumerate(weights.values()):
        assert list(table) == ["expert 1", "expert 2", "expert 3"]
        toy.same([table], [ref.gate(w, f"gate_{model.output_names[k]}", v, 0.5)])


def test_gate_of_moe_is_shared_unless_there_is_one_task():
    model = toy.randomize(toy.build("MoE", num_tasks=3))
    x = toy.features()
    weights = inspection.gate_weights(model, x)
    assert list(weights) == [(1, "shared")]
    toy.same(weights.values(), [ref.gate(ref.weights(model), "gate", ref.encode(model, x))])
    assert list(inspection.gate_weights(toy.build("MoE", num_tasks=1), x)) == [(1, "task_1")]


def test_experts_of_feature_groups_bear_their_names():
    groups = {"user": ["user", "age"], "item": ["item", "history"]}
    x = toy.features()
    table = inspection.gate_weights(
        toy.build("MMoE", num_experts=2, expert_features=groups), x
    )[1, "task_2"]  # fmt: skip
    assert list(table) == ["user 1", "user 2", "item 1", "item 2"]
    weights = inspection.gate_weights(toy.build("PLE", expert_features=groups), x)
    own = ["task_1 user 1", "task_1 user 2", "task_1 item 1", "task_1 item 2"]
    assert list(weights[1, "task_1"]) == [*own, "shared user 1", "shared item 1"]
    assert weights[1, "shared"].shape == (24, 10)
    assert list(weights[2, "task_1"]) == ["task_1 1", "task_1 2", "shared 1"]


def test_gates_of_every_level_of_ple(tmp_path):
    model = toy.randomize(toy.build("PLE", num_levels=3, num_experts_shared=2, gate_dnn_units=[4]))
    x, w = toy.features(), ref.weights(model)
    paths, expected = [ref.encode(model, x)] * 3, {}
    for level in (1, 2, 3):
        layer = f"extraction_{level}"
        for k, name in enumerate(["task_1", "task_2", "shared"][: 3 if level < 3 else 2]):
            gate = "gate_shared" if name == "shared" else f"gate_{k}"
            expected[level, name] = ref.gate(w, f"{layer}/{gate}", paths[k])
        paths = ref.extraction(w, layer, paths, 2, 2, level < 3)
    weights = inspection.gate_weights(model, x)
    assert list(weights) == list(expected)
    toy.same(weights.values(), expected.values())
    shared = ["shared 1", "shared 2"]
    assert list(weights[3, "task_2"]) == ["task_2 1", "task_2 2", *shared]
    assert list(weights[2, "shared"]) == [
        "task_1 1", "task_1 2", "task_2 1", "task_2 2", *shared,
    ]  # fmt: skip

    model.save(tmp_path / "model.keras")
    loaded = inspection.gate_weights(keras.models.load_model(tmp_path / "model.keras"), x)
    one = inspection.gate_weights(models.extract_task(model, "task_2"), x)
    assert list(one)[-1] == (3, "task_2")
    for key, table in weights.items():
        pd.testing.assert_frame_equal(loaded[key], table)
        if key != (3, "task_1"):
            pd.testing.assert_frame_equal(one[key], table)


def test_the_weights_are_those_that_the_model_mixes_with():
    model = toy.randomize(toy.build("CGC"))
    x = toy.features()
    weights = inspection.gate_weights(model, x)
    w, v = ref.weights(model), ref.encode(model, x)
    e = ref.experts(w, "extraction_1/experts", [v] * 5)
    mixed = [
        ref.mix([e[i] for i in own], weights[1, f"task_{k + 1}"].to_numpy("float64"))
        for k, own in enumerate([(0, 1, 4), (2, 3, 4)])
    ]
    expected = [ref.tower(w, f"task_{k + 1}", z) for k, z in enumerate(mixed)]
    toy.same(toy.outputs(model, x), expected, rtol=1e-5, atol=1e-5)


def test_a_task_may_be_called_shared():
    weights = inspection.gate_weights(
        toy.build("PLE", task_names=["shared", "shared_"]), toy.features()
    )
    assert list(weights)[:3] == [(1, "shared"), (1, "shared_"), (1, "shared__")]
    assert list(weights[1, "shared_"]) == ["shared_ 1", "shared_ 2", "shared__ 1"]


def test_inputs_in_batches_frames_and_without_rows():
    model = toy.build("MMoE")
    x = {**toy.features(), "unused": np.zeros(24)}
    whole = inspection.gate_weights(model, x)
    for key, table in inspection.gate_weights(model, x, batch_size=10).items():
        np.testing.assert_allclose(table, whole[key], rtol=1e-6)
    assert inspection.gate_weights(model, {k: v[:0] for k, v in x.items()})[1, "task_1"].shape == (
        0,
        3,
    )
    columns = [column for column in toy.columns() if column.name in ("user", "age")]
    small = models.MMoE(columns, num_tasks=2)
    frame = pd.DataFrame({"user": [1, 2], "age": [0.5, 1.0]}, index=["anna", "bert"])
    assert list(inspection.gate_weights(small, frame)[1, "task_2"].index) == ["anna", "bert"]


def test_what_has_no_gates_is_refused():
    for name in ("SharedBottom", "ESMM"):
        with pytest.raises(ValueError, match="`model` should have gates, as MMoE and PLE do"):
            inspection.gate_weights(toy.build(name), toy.features())
    with pytest.raises(TypeError, match=r"`x` should be a dict or DataFrame.*: ndarray"):
        inspection.gate_weights(toy.build("MoE"), np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"`x` should hold every feature. Missing: \['price'"):
        inspection.gate_weights(toy.build("MoE"), {"age": np.zeros(2)})


def test_a_probe_is_compiled_once(monkeypatch):
    calls = Counter()
    call = Gate.call

    def counted(self, *args, **kwargs):
        calls["gate"] += 1
        return call(self, *args, **kwargs)

    probe = GateProbe(toy.build("MoE"))
    monkeypatch.setattr(Gate, "call", counted)
    probe(toy.features())
    first = calls["gate"]
    probe(toy.features(seed=1))
    assert first > 0
    assert calls["gate"] == (2 * first if toy.BACKEND == "torch" else first)


def test_expert_utilization():
    model, x = toy.randomize(toy.build("PLE")), toy.features()
    table = inspection.expert_utilization(model, x)
    assert list(table) == ["level", "gate", "expert", "mean", "std"]
    for (level, gate), weights in inspection.gate_weights(model, x).items():
        part = table[(table["level"] == level) & (table["gate"] == gate)]
        np.testing.assert_allclose(part["mean"], np.mean(weights.to_numpy(), axis=0), rtol=1e-5)
        np.testing.assert_allclose(part["std"], np.std(weights.to_numpy(), axis=0), rtol=1e-4)
        assert list(part["expert"]) == list(weights)


def test_entropy_and_dead_experts():
    weights = {
        (1, "a"): pd.DataFrame([[1.0, 0, 0], [1, 0, 0]], columns=["a 1", "shared 1", "shared 2"]),
        (1, "b"): pd.DataFrame([[0.5, 0.5, 0]] * 2, columns=["b 1", "shared 1", "shared 2"]),
        (2, "a"): pd.DataFrame([[1 / 3] * 3, [0, 1, 0]], columns=["a 1", "shared 1", "shared 2"]),
        (2, "b"): pd.DataFrame([[1.0]], columns=["b 1"]),
    }
    entropy = inspection.gate_entropy(weights)
    assert list(entropy.index) == list(weights)
    np.testing.assert_allclose(entropy, [0, math.log(2) / math.log(3), 0.5, np.nan], atol=1e-12)
    assert inspection.dead_experts(weights) == [(1, "shared 2")]
    # The mean of level 2, 1/6, is half of an even share; (1 + 3) / 6 of "shared 1" is above.
    assert inspection.dead_experts(weights, threshold=0.49) == [(1, "shared 2")]
    assert inspection.dead_experts(weights, threshold=0.51) == [
        (1, "shared 2"),
        (2, "a 1"),
        (2, "shared 2"),
    ]
    with pytest.raises(ValueError, match=r"`threshold` should be a positive number. Received: 0"):
        inspection.dead_experts(weights, threshold=0)


# --- GateMonitor


class Watcher(keras.callbacks.Callback):
    """Keeps what a callback that comes later in the list sees."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(dict(logs))


def trained(callbacks, epochs=2):
    keras.utils.set_random_seed(3)
    model = toy.build("PLE", task_names=["buy it", "rate"], num_experts_specific=1, dnn_dropout=0.3)
    model.compile(keras.optimizers.Adam(0.05), **toy.NO_XLA)
    history = model.fit(
        toy.features(),
        toy.labels(),
        batch_size=10,
        epochs=epochs,
        callbacks=callbacks,
        verbose=0,
    )
    return model, history.history


def scalars(folder):
    """Read what TensorBoard would show: (tag, step, value, plugin)."""
    import tensorflow as tf
    from tensorflow.core.util.event_pb2 import Event

    (file,) = folder.iterdir()
    events = [Event.FromString(r.numpy()) for r in tf.data.TFRecordDataset(str(file))]
    return [
        (v.tag, e.step, float(tf.make_ndarray(v.tensor)), v.metadata.plugin_data.plugin_name)
        for e in events
        for v in e.summary.value
    ]


def test_monitor_logs_and_leaves_the_training_as_it_is(tmp_path):
    sample, watcher = toy.features(16, seed=5), Watcher()
    monitor = inspection.GateMonitor(sample, threshold=0.5, log_dir=tmp_path / "logs")
    model, history = trained([monitor, watcher])
    names = [
        "gate_entropy_buy_it_1", "gate_entropy_rate_1", "gate_entropy_shared_1",
        "gate_entropy_buy_it_2", "gate_entropy_rate_2", "dead_experts_1", "dead_experts_2",
    ]  # fmt: skip
    assert [name for name in history if name.startswith(("gate", "dead"))] == names
    weights = inspection.gate_weights(model, sample)
    np.testing.assert_allclose(
        [history[name][-1] for name in names[:5]], inspection.gate_entropy(weights), rtol=1e-5
    )
    dead = [level for level, _ in inspection.dead_experts(weights, 0.5)]
    assert [history[name][-1] for name in names[5:]] == [dead.count(1), dead.count(2)]
    assert [{name: values[i] for name, values in history.items()} for i in range(2)] == watcher.seen
    written = [(n, step, history[n][step], "scalars") for step in range(2) for n in names]
    for (*actual, value, plugin), (*expected, logged, scalar) in zip(
        scalars(tmp_path / "logs"), written, strict=True
    ):
        assert (actual, plugin) == (expected, scalar)
        assert value == pytest.approx(logged, rel=1e-6)

    alone, without = trained([])
    for a, b in zip(alone.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert without == {name: values for name, values in history.items() if name not in names}


def test_monitor_leaves_out_gates_of_one_expert_and_refuses_models_without_gates():
    monitor = inspection.GateMonitor(toy.features(), batch_size=7)
    model = toy.build("MMoE", num_experts=1)
    monitor.set_model(model)
    monitor.on_train_begin()
    logs = {}
    monitor.on_epoch_end(0, logs)
    assert logs == {"dead_experts_1": 0}
    monitor.on_epoch_end(1, None)
    monitor.on_train_end()
    monitor.set_model(toy.build("SharedBottom"))
    with pytest.raises(ValueError, match="should have gates"):
        monitor.on_train_begin()
    with pytest.raises(ValueError, match="`threshold` should be a positive number"):
        inspection.GateMonitor({}, threshold=-1)


# --- gradient conflict


def test_gradient_conflict_is_the_mean_cosine_over_batches(monkeypatch):
    grams = iter(
        [
            [[4, -2, 0], [-2, 1, 0], [0, 0, 0]],  # cosine -1; the third task has no gradient
            [[1, 0, 0], [0, 9, 0], [0, 0, 0]],  # cosine 0
            [[0, 0, 0], [0, 2, 0], [0, 0, math.nan]],  # counts for the second task alone
        ]
    )
    seen = []

    def products(x, y, sample_weight):
        seen.append((x, y, sample_weight))
        return np.array(next(grams), "float32")

    monkeypatch.setattr(steps, "gradient_products", lambda model: products)
    model, x, y = toy.build("MMoE", num_tasks=3), toy.features(23), toy.labels(3, 23)
    table = inspection.gradient_conflict(
        model, x, dict(zip(model.task_names, y, strict=True)), {"task_2": np.arange(23)}, 10
    )
    assert list(table.index) == list(table.columns) == ["task_1", "task_2", "task_3"]
    nan = math.nan
    np.testing.assert_allclose(table, [[1, -0.5, nan], [-0.5, 1, nan], [nan, nan, nan]])
    assert [len(part["user"]) for part, _, _ in seen] == [7, 8, 8]
    for name in x:
        given = np.concatenate([part[name] for part, _, _ in seen])
        np.testing.assert_array_equal(given, x[name].reshape(23, -1))
    for k in range(3):
        given = np.concatenate([labels[k] for _, labels, _ in seen])
        np.testing.assert_array_equal(given, y[k][:, None])
    weights = [np.concatenate([w[k][:, 0] for _, _, w in seen]) for k in range(3)]
    np.testing.assert_array_equal(weights, [np.ones(23), np.arange(23), np.ones(23)])


def test_gradient_conflict_refuses_one_task_and_no_rows():
    with pytest.raises(ValueError, match="`model` should have at least two tasks"):
        inspection.gradient_conflict(toy.build("MoE", 1), toy.features(), toy.labels(1))
    with pytest.raises(ValueError, match="`x` should hold at least one row"):
        inspection.gradient_conflict(toy.build("MoE"), toy.features(0), toy.labels(2, 0))


# --- negative transfer

TYPES = ["binary", "regression", ("multiclass", 3), ("multilabel", 2)]
NAMES = ["click", "price", "colour", "tags"]
ROWS = 40


class Fake:
    """A model that predicts by its seed and tasks, and keeps what it was given."""

    made: list["Fake"]

    def __init__(self, columns, *, seed=0, bottom_dnn_units=(10,), **options):
        self.tasks = resolve_tasks(
            options.get("num_tasks"), options["task_types"], options["task_names"]
        )
        self.task_names = [task.name for task in self.tasks]
        self.seed, self.options = seed, options
        self.trainable_variables = [np.zeros((w, len(self.tasks))) for w in bottom_dnn_units]
        self.fitted = self.compiled = None

    def compile(self, **options):
        self.compiled = options

    def fit(self, x, y, **options):
        self.fitted = (x, y, options)
        Fake.made.append(self)

    def predict(self, x, verbose):
        values = [
            np.random.default_rng([self.seed, len(self.tasks), i]).random((ROWS, task.size))
            for i, task in enumerate(self.tasks)
        ]
        return values if len(values) > 1 else values[0]


def fake_labels(rows=ROWS):
    rng = np.random.default_rng(9)
    return [
        np.where(rng.random(rows) < 0.1, np.nan, rng.random(rows) < 0.5),
        np.where(rng.random(rows) < 0.1, np.nan, rng.random(rows)),
        rng.integers(0, 3, rows),
        (rng.random((rows, 2)) < 0.5).astype("float32"),
    ]


def expected_scores(predictions, labels):
    click, price, colour, tags = labels
    known, priced = ~np.isnan(click), ~np.isnan(price)
    error = predictions[1][priced, 0] - price[priced].astype("float32")
    return [
        roc_auc_score(click[known], predictions[0][known]),
        -math.sqrt(np.mean(error**2)),
        np.mean(np.argmax(predictions[2], axis=1) == colour),
        roc_auc_score(tags, predictions[3], average="macro"),
    ]


def transfer(**options):
    Fake.made = []
    options = {
        "options": {"task_names": NAMES, "task_types": TYPES},
        "seeds": (0, 5, 7),
        **options,
    }
    data = ({"age": np.zeros(ROWS)}, fake_labels())
    return inspection.negative_transfer(Fake, [], data, data, **options)


def test_negative_transfer_is_a_paired_interval_over_seeds():
    table = transfer(confidence=0.9)
    labels, multi, single = fake_labels(), [], []
    for seed in (0, 5, 7):
        together = Fake([], seed=seed, task_names=NAMES, task_types=TYPES).predict(None, 0)
        alone = [
            Fake([], seed=seed, task_names=[name], task_types=[kind]).predict(None, 0)
            for name, kind in zip(NAMES, TYPES, strict=True)
        ]
        multi.append(expected_scores(together, labels))
        single.append(expected_scores(alone, labels))
    test = stats.ttest_rel(multi, single)
    low, high = test.confidence_interval(0.9)
    assert list(table.index) == NAMES
    assert list(table["metric"]) == ["AUC", "-RMSE", "accuracy", "mean AUC"]
    np.testing.assert_allclose(table["single"], np.mean(single, axis=0))
    np.testing.assert_allclose(table["multi"], np.mean(multi, axis=0))
    np.testing.assert_allclose(table["difference"], np.mean(np.subtract(multi, single), axis=0))
    np.testing.assert_allclose(table["ci_low"], low)
    np.testing.assert_allclose(table["ci_high"], high)
    assert list(table["negative"]) == list(high < 0)
    told = np.where(high < 0, "worse", np.where(low > 0, "better", "unclear"))
    assert list(table["verdict"]) == list(told)
    assert list(table["seeds"]) == [3] * 4
    # Ten by four are forty by one.
    assert list(table["parameters_single"]) == list(table["parameters_multi"]) == [40] * 4


def test_two_seeds_are_too_few_to_find_that_nothing_is_worse():
    verdicts = transfer(seeds=(0, 5))["verdict"]
    assert set(verdicts) <= {"worse", "better", "too few seeds"}
    assert "too few seeds" in set(verdicts)
    assert interval([-0.1, -0.2]).verdict == "too few seeds"
    assert interval([-0.1]).verdict == "too few seeds"
    assert math.isnan(interval([-0.1]).low)
    assert interval([-0.1, -0.1001]).verdict == "worse"
    assert interval([-0.1, -0.1, 0.3]).verdict == "unclear"


def test_negative_transfer_hands_each_model_its_part():
    optimizer = keras.optimizers.SGD(0.25)
    val = ({"age": np.zeros(2)}, fake_labels(2), {"price": [1, 2]})
    table = transfer(
        options={
            "task_names": NAMES,
            "task_types": TYPES,
            "num_tasks": 4,
            "bottom_dnn_units": [6, 3],
            "tower_dnn_units_lists": [[1], [2], [3], [4]],
        },
        compile={
            "optimizer": optimizer,
            "loss": {"click": "mse", "price": "mae", "colour": None, "tags": None},
            "loss_weights": [1, 2, 3, 4],
            "metrics": [["mae"], ["mse"], [], []],
        },
        fit={"epochs": 3, "validation_data": val},
        metric=lambda labels, predictions: float(len(labels)),
    )
    assert list(table["single"]) == list(table["multi"])
    assert list(table["single"])[:2] == [np.sum(~np.isnan(v)) for v in fake_labels()[:2]]
    assert not table["negative"].any()
    assert [model.seed for model in Fake.made] == [0] * 5 + [5] * 5 + [7] * 5
    together, _, alone = Fake.made[:3]
    assert together.compiled["loss_weights"] == [1, 2, 3, 4]
    assert len(together.fitted[1]) == 4
    assert alone.options["task_names"] == ["price"]
    assert alone.options["tower_dnn_units_lists"] == [[2]]
    assert alone.compiled["loss"] == "mae"
    assert alone.compiled["metrics"] == ["mse"]
    assert "loss_weights" not in alone.compiled
    used = [model.compiled["optimizer"] for model in Fake.made]
    assert len({id(own) for own in [optimizer, *used]}) == 16
    assert all(float(own.learning_rate) == 0.25 for own in used)
    x, y, options = alone.fitted
    assert set(x) == {"age"}
    np.testing.assert_array_equal(y, fake_labels()[1].astype("float32")[:, None])
    assert (options["epochs"], options["verbose"]) == (3, 0)
    assert options["sample_weight"] is None
    val_price = fake_labels(2)[1].astype("float32")[:, None]
    np.testing.assert_array_equal(options["validation_data"][1], val_price)
    np.testing.assert_array_equal(options["validation_data"][2], [[1], [2]])
    # 36 parameters: 24 and 12 on one task.
    assert {sum(map(len, m.trainable_variables)) for m in Fake.made if len(m.tasks) == 1} == {36}


@pytest.mark.parametrize("name", ["SharedBottom", "MMoE", "PLE"])
def test_single_task_models_are_of_the_nearest_size(monkeypatch, name):
    made = []
    option = "bottom_dnn_units" if name == "SharedBottom" else "expert_dnn_units"

    def factory(columns, **options):
        model = getattr(models, name)(columns, **options)
        made.append((options, sum(math.prod(v.shape) for v in model.trainable_variables)))
        return model

    factory.__signature__ = inspect.signature(getattr(models, name))

    def predict(self, x, verbose):
        values = [np.linspace(0, 1, 24)[:, None] for _ in self.tasks]
        return values if len(values) > 1 else values[0]

    monkeypatch.setattr(MultiTaskModel, "fit", lambda self, *args, **options: None)
    monkeypatch.setattr(MultiTaskModel, "predict", predict)
    monkeypatch.setattr(MultiTaskModel, "compile", lambda self: None)
    data = (toy.features(), toy.labels(3))
    table = inspection.negative_transfer(
        factory,
        toy.columns(),
        data,
        data,
        options={
            "task_names": ["a", "b", "c"],
            option: [6, 4],
            "tower_dnn_units_lists": [[5], [5], [5]],
        },
        seeds=(0, 1),
    )
    together = made[0][1]
    options, size = made[-1]
    first, second = options[option]
    assert first > 6
    assert second == round(first * 4 / 6)
    for other in (first - 1, first + 1):
        factory(toy.columns(), **{**options, option: [other, round(other * 4 / 6)]})
        assert abs(size - together) <= abs(made[-1][1] - together)
    assert list(table["parameters_single"]) == [size] * 3
    assert list(table["parameters_multi"]) == [together] * 3


def test_negative_transfer_trains(capsys):
    rng = np.random.default_rng(0)
    columns = [column for column in toy.columns() if column.name == "age"]
    x = {"age": rng.normal(size=200).astype("float32")}
    y = [(x["age"] > 0).astype("float32"), (x["age"] < 0).astype("float32")]
    table = inspection.negative_transfer(
        models.SharedBottom,
        columns,
        (x, y, [np.ones(200)] * 2),
        (x, y),
        options={
            "task_names": ["up", "down"],
            "bottom_dnn_units": [8],
            "tower_dnn_units_lists": [[], []],
        },
        compile={"optimizer": keras.optimizers.Adam(0.3), **toy.QUICK},
        fit={"batch_size": 200, "epochs": 4},
        seeds=(0, 1),
        verbose=True,
    )
    assert (table[["single", "multi"]] > 0.99).all(axis=None)
    assert "6/6" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": [1]}, "`seeds` should hold two or more different seeds. Received: .1."),
        ({"seeds": [1, 1]}, "two or more different"),
        ({"confidence": 95.0}, "`confidence` should lie between 0 and 1. Received: 95.0"),
        ({"options": {"task_names": ["a"], "task_types": None}}, "several tasks. Received: .'a'."),
    ],
)
def test_negative_transfer_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        transfer(**options)


def test_negative_transfer_refuses_models_without_widths():
    data = (toy.features(), toy.labels())
    with pytest.raises(ValueError, match=r"`factory` should be one with experts.*Received: ESMM"):
        inspection.negative_transfer(models.ESMM, toy.columns(), data, data)


# --- permutation importance


def ask(model, x, y, groups=None, **options):
    options = {"verbose": False, **options}
    return inspection.permutation_importance(model, x, y, groups, **options)


def test_importance_refuses_other_numbers_of_labels_before_it_predicts():
    model = toy.build("SharedBottom")
    with pytest.raises(ValueError, match=r"`y\['task_1'\]` should have as many rows as `x`, 24"):
        ask(model, toy.features(), [y[:-1] for y in toy.labels()])


def test_importance_is_the_loss_of_the_headline_by_hand():
    model = toy.randomize(
        toy.build("SharedBottom", task_names=["zeta", "a"], task_types=["binary", "regression"])
    )
    x, y = toy.features(), [toy.labels(1)[0], np.random.default_rng(4).normal(size=24)]
    y[0][:5] = np.nan
    weight = np.linspace(0.1, 1, 24)
    table = ask(model, x, y, sample_weight=weight, repeats=3, seed=7)
    assert list(table) == ["task", "feature", "metric", "score", "importance", "std"]
    names = ["price", "user", "history", "item", "age"]
    assert list(table["feature"]) == names * 2
    assert list(table["task"]) == ["zeta"] * 5 + ["a"] * 5

    def scores(x):
        click, price = (np.ravel(p) for p in toy.outputs(model, x))
        auc = roc_auc_score(y[0][5:], click[5:], sample_weight=weight[5:])
        return auc, -math.sqrt(np.average((y[1] - price) ** 2, weights=weight))

    rng = np.random.default_rng(7)
    orders = [rng.permutation(24) for _ in range(3)]
    for name in names:
        worse = np.subtract(scores(x), [scores({**x, name: x[name][o]}) for o in orders])
        rows = table[table["feature"] == name]
        np.testing.assert_allclose(rows["importance"], worse.mean(axis=0), atol=1e-6)
        np.testing.assert_allclose(rows["std"], worse.std(axis=0), atol=1e-6)
    assert list(table["metric"]) == ["AUC"] * 5 + ["RMSE"] * 5
    np.testing.assert_allclose(table["score"][[0, 5]], np.multiply(scores(x), [1, -1]), rtol=1e-5)
    pd.testing.assert_frame_equal(table, ask(model, x, y, sample_weight=weight, repeats=3, seed=7))
    assert not table.equals(ask(model, x, y, sample_weight=weight, repeats=3, seed=8))


def test_what_a_group_holds_is_shuffled_together():
    """A group of every feature shuffles whole rows: its AUC is that of shuffled predictions."""
    model, x, y = toy.randomize(toy.build("MMoE", num_tasks=1)), toy.features(), toy.labels(1)
    names = ["price", "user", "history", "item", "age"]
    table = ask(model, x, y, {"all": names}, repeats=1).set_index("feature")
    order = np.random.default_rng(0).permutation(24)
    p = np.ravel(toy.outputs(model, x)[0])
    assert list(table.index) == ["all"]
    expected = roc_auc_score(y[0], p) - roc_auc_score(y[0], p[order])
    assert table["importance"]["all"] == pytest.approx(expected, abs=1e-6)
    two = ask(model, x, y, {"who": ["user", "age"]}, repeats=1).set_index("feature")
    assert list(two.index) == ["who", "price", "history", "item"]
    both = {**x, "user": x["user"][order], "age": x["age"][order]}
    expected = roc_auc_score(y[0], p) - roc_auc_score(y[0], np.ravel(toy.outputs(model, both)[0]))
    assert two["importance"]["who"] == pytest.approx(expected, abs=1e-6)


def sequences():
    def column(name, **options):
        return VarLenSparseFeat(SparseFeat(name, 7, 3), 3, "mean", **options)

    return [
        column("a", length_name="len", weight_name="w_a"),
        column("b", length_name="len"),
        column("c", weight_name="w_c"),
        SparseFeat("d", 7, 3),
    ]


def test_sequences_are_shuffled_with_their_length_and_weights(monkeypatch):
    model = models.SharedBottom(sequences(), task_names=["t"], tower_dnn_units_lists=[[4]])
    row = np.arange(20)
    x = {
        "a": np.tile(row[:, None] % 7, 3), "b": np.tile(row[:, None] % 5, 3),
        "c": np.tile(row[:, None] % 6, 3), "d": row % 4, "len": row % 3 + 1,
        "w_a": np.tile(row[:, None, None] * 1.0, (3, 1)), "w_c": np.ones((20, 3, 1)),
    }  # fmt: skip
    y, seen = toy.labels(1, 20), []

    def predict(self, x, batch_size, verbose):
        seen.append({name: np.asarray(value) for name, value in x.items()})
        return np.linspace(0, 1, 20)[:, None]

    monkeypatch.setattr(MultiTaskModel, "predict", predict)
    table = ask(model, x, y, repeats=1)
    assert list(table["feature"]) == ["a + b", "c", "d"]
    order = np.random.default_rng(0).permutation(20)
    moved = [
        {name for name in x if not np.array_equal(np.ravel(one[name]), np.ravel(seen[0][name]))}
        for one in seen[1:]
    ]
    assert moved == [{"a", "b", "len", "w_a"}, {"c"}, {"d"}]  # w_c is all ones
    for name in ("a", "b", "len", "w_a"):
        np.testing.assert_array_equal(seen[1][name], seen[0][name][order])
    with pytest.raises(ValueError, match=r"`groups\['g'\]` .* share .*: 'a' without \['b'\]"):
        ask(model, x, y, {"g": ["a", "c"]})
    assert list(ask(model, x, y, {"g": ["a", "b"]})["feature"]) == ["g", "c", "d"]


def test_importance_finds_what_the_labels_are_made_of(capsys):
    rng = np.random.default_rng(0)
    x = {name: rng.normal(size=400).astype("float32") for name in ("signal", "noise")}
    y = [(x["signal"] > 0).astype("float32"), np.full(400, np.nan)]
    model = models.SharedBottom(
        [DenseFeat("signal"), DenseFeat("noise")],
        task_names=["t", "never"],
        bottom_dnn_units=[8],
        tower_dnn_units_lists=[[], []],
        seed=0,
    )
    model.compile(keras.optimizers.Adam(0.1), **toy.QUICK)
    model.fit(x, [y[0], y[0]], batch_size=100, epochs=5, verbose=0)
    table = inspection.permutation_importance(model, pd.DataFrame(x), y).set_index(
        ["task", "feature"]
    )["importance"]
    assert table["t", "signal"] > 0.4
    assert abs(table["t", "noise"]) < 0.05
    assert table["never"].isna().all()
    assert "11/11" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"groups": ["user"]}, TypeError, "`groups` should be a dict .* Received: ..user"),
        ({"groups": {"g": "user"}}, TypeError, r"`groups\['g'\]` should be a list of features"),
        ({"groups": {"g": ["usr"]}}, ValueError, r"out of \['price', .*Received: \['usr'\]"),
        ({"groups": {"g": []}}, ValueError, r"should hold features out of .* Received: \[\]"),
        ({"groups": {"age": ["user"]}}, ValueError, "no name of a feature .* Received: 'age'"),
        ({"repeats": 0}, ValueError, "`repeats` should be a positive integer. Received: 0"),
        ({"seed": -1}, ValueError, "`seed` should be a non-negative integer. Received: -1"),
        ({"x": toy.features(0), "y": toy.labels(2, 0)}, ValueError, "at least one row"),
    ],
)
def test_importance_refuses(options, error, message):
    with pytest.raises(error, match=message):
        ask(toy.build("SharedBottom"), **{"x": toy.features(), "y": toy.labels(), **options})


# --- plots

LONG = ["click", "purchase within seven days after the click", "rating_given_by_the_same_customer"]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def assert_readable(figure):
    """Assert that every text lies on the figure, and over no other text."""
    from matplotlib.text import Text

    figure.canvas.draw()
    texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
    # Ticks outside of an axis' limits have texts, too, which aren't drawn.
    drawn = {
        id(label)
        for ax in figure.axes
        for axis in (ax.xaxis, ax.yaxis)
        for label in axis.get_ticklabels()
    }
    limits = {
        id(tick.label1)
        for ax in figure.axes
        for axis in (ax.xaxis, ax.yaxis)
        for tick in axis._update_ticks()
    }
    texts = [t for t in texts if id(t) not in drawn or id(t) in limits]
    boxes = [t.get_window_extent() for t in texts]
    width, height = figure.canvas.get_width_height()
    for text, box in zip(texts, boxes, strict=True):
        assert box.x0 >= -1, text
        assert box.y0 >= -1, text
        assert box.x1 <= width + 1, text
        assert box.y1 <= height + 1, text
    for (text, a), (other, b) in itertools.combinations(zip(texts, boxes, strict=True), 2):
        assert not a.padded(-0.5).overlaps(b.padded(-0.5)), (text, other)


def utilization(tasks, levels, specific, shared):
    rows = {}
    for level in range(1, levels + 1):
        for gate in [*tasks, "shared"] if level < levels else tasks:
            own = tasks if gate == "shared" else [gate]
            names = [f"{task} {i + 1}" for task in own for i in range(specific)]
            names += [f"shared {i + 1}" for i in range(shared)]
            for i, name in enumerate(names):
                rows[level, gate, name] = (2 * (i + 1) / len(names) / (len(names) + 1), 0.1)
    columns = ["level", "gate", "expert", "mean", "std"]
    return pd.DataFrame([(*key, *values) for key, values in rows.items()], columns=columns)


def test_plot_of_the_utilization(tmp_path):
    table = utilization(["a", "b"], levels=2, specific=2, shared=1)
    figure = inspection.plot_expert_utilization(table, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    panels = {ax.get_title(loc="left"): ax for ax in figure.axes if ax.axison}
    assert sorted(panels) == [
        "level 1, a gate", "level 1, b gate", "level 1, shared gate",
        "level 2, a gate", "level 2, b gate",
    ]  # fmt: skip
    for (level, gate), part in table.groupby(["level", "gate"]):
        bars = [bar for bar in panels[f"level {level}, {gate} gate"].patches if bar.get_width() < 1]
        np.testing.assert_allclose([bar.get_height() for bar in bars], part["mean"])
    # Experts stand below each other, each group with a fill of its own.
    upper, lower = panels["level 1, a gate"], panels["level 1, shared gate"]
    assert upper.get_xlim() == lower.get_xlim()
    fills = {(bar.get_hatch(), bar.get_facecolor()) for bar in lower.patches}
    assert len(fills) == 3
    assert_readable(figure)


@pytest.mark.parametrize(
    ("tasks", "levels", "specific", "shared"), [(LONG, 2, 6, 6), (LONG, 1, 1, 24), (["a"], 3, 1, 1)]
)
def test_plot_of_the_utilization_has_room_for_names_and_experts(tasks, levels, specific, shared):
    table = utilization(tasks, levels, specific, shared)
    assert_readable(inspection.plot_expert_utilization(table))


def test_plot_of_mmoe_names_experts_by_number():
    experts = [f"expert {i + 1}" for i in range(32)] * 2
    table = {"level": 1, "gate": ["a"] * 32 + ["b"] * 32, "expert": experts}
    figure = inspection.plot_expert_utilization(pd.DataFrame({**table, "mean": 1 / 32, "std": 0.1}))
    labels = [label.get_text() for label in figure.axes[1].get_xticklabels()]
    assert labels == [str(i + 1) for i in range(32)]
    assert_readable(figure)


def test_plot_of_the_history(tmp_path):
    history = {"loss": [1.0, 0.5, 0.4]}
    for k, task in enumerate(LONG):
        for level in (1, 2):
            history[f"gate_entropy_{task.replace(' ', '_')}_{level}"] = [1 - k / 10, 0.5, 0.1 * k]
    history |= {"dead_experts_1": [0, 0, 0], "dead_experts_2": [0, 1, 2]}
    figure = inspection.plot_gate_history(history, tmp_path / "plot.png")
    entropy, dead = figure.axes
    assert len(entropy.lines) == 6
    np.testing.assert_array_equal(entropy.lines[0].get_data(), [[1, 2, 3], [1, 0.5, 0]])
    np.testing.assert_array_equal(dead.lines[1].get_data(), [[1, 2, 3], [0, 1, 2]])
    styles = {(line.get_linestyle(), line.get_marker()) for line in entropy.lines}
    assert len(styles) == 6
    assert entropy.get_legend().get_texts()[0].get_text() == "click, level 1"
    assert_readable(figure)
    with pytest.raises(ValueError, match="`history` should come from a `fit` with a GateMonitor"):
        inspection.plot_gate_history({"loss": [1.0]})
    kept = keras.callbacks.History()
    kept.history = history
    assert len(inspection.plot_gate_history(kept).axes) == 2


@pytest.mark.parametrize("tasks", [[*LONG, "a"], ["a", "b", "c", "d"]])
def test_plot_of_the_conflict(tmp_path, tasks):
    values = np.eye(len(tasks))
    values[0, 1] = values[1, 0] = -0.254
    values[-1, -1] = np.nan
    table = pd.DataFrame(values, tasks, tasks)
    figure = inspection.plot_gradient_conflict(table, tmp_path / "plot.png")
    ax, bar = figure.axes
    texts = [text.get_text() for text in ax.texts]
    assert texts[0] == "−0.25"  # and not that a task agrees with itself
    assert "+1.00" not in texts
    assert len(texts) == 4 * 3 + 1
    assert texts[-1] == "none"
    assert bar.get_ylabel() == "cosine of the tasks' gradients"
    assert_readable(figure)


@pytest.mark.parametrize("tasks", [LONG, ["a", "b"]])
def test_plot_of_the_conflict_of_few_tasks_has_a_line_per_pair(tmp_path, tasks):
    values = np.eye(len(tasks))
    values[0, 1] = values[1, 0] = -0.254
    values[-1, 0] = values[0, -1] = values[0, -1] if len(tasks) == 2 else np.nan
    table = pd.DataFrame(values, tasks, tasks)
    figure = inspection.plot_gradient_conflict(table, tmp_path / "plot.png")
    (ax,) = figure.axes
    pairs = 1 if len(tasks) == 2 else 3
    assert [text.get_text() for text in ax.texts] == ["−0.25", "none", "+0.00"][:pairs]
    assert len(ax.get_yticklabels()) == pairs
    assert ax.lines[-1].get_xdata()[0] == pytest.approx(-0.254)
    assert "−1: conflict" in ax.get_xlabel()
    assert_readable(figure)


def test_markers_keep_off_the_frame():
    logs = {"gate_entropy_a_1": [1.0, 0.5, 0.0], "dead_experts_1": [0, 1, 20]}
    figure = inspection.plot_gate_history(logs)
    figure.canvas.draw()
    for ax in figure.axes:
        frame = ax.get_window_extent()
        for line in ax.lines:
            size = line.get_markersize() / 72 * figure.dpi
            points = ax.transData.transform(np.transpose(line.get_data()))
            assert (points - size > [frame.x0, frame.y0]).all()
            assert (points + size < [frame.x1, frame.y1]).all()


def test_plot_of_the_transfer(tmp_path):
    table = pd.DataFrame(
        {
            "metric": ["AUC", "-RMSE", "AUC"],
            "difference": [0.01, -3.0, -0.02],
            "ci_low": [-0.01, -4, -0.03],
            "ci_high": [0.03, -2, -0.01],
        },
        index=LONG,
    )
    figure = inspection.plot_negative_transfer(table, tmp_path / "plot.png")
    auc, rmse = figure.axes
    assert auc.get_xlabel().startswith("AUC, multi-task minus single-task")
    assert [label.get_text() for label in auc.get_yticklabels()] == [
        "click", "rating_given_by_the_\nsame_customer",
    ]  # fmt: skip
    dots = [container.lines[0] for container in auc.containers]
    assert [dot.get_xdata()[0] for dot in dots] == [0.01, -0.02]
    assert [dot.get_markerfacecolor() for dot in dots] == ["white", "black"]
    (segment,) = rmse.containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose(segment[:, 0], [-4, -2])
    assert_readable(figure)


def test_plot_of_the_importance(tmp_path):
    table = pd.DataFrame(
        {
            "task": ["click"] * 3 + ["price"] * 3,
            "feature": LONG * 2,
            "metric": ["AUC"] * 3 + ["RMSE"] * 3,
            "importance": [0.01, 0.2, -0.01, 3.0, np.nan, 1.0],
            "std": [0.01, 0.02, 0.01, 1.0, np.nan, 0.1],
        }
    )
    figure = inspection.plot_permutation_importance(table, tmp_path / "plot.png")
    click, price = figure.axes
    assert [bar.get_width() for bar in click.patches] == [0.2, 0.01, -0.01]
    assert click.get_xlabel() == "loss of AUC when shuffled"
    assert price.get_xlabel() == "loss of RMSE when shuffled"
    assert click.get_yticklabels()[0].get_text().startswith("purchase")
    assert_readable(figure)
    assert len(inspection.plot_permutation_importance(table, most=1).axes[0].patches) == 1


def test_plots_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"pip install 'keras-mtl\[plot\]'"):
        inspection.plot_gradient_conflict(pd.DataFrame([[1.0]]))


def test_a_picture_of_a_model_has_a_box_for_all_inputs(tmp_path):
    pytest.importorskip("matplotlib")
    model = toy.build("ESMM", task_names=["ctr", "ctcvr"])
    figure = inspection.plot_model(model, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    boxes = {t.get_text().split("\n")[0]: t for t in figure.axes[0].texts if t.get_text()}
    assert list(boxes) == ["5 inputs", "encoder", "ctr", "cvr", "ctcvr"]
    assert f", {model.encoder.count_params():,}" in boxes["encoder"].get_text()
    dashed = [name for name, text in boxes.items() if text.get_bbox_patch().get_linestyle() == "--"]
    assert dashed == ["cvr"]
    heights = [text.get_position()[1] for text in boxes.values()]
    assert heights[0] > heights[1] > heights[2] == heights[3] > heights[4]


def test_operations_between_layers_are_no_boxes():
    pytest.importorskip("matplotlib")
    ax = inspection.plot_model(toy.build("MMoE")).axes[0]
    boxes = [t.get_text().split("\n")[0] for t in ax.texts if t.get_text()]
    assert sorted(boxes) == sorted(
        ["5 inputs", "encoder", "experts", "gate_task_1", "gate_task_2", "task_1", "task_2"]
    )
    assert len([t for t in ax.texts if not t.get_text()]) == 1 + 3 + 2 * 2  # arrows
