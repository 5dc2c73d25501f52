"""r_k = g_k(h_k ⊕ r_u for u upstream of k): hidden vectors go down a graph of tasks."""

from typing import Any

import grads
import numpy as np
import pytest
import reference as ref
import toy
from keras import ops

from mtl.inspection import gate_weights
from mtl.models import DBMTL, MMoE, SharedBottom, extract_task

NAMES = ["click", "cart", "buy"]
GROUPS = {"user": ["age", "user"], "item": ["item", "history", "price"]}
DAG = {"cart": ["click"], "buy": ["click", "cart"]}


def build(**options: Any) -> Any:
    options = {
        "task_names": NAMES,
        "bottom_dnn_units": [8, 6],
        "relation_dnn_units": [4],
        "tower_dnn_units_lists": [[5], [7, 5], [3]],
        **options,
    }
    return DBMTL(toy.columns(), **options)


def expected(
    model: Any, x: dict[str, np.ndarray], upstream: dict[str, list[str]]
) -> list[np.ndarray]:
    """`upstream` in the order in which the tasks can be computed."""
    w, v = ref.weights(model), ref.encode(model, x)
    if "experts/kernel_0" in w:
        e = ref.experts(w, "experts", [v] * len(w["experts/bias_0"]))
        b = {k: ref.mix(e, ref.gate(w, f"gate_{k}", v)) for k in NAMES}
    else:
        b = dict.fromkeys(NAMES, ref.dnn(w, "bottom", v))
    r = {k: ref.dnn(w, f"hidden_{k}", b[k]) for k in NAMES}
    for k, sources in upstream.items():
        if sources:
            r[k] = ref.dnn(w, f"relation_{k}", np.concatenate([r[u] for u in [k, *sources]], 1))
    return [ref.tower(w, k, r[k]) for k in NAMES]


@pytest.mark.parametrize(
    ("relations", "upstream"),
    [
        (None, {"click": [], "cart": ["click"], "buy": ["click", "cart"]}),
        ({}, {}),
        ({"buy": ["click"], "cart": []}, {"buy": ["click"]}),
        # Tasks may depend on later ones, and the order of the lists says nothing.
        ({"click": ["buy", "cart"], "cart": ["buy"]}, {"cart": ["buy"], "click": ["cart", "buy"]}),
        ({"click": ("cart",), "buy": ("click",)}, {"click": ["cart"], "buy": ["click"]}),
    ],
)
@pytest.mark.parametrize("options", [{}, {"num_experts": 3, "gate_dnn_units": [4]}])
def test_predictions_follow_the_equation(
    relations: Any, upstream: dict[str, list[str]], options: dict[str, Any]
) -> None:
    model, x = toy.randomize(build(relations=relations, **options)), toy.features()
    toy.same(toy.outputs(model, x), expected(model, x, upstream), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("experts", [None, 3])
def test_without_relations_it_is_a_shared_bottom_or_an_mmoe(experts: int | None) -> None:
    towers, x = [[5], [7, 5], [3]], toy.features()
    model = toy.randomize(build(relations={}, num_experts=experts))
    options: dict[str, Any] = {"task_names": NAMES, "tower_dnn_units_lists": towers}
    if experts is None:
        other = SharedBottom(toy.columns(), bottom_dnn_units=[8, 6], **options)
    else:
        other = MMoE(toy.columns(), num_experts=3, expert_dnn_units=[8, 6], **options)
    w = ref.weights(model)
    for weight in other.weights:
        task, _, rest = weight.path.partition("/dnn/")
        weight.assign(w[f"hidden_{task}/{rest}" if task in NAMES and rest else weight.path])
    assert other.count_params() == model.count_params()
    toy.same(toy.outputs(other, x), toy.outputs(model, x))


def test_the_order_in_which_relations_are_listed_is_irrelevant() -> None:
    one = build(relations=DAG)
    for relations in (
        {"buy": ["cart", "click"], "cart": ["click"]},
        {"buy": ("click", "cart"), "click": [], "cart": ("click",)},
        None,
    ):
        other = build(relations=relations)
        assert [w.path for w in other.weights] == [w.path for w in one.weights]
        toy.same(other.get_weights(), one.get_weights(), rtol=0, atol=0)


def test_a_task_reads_upstream_through_the_relation_alone() -> None:
    model, x = toy.randomize(build(relations=DAG)), toy.features()
    by_path = {weight.path: weight for weight in model.weights}

    def move(task: str) -> list[float]:
        """Change a task's own network for a while; return how far predictions move."""
        before, bias = toy.outputs(model, x), by_path[f"hidden_{task}/dense_0/bias"]
        value = np.array(ops.convert_to_numpy(bias))
        bias.assign(value + 0.3)
        after = toy.outputs(model, x)
        bias.assign(value)
        return [float(np.abs(a - b).max()) for a, b in zip(after, before, strict=True)]

    assert min(move("click")) > 1e-4
    assert move("buy")[:2] == [0, 0]
    kernel = by_path["relation_buy/dense_0/kernel"]
    value = np.array(ops.convert_to_numpy(kernel))
    assert value.shape == (3 + 5 + 4, 4)  # its own hidden vector, click's, cart's
    value[3:] = 0
    kernel.assign(value)
    for task in ("click", "cart"):
        assert move(task)[2] == 0
    assert move("click")[1] > 1e-4


def test_a_task_trains_those_upstream_and_none_downstream() -> None:
    model = toy.randomize(build(relations=DAG))
    reached = {}
    for k, task in enumerate(NAMES):
        found = grads.by_path(model, lambda y, k=k: ops.sum(y[k]), toy.features())
        reached[task] = {
            path.split("/")[0]
            for path, gradient in found.items()
            if np.abs(gradient).max() > 0 and not path.startswith(("encoder", "bottom"))
        }
    assert reached == {
        "click": {"hidden_click", "click"},
        "cart": {"hidden_click", "hidden_cart", "relation_cart", "cart"},
        "buy": {f"hidden_{k}" for k in NAMES} | {"relation_cart", "relation_buy", "buy"},
    }
    shared = {variable.path.split("/")[0] for variable in model.shared_variables}
    assert shared == {"bottom", "hidden_click", "hidden_cart", "relation_cart"}


def test_gates_have_the_names_of_their_tasks() -> None:
    model, x = toy.randomize(build(num_experts=3)), toy.features()
    weights = gate_weights(model, x)
    assert list(weights) == [(1, task) for task in NAMES]
    w, v = ref.weights(model), ref.encode(model, x)
    for (_, task), table in weights.items():
        assert list(table.columns) == ["expert 1", "expert 2", "expert 3"]
        np.testing.assert_allclose(table, ref.gate(w, f"gate_{task}", v), atol=1e-5)
    part = extract_task(model, "cart")
    assert sorted(gate_weights(part, x)) == [(1, "cart"), (1, "click")]
    toy.same(toy.outputs(part, x), toy.outputs(model, x)[1:2])
    assert not [weight.path for weight in part.weights if "buy" in weight.path]


def test_experts_of_feature_groups() -> None:
    model = build(num_experts=2, expert_features=GROUPS)
    assert model.get_layer("experts").num_experts == 4
    assert model.get_layer("experts").expert_names[:2] == ["user 1", "user 2"]


def test_networks_of_a_fresh_model_differ() -> None:
    w = ref.weights(
        build(num_experts=2, tower_dnn_units_lists=[[5]] * 3, relations={"cart": ["click"]})
    )
    for part in ("hidden_{}/dense_0/kernel", "gate_{}/logits/kernel"):
        a, b, c = (w[part.format(task)] for task in NAMES)
        assert min(np.abs(a - b).max(), np.abs(b - c).max(), np.abs(a - c).max()) > 1e-3


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"relations": ["click"]}, r"`relations`.*dict.*Received: \['click'\]"),
        ({"relations": {"sale": ["click"]}}, r"`relations\['sale'\]`.*'buy'\].*Received: 'sale'"),
        ({"relations": {"buy": ["clik"]}}, r"`relations\['buy'\]`.*'buy'\].*Received: 'clik'"),
        ({"relations": {"buy": "click"}}, r"`relations\['buy'\]`.*list.*Received: 'click'"),
        ({"relations": {"buy": ["cart"] * 2}}, r"`relations\['buy'\]`.*once.*'cart', 'cart'"),
        ({"relations": {"buy": ["buy"]}}, r"`relations`.*no cycle.*Received: 'buy' → 'buy'"),
        (
            {"relations": {"buy": ["cart"], "cart": ["click"], "click": ["buy"]}},
            r"`relations`.*no cycle.*Received: '\w+' → '\w+' → '\w+' → '\w+'",
        ),
        ({"expert_features": GROUPS}, r"`num_experts`.*`expert_features`.*Received: None"),
        ({"num_experts": 0}, r"`num_experts`.*positive integer or None.*Received: 0"),
        ({"relation_dnn_units": [0]}, r"`relation_dnn_units\[0\]`.*positive.*Received: 0"),
    ],
)
def test_wrong_arguments_are_named(options: dict[str, Any], match: str) -> None:
    with pytest.raises((TypeError, ValueError), match=match):
        build(**options)
