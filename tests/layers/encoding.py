"""What the tests of FeatureEncoder share: tables whose rows all differ, inputs, models."""

import keras
import numpy as np
from numpy_layers import f64

from mtl.features import SparseFeat, VarLenSparseFeat, check_columns, model_inputs
from mtl.layers import FeatureEncoder


def sequence(name, vocabulary_size, maxlen, embedding_dim=2, *, sparse=None, **kwargs):
    column = SparseFeat(name, vocabulary_size, embedding_dim, **(sparse or {}))
    return VarLenSparseFeat(column, maxlen, **kwargs)


def filled(columns, **kwargs):
    """Return a built encoder whose tables hold other values in every row, unknown rows too."""
    encoder = FeatureEncoder(columns, **kwargs)
    encoder.build()
    for i, table in enumerate(encoder.weights):
        rng = np.random.default_rng(i)
        table.assign(rng.normal(size=table.shape) + 10 * rng.integers(1, 5, size=table.shape))
    return encoder


def unknown_rows(encoder):
    """Return each feature's unknown row: they end the tables, in column order."""
    rows = {}
    for table, weight in encoder.tables:
        values = f64(weight)[-len(table.columns) :]
        rows.update({c.name: row for c, row in zip(table.columns, values, strict=True)})
    return rows


def ids(*rows, dtype="int32"):
    return np.array(rows, dtype=dtype).reshape(len(rows), -1)


def model_of(columns, units=1, **kwargs):
    """Return a functional model of an encoder and a Dense."""
    specs = model_inputs(check_columns(columns))
    inputs = {s.name: keras.Input(s.shape, name=s.name, dtype=s.dtype) for s in specs}
    x = FeatureEncoder(columns, name="encoder", **kwargs)(inputs)
    return keras.Model(inputs, keras.layers.Dense(units, name="head")(x))


def step(model, x, y=None):
    """Train on one batch with SGD."""
    count = len(next(iter(x.values())))
    model.compile(keras.optimizers.SGD(1.0), "mse", jit_compile=False)
    model.train_on_batch(x, np.ones((count, 1), "float32") if y is None else y)
