"""Losses that rank: their equations by numpy, groups, missing labels, weights, saving."""

import keras
import numpy as np
import pytest
import toy

from mtl.losses import JRCLoss, PairwiseRankLoss
from mtl.metrics import group_auc

TYPES = ["binary", "regression", "lifetime_value"]
NAMES = ["click", "watch", "worth"]


def build(**options):
    options = {"task_types": TYPES, "task_names": NAMES, "l2_reg_embedding": 0, **options}
    return toy.randomize(toy.build("SharedBottom", len(options["task_names"]), **options))


def labels(rows=24, seed=0):
    rng = np.random.default_rng(seed)
    y = {
        "click": (rng.random(rows) < 0.5).astype("float32"),
        "watch": rng.integers(0, 4, rows).astype("float32"),
        "worth": (rng.exponential(3, rows) * (rng.random(rows) < 0.5)).astype("float32"),
    }
    y["click"][::7] = y["watch"][::5] = y["worth"][1::6] = np.nan
    return y


def score(task, predictions):
    values = predictions[:, 0].astype("float64")
    return {
        "click": lambda: np.log(values / (1 - values)),
        "watch": lambda: values,
        "worth": lambda: np.log(values),
    }[task]()


def pairwise(y, s, groups, w):
    total, pairs = 0.0, 0
    for i in range(len(y)):
        for j in range(len(y)):
            if groups[i] == groups[j] and y[i] > y[j]:  # never with NaN
                total += w[i] * w[j] * np.log1p(np.exp(s[j] - s[i]))
                pairs += 1
    return total / pairs


def jrc(y, s, groups, w):
    values = []
    for i in np.flatnonzero(~np.isnan(y)):
        rivals = (groups == groups[i]) & ~np.isnan(y)
        f = s / 2 if y[i] else -s / 2
        values.append(-w[i] * np.log(np.exp(f[i]) / np.exp(f[rivals]).sum()))
    return np.mean(values)


CASES = [(PairwiseRankLoss, pairwise, task) for task in NAMES] + [(JRCLoss, jrc, "click")]


@pytest.mark.parametrize("groups", [None, "user"])
@pytest.mark.parametrize(("loss", "reference", "task"), CASES)
def test_the_loss_is_that_of_the_equation(loss, reference, task, groups):
    model, x, y = build(), toy.features(), labels()
    weights = np.random.default_rng(1).uniform(0, 2, 24).astype("float32")
    model.compile("sgd", joint_losses=[loss(task, groups, 0.5, "rank")], **toy.QUICK)
    s = score(task, toy.outputs(model, x)[NAMES.index(task)])
    context = x["user"] if groups else np.zeros(24)
    for w in (None, weights):
        given = None if w is None else {task: w}
        logs = model.evaluate(x, y, batch_size=24, sample_weight=given, verbose=0, return_dict=True)
        expected = 0.5 * reference(y[task], s, context, np.ones(24) if w is None else w)
        np.testing.assert_allclose(logs["rank"], expected, rtol=1e-4)
    parts = sum(logs[f"{name}_loss"] for name in NAMES)
    np.testing.assert_allclose(logs["loss"], parts + logs["rank"], rtol=1e-5)


def test_by_hand():
    """Logits log 3 of a click, and 0 of none: log(1 + 1/3); shares √3/(√3 + 1) of either."""
    given = {"c": np.array([[1], [0]], "float32")}, {"c": np.array([[0.75], [0.5]], "float32")}, {}
    for loss, expected in (
        (PairwiseRankLoss("c"), np.log(4 / 3)),
        (JRCLoss("c"), -np.log(3**0.5 / (3**0.5 + 1))),
    ):
        loss.start({"c": toy.build("SharedBottom", 1, task_names=["c"]).tasks[0]})
        y, p, w = (keras.tree.map_structure(keras.ops.convert_to_tensor, v) for v in given)
        np.testing.assert_allclose(float(loss(y, p, w)), expected, rtol=1e-6)


@pytest.mark.parametrize("loss", [PairwiseRankLoss, JRCLoss])
def test_rows_alone_in_their_group_train_nothing(loss):
    model, x = build(task_types=["binary"] * 2, task_names=["click", "buy"]), toy.features()
    x = {name: values[:5] for name, values in x.items()} | {"user": np.arange(5)}
    y = [np.array([0, 1, 0, 1, np.nan])] * 2
    joint = [loss("click", "user")]
    model.compile(keras.optimizers.SGD(1.0), joint_losses=joint, **toy.QUICK)
    before = model.get_layer("click").get_weights()
    logs = model.fit(x, y, batch_size=5, verbose=0).history
    np.testing.assert_allclose(logs[joint[0].name], 0, atol=1e-6)
    plain = build(task_types=["binary"] * 2, task_names=["click", "buy"])
    plain.compile(keras.optimizers.SGD(1.0), **toy.QUICK)
    plain.fit(x, y, batch_size=5, verbose=0)
    toy.same(model.get_weights(), plain.get_weights(), rtol=1e-5)
    assert not np.array_equal(before[0], model.get_layer("click").get_weights()[0])


@pytest.mark.parametrize("loss", [PairwiseRankLoss, JRCLoss])
def test_it_learns_who_is_clicked_first_by_a_user(loss):
    """Labels follow the price within each user, and the user's own rate beside."""
    rng = np.random.default_rng(0)
    x = toy.features(256)
    gain = x["price"][:, 0] + 3 * rng.normal(size=5)[x["user"]]
    y = (gain + 0.5 * rng.normal(size=256) > 0).astype("float32")
    model = toy.build("SharedBottom", 1, task_names=["click"])
    model.compile(keras.optimizers.Adam(0.01), joint_losses=[loss("click", "user")], **toy.NO_XLA)
    losses = model.fit(x, y, batch_size=256, epochs=60, verbose=0).history["loss"]
    assert losses[-1] < losses[0] - 0.5
    assert group_auc(y, model.predict(x, verbose=0), x["user"]) > 0.85


def test_they_are_saved_with_the_model(tmp_path):
    model, x, y = build(), toy.features(), labels()
    joint = [JRCLoss("click", "user", 0.3), PairwiseRankLoss("watch", name="order")]
    model.compile("sgd", joint_losses=joint, **toy.QUICK)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    logs = [m.evaluate(x, y, verbose=0, return_dict=True) for m in (model, loaded)]
    assert logs[0] == pytest.approx(logs[1], rel=1e-6)
    assert {"jrc_loss", "order"} <= logs[1].keys()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: PairwiseRankLoss("click", "usr"),
            ValueError,
            r"`joint_losses` should name features out of .*'user'.*Received: \['usr'\]",
        ),
        (lambda: PairwiseRankLoss("click", 3), TypeError, "`groups` should be a feature's name"),
        (lambda: PairwiseRankLoss("pay"), ValueError, r"`joint_losses`.*\['pay'\]"),
        (lambda: JRCLoss("watch"), ValueError, "a task of type 'binary'.*'watch'.*'regression'"),
        (lambda: JRCLoss("click", weight=-1), ValueError, "`weight`.*-1"),
    ],
)
def test_bad_arguments_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        build().compile("sgd", joint_losses=[make()])


def test_a_sequence_is_no_group():
    model = build()
    model.compile("sgd", joint_losses=[JRCLoss("click", "history")], **toy.QUICK)
    with pytest.raises(ValueError, match=r"one value per row.*'history' of shape \(24, 3\)"):
        model.evaluate(toy.features(), labels(), batch_size=24, verbose=0)
