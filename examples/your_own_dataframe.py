"""From a DataFrame of your own to a saved model: encode, train, save, load, predict new rows."""

# %%
import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before mtl, which loads TensorFlow

import mtl  # noqa: F401

# isort: split
import keras
import numpy as np
import pandas as pd

from mtl.data import TableEncoder
from mtl.models import MMoE

# %%
# Any table: categories, numbers, and a label per task.
rng = np.random.default_rng(0)
rows = 5_000
frame = pd.DataFrame(
    {
        "city": rng.choice(["Kyoto", "Lima", "Oslo"], rows),
        "device": rng.choice(["phone", "tablet", "laptop", None], rows),
        "age": rng.integers(18, 80, rows),
        "visits": rng.poisson(3, rows),
    }
)
score = 0.04 * (frame["age"] - 45) + 0.3 * (frame["visits"] - 3) + (frame["city"] == "Lima")
frame["bought"] = (score + rng.logistic(size=rows) > 0).astype(int)
frame["spent"] = np.maximum(0, 10 + 5 * score + rng.normal(size=rows))
train, new = frame[:4_500], frame[4_500:].copy()

# %%
# Fitted on training rows only; a category that it never saw becomes the unknown id.
encoder = TableEncoder(categorical=["city", "device"], numeric=["age", "visits"])
x_train = encoder.fit_transform(train)

# %%
model = MMoE(
    encoder.feature_columns,
    task_names=["bought", "spent"],
    task_types=["binary", "regression"],
)
model.compile(keras.optimizers.Adam(0.01), metrics="default")
model.fit(x_train, train[["bought", "spent"]], batch_size=128, epochs=5, verbose=2)

# %%
with tempfile.TemporaryDirectory() as folder:
    encoder.save(Path(folder) / "encoder.json")
    model.save(Path(folder) / "model.keras")
    encoder = TableEncoder.load(Path(folder) / "encoder.json")
    model = keras.models.load_model(Path(folder) / "model.keras")

# %%
new.loc[new.index[0], "city"] = "Atlantis"
bought, spent = model.predict(encoder.transform(new), verbose=0)
new["p_bought"], new["predicted_spent"] = bought.ravel(), spent.ravel()
print(new.head().round(3).to_string())
