import numpy as np
import pytest
import reference as ref
from keras import ops
from numpy_layers import assert_close, copy_of, draw, experts, f64, gate, randomize, total

from mtl.layers import Extraction


def built(num_tasks=2, specific=2, shared=3, width=5, **arguments):
    layer = Extraction(num_tasks, specific, shared, **{"units": [4], **arguments})
    layer.build((None, width))
    return randomize(layer)


def reference(layer, inputs):
    """The equations, with T + 1 inputs."""
    inputs = [x.astype("float64") for x in inputs]
    T, size = layer.num_tasks, layer.num_experts_specific
    owners = [k for k in range(T) for _ in range(size)] + [T] * layer.num_experts_shared
    e = experts(layer.experts, [inputs[owner] for owner in owners])
    outputs = []
    for k in range(T):
        own = [i for i, owner in enumerate(owners) if owner in (k, T)]
        g = gate(layer.gates[k], inputs[k])
        outputs.append(sum(g[:, [n]] * e[:, i] for n, i in enumerate(own)))
    if layer.shared_gate:
        g = gate(layer.gates[T], inputs[T])
        outputs.append(sum(g[:, [i]] * e[:, i] for i in range(len(owners))))
    return outputs


def test_gates_that_select():
    layer = built(2, 1, 2, shared_gate=True, gate="dselect_k", gate_temperature=3)
    assert [gate.num_selected for gate in layer.gates] == [2, 2, 2]
    constant_experts(layer)
    xs = [draw(6, 5, seed=i) for i in range(3)]
    w = ref.weights(layer)
    for k, (name, values) in enumerate(
        {"gate_0": [1, 3, 4], "gate_1": [2, 3, 4], "gate_shared": [1, 2, 3, 4]}.items()
    ):
        g = ref.dselect_k(w, f"{layer.name}/{name}", xs[k].astype("float64"), len(values), 2, 3)
        assert_close(layer(xs)[k], np.repeat(g @ np.array(values)[:, None], 4, axis=1))
    assert len(layer.losses) == 2  # of the gates over three experts


def assert_all_close(outputs, expected):
    assert isinstance(outputs, list)
    assert len(outputs) == len(expected)
    for output, value in zip(outputs, expected, strict=True):
        assert_close(output, value)


@pytest.mark.parametrize("shared_gate", [False, True])
@pytest.mark.parametrize(("num_tasks", "specific", "shared"), [(2, 2, 3), (1, 3, 1)])
@pytest.mark.parametrize("gates", [{}, {"gate_units": [4], "gate_temperature": 0.5}])
def test_task_and_shared_outputs(num_tasks, specific, shared, shared_gate, gates):
    layer = built(num_tasks, specific, shared, units=[4, 3], shared_gate=shared_gate, **gates)
    xs = [draw(6, 5, seed=i) for i in range(num_tasks + 1)]
    count = num_tasks + shared_gate
    assert layer.compute_output_shape((None, 5)) == [(None, 3)] * count
    assert layer.compute_output_shape([(None, 5)] * (num_tasks + 1)) == [(None, 3)] * count
    assert_all_close(layer(xs), reference(layer, xs))
    assert_all_close(layer(xs[0]), reference(layer, [xs[0]] * (num_tasks + 1)))


def constant_experts(layer):
    """Experts that ignore their input: outputs then depend on it through the gates alone."""
    kernel, bias = layer.experts.weights[:2]
    kernel.assign(np.zeros(kernel.shape))
    bias.assign(np.arange(1, bias.shape[0] + 1)[:, None] * np.ones(bias.shape))


def test_every_gate_is_fed_with_its_own_input():
    layer = built(shared_gate=True)
    constant_experts(layer)
    xs = [draw(6, 5, seed=i) for i in range(3)]
    before = [f64(output) for output in layer(xs)]
    for i in range(3):
        moved = [x + 1 if i == j else x for j, x in enumerate(xs)]
        for k, output in enumerate(layer(moved)):
            assert np.allclose(f64(output), before[k]) == (k != i), (i, k)


def test_a_gate_weighs_specific_experts_then_shared_ones():
    layer = built(shared_gate=True)  # experts 0, 1 | 2, 3 | 4, 5, 6
    constant_experts(layer)
    x = np.ones((1, 5), "float32")

    def select(k, position):
        kernel = np.zeros(layer.gates[k].logits.kernel.shape)
        kernel[:, position] = 20.0
        layer.gates[k].logits.kernel.assign(kernel)
        return f64(layer(x)[k])[0, 0] - 1

    assert [select(0, n) for n in range(5)] == pytest.approx([0, 1, 4, 5, 6])
    assert [select(1, n) for n in range(5)] == pytest.approx([2, 3, 4, 5, 6])
    assert [select(2, n) for n in range(7)] == pytest.approx(range(7))


@pytest.mark.parametrize(
    ("expert", "changed"),
    [(0, [True, False, True]), (3, [False, True, True]), (6, [True, True, True])],
)
def test_other_tasks_experts_do_not_reach_a_task(expert, changed):
    layer, x = built(shared_gate=True, activation="linear"), draw(6, 5)
    before = [f64(output) for output in layer(x)]
    kernel = layer.experts.weights[0]
    value = f64(kernel)
    value[expert] += 1
    kernel.assign(value)
    assert [not np.allclose(f64(o), b) for o, b in zip(layer(x), before, strict=True)] == changed


def test_without_a_shared_gate_there_is_none():
    assert len(built(shared_gate=False).gates) == 2
    gates = built(shared_gate=True).gates
    assert [g.num_experts for g in gates] == [5, 5, 7]


def test_experts_without_units_mix_the_inputs():
    layer = built(units=[], shared_gate=True)
    xs = [draw(6, 5, seed=i) for i in range(3)]
    assert_all_close(layer(xs), reference(layer, xs))
    for output in layer(xs[0]):
        assert_close(output, xs[0])


def test_gates_and_experts_start_differently_and_by_seed():
    def weights(seed):
        layer = Extraction(2, 2, 2, [5], gate_units=[5], seed=seed)
        layer.build((None, 5))
        kernels = [f64(w) for w in layer.weights if "kernel" in w.path]
        return [part for w in kernels for part in (w if w.ndim == 3 else [w])]

    assert len({w.tobytes() for seed in (1, 2) for w in weights(seed)}) == 2 * (6 + 2 + 2)
    for one, again in zip(weights(1), weights(1), strict=True):
        np.testing.assert_array_equal(one, again)


def test_dropout_normalisation_and_l2_reach_experts_and_gates():
    layer = built(gate_units=[4], dropout=0.5, use_bn=True, l2_reg=0.01)
    penalised = [
        w for w in layer.trainable_weights if "kernel" in w.path and "logits" not in w.path
    ]
    squares = sum((f64(w) ** 2).sum() for w in penalised)
    assert len(penalised) == 3
    assert total(layer.losses) == pytest.approx(0.01 * squares, rel=1e-5)
    assert sum("moving_mean" in w.path for w in layer.weights) == 3
    x = draw(6, 5)
    for training, calm in zip(layer(x, training=True), layer(x), strict=True):
        assert not np.allclose(f64(training), f64(calm))
    assert_close(layer(x)[0], f64(layer(x, training=False)[0]))


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_wrong_number_of_inputs_is_refused(count):
    xs = [draw(6, 5)] * count
    for layer in (Extraction(2, 1, 1, [3]), built()):
        with pytest.raises(ValueError, match=f"or on 3: .* Received: {count} inputs"):
            layer(xs)


@pytest.mark.parametrize(
    "arguments",
    [
        {"units": [4], "seed": 3},
        {"units": (4, 3), "gate_units": (4,), "gate_temperature": 2, "shared_gate": True},
        {"units": [4], "use_bn": True, "dropout": 0.1, "l2_reg": 0.1, "activation": "gelu"},
    ],
)
def test_config_makes_the_same_layer(arguments):
    layer = Extraction(np.int64(2), 2, 3, **arguments)
    xs = [ops.array(draw(6, 5, seed=i)) for i in range(3)]
    outputs = layer(xs)
    twin = copy_of(layer, xs)
    assert twin.get_config() == layer.get_config()
    assert_all_close(twin(xs), [f64(output) for output in outputs])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_tasks": 0}, ValueError, "`num_tasks` should be a positive integer"),
        ({"num_experts_specific": 0}, ValueError, "`num_experts_specific`"),
        ({"num_experts_shared": 1.5}, TypeError, "`num_experts_shared`"),
        ({"units": 4}, TypeError, "`units`"),
        ({"gate_units": [0]}, ValueError, r"`gate_units\[0\]`"),
        ({"gate_temperature": -1}, ValueError, "`gate_temperature`"),
        ({"dropout": 1}, ValueError, "`dropout`"),
    ],
)
def test_invalid_arguments_are_refused(arguments, error, message):
    valid = {"num_tasks": 2, "num_experts_specific": 1, "num_experts_shared": 1, "units": [4]}
    with pytest.raises(error, match=message):
        Extraction(**{**valid, **arguments})


@pytest.mark.parametrize("shared_gate", [False, True])
def test_with_subsets_every_bank_has_experts_for_each(shared_gate):
    subsets = {"user": [0, 2], "item": [1, 3, 4]}
    layer, x = built(specific=2, shared=1, subsets=subsets, shared_gate=shared_gate), draw(6, 5)
    assert [g.num_experts for g in layer.gates] == [6, 6, 10][: 2 + shared_gate]
    e = f64(layer.experts(x))
    assert e.shape[1] == 10
    banks = [[0, 1, 2, 3, 8, 9], [4, 5, 6, 7, 8, 9], range(10)]  # task 1, task 2, shared output
    expected = [
        sum(g[:, [n]] * e[:, i] for n, i in enumerate(bank))
        for bank, g in zip(banks, (gate(g, x.astype("float64")) for g in layer.gates), strict=False)
    ]
    assert_all_close(layer(x), expected)
    with pytest.raises(ValueError, match="on one input of at least 5 columns"):
        layer([x] * 3)
