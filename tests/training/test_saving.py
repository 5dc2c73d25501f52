"""Files that are written load; what would not load isn't written."""

import json
import pathlib
from typing import Any

import keras
import numpy as np
import pytest
import toy

from mtl.features import DenseFeat, SparseFeat
from mtl.models import MMoE, extract_task

VALUES = np.random.default_rng(0).normal(size=(20_000, 8)).astype("float32")


def given(values: Any = VALUES) -> Any:
    column = SparseFeat(
        "word", len(VALUES), 8, embeddings_initializer=keras.initializers.Constant(values)
    )
    return MMoE([column, DenseFeat("age")], num_tasks=2, expert_dnn_units=[4])


@pytest.mark.parametrize("name", ["m.h5", "m.hdf5"])
def test_files_of_the_old_format_are_refused(name: str, tmp_path: pathlib.Path) -> None:
    model = toy.build("MMoE")
    for path in (tmp_path / name, str(tmp_path / name)):
        with pytest.raises(
            ValueError, match=r"`filepath` should end with '.keras'.*Received: '.*m.h"
        ):
            model.save(path)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_the_old_format_is_refused(tmp_path: pathlib.Path) -> None:
    model = toy.build("MMoE")
    model.compile("sgd", **toy.QUICK)
    checkpoint = keras.callbacks.ModelCheckpoint(str(tmp_path / "m.h5"))
    with pytest.raises(ValueError, match=r"should end with '.keras'"):
        model.fit(toy.features(), toy.labels(), verbose=0, callbacks=[checkpoint])
    assert list(tmp_path.iterdir()) == []


def test_quantisation_is_refused() -> None:
    model = toy.build("MMoE")
    with pytest.raises(NotImplementedError, match="`quantize` should not be called"):
        model.quantize("int8")
    assert {str(weight.dtype) for weight in model.weights} == {"float32"}


def test_given_embeddings_are_written_once(tmp_path: pathlib.Path) -> None:
    model = given()
    np.testing.assert_array_equal(model.encoder.embeddings("word"), VALUES)
    model.save(tmp_path / "model.keras")
    table = VALUES.nbytes
    assert table < (tmp_path / "model.keras").stat().st_size < 1.2 * table + 200_000
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.encoder.embeddings("word"), VALUES)
    loaded.save(tmp_path / "again.keras")
    again = keras.models.load_model(tmp_path / "again.keras")
    np.testing.assert_array_equal(again.encoder.embeddings("word"), VALUES)
    assert len(json.dumps(json.loads(model.to_json()))) < 100_000


def test_copies_begin_with_given_embeddings() -> None:
    model = given()
    for copy in (keras.models.clone_model(model), extract_task(model, "task_1")):
        np.testing.assert_array_equal(copy.encoder.embeddings("word"), VALUES)
    # One row for all, as Keras' Constant would have it.
    row = given(VALUES[0])
    np.testing.assert_array_equal(row.encoder.embeddings("word"), np.tile(VALUES[0], (20_000, 1)))
    columns = [given(values).feature_columns[0] for values in (VALUES, VALUES.copy(), VALUES + 1)]
    assert columns[0] == columns[1] != columns[2]
