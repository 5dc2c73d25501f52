"""z_k = Σ_i (g_ki + r_ki) e_i over the banks that gate k reads; some learn nothing from it."""

import numpy as np
import pytest
from grads import gradients
from keras import ops
from numpy_layers import assert_close, draw, experts, f64, gate, randomize, weight

from mtl.layers import Fusion

# Two gates over three banks of 2, 1 and 3 experts.
LINKS = [["own", "stopped", None], ["other", "own", "other"]]
READ = [[0, 1, 2], [0, 1, 2, 3, 4, 5]]
OWNERS = [0, 0, 1, 2, 2, 2]


def built(links=LINKS, count=1, **arguments):
    layer = Fusion([2, 1, 3], [4], links, **arguments)
    layer.build((None, 5) if count == 1 else [(None, 5)] * count)
    return randomize(layer)


def inputs(count):
    return draw(6, 5) if count == 1 else [draw(6, 5, seed=i) for i in range(count)]


@pytest.mark.parametrize("count", [1, 3, 5])
@pytest.mark.parametrize("residual", [None, "native"])
def test_the_equation(count, residual):
    layer, xs = built(count=count, residual=residual), inputs(count)
    banks = [xs] * 3 if count == 1 else xs[:3]
    gates = {1: [xs] * 2, 3: xs[:2], 5: xs[3:] if count == 5 else None}[count]
    e = experts(layer.experts, [banks[b].astype("float64") for b in OWNERS])
    native = [np.zeros((1, 2)), np.zeros((1, 1))]
    if residual:
        native = [weight(layer, "native_kernel_0"), np.ones((1, 1))]
    outputs = layer(xs)
    assert len(outputs) == 2
    for k, (read, own) in enumerate([(READ[0], [0, 1]), (READ[1], [2])]):
        g = gate(layer.gates[k], gates[k].astype("float64"))
        z = sum(g[:, [n]] * e[:, i] for n, i in enumerate(read))
        z = z + sum(native[k][:, [n]] * e[:, i] for n, i in enumerate(own))
        assert_close(outputs[k], z)


def test_a_stopped_bank_is_read_but_learns_nothing():
    layer, x = built(), ops.convert_to_tensor(inputs(1))
    kernel = layer.experts.weights[0]
    for k, learning in enumerate([[0, 1], [0, 1, 2, 3, 4, 5]]):
        (g,) = gradients(lambda k=k: ops.sum(ops.square(layer(x)[k])), [kernel])
        assert sorted(np.flatnonzero(np.abs(g).max(axis=(1, 2)))) == learning
    before = f64(layer(x)[0])
    value = f64(kernel)
    value[2] += 1
    kernel.assign(value)
    assert np.abs(f64(layer(x)[0]) - before).max() > 1e-3


def test_inputs_of_each_output_and_its_gradient():
    layer = built(count=5)
    assert layer.inputs_of(0, ["a", "b", "c", "u", "v"]) == ["a", "b", "u"]
    assert layer.trained_inputs_of(0, ["a", "b", "c", "u", "v"]) == ["a", "u"]
    assert layer.inputs_of(1, ["a", "b", "c"]) == ["a", "b", "c"]
    assert layer.inputs_of(1, ["x"]) == layer.trained_inputs_of(0, ["x"]) == ["x"]
    assert layer.gate_inputs(["a", "b", "c"]) == ["a", "b"]


def test_shared_parts_leave_out_what_one_task_trains():
    layer = built(residual="native", use_bn=True)
    parts = {
        id(variable): None if mask is None else mask.ravel().tolist()
        for variable, mask in layer.shared_parts([{0, 1}, {1}])
    }
    # Bank 0 learns from both gates, the others from gate 1 alone.
    kernel, bias, gamma, beta = layer.experts.trainable_variables
    assert parts.pop(id(kernel)) == parts.pop(id(bias)) == [1, 1, 0, 0, 0, 0]
    assert parts.pop(id(gamma)) == parts.pop(id(beta)) == [1] * 8 + [0] * 16
    (logits,) = layer.gates[0].weights
    (native,) = [w for w in layer.weights if "native" in w.path]
    assert parts == {id(logits): None, id(native): None}
    assert layer.shared_parts([{0}, {0}]) == []


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"residual": "native", "use_bn": True, "names": ["a", "b", "c"]},
        {"subsets": {"left": [0, 1], "right": [2, 3, 4]}, "residual": "native", "gate_units": [3]},
    ],
)
@pytest.mark.parametrize("k", [0, 1])
def test_the_layer_of_one_gate(arguments, k):
    layer, x = built(**arguments), inputs(1)
    one = Fusion.from_config(layer.config_of_task(k))
    one.build((None, 5))
    one.set_weights(layer.weights_of_task(k))
    assert_close(one(x)[0], f64(layer(x)[k]))
    assert one.mixtures([]) == [layer.mixtures([])[k]] or not arguments.get("names")
    assert one.num_experts == ((2, 1), (2, 1, 3))[k]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"links": [["own", "other"]]}, r"`links\[0\]`.*one entry per bank.*3.*Received: \['own'"),
        ({"links": [["other"] * 3]}, r"`links\[0\]`.*'own'"),
        ({"links": [["own", "own", None]]}, r"`links\[0\]`.*'own'"),
        ({"links": [["own", "all", None]]}, r"`links\[0\]\[1\]`.*'stopped', None.*'all'"),
        ({"residual": "none"}, r"`residual`.*'native'.*Received: 'none'"),
        ({"names": ["a"]}, r"`names`.*each bank.*Received: \['a'\]"),
        ({"num_experts": [0, -1, 2]}, r"`num_experts\[1\]`.*non-negative.*Received: -1"),
        ({"num_experts": [0, 0, 2]}, r"`num_experts`.*gate 0 an expert.*\[0, 0, 2\]"),
    ],
)
def test_errors(arguments, match):
    with pytest.raises((TypeError, ValueError), match=match):
        Fusion(**{"num_experts": [2, 1, 3], "units": [4], "links": LINKS, **arguments})


def test_a_wrong_number_of_inputs_is_refused():
    with pytest.raises(ValueError, match=r"on 3: one per bank .* 2 more .* Received: 4 inputs"):
        built()(inputs(4))
