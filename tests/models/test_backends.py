"""One saved model gives the same predictions on every backend, unknown ids included."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import toy

_LOAD_AND_PREDICT = """
import sys
import keras, numpy as np
import mtl
folder = sys.argv[1]
model = keras.models.load_model(f"{folder}/model.keras")
x = dict(np.load(f"{folder}/x.npz"))
np.savez(f"{folder}/y.npz", *model.predict(x, verbose=0))
"""


@pytest.mark.slow
def test_tensorflow_and_jax_agree_on_ids_outside_the_vocabulary(tmp_path):
    model = toy.build("PLE", task_names=["a", "b"])
    # Large weights, unknown rows included, so that reading a wrong row shows.
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 0.5, w.shape).astype("float32") for w in model.weights])
    x = toy.features()
    ids = [c for c in toy.columns() if type(c).__name__ == "SparseFeat" and not c.use_hash]
    for position, outside in enumerate((-1, -7, ids[0].vocabulary_size, 2**31 - 1)):
        x[ids[0].name][position] = outside
    expected = model.predict(x, verbose=0)
    assert all(np.isfinite(p).all() for p in expected)

    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "x.npz", **x)
    other = "jax" if keras.backend.backend() != "jax" else "tensorflow"
    subprocess.run(
        [sys.executable, "-c", _LOAD_AND_PREDICT, tmp_path],
        env={**os.environ, "KERAS_BACKEND": other},
        check=True,
    )
    for here, there in zip(expected, np.load(tmp_path / "y.npz").values(), strict=True):
        np.testing.assert_allclose(here, there, rtol=0, atol=1e-5)
