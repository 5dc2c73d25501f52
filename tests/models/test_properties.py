"""What holds for any columns, tasks, sizes and ids: hypothesis looks for a counterexample."""

import inspect
import pathlib
import tempfile
from typing import Any

import keras
import numpy as np
import pytest
import toy
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import mtl.models
from mtl.features import DenseFeat, SparseFeat, VarLenSparseFeat, check_columns, sparse_part
from mtl.layers import FeatureEncoder
from mtl.layers.hashing import hash_ids
from mtl.training.arrays import check_inputs

EDGES = (-1, 2**31 - 1, -(2**31), 2**31, 2**32, 2**32 + 1, 2**40, -(2**40), 2**63 - 1, -(2**63))


def steady(examples: int) -> settings:
    """The same examples on every run, and on any machine."""
    return settings(
        # JAX compiles every operation for every shape, so that an example costs seconds there.
        max_examples=examples // 4 if toy.BACKEND == "jax" else examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )


@st.composite
def column_sets(draw: st.DrawFn, *, hashing: bool) -> list[Any]:
    """One to eight columns of any kind; embeddings, lengths and weights may be shared."""
    embeddings = [
        {
            "embedding_name": f"embedding {i}",
            "vocabulary_size": draw(st.integers(1, 6)),
            "embedding_dim": draw(st.integers(1, 3)),
            "trainable": draw(st.booleans()),
        }
        for i in range(draw(st.integers(1, 3)))
    ]

    def sparse(name: str) -> Any:
        hashed = hashing and draw(st.booleans())
        strings = ["string"] if hashed and toy.BACKEND == "tensorflow" else []
        dtype = draw(st.sampled_from(["int32", "int64", *strings]))
        embedding = draw(st.sampled_from(embeddings))
        return SparseFeat(name, use_hash=hashed, dtype=dtype, **embedding)

    def sequence(name: str) -> Any:
        maxlen = draw(st.integers(1, 3))
        return VarLenSparseFeat(
            sparse(name),
            maxlen,
            combiner=draw(st.sampled_from(["sum", "mean", "max"])),
            length_name=draw(st.sampled_from([None, "length", f"length of {name}"])),
            weight_name=draw(st.sampled_from([None, f"weight {maxlen}", f"weight of {name}"])),
            weight_norm=draw(st.booleans()),
        )

    columns = [sparse(f"id {i}") for i in range(draw(st.integers(0, 3)))]
    columns += [sequence(f"items {i}") for i in range(draw(st.integers(0, 3)))]
    dense = draw(st.integers(0 if columns else 1, 2))
    columns += [DenseFeat(f"value {i}", draw(st.integers(1, 3))) for i in range(dense)]
    return check_columns(draw(st.permutations(columns)))


def ids_of(column: Any, *, known: bool) -> st.SearchStrategy[Any]:
    """Ids at the edges of the vocabulary and beyond; without the known ones, 0 stands for none."""
    sparse = sparse_part(column)
    if sparse.dtype == "string":
        return st.sampled_from(["", "0", "a", "täsk", "a long word"])
    edges = st.sampled_from([*EDGES, sparse.vocabulary_size])
    return edges | st.integers(0, sparse.vocabulary_size - 1) if known else edges


@st.composite
def inputs_of(draw: st.DrawFn, columns: list[Any], *, known: bool = True) -> dict[str, np.ndarray]:
    """What a user passes; with `known=False` ids are unknown and sequences maybe empty."""
    rows = draw(st.integers(1, 4))
    random = np.random.default_rng(draw(st.integers(0, 99)))
    x: dict[str, np.ndarray] = {}
    for column in columns:
        if isinstance(column, DenseFeat):
            x[column.name] = random.normal(size=(rows, column.dimension))
            continue
        sequence = isinstance(column, VarLenSparseFeat)
        shape = (rows, column.maxlen) if sequence else (rows,)
        size = int(np.prod(shape))
        ids = draw(st.lists(ids_of(column, known=known), min_size=size, max_size=size))
        x[column.name] = np.array(ids, object if column.dtype == "string" else "int64")
        x[column.name] = x[column.name].reshape(shape)
        if not sequence:
            continue
        if column.weight_name:
            x[column.weight_name] = random.normal(size=(*shape, 1))
        empty = not known and draw(st.booleans())
        if column.length_name and column.length_name not in x:
            lengths = st.integers(-1, 0) if empty else st.integers(-1, 5)
            x[column.length_name] = np.array(draw(st.lists(lengths, min_size=rows, max_size=rows)))
        elif empty and not column.length_name:
            x[column.name] = np.zeros_like(x[column.name])
    return x


@st.composite
def examples(draw: st.DrawFn, *, known: bool) -> tuple[list[Any], dict[str, np.ndarray]]:
    """Columns and inputs for them."""
    columns = draw(column_sets(hashing=known))
    return columns, draw(inputs_of(columns, known=known))


def tensors(columns: list[Any], x: dict[str, np.ndarray]) -> dict[str, Any]:
    """What a model hands to its encoder."""
    x = check_inputs(columns, {n: v[:, None] if v.ndim == 1 else v for n, v in x.items()})
    return {name: keras.ops.convert_to_tensor(value) for name, value in x.items()}


def encoded(encoder: Any, x: dict[str, np.ndarray]) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(encoder(tensors(encoder.feature_columns, x))))


def filled(columns: list[Any]) -> Any:
    """An encoder whose tables hold another value in every place, unknown rows included."""
    encoder = FeatureEncoder(columns)
    encoder.build()
    return toy.randomize(encoder)


def tables(encoder: Any) -> list[np.ndarray]:
    return [np.array(keras.ops.convert_to_numpy(weight)) for _, weight in encoder.tables]


def unknown_rows(encoder: Any) -> dict[str, tuple[int, int]]:
    """By feature: its table, and the place of its unknown row."""
    return {
        column.name: (i, table.vocabulary + k)
        for i, (table, _) in enumerate(encoder.tables)
        for k, column in enumerate(table.columns)
    }


def valid_steps(column: Any, x: dict[str, np.ndarray]) -> np.ndarray:
    """Which steps of a sequence count."""
    if column.length_name:
        return np.arange(column.maxlen) < x[column.length_name].reshape(-1, 1)
    return ~np.isin(x[column.name], ["", "0"]) if column.dtype == "string" else x[column.name] != 0


def reference(encoder: Any, x: dict[str, np.ndarray]) -> np.ndarray:
    """The encoding, one feature after the other."""
    columns, values, unknown = encoder.feature_columns, tables(encoder), unknown_rows(encoder)
    raw = tensors(columns, x)
    sequences = [c for c in columns if isinstance(c, VarLenSparseFeat)]

    def rows(column: Any) -> np.ndarray:
        ids, known = x[column.name], encoder.embeddings(sparse_part(column).embedding_name)
        if column.use_hash:
            hashed = hash_ids(raw[column.name], len(known), padding=column in sequences)
            ids = keras.ops.convert_to_numpy(hashed).reshape(ids.shape)
        table, row = unknown[column.name]
        inside = ((ids >= 0) & (ids < len(known)))[..., None]
        return np.where(inside, known[np.clip(ids, 0, len(known) - 1)], values[table][row])

    def pooled(column: Any) -> np.ndarray:
        vectors, valid = rows(column).astype("float64"), valid_steps(column, x)[..., None]
        if column.weight_name:
            weights = x[column.weight_name]
            if column.weight_norm:
                weights = np.exp(weights) * valid
                weights = weights / np.maximum(weights.sum(1, keepdims=True), 1e-30)
            vectors = vectors * weights
        if column.combiner == "max":
            return np.where(valid.any(1), np.where(valid, vectors, -np.inf).max(1), 0)
        count = np.maximum(valid.sum(1), 1) if column.combiner == "mean" else 1
        return (vectors * valid).sum(1) / count

    parts = [rows(c) for c in columns if isinstance(c, SparseFeat)]
    parts += [pooled(c) for c in sequences]
    parts += [x[c.name] for c in columns if isinstance(c, DenseFeat)]
    return np.concatenate(parts, axis=1)


@steady(100)
@given(examples(known=True))
def test_the_encoding_is_that_of_one_feature_after_the_other(example: Any) -> None:
    columns, x = example
    encoder = filled(columns)
    toy.same([encoded(encoder, x)], [reference(encoder, x)], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_a_wide_id_that_folds_to_zero_is_no_padding(dtype: str) -> None:
    item = SparseFeat("item", 6, 2, use_hash=True, dtype=dtype)
    encoder = filled([item, VarLenSparseFeat(item._replace(name="items"), 2, combiner="sum")])
    rows = encoder.embeddings("item")
    for half in (1, 7, 2**30):
        wide = (half << 32) + half
        x = {"item": np.array([wide]), "items": np.array([[wide, 0]])}
        toy.same([encoded(encoder, x)], [np.concatenate([rows[1], rows[1]])[None]])


def with_other_unknown_ids(columns: list[Any], x: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    ids = [column.name for column in columns if not isinstance(column, DenseFeat)]
    return {**x, **{name: np.where(x[name] == 0, 0, -2) for name in ids}}


def hide(encoder: Any, x: dict[str, np.ndarray]) -> None:
    """Change every row but the unknown ones of ids, and of sequences that aren't all empty."""
    values = tables(encoder)
    changed = [table + 1 for table in values]
    for column in encoder.feature_columns:
        empty = isinstance(column, VarLenSparseFeat) and not valid_steps(column, x).any()
        if not isinstance(column, DenseFeat) and not empty:
            table, row = unknown_rows(encoder)[column.name]
            changed[table][row] = values[table][row]
    for (_, weight), value in zip(encoder.tables, changed, strict=True):
        weight.assign(value)


@steady(60)
@given(examples(known=False))
def test_unknown_ids_and_empty_sequences_read_no_row_of_others(example: Any) -> None:
    columns, x = example
    encoder = filled(columns)
    before = encoded(encoder, x)
    np.testing.assert_array_equal(encoded(encoder, with_other_unknown_ids(columns, x)), before)
    hide(encoder, x)
    np.testing.assert_array_equal(encoded(encoder, x), before)


UNITS = st.lists(st.integers(1, 4), max_size=2)
OPTIONS = {
    "bottom_dnn_units": UNITS,
    "expert_dnn_units": UNITS,
    "gate_dnn_units": st.none() | UNITS,
    "gate_temperature": st.sampled_from([0.5, 1, 3]),
    "num_experts": st.integers(1, 3),
    "num_experts_specific": st.integers(1, 2),
    "num_experts_shared": st.integers(1, 2),
    "num_levels": st.integers(1, 2),
    "l2_reg_embedding": st.sampled_from([0, 0.01]),
    "l2_reg_dnn": st.sampled_from([0, 0.01]),
    "seed": st.none() | st.integers(0, 2**31 - 1),
    "dnn_dropout": st.sampled_from([0, 0.5]),
    "dnn_activation": st.sampled_from(["relu", "tanh"]),
    "dnn_use_bn": st.booleans(),
}
TYPES = [
    "binary",
    "regression",
    ("multiclass", 2),
    ("multiclass", 4),
    ("multilabel", 2),
    ("multilabel", 3),
    "lifetime_value",
]
NAMES = [
    "first task",
    "2nd",
    "täsk/1",
    "点击",
    "a.b",
    "_",
    "CTR",
    "encoder",
    "loss",
    "x" * 60,
    "🙂",
]


@st.composite
def models(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A factory's name and its arguments: any size, one to four tasks of any type and name."""
    # Models that must be told a feature know none of these columns.
    name = draw(st.sampled_from([n for n in toy.MODELS if not toy.needed(n)]))
    parameters = inspect.signature(getattr(mtl.models, name)).parameters
    names, types, tasks = st.sampled_from(NAMES), st.sampled_from(TYPES), draw(st.integers(1, 4))
    if getattr(mtl.models, name).funnel:
        types = st.just("binary")
        tasks = len(parameters["task_names"].default or range(tasks))
    return name, {
        "task_names": draw(st.lists(names, min_size=tasks, max_size=tasks, unique=True)),
        "task_types": draw(st.lists(types, min_size=tasks, max_size=tasks)),
        "tower_dnn_units_lists": draw(st.lists(UNITS, min_size=tasks, max_size=tasks)),
        **{key: draw(OPTIONS[key]) for key in OPTIONS if key in parameters},
    }


def labels(model: Any, rows: int) -> list[np.ndarray]:
    random = np.random.default_rng(rows)
    make = {
        "binary": lambda size: random.integers(0, 2, rows),
        "regression": lambda size: random.normal(size=rows),
        "multiclass": lambda size: random.integers(0, size, rows),
        "multilabel": lambda size: random.integers(0, 2, (rows, size)),
        "lifetime_value": lambda size: random.integers(0, 2, rows) * random.exponential(9, rows),
    }
    return [make[task.type](task.size).astype("float32") for task in model.tasks]


def predictions(model: Any, x: dict[str, np.ndarray]) -> list[np.ndarray]:
    y = model.predict(x, verbose=0)
    return y if isinstance(y, list) else [y]


@steady(15)
@given(examples(known=True), models())
def test_a_model_trains_saves_loads_and_predicts(example: Any, made: Any) -> None:
    (columns, x), (name, options) = example, made
    rows = len(next(iter(x.values())))
    model = getattr(mtl.models, name)(columns, **options)
    model.compile(keras.optimizers.SGD(0.01), **toy.QUICK)
    history = model.fit(x, labels(model, rows), epochs=1, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.keras"
        model.save(path)
        loaded = keras.models.load_model(path)
    assert loaded.tasks == model.tasks
    outputs = predictions(model, x)
    toy.same(predictions(loaded, x), outputs, rtol=0, atol=0)
    for task, output in zip(model.tasks, outputs, strict=True):
        assert output.shape == (rows, task.size)
        assert output.dtype == np.float32
        assert np.isfinite(output).all()
        if task.type not in ("regression", "lifetime_value"):
            assert ((output >= 0) & (output <= 1)).all()
        if task.type == "multiclass":
            np.testing.assert_allclose(output.sum(axis=1), 1, rtol=1e-5)


@steady(10)
@given(examples(known=False), models())
def test_predictions_of_unknown_ids_and_empty_sequences_hang_on_no_other_row(
    example: Any, made: Any
) -> None:
    (columns, x), (name, options) = example, made
    model = toy.randomize(getattr(mtl.models, name)(columns, **options))
    model.compile(**toy.QUICK)
    before = predictions(model, x)
    toy.same(predictions(model, with_other_unknown_ids(columns, x)), before, rtol=0, atol=0)
    hide(next(layer for layer in model.layers if isinstance(layer, FeatureEncoder)), x)
    toy.same(predictions(model, x), before, rtol=0, atol=0)
