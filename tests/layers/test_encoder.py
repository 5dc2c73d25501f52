import keras
import numpy as np
import pytest
from encoding import filled, ids, model_of, sequence, step, unknown_rows
from numpy_layers import BACKEND, assert_close, copy_of, draw, f64, total

from mtl.features import DenseFeat, SparseFeat, check_columns
from mtl.layers import FeatureEncoder
from mtl.layers.encoder import layout

tensorflow_only = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="strings are hashed on TensorFlow only"
)


@keras.saving.register_keras_serializable(package="test_encoder")
def log1p(x):
    return keras.ops.log1p(x)


def columns_of_every_kind():
    return [
        DenseFeat("age"),
        SparseFeat("user", 5, 2),
        sequence("clicks", 6, 3, combiner="sum"),
        SparseFeat("site", 4, 3),
        DenseFeat("vector", 2),
        SparseFeat("hour", 3, 2),
    ]


def inputs_of_every_kind(count=2):
    rng = np.random.default_rng(0)
    return {
        "age": draw(count, 1),
        "user": rng.integers(0, 5, (count, 1), "int32"),
        "clicks": rng.integers(0, 6, (count, 3), "int32"),
        "site": rng.integers(0, 4, (count, 1), "int32"),
        "vector": draw(count, 2),
        "hour": rng.integers(0, 3, (count, 1), "int32"),
    }


def test_parts_are_sparse_then_sequences_then_dense_each_in_column_order():
    encoder, x = filled(columns_of_every_kind()), inputs_of_every_kind()
    x["clicks"] = ids([5, 0, 2], [0, 0, 0])
    rows = encoder.embeddings
    expected = [
        rows("user")[x["user"][:, 0]],
        rows("site")[x["site"][:, 0]],
        rows("hour")[x["hour"][:, 0]],
        np.array([rows("clicks")[5] + rows("clicks")[2], [0, 0]]),
        x["age"],
        x["vector"],
    ]
    output = encoder(x)
    assert_close(output, np.concatenate(expected, axis=1))
    assert encoder.compute_output_shape({n: v.shape for n, v in x.items()}) == output.shape
    assert model_of(columns_of_every_kind()).get_layer("encoder").output.shape == (None, 12)


def test_inputs_that_no_column_names_are_ignored_and_order_does_not_matter():
    encoder, x = filled(columns_of_every_kind()), inputs_of_every_kind()
    mixed = {"other": draw(2, 1), **dict(reversed(x.items()))}
    assert_close(encoder(mixed), f64(encoder(x)))


@pytest.mark.parametrize("wide", [None, "int64"])
@pytest.mark.parametrize("bad", [-1, -5, 4, 5, 9, 10, 11, 2**31 - 1, -(2**31), 2**32, 2**32 + 1])
def test_ids_out_of_range_read_the_unknown_row_of_their_feature(bad, wide):
    if (abs(bad) > 2**31) and not wide:
        pytest.skip("does not fit into int32")
    if wide and BACKEND == "jax":
        pytest.skip("JAX has no int64 unless told")
    dtype = wide or "int32"
    # One table: a's rows, b's, c's, and three unknown rows.
    columns = [SparseFeat("a", 4, 2), SparseFeat("b", 5, 2), sequence("c", 4, 2, combiner="sum")]
    encoder = filled(columns)
    assert len(encoder.weights) == 1
    unknown = unknown_rows(encoder)
    for name in "abc":
        x = {"a": ids(1), "b": ids(2), "c": ids([3, 0])}
        size = {"a": 4, "b": 5, "c": 4}[name]
        x[name] = ids([bad, 0][: x[name].shape[1]], dtype=dtype)
        rows = {
            "a": encoder.embeddings("a")[1],
            "b": encoder.embeddings("b")[2],
            "c": encoder.embeddings("c")[3],
        }
        rows[name] = encoder.embeddings(name)[bad] if 0 <= bad < size else unknown[name]
        assert_close(encoder(x), np.concatenate([rows[n] for n in "abc"])[None])


def test_a_shared_embedding_has_one_slice_and_an_unknown_row_per_feature():
    columns = [
        SparseFeat("seller", 4, 2, embedding_name="people"),
        SparseFeat("buyer", 4, 2, embedding_name="people"),
        sequence("friends", 4, 2, sparse={"embedding_name": "people"}, combiner="sum"),
    ]
    encoder = filled(columns)
    assert [tuple(w.shape) for w in encoder.weights] == [(4 + 3, 2)]
    people, unknown = encoder.embeddings("people"), unknown_rows(encoder)
    known = encoder({"seller": ids(2), "buyer": ids(2), "friends": ids([2, 0])})
    assert_close(known, np.tile(people[2], 3)[None])
    lost = encoder({"seller": ids(4), "buyer": ids(-1), "friends": ids([7, 0])})
    assert_close(lost, np.concatenate([unknown[c.name] for c in columns])[None])
    with pytest.raises(ValueError, match=r"one of \['people'\]. Received: 'buyer'"):
        encoder.embeddings("buyer")


def test_dense_values_pass_through_their_function():
    encoder = FeatureEncoder(
        [DenseFeat("a", 2, transform_fn=lambda x: (x - 3.0) / 4.0), DenseFeat("b", dtype="int32")]
    )
    output = encoder({"a": np.array([[3.0, 11.0]], "float32"), "b": ids(7)})
    assert_close(output, [[0.0, 2.0, 7.0]])


def test_frozen_embeddings_get_neither_gradient_nor_penalty():
    columns = [SparseFeat("a", 4, 2, trainable=False), SparseFeat("b", 4, 2)]
    model = model_of(columns, l2_reg=0.1)
    encoder = model.get_layer("encoder")
    assert len(encoder.trainable_weights) == 1
    assert len(encoder.non_trainable_weights) == 1
    x = {"a": ids(1, 2), "b": ids(1, 2)}
    for weight in encoder.weights:
        weight.assign(np.ones(weight.shape))
    before = {name: encoder.embeddings(name) for name in "ab"}
    encoder(x)
    assert total(encoder.losses) == pytest.approx(0.1 * 2 * 2 / 2)
    step(model, x)
    np.testing.assert_array_equal(encoder.embeddings("a"), before["a"])
    changed = (encoder.embeddings("b") != before["b"]).any(axis=1)
    assert changed.tolist() == [False, True, True, False]


def test_l2_is_the_mean_square_of_the_looked_up_rows_without_padding():
    columns = [
        SparseFeat("a", 4, 2),
        SparseFeat("site", 3, 5),
        sequence("c", 6, 3),
        sequence("d", 6, 2, length_name="n"),
        DenseFeat("age"),
    ]
    encoder = filled(columns, l2_reg=0.5)
    x = {
        "a": ids(1, 9, 1),
        "site": ids(0, 2, 2),
        "c": ids([5, 0, 5], [0, 0, 0], [1, -2, 0]),
        "d": ids([0, 3], [4, 4], [1, 1]),
        "n": ids(1, 2, 0),
        "age": draw(3, 1),
    }
    encoder(x)
    a, site, c, d = (encoder.embeddings(name) for name in ("a", "site", "c", "d"))
    unknown = unknown_rows(encoder)
    looked_up = [a[1], unknown["a"], a[1], site[0], site[2], site[2]]
    looked_up += [c[5], c[5], c[1], unknown["c"], d[0], d[4], d[4]]
    expected = 0.5 * sum((row.astype("float64") ** 2).sum() for row in looked_up) / 3
    assert total(encoder.losses) == pytest.approx(expected, rel=1e-5)
    assert not filled(columns).losses


@pytest.mark.parametrize("l2_reg", [0, 0.1])
def test_a_batch_without_rows_is_finite(l2_reg):
    encoder = filled(columns_of_every_kind(), l2_reg=l2_reg)
    output = encoder(inputs_of_every_kind(0))
    assert tuple(output.shape) == (0, 12)
    assert total(encoder.losses) == 0


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_casts_at_the_end(policy):
    half = policy.removeprefix("mixed_")
    columns = [*columns_of_every_kind(), DenseFeat("income", transform_fn=log1p)]
    x = {**inputs_of_every_kind(), "income": np.array([[1e6], [3e38]], "float32")}
    encoder = filled(columns, dtype=policy)
    output = encoder(x)
    assert keras.backend.standardize_dtype(output.dtype) == half
    assert {w.dtype for w in encoder.weights} == {"float32"}
    full = filled(columns)
    full.set_weights(encoder.get_weights())
    # 1e6 is infinite in float16; its logarithm, taken before the cast, is not.
    np.testing.assert_allclose(f64(keras.ops.cast(output, "float32")), f64(full(x)), rtol=0.01)
    assert model_of(columns, dtype=policy).get_layer("encoder").output.dtype == half


def test_config_makes_the_same_layer():
    columns = [
        *columns_of_every_kind(),
        SparseFeat("h", 9, 2, use_hash=True, embeddings_initializer="ones"),
        DenseFeat("income", transform_fn=log1p),
    ]
    x = {**inputs_of_every_kind(), "h": ids(100, 7), "income": np.ones((2, 1), "float32")}
    encoder = filled(columns, l2_reg=0.1, seed=np.int64(3), name="own")
    output = f64(encoder(x))
    twin = copy_of(encoder, x)
    assert twin.get_config() == encoder.get_config()
    assert_close(twin(x), output)
    assert total(twin.losses) == pytest.approx(total(encoder.losses))


def test_a_model_that_holds_it_can_be_saved(tmp_path):
    columns = [*columns_of_every_kind(), SparseFeat("h", 9, 2, use_hash=True)]
    model = model_of(columns, l2_reg=0.1, seed=1)
    x = {**inputs_of_every_kind(), "h": ids(100, 7)}
    step(model, x)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_close(loaded(x), f64(model(x)))
    for name in ("user", "clicks", "h"):
        loaded_rows = loaded.get_layer("encoder").embeddings(name)
        np.testing.assert_array_equal(loaded_rows, model.get_layer("encoder").embeddings(name))


@tensorflow_only
def test_strings_are_hashed_and_the_layer_says_that_xla_cannot():
    import tensorflow as tf

    columns = [SparseFeat("word", 9, 2, use_hash=True, dtype="string")]
    encoder = filled(columns)
    words = tf.constant([["a"], ["a"], [""], ["long word"]])
    buckets = tf.strings.to_hash_bucket_fast(words, 8).numpy()[:, 0] + 1
    assert_close(encoder({"word": words}), encoder.embeddings("word")[buckets])
    assert not encoder.supports_jit
    assert filled([SparseFeat("a", 3)]).supports_jit


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"feature_columns": []}, ValueError, "at least one column"),
        ({"feature_columns": [SparseFeat("a", 0)]}, ValueError, "`vocabulary_size of a`"),
        ({"l2_reg": -1}, ValueError, "`l2_reg` should be a non-negative number"),
        ({"seed": 1.5}, TypeError, "`seed` should be a non-negative integer or None"),
        ({"dense_embedding_dim": 0}, ValueError, "a positive integer or None. Received: 0"),
    ],
)
def test_invalid_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        FeatureEncoder(**{"feature_columns": [DenseFeat("a")], **arguments})


def test_embeddings_of_an_unbuilt_layer_are_refused() -> None:
    with pytest.raises(RuntimeError, match="should be built before"):
        FeatureEncoder([SparseFeat("a", 3)]).embeddings("a")


def test_layout_tells_the_columns_of_every_feature():
    columns = check_columns(columns_of_every_kind())
    widths = {"user": 2, "site": 3, "hour": 2, "clicks": 2, "age": 1, "vector": 2}
    for dim in (None, 4):
        widths |= {"age": dim or 1, "vector": dim or 2}
        found = layout(columns, dim)
        assert list(found) == list(widths)
        assert {name: len(span) for name, span in found.items()} == widths
        assert [i for span in found.values() for i in span] == list(range(sum(widths.values())))


@pytest.mark.parametrize("sizes", [[1], [1, 1, 1], [2], [1, 3, 2]])
def test_dense_values_are_projected_each_by_a_kernel_of_its_own(sizes):
    names = "abc"[: len(sizes)]
    columns = [DenseFeat(name, size) for name, size in zip(names, sizes, strict=True)]
    encoder = filled(columns, dense_embedding_dim=4)
    (kernel,) = encoder.weights
    assert tuple(kernel.shape) == (sum(sizes), 4)
    rows = np.split(f64(kernel), np.cumsum(sizes)[:-1])
    x = {c.name: draw(3, c.dimension, seed=i) for i, c in enumerate(columns)}
    expected = [x[name].astype("float64") @ w for name, w in zip(names, rows, strict=True)]
    assert_close(encoder(x), np.concatenate(expected, axis=1), atol=1e-4)


def test_projected_values_stand_where_the_values_stood_and_are_transformed_first():
    columns = [*columns_of_every_kind(), DenseFeat("income", transform_fn=log1p)]
    encoder = filled(columns, dense_embedding_dim=2, l2_reg=0.1)
    x = {**inputs_of_every_kind(), "income": np.array([[1e6], [3e38]], "float32")}
    raw = filled(columns, l2_reg=0.1)
    w = f64(encoder.weights[-1])
    assert encoder.weights[-1].path.endswith("dense_kernel")
    income = np.log1p(x["income"].astype("float64"))
    expected = [f64(raw(x))[:, :9], x["age"] @ w[:1], x["vector"] @ w[1:3], income @ w[3:]]
    assert_close(encoder(x), np.concatenate(expected, axis=1), atol=1e-4)
    assert total(encoder.losses) == total(raw.losses)  # there is no penalty on the kernel
    assert encoder.compute_output_shape({n: v.shape for n, v in x.items()}) == (2, 9 + 3 * 2)


def test_kernels_of_dense_values_start_by_name_with_the_spread_of_their_size():
    def rows(*columns):
        encoder = FeatureEncoder(columns, seed=1, dense_embedding_dim=300)
        encoder.build()
        return f64(encoder.weights[0])

    one, wide = DenseFeat("one"), DenseFeat("wide", 100)
    both = rows(one, wide)
    np.testing.assert_array_equal(both, np.roll(rows(wide, one), 1, axis=0))
    assert both[:1].std() == pytest.approx(np.sqrt(2 / 301), rel=0.2)
    assert both[1:].std() == pytest.approx(np.sqrt(2 / 400), rel=0.02)
    assert not np.array_equal(both[0], both[1])


def test_without_dense_values_there_is_nothing_to_project():
    encoder = FeatureEncoder([SparseFeat("a", 3, 2)], dense_embedding_dim=4)
    assert tuple(encoder({"a": ids(1)}).shape) == (1, 2)
    assert len(encoder.weights) == 1
