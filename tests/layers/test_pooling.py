import numpy as np
import pytest
from encoding import filled, ids, model_of, sequence, step, unknown_rows
from numpy_layers import assert_close, f64, softmax

from mtl.features import SparseFeat

COMBINERS = {"sum": np.sum, "mean": np.mean, "max": np.max}
IDS = ids([3, 0, 5, 0], [1, 2, 3, 4], [0, 0, 0, 0], [9, -1, 0, 1])


def rows_of(encoder, name, row_ids):
    rows, unknown = encoder.embeddings(name), unknown_rows(encoder)[name]
    return np.array([rows[i] if 0 <= i < len(rows) else unknown for i in row_ids], "float64")


def pooled(encoder, name, batch, valid, combiner, weights=None):
    """Pool by loops: weights of the valid steps multiply their rows."""
    outputs = []
    for i, row_ids in enumerate(batch):
        steps = np.flatnonzero(valid[i])
        rows = rows_of(encoder, name, row_ids[steps])
        if weights is not None and len(steps):
            rows = rows * weights(i, steps)[:, None]
        outputs.append(COMBINERS[combiner](rows, axis=0) if len(steps) else np.zeros(2))
    return np.array(outputs)


def negative(encoder):
    """Zeros of padding must not win a maximum."""
    for weight in encoder.weights:
        weight.assign(-np.abs(f64(weight)))
    return encoder


@pytest.mark.parametrize("combiner", COMBINERS)
def test_id_0_is_padding_without_lengths(combiner):
    encoder = negative(filled([sequence("s", 6, 4, combiner=combiner)]))
    assert_close(encoder({"s": IDS}), pooled(encoder, "s", IDS, IDS != 0, combiner))


@pytest.mark.parametrize("combiner", COMBINERS)
def test_lengths_tell_the_valid_steps(combiner):
    # id 0 within the length is an item; a length above maxlen is all of the sequence.
    encoder = negative(filled([sequence("s", 6, 4, combiner=combiner, length_name="n")]))
    lengths = ids(3, 9, 0, 2)
    valid = np.arange(4) < lengths
    output = encoder({"s": IDS, "n": lengths})
    assert_close(output, pooled(encoder, "s", IDS, valid, combiner))
    assert_close(encoder({"s": IDS, "n": lengths.astype("float32")}), f64(output))
    assert_close(encoder({"s": IDS, "n": ids(-1, -1, -1, -1)}), np.zeros((4, 2)))


@pytest.mark.parametrize("combiner", COMBINERS)
@pytest.mark.parametrize("weight_norm", [False, True])
@pytest.mark.parametrize("length_name", [None, "n"])
def test_weights_multiply_the_rows(combiner, weight_norm, length_name):
    column = sequence(
        *("s", 6, 4),
        combiner=combiner,
        weight_name="w",
        weight_norm=weight_norm,
        length_name=length_name,
    )
    encoder = filled([column])
    w = np.random.default_rng(1).normal(size=(4, 4, 1)).astype("float32")
    lengths = ids(3, 9, 0, 2)
    valid = np.arange(4) < lengths if length_name else IDS != 0

    def weights(i, steps):
        chosen = w[i, steps, 0].astype("float64")
        return softmax(chosen) if weight_norm else chosen

    output = encoder({"s": IDS, "n": lengths, "w": w})
    assert_close(output, pooled(encoder, "s", IDS, valid, combiner, weights))


def test_weighted_by_hand():
    column = sequence("s", 3, 3, weight_name="w", weight_norm=False, combiner="mean")
    encoder = filled([column])
    encoder.weights[0].assign([[7, 7], [1, 2], [10, 20], [5, 5]])
    output = encoder({"s": ids([1, 2, 0]), "w": np.array([[[2.0], [0.5], [9.0]]], "float32")})
    assert_close(output, [[(2 * 1 + 0.5 * 10) / 2, (2 * 2 + 0.5 * 20) / 2]])


def test_sequences_may_share_a_length_and_a_weight():
    names = {"length_name": "n", "weight_name": "w", "weight_norm": False, "combiner": "sum"}
    encoder = filled([sequence("s", 6, 4, **names), sequence("t", 8, 4, **names)])
    w = np.random.default_rng(1).normal(size=(4, 4, 1)).astype("float32")
    lengths, other = ids(3, 4, 0, 2), IDS[::-1].copy()
    valid = np.arange(4) < lengths
    weights = lambda i, steps: w[i, steps, 0]  # noqa: E731
    expected = [
        pooled(encoder, name, batch, valid, "sum", weights)
        for name, batch in (("s", IDS), ("t", other))
    ]
    output = encoder({"s": IDS, "t": other, "n": lengths, "w": w})
    assert_close(output, np.concatenate(expected, axis=1))


def test_sequences_of_several_lengths_and_sizes_beside_single_features():
    columns = [
        sequence("s", 6, 4, combiner="sum"),
        SparseFeat("a", 6, 2),
        sequence("t", 5, 1, combiner="sum"),
        sequence("u", 5, 3, 7, combiner="sum"),
    ]
    encoder = filled(columns)
    x = {"s": IDS[:1], "a": ids(0), "t": ids(4), "u": ids([0, 2, 2])}
    expected = [
        encoder.embeddings("a")[0],
        encoder.embeddings("s")[3] + encoder.embeddings("s")[5],
        encoder.embeddings("t")[4],
        2 * encoder.embeddings("u")[2],
    ]
    assert_close(encoder(x), np.concatenate(expected)[None])


@pytest.mark.parametrize("combiner", COMBINERS)
@pytest.mark.parametrize("weights", [{}, {"weight_name": "w"}])
def test_padding_gets_no_gradient_and_empty_sequences_stay_finite(combiner, weights):
    model = model_of([sequence("s", 6, 4, combiner=combiner, **weights)], l2_reg=0.1)
    encoder = model.get_layer("encoder")
    (table,) = encoder.weights
    table.assign(np.random.default_rng(3).normal(size=table.shape))
    before = f64(table)
    x = {"s": ids([3, 0, 5, 0], [0, 0, 0, 0])}
    if weights:
        x["w"] = np.ones((2, 4, 1), "float32")
    step(model, x)
    after = f64(table)
    assert np.isfinite(after).all()
    assert all(np.isfinite(f64(w)).all() for w in model.weights)
    changed = set(np.flatnonzero((before != after).any(axis=1)))
    assert changed == {3, 5}
