"""PLE on the real Census-income data: two tasks, one model, plain Keras."""

# %%
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before mtl, which loads TensorFlow

from mtl.data import load_census_income
from mtl.models import PLE

# %%
data = load_census_income(group=1)  # income over 50K, and never married
(x_train, y_train), (x_test, y_test) = data.train, data.test
model = PLE(
    data.feature_columns,
    task_names=data.task_names,
    num_experts_specific=4,
    num_experts_shared=4,
    expert_dnn_units=[16],
    tower_dnn_units_lists=[[8], [8]],
)
model.compile("adam", loss="binary_crossentropy", metrics=["AUC"])
model.fit(x_train, y_train, batch_size=1024, epochs=3, validation_data=data.val, verbose=2)
# %%
income, marital = model.predict(x_test, batch_size=8192, verbose=0)
print(model.evaluate(x_test, y_test, batch_size=8192, verbose=0, return_dict=True))
