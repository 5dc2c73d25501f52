import keras
import numpy as np
import pytest
from numpy_layers import assert_close, copy_of, draw, experts, f64, randomize, relu, total, weight

from mtl.layers import DNN, Experts


def built(layer, *shapes):
    layer.build(list(shapes) if len(shapes) > 1 else shapes[0])
    return randomize(layer)


@pytest.mark.parametrize("units", [[4], [4, 3]])
def test_experts_on_one_input(units):
    layer, x = built(Experts(3, units), (None, 5)), draw(6, 5)
    assert layer.compute_output_shape((None, 5)) == (None, 3, units[-1])
    assert_close(layer(x), experts(layer, [x.astype("float64")] * 3))


@pytest.mark.parametrize("groups", [[2, 2], [1, 3, 2], (4,)])
def test_each_group_on_its_own_input(groups):
    xs = [draw(6, 5, seed=i) for i in range(len(groups))]
    shapes = [(None, 5)] * len(groups)
    layer = Experts(groups, [4, 3])
    layer.build(shapes)
    randomize(layer)
    assert layer.compute_output_shape(shapes) == (None, sum(groups), 3)
    per_expert = [x for x, size in zip(xs, groups, strict=True) for _ in range(size)]
    assert_close(layer(xs), experts(layer, [x.astype("float64") for x in per_expert]))
    # The groups may share one input too.
    assert_close(layer(xs[0]), experts(layer, [xs[0].astype("float64")] * sum(groups)))


def test_kernels_spread_as_a_denses_and_differ():
    width, units = 200, [300, 150]
    layer = Experts(8, units, seed=11)
    layer.build((None, width))
    for depth, (fan_in, fan_out) in enumerate([(200, 300), (300, 150)]):
        kernel = weight(layer, f"kernel_{depth}")
        deviation = np.sqrt(2 / (fan_in + fan_out))
        limit = 2 * deviation / 0.87962566  # a normal cut at two of its own deviations
        for expert in kernel:
            assert expert.std() == pytest.approx(deviation, rel=0.02)
            assert np.abs(expert).max() > 0.99 * limit
            # On torch Keras draws four times for each value: four misses (4e-6) leave one outside.
            assert np.quantile(np.abs(expert), 0.9999) <= limit
        for i in range(8):
            for j in range(i):
                assert abs(np.corrcoef(kernel[i].ravel(), kernel[j].ravel())[0, 1]) < 0.05
        np.testing.assert_array_equal(weight(layer, f"bias_{depth}"), 0)
    dense = keras.layers.Dense(300)
    dense.build((None, width))
    assert weight(layer, "kernel_0").std() == pytest.approx(f64(dense.kernel).std(), rel=0.02)


def test_seed_tells_the_weights():
    def kernels(seed):
        layer = Experts(2, [4, 4], seed=seed)
        layer.build((None, 4))
        return [weight(layer, f"kernel_{i}") for i in (0, 1)]

    np.testing.assert_array_equal(kernels(7), kernels(7))
    distinct = {e.tobytes() for seed in (7, 8) for kernel in kernels(seed) for e in kernel}
    assert len(distinct) == 8
    assert not np.allclose(kernels(None), kernels(None))


def test_normalisation_is_per_unit_of_each_expert():
    layer, x = built(Experts(2, [3], use_bn=True), (None, 5)), draw(6, 5)
    gamma, beta = (weight(layer, f"bn_0/{name}").reshape(2, 3) for name in ("gamma", "beta"))
    mean, variance = (
        weight(layer, f"moving_{name}").reshape(2, 3) for name in ("mean", "variance")
    )
    z = np.stack(
        [
            x.astype("float64") @ weight(layer, "kernel_0")[e] + weight(layer, "bias_0")[e]
            for e in (0, 1)
        ],
        axis=1,
    )
    assert_close(
        layer(x, training=False), relu(gamma * (z - mean) / np.sqrt(variance + 1e-3) + beta)
    )
    expected = np.empty_like(z)
    for e in range(2):
        for unit in range(3):
            column = z[:, e, unit]
            scaled = (column - column.mean()) / np.sqrt(column.var() + 1e-3)
            expected[:, e, unit] = relu(gamma[e, unit] * scaled + beta[e, unit])
    assert_close(layer(x, training=True), expected, atol=1e-4)


def test_dropout_is_active_in_training_only_and_differs_between_experts():
    layer = Experts(2, [1000], activation="sigmoid", dropout=0.5, seed=1)
    x = draw(1, 4)
    full = f64(layer(x))
    assert_close(layer(x, training=False), full)
    dropped = f64(layer(x, training=True))
    kept = dropped != 0
    np.testing.assert_allclose(dropped[kept], 2 * full[kept], rtol=1e-5)
    assert 0.4 < kept.mean() < 0.6
    assert 0.4 < (kept[0, 0] == kept[0, 1]).mean() < 0.6


def test_l2_penalises_the_kernels_alone():
    layer = built(Experts(3, [4, 2], l2_reg=0.01), (None, 5))
    squares = sum((weight(layer, f"kernel_{i}") ** 2).sum() for i in (0, 1))
    assert total(layer.losses) == pytest.approx(0.01 * squares, rel=1e-5)


def test_one_expert_is_a_dnn():
    layer, dnn, x = Experts(1, [4, 3]), DNN([4, 3]), draw(6, 5)
    layer.build((None, 5))
    dnn.build((None, 5))
    randomize(dnn)
    layer.set_weights([value[None] for value in dnn.get_weights()])
    assert_close(layer(x)[:, 0], f64(dnn(x)))


def test_without_units_every_expert_is_the_identity():
    x, y = draw(6, 5), draw(6, 5, seed=1)
    layer = Experts(2, [])
    assert_close(layer(x), np.stack([x, x], axis=1))
    assert layer.weights == []
    assert layer.compute_output_shape((None, 5)) == (None, 2, 5)
    assert_close(Experts([1, 2], [])([x, y]), np.stack([x, y, y], axis=1))
    assert_close(Experts([1, 2], [])(x), np.stack([x, x, x], axis=1))


def test_every_expert_may_have_an_input_of_its_own():
    inputs = [draw(6, 5, seed=i) for i in range(3)]
    layer, alone = Experts([2, 1], [4, 3], seed=1), Experts([1, 1, 1], [4, 3], seed=1)
    assert_close(layer(inputs), keras.ops.convert_to_numpy(alone(inputs)))
    assert layer.compute_output_shape([(None, 5)] * 3) == (None, 3, 3)
    assert_close(Experts([2, 1], [])(inputs), np.stack(inputs, axis=1))


@pytest.mark.parametrize("units", [[3], []])
@pytest.mark.parametrize(
    "shapes", [[(2, 4)], [(2, 4)] * 4, [(2, 4), (2, 5)]], ids=["few", "many", "widths"]
)
def test_inputs_that_do_not_match_the_groups_are_refused(units, shapes):
    with pytest.raises(ValueError, match="called on one input, or on 2 of one width"):
        Experts([2, 1], units)([draw(*shape) for shape in shapes])


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_experts": 2, "units": [4, 3], "activation": "gelu", "seed": 5},
        {"num_experts": np.int64(3), "units": (2,), "use_bn": True, "dropout": 0.2},
        {"num_experts": [1, 2], "units": [], "l2_reg": 0.5},
        {"num_experts": [2, np.int64(1)], "units": [3], "name": "own"},
    ],
)
def test_config_makes_the_same_layer(arguments):
    layer, x = Experts(**arguments), draw(6, 5)
    output = layer(x)
    twin = copy_of(layer, x)
    assert twin.get_config() == layer.get_config()
    assert_close(twin(x), f64(output))


def test_a_functional_model_with_groups_can_be_saved(tmp_path):
    inputs = [keras.Input((5,)), keras.Input((5,))]
    model = keras.Model(inputs, Experts([2, 1], [3], use_bn=True, seed=1)(inputs))
    xs = [draw(6, 5), draw(6, 5, seed=1)]
    model.save(tmp_path / "experts.keras")
    assert_close(keras.saving.load_model(tmp_path / "experts.keras")(xs), f64(model(xs)))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_experts": 0, "units": [4]}, ValueError, "`num_experts` should be a positive"),
        ({"num_experts": [2, 0], "units": [4]}, ValueError, r"`num_experts\[1\]` .* Received: 0"),
        ({"num_experts": 2.0, "units": [4]}, TypeError, "`num_experts` .* Received: 2.0"),
        ({"num_experts": 2, "units": 4}, TypeError, "`units` should be a list"),
        ({"num_experts": 2, "units": [4], "dropout": -0.1}, ValueError, "`dropout`"),
        ({"num_experts": 2, "units": [4], "l2_reg": "1"}, TypeError, "`l2_reg`"),
    ],
)
def test_invalid_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        Experts(**arguments)


SUBSETS = {"user": [0, 3], "item": [4, 1, 2], "both": [0, 1]}


def by_hand(layer, x):
    """Group by group, and within it subset by subset: each expert on the columns it sees."""
    outputs, first = [], 0
    for size in layer.groups:
        for s, columns in enumerate(layer.subsets.values()):
            for i in range(first, first + size):
                e, z = len(outputs), x[:, columns] @ weight(layer, f"kernel_0_{s}")[i]
                for depth in range(1, len(layer.units)):
                    z = relu(z + weight(layer, f"bias_{depth - 1}")[e])
                    z = z @ weight(layer, f"kernel_{depth}")[e]
                outputs.append(relu(z + weight(layer, f"bias_{len(layer.units) - 1}")[e]))
        first += size
    return np.stack(outputs, axis=1)


@pytest.mark.parametrize("groups", [2, [1, 3, 2]])
@pytest.mark.parametrize("units", [[4], [4, 3]])
def test_experts_of_a_subset_see_its_columns(groups, units):
    layer, x = built(Experts(groups, units, subsets=SUBSETS), (None, 6)), draw(5, 6)
    count = 3 * (groups if groups == 2 else 6)
    assert layer.num_experts == count
    assert layer.compute_output_shape((None, 6)) == (None, count, units[-1])
    assert_close(layer(x), by_hand(layer, x.astype("float64")))


def test_columns_that_an_expert_does_not_see_change_and_learn_nothing():
    layer, x = built(Experts(2, [4, 3], activation="tanh", subsets=SUBSETS), (None, 6)), draw(5, 6)
    before = f64(layer(x)).reshape(5, 3, 2, 3)
    for column in range(6):
        moved = x.copy()
        moved[:, column] += 1
        changed = (f64(layer(moved)).reshape(5, 3, 2, 3) != before).any(axis=(0, 2, 3))
        assert changed.tolist() == [column in columns for columns in SUBSETS.values()]
    # The gradient of the user's experts, with respect to a layer that makes x.
    inputs = keras.Input((6,))
    make = keras.layers.EinsumDense("bi,i->bi", 6, kernel_initializer="ones", name="make")
    model = keras.Model(inputs, keras.layers.Flatten()(layer(make(inputs))[:, :2]))
    model.compile(keras.optimizers.SGD(1.0), "mse", jit_compile=False)
    model.train_on_batch(x, np.full((5, 6), 9, "float32"))
    assert (f64(make.kernel) != 1).tolist() == [column in SUBSETS["user"] for column in range(6)]


def test_kernels_of_subsets_spread_as_a_denses_of_their_width_and_differ():
    subsets = {"narrow": range(50), "wide": range(100, 400)}
    layer = Experts([2, 1], [200], subsets=subsets, seed=11)
    layer.build((None, 400))
    found = set()
    for s, width in enumerate([50, 300]):
        kernel = weight(layer, f"kernel_0_{s}")
        assert kernel.shape == (3, width, 200)
        for expert in kernel:
            assert expert.std() == pytest.approx(np.sqrt(2 / (width + 200)), rel=0.03)
            found.add(expert[:50].tobytes())
    assert len(found) == 6


def test_l2_penalises_the_kernels_of_subsets():
    layer = built(Experts(2, [4, 3], l2_reg=0.01, subsets=SUBSETS), (None, 6))
    names = ["kernel_0_0", "kernel_0_1", "kernel_0_2", "kernel_1"]
    squares = sum((weight(layer, name) ** 2).sum() for name in names)
    assert total(layer.losses) == pytest.approx(0.01 * squares, rel=1e-5)


@pytest.mark.parametrize(
    "inputs", [draw(2, 4), [draw(2, 6)], [draw(2, 6)] * 2], ids=["narrow", "one", "two"]
)
def test_inputs_that_do_not_hold_the_subsets_are_refused(inputs):
    with pytest.raises(ValueError, match="called on one input of at least 5 columns"):
        Experts([1, 1], [3], subsets=SUBSETS)(inputs)


@pytest.mark.parametrize(
    ("subsets", "error", "message"),
    [
        ({}, TypeError, "`subsets` should be a dict from name to list"),
        ([[0, 1]], TypeError, "`subsets` should be a dict from name to list"),
        ({1: [0]}, TypeError, "`subsets` should be a dict from name to list"),
        ({"a": []}, ValueError, r"`subsets\['a'\]` should hold columns, each once"),
        ({"a": [0], "b": [1, 1]}, ValueError, r"`subsets\['b'\]` .* Received: \[1, 1\]"),
        ({"a": [-1]}, ValueError, r"`subsets\['a'\]` should be a non-negative integer"),
        ({"a": [0.5]}, TypeError, r"`subsets\['a'\]` .* Received: 0.5"),
    ],
)
def test_invalid_subsets_are_refused(subsets, error, message):
    with pytest.raises(error, match=message):
        Experts(2, [4], subsets=subsets)


def test_subsets_need_units():
    with pytest.raises(ValueError, match=r"`units` should hold at least one .* Received: \[\]"):
        Experts(2, [], subsets=SUBSETS)
