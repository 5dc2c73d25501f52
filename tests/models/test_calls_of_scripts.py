"""Scripts written for the functions that this zoo replaces run with their import lines changed."""

import keras
import numpy as np
import pandas as pd
import pytest
import toy
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import LabelEncoder, MinMaxScaler

from mtl.features import DenseFeat, SparseFeat, get_feature_names
from mtl.models import CGC as PLE_CGC
from mtl.models import ESMM as ESSM
from mtl.models import PLE
from mtl.models import MMoE as MMOE
from mtl.models import SharedBottom as Shared_Bottom

SPARSE, DENSE = ["workclass", "sex"], ["age", "hours"]


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "workclass": rng.choice(["private", "state", "none"], 64),
            "sex": rng.choice([" Male", " Female"], 64),
            "age": rng.integers(18, 90, 64),
            "hours": rng.normal(40, 10, 64),
        }
    )
    frame["label_income"] = (frame.hours > 40).astype(int)
    frame["label_marital"] = (frame.age < 40).astype(int)
    for name in SPARSE:
        frame[name] = LabelEncoder().fit_transform(frame[name])
    frame[DENSE] = MinMaxScaler(feature_range=(0, 1)).fit_transform(frame[DENSE])
    return frame


def columns(data: pd.DataFrame) -> list:
    return [SparseFeat(feat, data[feat].max() + 1, embedding_dim=4) for feat in SPARSE] + [
        DenseFeat(feat, 1) for feat in DENSE
    ]


MODELS = {
    "shared bottom": lambda columns: Shared_Bottom(
        columns, num_tasks=2, task_types=["binary", "binary"],
        task_names=["label_income", "label_marital"], bottom_dnn_units=[16],
        tower_dnn_units_lists=[[8], [8]],
    ),
    "essm": lambda columns: ESSM(
        columns, task_type="binary", task_names=["label_marital", "label_income"],
        tower_dnn_units_lists=[[8], [8]],
    ),
    "mmoe": lambda columns: MMOE(
        columns, num_tasks=2, task_types=["binary", "binary"],
        task_names=["income", "marital"], num_experts=8, expert_dnn_units=[16],
        gate_dnn_units=None, tower_dnn_units_lists=[[8], [8]],
    ),
    "cgc": lambda columns: PLE_CGC(
        columns, num_tasks=2, task_types=["binary", "binary"], task_names=["income", "marital"],
        num_experts_specific=4, num_experts_shared=4, expert_dnn_units=[16], gate_dnn_units=None,
        tower_dnn_units_lists=[[8], [8]],
    ),
    "ple": lambda columns: PLE(
        columns, num_tasks=2, task_types=["binary", "regression"], task_names=["task 1", "task 2"],
        num_levels=2, num_experts_specific=8, num_experts_shared=4, expert_dnn_units=[64, 64],
        gate_dnn_units=[16, 16], tower_dnn_units_lists=[[32, 32], [32, 32]],
    ),
    "every parameter": lambda columns: PLE(
        dnn_feature_columns=columns, num_tasks=2, task_types=("binary", "binary"),
        task_names=("income", "marital"), num_levels=1, num_experts_specific=1,
        num_experts_shared=1, expert_dnn_units=[4], gate_dnn_units=None,
        tower_dnn_units_lists=[[], []], l2_reg_embedding=0.00001, l2_reg_dnn=0, seed=1024,
        dnn_dropout=0, dnn_activation="relu", dnn_use_bn=False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("script", MODELS)
def test_a_script_runs(script: str, data: pd.DataFrame) -> None:
    dnn_feature_columns = columns(data)
    feature_names = get_feature_names(dnn_feature_columns)
    train, test = data[:48], data[48:]
    train_model_input = {name: train[name] for name in feature_names}
    test_model_input = {name: test[name] for name in feature_names}

    model = MODELS[script](dnn_feature_columns)
    # Compiling is what takes the time here.
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate=0.01),
        loss=["binary_crossentropy", "binary_crossentropy"],
        metrics=["AUC"],
        **toy.QUICK,
    )
    stop = keras.callbacks.EarlyStopping(
        monitor="val_loss", min_delta=0, patience=10, mode="min", restore_best_weights=True
    )
    labels = ["label_income", "label_marital"]
    history = model.fit(
        train_model_input, [train[name].values for name in labels],
        batch_size=32, epochs=2, verbose=0, validation_split=0.2, callbacks=[stop],
    )  # fmt: skip
    assert len(history.history["val_loss"]) == 2
    pred_ans = model.predict(test_model_input, 16)
    assert [p.shape for p in pred_ans] == [(16, 1)] * 2
    for name, predictions in zip(labels, pred_ans, strict=True):
        assert 0 <= round(roc_auc_score(test[name], predictions), 4) <= 1


def test_the_one_task_type_of_esmm_is_binary(data: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match=r"`task_type` of ESMM.*'binary'. Received: 'regression'"):
        ESSM(columns(data), task_type="regression")
