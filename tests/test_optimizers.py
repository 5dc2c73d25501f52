"""The lazy optimizers: Keras' update on the rows of a batch, and none on the others."""

import pathlib
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from mtl.features import SparseFeat
from mtl.models import SharedBottom
from mtl.optimizers import LazyAdagrad, LazyAdam, rows_of_gradients

BACKEND = keras.backend.backend()
TENSORFLOW = BACKEND == "tensorflow"
# JAX always compiles, and torch never.
QUICK: dict[str, Any] = {"run_eagerly": True} if TENSORFLOW else {}
PAIRS = [(LazyAdam, keras.optimizers.Adam), (LazyAdagrad, keras.optimizers.Adagrad)]
EVERY_ROW = np.array([3, 0, 1, 3, 2, 3, 0])
SOME_ROWS = np.array([3, 1, 3])

if BACKEND == "torch":
    pytestmark = pytest.mark.filterwarnings("ignore:Lazy.*whole embedding table:UserWarning")
tensorflow_only = pytest.mark.skipif(not TENSORFLOW, reason="about TensorFlow")


def variables(seed: int = 0) -> list[Any]:
    """Return a table of four rows, and a kernel."""
    rng = np.random.default_rng(seed)
    table = keras.Variable(rng.normal(size=(4, 3)).astype("float32"), name="table")
    table.embedding_table = True
    return [table, keras.Variable(rng.normal(size=(3, 2)).astype("float32"), name="kernel")]


def gradients(ids: np.ndarray, step: int, sparse: bool) -> list[Any]:
    """Return gradients of both, of the table by lookup where the backend has that, or dense."""
    rng = np.random.default_rng(step)
    values = rng.normal(size=(len(ids), 3)).astype("float32")
    kernel = ops.convert_to_tensor(rng.normal(size=(3, 2)).astype("float32"))
    if sparse and TENSORFLOW:
        import tensorflow as tf

        return [tf.IndexedSlices(tf.constant(values), tf.constant(ids), (4, 3)), kernel]
    if sparse and BACKEND == "jax":
        return [ops.convert_to_tensor(values), kernel]
    dense = np.zeros((4, 3), "float32")
    np.add.at(dense, ids, values)
    return [ops.convert_to_tensor(dense), kernel]


def apply(optimizer: Any, trained: list[Any], ids: np.ndarray, step: int, sparse: bool) -> None:
    """Run one step, on JAX with the rows of the table's gradient said beside it."""
    rows = {id(trained[0]): ops.convert_to_tensor(ids, "int32")} if sparse else {}
    with rows_of_gradients(rows if BACKEND == "jax" else {}):
        optimizer.apply(gradients(ids, step, sparse), trained)


def train(optimizer: Any, ids: np.ndarray, sparse: bool = True, steps: int = 4) -> list[np.ndarray]:
    trained = variables()
    optimizer.build(trained)
    for step in range(steps):
        apply(optimizer, trained, ids, step, sparse)
    return [ops.convert_to_numpy(v) for v in trained]


def same(a: Any, b: Any, tolerance: float = 1e-6) -> None:
    for left, right in zip(a, b, strict=True):
        np.testing.assert_allclose(left, right, rtol=0, atol=tolerance)


OPTIONS: dict[str, Any] = {
    "defaults": {},
    "rate": {"learning_rate": 0.1},
    "schedule": {"learning_rate": keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)},
    "weight decay": {"learning_rate": 0.1, "weight_decay": 0.3},
    "clipnorm": {"learning_rate": 0.1, "clipnorm": 0.5},
    "global_clipnorm": {"learning_rate": 0.1, "global_clipnorm": 0.5},
    "clipvalue": {"learning_rate": 0.1, "clipvalue": 0.2},
    "loss scale": {"learning_rate": 0.1, "loss_scale_factor": 8.0},
    "epsilon": {"learning_rate": 0.1, "epsilon": 0.5},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize(("lazy", "eager"), PAIRS)
def test_it_is_keras_optimizer_if_every_row_is_touched(
    lazy: Any, eager: Any, options: dict[str, Any]
) -> None:
    start = [ops.convert_to_numpy(v) for v in variables()]
    expected = train(eager(**options), EVERY_ROW, sparse=False)
    assert all(np.abs(a - b).max() > 1e-3 for a, b in zip(expected, start, strict=True))
    same(train(lazy(**options), EVERY_ROW), expected)


def test_a_row_looked_up_twice_is_updated_once_by_the_sum() -> None:
    # Adam's first step is the rate times the sign of the gradient, whatever its parts.
    table = train(LazyAdam(0.1), SOME_ROWS, steps=1)[0]
    summed = ops.convert_to_numpy(gradients(SOME_ROWS, 0, sparse=False)[0])
    start = ops.convert_to_numpy(variables()[0])
    np.testing.assert_allclose(table - start, -0.1 * np.sign(summed), atol=1e-4)


@pytest.mark.parametrize("row_wise", [False, True])
@pytest.mark.parametrize("lazy", [LazyAdam, LazyAdagrad])
def test_rows_that_are_not_touched_stay_as_they_are(lazy: Any, row_wise: bool) -> None:
    optimizer, trained = lazy(0.1, row_wise=row_wise, weight_decay=0.1), variables()
    optimizer.build(trained)
    apply(optimizer, trained, EVERY_ROW, 0, sparse=True)
    states = [v for v in optimizer.variables if tuple(v.shape) in ((4, 1), (4, 3))]
    tables = [trained[0], *states]
    assert len(tables) == (3 if lazy is LazyAdam else 2)
    before = [ops.convert_to_numpy(v).copy() for v in tables]
    for step in (1, 2):
        apply(optimizer, trained, SOME_ROWS, step, sparse=True)
    for v, value in zip(tables, before, strict=True):
        after = ops.convert_to_numpy(v)
        np.testing.assert_array_equal(after[[0, 2]], value[[0, 2]])
        assert (after[[1, 3]] != value[[1, 3]]).all()


def test_weight_decay_shrinks_the_rows_that_are_touched_alone() -> None:
    start = ops.convert_to_numpy(variables()[0])
    plain = train(LazyAdam(0.1), SOME_ROWS, steps=1)[0]
    decayed = train(LazyAdam(0.1, weight_decay=0.5), SOME_ROWS, steps=1)[0]
    touched = np.isin(np.arange(4), SOME_ROWS)[:, None]
    np.testing.assert_allclose(decayed, plain - 0.05 * start * touched, atol=1e-6)


def test_row_wise_second_moments_by_hand() -> None:
    optimizer = LazyAdam(0.1, beta_1=0.8, beta_2=0.9, row_wise=True)
    table = train(optimizer, SOME_ROWS, steps=2)[0]
    w, m, v = ops.convert_to_numpy(variables()[0]).astype("float64"), np.zeros((4, 3)), np.zeros(4)
    for step in (0, 1):
        g = ops.convert_to_numpy(gradients(SOME_ROWS, step, sparse=False)[0]).astype("float64")
        rate = 0.1 * np.sqrt(1 - 0.9 ** (step + 1)) / (1 - 0.8 ** (step + 1))
        for row in (1, 3):
            m[row] = 0.8 * m[row] + 0.2 * g[row]
            v[row] = 0.9 * v[row] + 0.1 * (g[row] ** 2).mean()
            w[row] -= rate * m[row] / (np.sqrt(v[row]) + 1e-7)
    np.testing.assert_allclose(table, w, atol=1e-6)
    shapes = sorted(tuple(s.shape) for s in optimizer.variables)
    speakers = [] if BACKEND == "torch" else [(4,)]
    assert shapes == [(), (), (3, 2), (3, 2), *speakers, (4, 1), (4, 3)]


def test_row_wise_adagrad_by_hand() -> None:
    table = train(LazyAdagrad(0.1, row_wise=True), SOME_ROWS, steps=2)[0]
    w, total = ops.convert_to_numpy(variables()[0]).astype("float64"), np.full(4, 0.1)
    for step in (0, 1):
        g = ops.convert_to_numpy(gradients(SOME_ROWS, step, sparse=False)[0]).astype("float64")
        total += (g**2).mean(axis=1)
        w -= 0.1 * g / np.sqrt(total + 1e-7)[:, None]
    np.testing.assert_allclose(table, w, atol=1e-6)


V = 4099  # a size that nothing else has


def model(seed: int = 0, size: int = 30) -> Any:
    columns = [SparseFeat("a", size, 4), SparseFeat("b", size, 4)]
    return SharedBottom(
        columns, num_tasks=1, bottom_dnn_units=(8,), tower_dnn_units_lists=[[]], seed=seed
    )


def data(rows: int = 120) -> Any:
    x = {"a": np.arange(rows) % 30, "b": (np.arange(rows) * 7) % 30}
    return x, (np.arange(rows) % 3 == 0).astype("float32")


@pytest.mark.parametrize("jit_compile", [False, True] if TENSORFLOW else ["auto"])
@pytest.mark.parametrize(("lazy", "eager"), PAIRS)
def test_a_model_trains_as_with_keras_optimizer(lazy: Any, eager: Any, jit_compile: Any) -> None:
    # Each batch looks every row up, several times.
    weights = []
    for optimizer in (lazy(0.01), eager(0.01)):
        trained = model()
        trained.compile(optimizer, jit_compile=jit_compile)
        trained.fit(*data(), batch_size=60, epochs=3, shuffle=False, verbose=0)
        weights.append(trained.get_weights())
    same(*weights)


@tensorflow_only
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("row_wise", [False, True])
def test_no_step_reads_or_makes_a_tensor_of_the_tables_size(
    jit_compile: bool, row_wise: bool
) -> None:
    trained = model(size=V)
    x, y = data()
    trained.compile(LazyAdam(row_wise=row_wise, clipnorm=1.0), jit_compile=jit_compile)
    trained.fit(x, y, batch_size=60, verbose=0)
    iterator = iter([(dict(x), y)])
    import tensorflow as tf

    step = tf.function(trained.train_step)
    batch = next(iterator)
    tensors = ({k: tf.constant(v[:, None], "int32") for k, v in batch[0].items()}, batch[1])
    graph = step.get_concrete_function(tensors).graph
    large = [
        operation.name
        for operation in graph.get_operations()
        for output in operation.outputs
        if output.dtype != tf.resource and output.shape.rank and (output.shape[0] or 0) >= 2 * V
    ]
    assert large == []


@pytest.mark.skipif(BACKEND != "jax", reason="about JAX")
@pytest.mark.parametrize("row_wise", [False, True])
def test_a_step_of_jax_only_scatters_into_tables(row_wise: bool) -> None:
    import jax

    trained = model(size=V)
    x, y = data()
    trained.compile(LazyAdam(row_wise=row_wise, clipnorm=1.0))
    trained.fit(x, y, batch_size=60, verbose=0)
    kinds = (
        trained.trainable_variables,
        trained.non_trainable_variables,
        trained.optimizer.variables,
        trained.metrics_variables,
    )
    state = tuple([variable.value for variable in kind] for kind in kinds)
    batch = ({k: v[:, None].astype("int32") for k, v in x.items()}, y)
    large = {
        (equation.primitive.name, output.aval.shape)
        for equation in equations(jax.make_jaxpr(trained.train_step)(state, batch).jaxpr)
        for output in equation.outvars
        if output.aval.shape[:1] and output.aval.shape[0] >= V
    }
    assert {name for name, _ in large} == {"scatter"}
    assert {shape[0] for _, shape in large} == {2 * V + 2}  # both features, and unknown rows


def equations(jaxpr: Any) -> Any:
    """Yield the equations of a program, and of the programs that it calls instead of the calls."""
    for equation in jaxpr.eqns:
        inner = [p.jaxpr for p in equation.params.values() if hasattr(p, "jaxpr")]
        if not inner:
            yield equation
        for program in inner:
            yield from equations(program)


@tensorflow_only
def test_keras_adam_gets_the_rows_sum_too() -> None:
    # Of a sparse gradient Keras' Adam squares the parts, not their sum.
    trained = model()
    trained.compile(keras.optimizers.Adam(0.01), **QUICK)
    before = trained.get_weights()[0]
    trained.fit(*data(), batch_size=120, verbose=0)
    # Its first step is the rate, whatever the gradient; each row was looked up four times.
    moved = np.abs(trained.get_weights()[0] - before)[:60]
    assert moved.max() <= 0.01001
    assert np.median(moved) > 0.0099


def test_the_optimizer_of_a_compiled_model_may_change() -> None:
    trained, weights = model(), []
    for make in (LazyAdam, keras.optimizers.Adam, LazyAdam):
        trained.set_weights(model().get_weights())
        optimizer = make(0.01)
        trained.compile(optimizer, **QUICK)
        trained.compile(optimizer, metrics=["mae"], **QUICK)
        trained.fit(*data(), batch_size=60, shuffle=False, verbose=0)
        weights.append(trained.get_weights())
        if TENSORFLOW:
            assert trained.trainable_variables[0].sparse_gradient == (make is LazyAdam)
    same(weights[1], weights[0])
    same(weights[2], weights[0])


@pytest.mark.parametrize("row_wise", [False, True])
@pytest.mark.parametrize("lazy", [LazyAdam, LazyAdagrad])
def test_training_goes_on_after_loading(lazy: Any, row_wise: bool, tmp_path: pathlib.Path) -> None:
    trained = model()
    trained.compile(lazy(0.01, row_wise=row_wise, weight_decay=0.01), **QUICK)
    trained.fit(*data(), batch_size=40, shuffle=False, verbose=0)
    trained.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is lazy
    assert loaded.optimizer.get_config() == trained.optimizer.get_config()
    for m in (trained, loaded):
        m.fit(*data(), batch_size=40, shuffle=False, verbose=0)
    same(loaded.get_weights(), trained.get_weights(), tolerance=0)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy: str, request: pytest.FixtureRequest) -> None:
    request.addfinalizer(lambda: keras.config.set_dtype_policy("float32"))
    keras.config.set_dtype_policy(policy)
    weights = []
    for optimizer in (LazyAdam(0.01), keras.optimizers.Adam(0.01)):
        trained = model()
        trained.compile(optimizer, **QUICK)
        losses = trained.fit(*data(), batch_size=60, epochs=4, shuffle=False, verbose=0)
        assert losses.history["loss"][-1] < losses.history["loss"][0]
        weights.append(trained.get_weights())
    same(*weights, tolerance=1e-3)


@tensorflow_only
@pytest.mark.parametrize("run_eagerly", [False, True])
def test_a_table_of_keras_is_a_table(run_eagerly: bool) -> None:
    inputs = keras.Input((2,), dtype="int32")
    embedding = keras.layers.Embedding(6, 3)
    outputs = keras.layers.Dense(1)(keras.layers.Flatten()(embedding(inputs)))
    trained = keras.Model(inputs, outputs)
    trained.compile(LazyAdam(0.1), "mse", run_eagerly=run_eagerly)
    for x in ([[1, 2], [2, 4]], [[1, 1], [1, 1]]):
        before = embedding.get_weights()[0]
        trained.train_on_batch(np.array(x), np.ones((2, 1)))
        moved = np.abs(embedding.get_weights()[0] - before).max(axis=1) > 0
        assert set(np.flatnonzero(moved)) == {i for pair in x for i in pair}


@pytest.mark.filterwarnings("always")
def test_a_dense_gradient_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="LazyAdam.*whole embedding table.*time in proportion"):
        apply(LazyAdam(), variables(), EVERY_ROW, 0, sparse=False)


@pytest.mark.parametrize("lazy", [LazyAdam, LazyAdagrad])
@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"use_ema": True}, r"`use_ema` should not be set.*Received: True"),
        ({"gradient_accumulation_steps": 4}, r"`gradient_accumulation_steps`.*Received: 4"),
        ({"epsilon": -1}, r"`epsilon`"),
    ],
)
def test_what_would_touch_whole_tables_is_refused(
    lazy: Any, options: dict[str, Any], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        lazy(**options)
