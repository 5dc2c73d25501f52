"""L = CE(o, p) + λ_c R(q) + λ_g CE(o r, p q), R over all impressions by the clicked ones."""

from typing import Any

import keras
import numpy as np
import pytest
import reference as ref
import toy

from mtl.inspection import gate_weights
from mtl.losses import ESTIMATORS, ConversionRisk
from mtl.metrics import evaluate_tasks
from mtl.models import ESCM2, extract_task

X = toy.features()
TASKS = ("ctr", "ctcvr", "cvr")
OTHERS = {"dr": "imputation", "dcmt": "counterfactual"}
# By hand: clicks, conversions, pCTR, pCVR, imputed errors, counterfactual rates.
CLICK = np.array([1, 1, 0, 0, 1.0])
R = np.array([1, 0, 0, 0, 1.0])
P = np.array([0.5, 0.2, 0.1, 0.3, 0.8])
Q = np.array([0.6, 0.3, 0.2, 0.1, 0.7])
IMPUTED = np.array([0.3, 0.2, 0.5, 0.1, 0.4])
COUNTERFACTUAL = np.array([0.5, 0.6, 0.9, 0.8, 0.2])


def cross_entropy(r: Any, q: Any) -> Any:
    return -(r * np.log(q) + (1 - r) * np.log(1 - q))


E = cross_entropy(R, Q)


def risk(
    estimator: str,
    o: Any = CLICK,
    r: Any = R,
    p: Any = P,
    q: Any = Q,
    other: Any = None,
    weights: Any = None,
    **options: Any,
) -> float:
    """Return what the loss gives; ê is as the tower would have to say it."""
    name = OTHERS.get(estimator)
    loss = ConversionRisk(*TASKS, name, estimator, **options)
    if other is None:
        other = np.log(np.expm1(IMPUTED)) if estimator == "dr" else COUNTERFACTUAL

    def column(values: Any) -> Any:
        return keras.ops.convert_to_tensor(np.reshape(values, (-1, 1)), "float32")

    y_true = {"ctr": column(o), "ctcvr": column(r)}
    y_pred = {"ctr": column(p), "ctcvr": column(p * q), "cvr": column(q)}
    y_pred |= {name: column(other)} if name else {}
    sample_weight = {} if weights is None else {"ctr": column(0 * o + 9), "ctcvr": column(weights)}
    return float(loss(y_true, y_pred, sample_weight))


def dcmt(weight: float = 1e-3, floor: float = 0.05) -> float:
    factual = CLICK * E / np.maximum(P, floor)
    unclicked = (1 - CLICK) * cross_entropy(1 - R, COUNTERFACTUAL) / np.maximum(1 - P, floor)
    prior = np.abs(1 - (Q + COUNTERFACTUAL))
    return float(np.mean(factual + unclicked) + weight * np.mean(prior))


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        ("ips", 0.650174),
        ("snips", np.sum(CLICK * E / P) / np.sum(CLICK / P)),
        ("dr", 0.530174 + 0.042795),
        ("dcmt", dcmt()),
    ],
)
def test_the_risk_by_hand(estimator: str, expected: float) -> None:
    assert risk(estimator) == pytest.approx(expected, abs=2e-6)
    # A conversion label is needed where somebody clicked alone.
    assert risk(estimator, r=np.where(CLICK == 1, R, np.nan)) == pytest.approx(expected, abs=2e-6)
    # Without a click label, or a conversion label where one is needed, a row is none.
    for o, r in (([*CLICK, np.nan], [*R, 1.0]), ([*CLICK, 1.0], [*R, np.nan])):
        more = [np.append(v, 0.5) for v in (P, Q)]
        last = np.log(np.expm1(IMPUTED)) if estimator == "dr" else COUNTERFACTUAL
        value = risk(estimator, np.array(o), np.array(r), *more, np.append(last, 0.5))
        assert value == pytest.approx(expected, abs=2e-6)


def test_options_of_the_risk_by_hand() -> None:
    floor = np.maximum(P, 0.4)
    assert risk("ips", min_propensity=0.4) == pytest.approx(np.mean(CLICK * E / floor), rel=1e-5)
    assert risk("ips", min_propensity=1) == pytest.approx(np.mean(CLICK * E), rel=1e-5)
    assert risk("dr", joint=False) == pytest.approx(risk("dr"), rel=1e-6)
    assert risk("dcmt", counterfactual_weight=2.0) == pytest.approx(dcmt(2.0), rel=1e-5)
    assert risk("dcmt", min_propensity=0.9) == pytest.approx(dcmt(floor=0.9), rel=1e-5)
    assert risk("ips", weight=0.1) == pytest.approx(0.1 * risk("ips"), rel=1e-6)
    w = np.array([2, 0.5, 3, 1, 0])
    assert risk("ips", weights=w) == pytest.approx(np.mean(w * CLICK * E / P), rel=1e-5)
    normed = np.sum(w * CLICK * E / P) / np.sum(w * CLICK / P)
    assert risk("snips", weights=w) == pytest.approx(normed, rel=1e-5)
    dr = IMPUTED + CLICK * (E - IMPUTED) / P + CLICK * (E - IMPUTED) ** 2 / P
    assert risk("dr", weights=w) == pytest.approx(np.mean(w * dr), rel=1e-5)


def test_what_doubly_robust_comes_to() -> None:
    nothing = np.full(5, -100.0)  # ê = 0
    squared = np.mean(CLICK * E**2 / P)
    assert risk("dr", other=nothing) == pytest.approx(risk("ips") + squared, rel=1e-5)
    right = np.log(np.expm1(E))  # ê = e
    assert risk("dr", other=right) == pytest.approx(np.mean(E), rel=1e-5)
    ones = np.ones(5)
    for estimator in ("ips", "snips"):
        assert risk(estimator, o=ones, p=ones) == pytest.approx(np.mean(E), rel=1e-5)


@pytest.mark.parametrize("estimator", ["ips", "dr"])
def test_the_estimators_are_unbiased(estimator: str) -> None:
    """Clicks drawn by the propensities that they are weighed with; the truth is the mean of e."""
    rng = np.random.default_rng(0)
    rows = 400_000
    p, q, true = rng.uniform([[0.1], [0.1], [0.1]], [[0.9], [0.9], [0.9]], (3, rows))
    o, r = rng.random((2, rows)) < [p, true]
    other = np.full(rows, -100.0 if estimator == "ips" else np.log(np.expm1(0.3)))
    value = risk(estimator, o.astype(float), r.astype(float), p, q, other)
    e = cross_entropy(r, q)
    squared = np.mean((e - 0.3) ** 2) if estimator == "dr" else 0
    assert value - squared == pytest.approx(np.mean(e), abs=0.02)


def test_the_joint_terms_of_dr_pull_pcvr_towards_one_half() -> None:
    """Of one rate for ten clicked rows, one converted: (e - ê)² is least where both e are one."""
    ones, r = np.ones(10), np.arange(10) == 0
    rates = np.arange(0.01, 0.5, 0.01)

    def best(estimator: str) -> float:
        values = []
        for q in rates:
            imputed = np.mean(cross_entropy(r, q))  # the best ê that knows no label
            other = imputed + np.log(-np.expm1(-imputed))
            values.append(risk(estimator, ones, r * 1.0, ones, q * ones, other * ones))
        return rates[np.argmin(values)]

    assert best("ips") == pytest.approx(0.1)
    # Where (q - 0.1) + 2 · 0.09 · logit(q) = 0.
    assert best("dr") == pytest.approx(0.275, abs=0.006)


def test_any_model_of_a_click_and_a_conversion_takes_the_risk() -> None:
    model = toy.randomize(toy.build("SharedBottom", l2_reg_embedding=0))
    click, cvr = model.task_names
    model.compile(
        "sgd",
        loss={click: "binary_crossentropy"},
        joint_losses=ConversionRisk(click, cvr, cvr, estimator="snips"),
        **toy.QUICK,
    )
    o, r = toy.labels()
    p, q = (v[:, 0] for v in toy.outputs(model, X))
    logs = model.evaluate(X, [o, np.where(o == 1, r, np.nan)], verbose=0, return_dict=True)
    assert logs["conversion_risk"] == pytest.approx(risk("snips", o, r, p, q), rel=1e-4)


def test_labels_outside_0_and_1_are_refused() -> None:
    model = toy.build("ESCM2")
    model.compile("sgd", loss={"ctr": "binary_crossentropy"}, **toy.QUICK)
    with pytest.raises(ValueError, match=r"y\['ctcvr'\].*conversion_risk"):
        model.fit(X, [toy.labels()[0], toy.labels()[1] + 5], verbose=0)


def build(estimator: str, **options: Any) -> Any:
    return toy.randomize(toy.build("ESCM2", estimator=estimator, l2_reg_embedding=0, **options))


def nested_labels() -> list[np.ndarray]:
    click, buy = toy.labels()
    return [click, click * buy]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_predictions_follow_the_equation(estimator: str) -> None:
    model = build(estimator, gate_dnn_units=[4], gate_temperature=0.5, expert_dnn_units=(8, 5))
    w = ref.weights(model)
    v = ref.encode(model, X)
    e = ref.experts(w, "experts", [v] * 3)

    def tower(name: str, head: Any = ref.sigmoid) -> Any:
        return ref.tower(w, name, ref.mix(e, ref.gate(w, f"gate_{name}", v, 0.5)), head)

    p, q = tower("ctr"), tower("cvr")
    toy.same(toy.outputs(model, X), [p, p * q], atol=1e-5, rtol=1e-5)
    expected = {"cvr": q}
    if estimator == "dr":
        expected["imputation"] = tower("imputation", lambda logit: logit)
    if estimator == "dcmt":
        expected["counterfactual"] = tower("counterfactual")
    assert [task.name for task in model.hidden_tasks] == list(expected)
    for name, value in expected.items():
        toy.same(toy.outputs(extract_task(model, name), X), [value], atol=1e-5, rtol=1e-5)
    gates = gate_weights(model, X)
    assert set(gates) == {(1, name) for name in ("ctr", *expected)}
    for (_, name), table in gates.items():
        given = ref.gate(w, f"gate_{name}", v, 0.5)
        np.testing.assert_allclose(table.to_numpy(), given, atol=1e-5)
    assert list(evaluate_tasks(model, X, nested_labels()).index) == list(TASKS)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_loss_is_that_of_the_paper(estimator: str) -> None:
    model = build(estimator, risk_weight=0.5)
    global_weight = {"ctcvr": 2.0}
    model.compile("sgd", loss_weights=global_weight, **toy.QUICK)
    o, r = nested_labels()
    weights = {"ctcvr": np.random.default_rng(0).uniform(0, 2, 24).astype("float32")}
    logs = model.evaluate(
        X, [o, r], sample_weight=weights, batch_size=24, verbose=0, return_dict=True
    )
    p, product = (v[:, 0] for v in toy.outputs(model, X))
    q, *other = (toy.outputs(extract_task(model, t.name), X)[0] for t in model.hidden_tasks)
    given = risk(estimator, o, r, p, q[:, 0], *other, weights=weights["ctcvr"], weight=0.5)
    assert logs["conversion_risk"] == pytest.approx(given, rel=1e-4)
    expected = np.mean(cross_entropy(o, p)) + given
    expected += 2 * np.mean(weights["ctcvr"] * cross_entropy(r, product))
    assert logs["loss"] == pytest.approx(expected, rel=1e-4)


def step(model: Any, y: Any, **options: Any) -> dict[str, np.ndarray]:
    """Return how a step down the risk alone moves each weight."""
    before = ref.weights(model)
    model.compile(keras.optimizers.SGD(1.0), loss={}, **{**toy.QUICK, **options})
    model.train_on_batch(X, y)
    after = ref.weights(model)
    return {path: after[path] - before[path] for path in before}


@pytest.mark.filterwarnings("ignore:Gradients do not exist:UserWarning")
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_risk_leaves_the_click_tower_alone(estimator: str) -> None:
    moved = step(build(estimator), nested_labels())
    still = {path.split("/")[0] for path, change in moved.items() if not change.any()}
    assert still == {"ctr", "gate_ctr"}


@pytest.mark.filterwarnings("ignore:Gradients do not exist:UserWarning")
def test_the_conversion_tower_learns_from_doubly_robust_what_it_does_from_ips() -> None:
    ips, dr = (build(estimator) for estimator in ("ips", "dr"))
    apart = build("dr", joint=False)
    for layer in ips.layers:
        for model in (dr, apart):
            model.get_layer(layer.name).set_weights(layer.get_weights())
    apart.get_layer("imputation").set_weights(dr.get_layer("imputation").get_weights())
    apart.get_layer("gate_imputation").set_weights(dr.get_layer("gate_imputation").get_weights())
    y = nested_labels()
    by_ips, by_dr, by_parts = (step(model, y) for model in (ips, dr, apart))
    towers = [path for path in by_ips if path.startswith(("cvr", "gate_cvr"))]
    for path in towers:
        np.testing.assert_allclose(by_parts[path], by_ips[path], rtol=1e-4, atol=1e-6)
    # The paper's squared term trains q, too.
    assert any(np.abs(by_dr[path] - by_ips[path]).max() > 1e-4 for path in towers)
    imputation = [path for path in by_dr if path.startswith("imputation")]
    assert any(np.abs(by_dr[path] - by_parts[path]).max() > 1e-4 for path in imputation)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_batches_without_clicks_and_labels(estimator: str) -> None:
    none, nan = np.zeros(24, "float32"), np.full(24, np.nan, "float32")
    for y in ([none, none], [none, nan], [nan, nan]):
        model = build(estimator)
        model.compile(keras.optimizers.SGD(0.1), **toy.QUICK)
        logs = model.train_on_batch(X, y, return_dict=True)
        assert np.isfinite(logs["conversion_risk"])
        if estimator in ("ips", "snips") or y[0] is nan:
            assert logs["conversion_risk"] == 0
        assert all(np.isfinite(weight).all() for weight in model.get_weights())


def test_experts_towers_and_gates_of_a_fresh_model_differ() -> None:
    w = ref.weights(toy.build("ESCM2", estimator="dr"))
    for part in ("{}/dnn/dense_0/kernel", "gate_{}/logits/kernel"):
        kernels = [w[part.format(name)] for name in ("ctr", "cvr", "imputation")]
        assert all(np.abs(kernels[i] - kernels[i - 1]).max() > 1e-3 for i in range(3))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"estimator": "mle"}, r"`estimator` should be one of 'ips', 'snips', 'dr'.*'mle'"),
        ({"min_propensity": 0}, r"`min_propensity`.*\(0, 1\].*Received: 0"),
        ({"min_propensity": 1.5}, r"`min_propensity`.*\(0, 1\].*Received: 1.5"),
        ({"risk_weight": -1}, r"`risk_weight`.*non-negative.*Received: -1"),
        ({"counterfactual_weight": -1}, r"`counterfactual_weight`.*Received: -1"),
        ({"num_tasks": 3, "task_names": None}, r"two binary tasks"),
        ({"task_types": ["binary", "regression"]}, r"two binary tasks.*regression"),
        ({"task_names": ["cvr", "x"]}, r"`task_names`.*'cvr'.*Received"),
        ({"task_names": ["imputation", "x"], "estimator": "dr"}, r"`task_names`.*'imputation'"),
    ],
)
def test_what_is_wrong_is_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        ESCM2(toy.columns(), **options)


def test_the_risk_names_another_task_where_it_needs_one() -> None:
    for estimator, other in (("dr", None), ("ips", "imputation")):
        with pytest.raises(ValueError, match=rf"`other`.*Received: {other!r} for '{estimator}'"):
            ConversionRisk(*TASKS, other, estimator)
