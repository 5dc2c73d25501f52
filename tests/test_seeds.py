import itertools

import keras
import numpy as np
import pytest

from mtl.features import DenseFeat, SparseFeat
from mtl.models import SNR
from mtl.seeds import derive_seed, glorot, reseed


def test_derived_seeds_are_the_same_on_every_run():
    # Written down once: with other values every model would start differently.
    assert derive_seed(1024, "encoder") == 632585234
    assert derive_seed(1024, "expert", 3) == 1339459635
    assert derive_seed(1024, "tower", np.int64(1)) == derive_seed(1024, "tower", 1)
    assert type(derive_seed(0, "a")) is int


def test_without_a_seed_there_is_none():
    assert derive_seed(None, "encoder", 3) is None


def test_derived_seeds_differ():
    parents = [0, 1, 1024, 2**31 - 1, 2**40]
    names = ["encoder", "kernel", "dropout", "gate", "tower_1", "tower_2"]
    paths = [(name, i) for name in names for i in range(20)]
    paths += [("kernel", i, j) for i in range(1, 4) for j in range(1, 20)]
    paths += [("dnn",), ("logits",), ("a", "b"), ("b", "a")]
    seeds = [derive_seed(parent, *path) for parent, path in itertools.product(parents, paths)]
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert len(set(seeds)) == len(seeds)


def draw(initializer):
    return keras.ops.convert_to_numpy(initializer((40, 30)))


@pytest.mark.parametrize(
    "initializer",
    [
        keras.initializers.RandomNormal(1.0, 0.5, seed=2020),
        keras.initializers.RandomUniform(-3, 3),
        keras.initializers.GlorotUniform(),
    ],
)
def test_reseeded_initializers_keep_their_distribution(initializer):
    one, other = reseed(initializer, 1), reseed(initializer, 2)
    assert isinstance(one, type(initializer))
    strip = lambda x: {k: v for k, v in x.get_config().items() if k != "seed"}  # noqa: E731
    assert strip(one) == strip(initializer)
    np.testing.assert_array_equal(draw(one), draw(reseed(initializer, 1)))
    assert not np.allclose(draw(one), draw(other))
    for moment in (np.mean, np.std):
        np.testing.assert_allclose(moment(draw(one)), moment(draw(initializer)), atol=0.2)


def test_weights_start_the_same_on_every_backend():
    # Written down once, like the seeds.
    rows = reseed(keras.initializers.RandomNormal(1.0, 0.5, seed=2020), 7)((2, 2))
    expected = [[1.9732728, 1.1540152], [0.6184715, 1.1185185]]
    np.testing.assert_allclose(keras.ops.convert_to_numpy(rows), expected, rtol=1e-6)
    kernel = [[1.2234691, -0.91971505], [0.9245832, -1.4346334]]
    np.testing.assert_allclose(keras.ops.convert_to_numpy(glorot(7)((2, 2))), kernel, rtol=1e-6)


def test_an_initializers_own_seed_still_counts():
    drawn = [draw(reseed(keras.initializers.RandomNormal(seed=own), 5)) for own in (1, 2, -1, None)]
    for one, other in itertools.combinations(drawn, 2):
        assert not np.allclose(one, other)


def test_without_a_seed_every_copy_is_fresh():
    initializer = keras.initializers.RandomNormal(seed=2020)
    assert not np.allclose(draw(reseed(initializer, None)), draw(reseed(initializer, None)))


@pytest.mark.parametrize("initializer", [keras.initializers.Constant(2.0), np.ones])
def test_initializers_without_a_seed_stay_themselves(initializer):
    assert reseed(initializer, 5) is initializer


def test_glorot_is_deterministic_and_has_the_spread_of_a_dense():
    kernel = draw(glorot(3))
    np.testing.assert_array_equal(kernel, draw(glorot(3)))
    assert np.quantile(np.abs(kernel), 0.9999) <= 2 * np.sqrt(2 / 70) / 0.87962566
    assert kernel.std() == pytest.approx(np.sqrt(2 / 70), rel=0.05)


def algorithms_of_draws(graph):
    """Return the algorithm of each uniform draw in a graph of TensorFlow's and what it calls."""
    import tensorflow as tf

    definition = graph.as_graph_def()
    parts = [definition.node, *(f.node_def for f in definition.library.function)]
    found = []
    for nodes in parts:
        by_name = {node.name: node for node in nodes}
        for node in nodes:
            if node.op == "StatelessRandomUniformV2":
                constant = by_name[node.input[3].split(":")[0]]
                found.append(int(tf.make_ndarray(constant.attr["value"].tensor)))
    return found


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="about TensorFlow")
@pytest.mark.parametrize("balancer", ["graddrop", "pcgrad"])
def test_no_step_leaves_it_to_xla_how_to_draw(balancer):
    import tensorflow as tf

    columns = [SparseFeat("a", 5, 4), DenseFeat("b", 1)]
    options = {"num_experts": 2, "dnn_dropout": 0.1, "embedding_dropout": 0.1}
    model = SNR(columns, num_tasks=2, task_names=["p", "q"], **options)
    model.compile("adam", balancer=balancer)
    x = {"a": tf.zeros((8, 1), "int32"), "b": tf.zeros((8, 1))}
    step = tf.function(model.train_step, autograph=False)
    graph = step.get_concrete_function((x, [tf.zeros((8, 1))] * 2)).graph
    found = algorithms_of_draws(graph)
    assert len(found) > 5
    assert set(found) == {tf.random.Algorithm.PHILOX.value}
