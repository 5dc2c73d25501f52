"""Steps of a funnel: P(k) = P(parent) · P(k | parent), and sums where ways meet."""

from itertools import pairwise
from typing import Any

import keras
import numpy as np
import pytest
import reference as ref
import toy

from mtl.layers.chain import Chain
from mtl.losses import OrderPenalty
from mtl.metrics import auc, evaluate_tasks, label_violations
from mtl.models import Funnel, extract_task

X = toy.features()
ESM2 = {"cart": "click", "buy": ["cart", "click"]}


def build(names: Any = ("click", "cart", "buy"), **options: Any) -> Any:
    return Funnel(
        toy.columns(), task_names=names, tower_dnn_units_lists=[[6]] * len(names), **options
    )


def hidden(model: Any) -> list[str]:
    return [task.name for task in model.hidden_tasks]


def set_conditionals(model: Any, values: dict[str, float]) -> None:
    """Make towers constant."""
    for layer in model.layers:
        if hasattr(layer, "logits"):
            p = values[layer.task.name]
            layer.set_weights([0 * w for w in layer.get_weights()])
            layer.logits.bias.assign([np.log(p) - np.log1p(-p)])


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_chain_follows_the_equation(steps: int) -> None:
    names = list("abcd"[:steps])
    model = toy.randomize(build(names))
    w = ref.weights(model)
    conditionals = ["a", *(f"{k}|{before}" for before, k in pairwise(names))]
    v = ref.encode(model, X)
    c = [ref.tower(w, name.replace("|", "_"), v) for name in conditionals]
    assert hidden(model) == conditionals[1:]
    toy.same(toy.outputs(model, X), np.cumprod(c, axis=0), atol=1e-5, rtol=1e-5)
    for name, expected in zip(conditionals, c, strict=True):
        toy.same(toy.outputs(extract_task(model, name), X), [expected], atol=1e-5, rtol=1e-5)


def test_two_steps_are_esmm_to_the_bit() -> None:
    x, y = toy.features(), toy.labels()
    models = [
        toy.build(name, task_names=["ctr", "ctcvr"], l2_reg_embedding=0.01, seed=7)
        for name in ("ESMM", "Funnel")
    ]
    outputs = []
    for model in models:
        model.compile(keras.optimizers.Adam(0.1), **toy.QUICK)
        logs = model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0).history
        outputs.append([*toy.outputs(model, x), logs["loss"], *model.get_weights()])
    toy.same(outputs[1], outputs[0], rtol=0, atol=0)


def test_esm2_by_hand() -> None:
    """The example of four conditionals: P(cart) = .12 and P(buy) = .4 (.3 · .2 + .7 · .05)."""
    model = build(parents=ESM2)
    assert hidden(model) == ["cart|click", "buy|click, not cart", "buy|cart"]
    set_conditionals(
        model, {"click": 0.4, "cart|click": 0.3, "buy|cart": 0.2, "buy|click, not cart": 0.05}
    )
    click, cart, buy = toy.outputs(model, X)
    np.testing.assert_allclose(click, 0.4, rtol=1e-6)
    np.testing.assert_allclose(cart, 0.12, rtol=1e-6)
    np.testing.assert_allclose(buy, 0.038, rtol=1e-6)


@pytest.mark.parametrize(
    ("names", "parents", "expected"),
    [
        # A tree of two roots.
        (
            "abcd",
            {"b": "a", "d": "a"},
            lambda c: [a := c["a"], a * c["b|a"], c["c"], a * c["d|a"]],
        ),
        # Around a step, around two, and around the step that was reached around.
        (
            "abcd",
            {"b": "a", "c": ("b",), "d": ["c", "a", "b"]},
            lambda c: [
                a := c["a"],
                b := a * c["b|a"],
                bc := b * c["c|b"],
                (a - b) * c["d|a, not b"] + (b - bc) * c["d|b, not c"] + bc * c["d|c"],
            ],
        ),
        (
            "abcd",
            {"b": "a", "c": ["a", "b"], "d": ["a", "c"]},
            lambda c: [
                a := c["a"],
                b := a * c["b|a"],
                e := (a - b) * c["c|a, not b"] + b * c["c|b"],
                (a - e) * c["d|a, not c"] + e * c["d|c"],
            ],
        ),
    ],
)  # fmt: skip
def test_graphs_follow_the_equation(names: str, parents: Any, expected: Any) -> None:
    model = toy.randomize(build(list(names), parents=parents))
    c = {
        name: toy.outputs(extract_task(model, name), X)[0].astype("float64")
        for name in [*names, *hidden(model)]
    }
    toy.same(toy.outputs(model, X), expected(c), atol=1e-6, rtol=1e-5)


def test_towers_of_a_step_have_seeds_of_their_own() -> None:
    w = ref.weights(build(parents=ESM2))
    kernels = [v for path, v in w.items() if path.endswith("dense_0/kernel")]
    assert len(kernels) == 4
    for i in range(4):
        assert np.abs(kernels[i] - kernels[i - 1]).max() > 1e-3


@pytest.mark.parametrize("parents", [None, ESM2])
@pytest.mark.parametrize("scale", [1, 30, 1000])
def test_no_step_is_more_probable_than_its_parent(parents: Any, scale: float) -> None:
    """To the last bit, and where towers are sure: no NaN, in gradients neither."""
    model = toy.randomize(build(parents=parents))
    for layer in model.layers:
        if hasattr(layer, "logits"):
            layer.logits.kernel.assign(layer.logits.kernel * scale - scale / 10)
    click, cart, buy = toy.outputs(model, X)
    assert (cart <= click).all()
    assert (buy <= (click if parents else cart)).all()
    assert ((buy >= 0) & (click <= 1)).all()
    model.compile(
        keras.optimizers.SGD(0.1),
        joint_losses=OrderPenalty("click", "buy"),
        **toy.QUICK,
    )
    logs = model.train_on_batch(X, toy.labels(3), return_dict=True)
    assert logs["order_penalty"] == 0
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


def test_rounding_where_ways_meet_lifts_no_step_above_its_parent() -> None:
    rng = np.random.default_rng(0)
    click = rng.random(1_000_000, "float32")
    cart = click * rng.random(len(click), "float32")
    after = 1 - rng.integers(0, 3, (2, len(click))).astype("float32") * np.float32(2**-24)
    rows = (click - cart) * after[0] + cart * after[1] > click
    assert rows.any()
    inputs = [v[rows, None] for v in (click, cart, *after)]
    buy = Chain("buy")([keras.ops.convert_to_tensor(v) for v in inputs])
    assert (keras.ops.convert_to_numpy(buy) <= inputs[0]).all()


def test_small_probabilities_keep_their_digits() -> None:
    names = list("abcde")
    model = build(names)
    set_conditionals(model, dict.fromkeys(["a", *hidden(model)], 1e-7))
    expected = [np.full((24, 1), 1e-7**k) for k in range(1, 6)]
    toy.same(toy.outputs(model, X), expected, rtol=2e-6, atol=0)


def test_conditionals_are_scored_where_they_are_seen() -> None:
    model = toy.randomize(build(parents=ESM2))
    rng = np.random.default_rng(3)
    x, click = toy.features(400), (rng.random(400) < 0.7).astype("float32")
    cart = click * (rng.random(400) < 0.5)
    buy = click * (rng.random(400) < 0.4)
    weights = {"buy": rng.uniform(0.5, 2, 400).astype("float32")}
    table = evaluate_tasks(model, x, [click, cart, buy], sample_weight=weights)
    assert list(table.index) == ["click", "cart", "buy", *hidden(model)]
    for name, label, rows in (
        ("cart|click", cart, click == 1),
        ("buy|cart", buy, cart == 1),
        ("buy|click, not cart", buy, (click == 1) & (cart == 0)),
    ):
        p = extract_task(model, name).predict(x, verbose=0)
        w = weights["buy"][rows] if label is buy else None
        assert table.loc[name, "rows"] == rows.sum() > 0
        assert table.loc[name, "auc"] == pytest.approx(auc(label[rows], p[rows], w), abs=1e-4)


def test_labels_that_are_not_nested_are_counted() -> None:
    nan = np.nan
    y = {
        "click": np.array([1, 1, 0, 0, nan, 0]),
        "cart": np.array([0, 1, 1, 0, 1, nan]),
        "buy": np.array([1, 0, 1, 1, 1, 1]),
    }
    counted = label_violations(build(parents=ESM2), y)
    assert counted.to_dict() == {"cart": 1, "buy": 3}  # one may buy without the cart
    assert label_violations(build(), y).to_dict() == {"cart": 1, "buy": 2}
    assert label_violations(toy.build("PLE"), toy.labels()).empty


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"task_types": ["binary", "regression", "binary"]}, r"binary tasks.*Received.*regression"),
        ({"parents": {"pay": "click"}}, r"`parents`.*\['click', 'cart', 'buy'\].*Received: 'pay'"),
        ({"parents": {"buy": "pay"}}, r"`parents\['buy'\]`.*\['click', 'cart'\].*Received: 'pay'"),
        ({"parents": {"buy": ["click", 3]}}, r"`parents\['buy'\]`.*Received: 3"),
        ({"parents": {"buy": 3}}, r"`parents\['buy'\]`.*list of tasks.*Received: 3"),
        (
            {"parents": {"buy": {"click"}}},
            r"`parents\['buy'\]`.*list of tasks.*Received: {'c",
        ),
        ({"parents": ["click"]}, r"`parents` should be a dict.*Received: \['click'\]"),
        ({"parents": {"cart": "buy"}}, r"`parents\['cart'\]`.*before it.*Received: 'buy'"),
        ({"parents": {"click": "click"}}, r"`parents\['click'\]`.*before it.*Received: 'click'"),
        (
            {"parents": {"click": "buy", "cart": "click", "buy": "cart"}},
            r"`parents\['click'\]`.*before it.*Received: 'buy'",
        ),
        (
            {"parents": {"buy": ["cart", "click"]}},
            r"`parents\['buy'\]`.*others alone.*'cart' is reached without 'click'",
        ),
        (
            {"task_names": ["click", "cart", "cart|click"]},
            r"`task_names`.*not hold 'cart|click'.*Received",
        ),
    ],
)
def test_what_is_no_funnel_is_refused(options: dict[str, Any], match: str) -> None:
    options = {"task_names": ["click", "cart", "buy"], **options}
    with pytest.raises((ValueError, TypeError), match=match):
        Funnel(toy.columns(), **options)


def test_hidden_names_that_look_alike_are_layers_of_their_own() -> None:
    model = toy.randomize(build(["a", "b_c", "a_b", "c"], parents={"b_c": "a", "c": "a_b"}))
    assert hidden(model) == ["b_c|a", "c|a_b"]
    model = toy.randomize(build(["b_c", "c", "a_b", "a"], parents={"a": "b_c", "a_b": "c"}))
    assert hidden(model) == ["a_b|c", "a|b_c"]
    assert len({layer.name for layer in model.layers}) == len(model.layers)
