"""Losses over several tasks: equations, missing labels, logs, saving."""

import keras
import numpy as np
import pytest
import toy

from mtl.losses import FunnelLoss, JointLoss, MultiTaskBCE, OrderPenalty


def cross_entropy(labels, p):
    return -(labels * np.log(p) + (1 - labels) * np.log(1 - p))


def build(**options):
    return toy.randomize(
        toy.build("SharedBottom", task_names=["click", "buy"], l2_reg_embedding=0, **options)
    )


def logs_of(model, y, sample_weight=None):
    return model.evaluate(
        toy.features(), y, batch_size=24, sample_weight=sample_weight, verbose=0, return_dict=True
    )


def test_order_penalty():
    model = build()
    # Move one task's logits so that some predictions are out of order, and some aren't.
    click, buy = (np.log(p / (1 - p)) for p in toy.outputs(model, toy.features()))
    bias = model.get_layer("buy").logits.bias
    bias.assign(bias + np.median(click - buy))
    model.compile("sgd", joint_losses=[OrderPenalty("click", "buy", 2.0)], **toy.QUICK)
    logs = logs_of(model, toy.labels())
    click, buy = toy.outputs(model, toy.features())
    assert 0 < (buy > click).mean() < 1
    expected = 2 * np.maximum(buy - click, 0).mean()
    np.testing.assert_allclose(logs["order_penalty"], expected, rtol=1e-5)
    total = logs["click_loss"] + logs["buy_loss"] + logs["order_penalty"]
    np.testing.assert_allclose(logs["loss"], total, rtol=1e-6)


def test_order_penalty_orders_predictions():
    model, x, y = build(), toy.features(), toy.labels()
    model.compile(
        keras.optimizers.Adam(0.05),
        loss={},
        joint_losses=[OrderPenalty("buy", "click")],
        **toy.NO_XLA,
    )
    click, buy = toy.outputs(model, x)
    assert (click > buy + 0.05).all()
    model.fit(x, y, batch_size=24, epochs=60, verbose=0)
    click, buy = toy.outputs(model, x)
    assert (click <= buy + 1e-3).all()


@pytest.mark.parametrize("weighted", [False, True])
def test_funnel_loss(weighted):
    """Where nobody clicked, no conversion label is needed."""
    click = np.array([0, 0, 1, 1, 1, np.nan] * 4, "float32")
    buy = np.array([0, np.nan, 0, 1, np.nan, 0] * 4, "float32")
    rng = np.random.default_rng(0)
    weights = [rng.uniform(0, 2, 24).astype("float32") for _ in range(2)] if weighted else None
    model = build()
    model.compile("sgd", loss={}, joint_losses=[FunnelLoss("click", "buy")], **toy.QUICK)
    logs = logs_of(model, {"buy": buy, "click": click}, weights)
    p_click, p_buy = (p[:, 0] for p in toy.outputs(model, toy.features()))
    first, second = weights or [np.ones(24)] * 2
    known = ~np.isnan(click)
    both = known & ((click == 0) | ~np.isnan(buy))
    product = np.where(click == 1, buy, 0)
    expected = (first * cross_entropy(click, p_click))[known].sum() / known.sum()
    expected += (second * cross_entropy(product, p_click * p_buy))[both].sum() / both.sum()
    np.testing.assert_allclose(logs["funnel_loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(logs["loss"], expected, rtol=1e-5)
    assert set(logs) == {"loss", "funnel_loss"}


@pytest.mark.parametrize("bias", [0.2, -30.0])
def test_funnel_loss_trains_as_esmm_does(bias):
    """One step on the same towers and labels changes both in the same way, also far out."""
    x, y = toy.features(), toy.labels()
    y[1] *= y[0]
    esmm = toy.randomize(toy.build("ESMM", l2_reg_embedding=0))
    pair = toy.randomize(
        toy.build("SharedBottom", bottom_dnn_units=[], task_names=["a", "b"], l2_reg_embedding=0)
    )
    for layer in ("ctr", "cvr"):
        esmm.get_layer(layer).logits.bias.assign([bias])
    for layer, name in [("encoder", "encoder"), ("ctr", "a"), ("cvr", "b")]:
        pair.get_layer(name).set_weights(esmm.get_layer(layer).get_weights())
    esmm.compile(keras.optimizers.SGD(0.5), **toy.QUICK)
    pair.compile(
        keras.optimizers.SGD(0.5), loss={}, joint_losses=[FunnelLoss("a", "b")], **toy.QUICK
    )
    for model in (esmm, pair):
        model.fit(x, y, batch_size=24, verbose=0)
    assert abs(keras.ops.convert_to_numpy(esmm.get_layer("cvr").logits.bias)[0] - bias) > 0.01
    for layer, name in [("encoder", "encoder"), ("ctr", "a"), ("cvr", "b")]:
        weights = esmm.get_layer(layer).get_weights()
        toy.same(pair.get_layer(name).get_weights(), weights, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("task_weights", [None, [0.5, 2.0, 1.0]])
def test_multi_task_bce_weighs_tasks_and_leaves_missing_labels_out(task_weights):
    y = np.array([[0, 1, 1], [1, np.nan, 0], [1, np.nan, 1], [0, np.nan, 1]], "float32")
    p = np.random.default_rng(0).uniform(0.1, 0.9, (4, 3)).astype("float32")
    expected = sum(
        w * np.nanmean(cross_entropy(y[:, k], p[:, k]))
        for k, w in enumerate(task_weights or [1, 1, 1])
    )
    loss = MultiTaskBCE(task_weights)
    np.testing.assert_allclose(float(loss(y, p)), expected, rtol=1e-5)
    again = MultiTaskBCE.from_config(loss.get_config())
    np.testing.assert_allclose(float(again(y, p)), expected, rtol=1e-5)
    y[:, 1] = np.nan
    assert np.isfinite(float(loss(y, p)))


def test_multi_task_bce_trains_a_plain_keras_model():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 2)).astype("float32")
    y = (x @ [[1, -1], [1, 1]] > 0).astype("float32")
    y[::2, 1] = np.nan
    dense = keras.layers.Dense(2, "sigmoid", kernel_initializer="zeros")
    model = keras.Sequential([keras.Input((2,)), dense])
    model.compile(keras.optimizers.Adam(0.3), MultiTaskBCE([1, 2]), **toy.NO_XLA)
    losses = model.fit(x, y, batch_size=256, epochs=40, verbose=0).history["loss"]
    np.testing.assert_allclose(losses[0], 3 * np.log(2), rtol=1e-5)
    assert losses[-1] < 0.15 * losses[0]


@keras.saving.register_keras_serializable(package="test")
class Gap(JointLoss):
    """Squared difference of two regressions."""

    def __init__(self, tasks=("click", "buy"), weight=1.0, name="gap"):
        super().__init__(tasks, weight, name)

    def call(self, y_true, y_pred, sample_weight):
        first, second = (y_pred[task] for task in self.tasks)
        return keras.ops.mean(keras.ops.square(first - second))


def test_joint_losses_are_saved_with_the_model(tmp_path):
    model = build()
    joint = [OrderPenalty("click", "buy", 0.5, name="order"), Gap(weight=3.0)]
    model.compile("sgd", joint_losses=joint, **toy.QUICK)
    expected = logs_of(model, toy.labels())
    click, buy = toy.outputs(model, toy.features())
    np.testing.assert_allclose(expected["gap"], 3 * np.mean((click - buy) ** 2), rtol=1e-5)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    got = logs_of(loaded, toy.labels())
    assert got.keys() == expected.keys()
    np.testing.assert_allclose(list(got.values()), list(expected.values()), rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: OrderPenalty("click", "pay"), ValueError, r"`joint_losses`.*\['pay'\]"),
        (lambda: "mse", TypeError, "`joint_losses` should hold.*'mse'"),
        (
            lambda: OrderPenalty("click", "buy", name="click_loss"),
            ValueError,
            "names of their own.*'click_loss'",
        ),
        (lambda: OrderPenalty("click", "click"), ValueError, "should differ.*'click'"),
        (lambda: OrderPenalty("click", "buy", -1), ValueError, "`weight`.*-1"),
        (lambda: OrderPenalty("click", "buy", name=""), TypeError, "`name`"),
        (lambda: Gap("click"), TypeError, "`tasks` should be a list.*'click'"),
        (lambda: Gap([]), ValueError, "`tasks` should name at least one"),
    ],
)
def test_bad_joint_losses_are_refused_by_compile(make, error, message):
    with pytest.raises(error, match=message):
        build().compile("sgd", joint_losses=[make()])


def test_a_model_needs_a_loss():
    with pytest.raises(ValueError, match="`loss` should hold a loss for at least one task"):
        build().compile("sgd", loss={})


def test_multi_task_bce_checks_its_weights():
    with pytest.raises(ValueError, match=r"`task_weights\[1\]`.*-1"):
        MultiTaskBCE([1, -1])
    with pytest.raises(ValueError, match=r"`task_weights` should have one entry per task.*2.*3"):
        MultiTaskBCE([1, 1])(np.ones((2, 3), "float32"), np.full((2, 3), 0.5, "float32"))
