"""Lifetime values: their loss, what trains, what is compared with labels, what is refused."""

import keras
import numpy as np
import pytest
import toy
from keras import ops
from scipy.stats import lognorm

from mtl.losses import ZeroInflatedLogNormal
from mtl.metrics import evaluate_tasks
from mtl.models import extract_task

TYPES = ["lifetime_value", "binary"]
NAMES = ["worth", "click"]


def build(**options):
    model = toy.build(
        "SharedBottom", 2, task_types=TYPES, task_names=NAMES, l2_reg_embedding=0, **options
    )
    return toy.randomize(model)


def amounts(rows=24, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.lognormal(1, 2, rows) * (rng.random(rows) < 0.5)).astype("float32")


def likelihood(y, predictions):
    """Minus the log-likelihood of each row, by scipy."""
    _, p, mu, sigma = predictions.astype("float64").T
    positive = y > 0
    density = lognorm.logpdf(np.where(positive, y, 1), sigma, scale=np.exp(mu))
    return -np.where(positive, np.log(p) + density, np.log1p(-p))


def test_by_hand():
    """p = 1/4, μ = 1, σ = 2. Of y = 0: -log 3/4. Of y = e³: -log 1/4 + 3 + log 2 + log √2π + ½."""
    p = np.array([[0, 0.25, 1, 2]] * 2, "float32")
    got = ZeroInflatedLogNormal(reduction="none")(np.array([[0], [np.exp(3)]], "float32"), p)
    expected = [-np.log(0.75), np.log(4) + 3 + np.log(2) + np.log(2 * np.pi) / 2 + 0.5]
    np.testing.assert_allclose(ops.convert_to_numpy(got), expected, rtol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_is_the_mean_likelihood_of_the_rows_with_a_label(weighted):
    model, x = build(), toy.features()
    worth, click = amounts(), toy.labels(1)[0]
    worth[::5], click[1::4] = np.nan, np.nan
    weights = np.random.default_rng(1).uniform(0, 2, 24) if weighted else np.ones(24)
    model.compile("sgd", metrics=[["mae"], []], **toy.QUICK)
    logs = model.evaluate(
        x,
        {"worth": worth, "click": click},
        batch_size=24,
        sample_weight=weights if weighted else None,
        verbose=0,
        return_dict=True,
    )
    predictions = toy.outputs(model, x)[0]
    known = ~np.isnan(worth)
    expected = np.sum((weights * likelihood(worth, predictions))[known]) / known.sum()
    np.testing.assert_allclose(logs["worth_loss"], expected, rtol=1e-5)
    # Metrics see the expected value.
    errors = np.abs(worth - predictions[:, 0])[known]
    np.testing.assert_allclose(logs["worth_mae"], errors.mean(), rtol=1e-5)


def test_rows_without_value_do_not_train_the_size_of_values():
    """dL/dμ and dL/dσ are exactly 0 where y is 0."""
    model = build()
    model.compile(keras.optimizers.SGD(1.0), **toy.QUICK)
    kernel = model.get_layer("worth").logits.kernel
    before = ops.convert_to_numpy(kernel)
    model.fit(toy.features(), [np.zeros(24), toy.labels(1)[0]], batch_size=24, verbose=0)
    change = ops.convert_to_numpy(kernel) - before
    assert np.abs(change[:, 0]).min() > 0
    np.testing.assert_array_equal(change[:, 1:], 0)


def test_it_finds_the_distribution():
    """Rows without features of use: p, μ and σ are those of all rows."""
    rng = np.random.default_rng(0)
    x = {name: values[:1].repeat(512, axis=0) for name, values in toy.features().items()}
    worth = np.where(rng.random(512) < 0.3, rng.lognormal(2, 0.5, 512), 0)
    model = toy.build("SharedBottom", 1, task_types=["lifetime_value"], task_names=["worth"])
    model.compile(keras.optimizers.Adam(0.1), **toy.NO_XLA)
    model.fit(x, worth, batch_size=512, epochs=100, verbose=0)
    value, p, mu, sigma = model.predict({k: v[:1] for k, v in x.items()}, verbose=0)[0]
    logs = np.log(worth[worth > 0])
    np.testing.assert_allclose([p, mu], [(worth > 0).mean(), logs.mean()], rtol=0.03)
    np.testing.assert_allclose(sigma, logs.std(), rtol=0.1)
    np.testing.assert_allclose(value, p * np.exp(mu + sigma**2 / 2), rtol=1e-5)


@pytest.mark.parametrize("loss", ["mse", None])
def test_it_stays_finite_for_extreme_values_and_logits(loss):
    model = build()
    dense = model.get_layer("worth").logits
    dense.set_weights([w * 1e3 for w in dense.get_weights()])
    worth = np.resize(np.array([0, 1e-30, 1e12, np.nan], "float32"), 24)
    options = {} if loss is None else {"loss": {"worth": loss, "click": "binary_crossentropy"}}
    model.compile(keras.optimizers.SGD(1e-30), **options, **toy.QUICK)
    history = model.fit(toy.features(), [worth, toy.labels(1)[0]], verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert all(np.isfinite(w).all() for w in model.get_weights())
    assert np.isfinite(toy.outputs(model, toy.features())[0]).all()


def test_a_loss_of_keras_compares_the_expected_value():
    model, x, worth = build(), toy.features(), amounts()
    model.compile("sgd", loss={"worth": "mae"}, **toy.QUICK)
    logs = model.evaluate(x, [worth, toy.labels(1)[0]], batch_size=24, verbose=0, return_dict=True)
    expected = np.abs(worth - toy.outputs(model, x)[0][:, 0]).mean()
    np.testing.assert_allclose(logs["loss"], expected, rtol=1e-5)


def test_it_is_saved_and_extracted(tmp_path):
    model, x, y = build(), toy.features(), [amounts(), toy.labels(1)[0]]
    model.compile("adam", metrics="default", **toy.QUICK)
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.tasks == model.tasks
    for a in (model, loaded):
        a.fit(x, y, shuffle=False, verbose=0)
    toy.same(loaded.get_weights(), model.get_weights(), rtol=0, atol=0)
    alone = extract_task(model, "worth")
    np.testing.assert_allclose(alone.predict(x, verbose=0), toy.outputs(model, x)[0], rtol=1e-5)
    table = evaluate_tasks(model, x, y)
    assert table.loc["worth"].notna().sum() == 8


@pytest.mark.parametrize("how", ["fit", "evaluate", "evaluate_tasks"])
def test_values_below_zero_are_refused(how):
    model, x = build(), toy.features()
    y = [np.where(np.arange(24) == 3, -2, amounts()), toy.labels(1)[0]]
    model.compile("sgd", **toy.QUICK)
    call = {
        "fit": lambda: model.fit(x, y, verbose=0),
        "evaluate": lambda: model.evaluate(x, y, verbose=0),
        "evaluate_tasks": lambda: evaluate_tasks(model, x, y),
    }[how]
    with pytest.raises(ValueError, match=r"`y\['worth'\]` should hold amounts of at least 0.*-2"):
        call()


def test_another_task_refuses_the_loss():
    model = toy.build("SharedBottom")
    model.compile("sgd", loss="ziln", **toy.QUICK)
    with pytest.raises(ValueError, match=r"task of type 'lifetime_value'. Received.*1"):
        model.fit(toy.features(), toy.labels(), verbose=0)
