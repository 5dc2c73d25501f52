"""Prediction without a data pipeline, which takes longer to start and to stop than small models."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np


def predict_by_slices(model: Any, x: dict[str, Any], rows: int, size: int, verbose: Any) -> Any:
    """Return the predictions of a model, on TensorFlow or PyTorch.

    Args:
        model: a compiled or uncompiled Keras model with a dict of inputs.
        x: dict of arrays with `rows` rows, as the model takes them.
        rows: int. At least one.
        size: int. Rows per call.
        verbose: as in `keras.Model.predict`.
    """
    model.make_predict_function()
    if hasattr(model.predict_function, "get_concrete_function"):
        import tensorflow as tf

        # One trace for every number of rows.
        specs = {k: tf.TensorSpec((None, *v.shape[1:]), v.dtype) for k, v in x.items()}
        model.predict_function.get_concrete_function([(specs,)])
    starts = range(0, rows, size)
    progress = keras.callbacks.CallbackList(
        add_progbar=verbose != 0, verbose=verbose, epochs=1, steps=len(starts), model=model
    )
    parts = []
    progress.on_predict_begin()
    for step, start in enumerate(starts):
        progress.on_predict_batch_begin(step)
        part = {name: value[start : start + size] for name, value in x.items()}
        parts.append(keras.Model.predict_on_batch(model, part))
        progress.on_predict_batch_end(step)
    progress.on_predict_end()
    return keras.tree.map_structure(lambda *values: np.concatenate(values), *parts)
