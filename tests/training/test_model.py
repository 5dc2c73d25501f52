"""MultiTaskModel: jit choice, tracing, metrics' state, packed data in the trainer."""

import pathlib
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
import toy

from mtl.features import DenseFeat, SparseFeat, VarLenSparseFeat
from mtl.models import MMoE, SharedBottom
from mtl.training.model import MultiTaskModel

tensorflow_only = pytest.mark.skipif(
    toy.BACKEND != "tensorflow", reason="about tf.function and its XLA"
)
N = 20
X = {
    "user": np.arange(N) % 5,
    "item": np.arange(N, dtype="int64") % 3,
    "age": np.linspace(-1, 1, N),
    "price": np.linspace(3, 1, N).astype("float32"),
}
Y = [(np.arange(N) % 2).astype("float32"), (np.arange(N) % 3 == 0).astype("float32")]


def _columns(transform: Any = None) -> list[Any]:
    return [
        SparseFeat("user", 5, 2),
        SparseFeat("item", 3, 2, dtype="int64"),
        DenseFeat("age", 1, transform_fn=transform),
        DenseFeat("price", 1),
    ]


def _model(transform: Any = None, **options: Any) -> MultiTaskModel:
    return SharedBottom(
        _columns(transform),
        **{
            "num_tasks": 2,
            "bottom_dnn_units": (4,),
            "tower_dnn_units_lists": [[], []],
            **options,
        },
    )


def test_outputs_without_a_task_are_refused() -> None:
    inputs = {"a": keras.Input((1,), name="a")}
    with pytest.raises(ValueError, match=r"`outputs`.*such as Tower.*Received.*'plain'"):
        MultiTaskModel(inputs, [keras.layers.Dense(1, name="plain")(inputs["a"])])


def test_feature_columns_are_those_of_the_call() -> None:
    assert [c.name for c in _model().feature_columns] == ["user", "item", "age", "price"]


def test_metrics_of_the_first_epoch_hold_its_rows_only() -> None:
    # With a learning rate of 0 an epoch is an evaluation: a row too many would show.
    model = _model(l2_reg_embedding=0)
    model.compile(keras.optimizers.SGD(0.0), metrics=["mae", "mae"], **toy.NO_XLA)
    logs = model.fit(X, Y, batch_size=8, epochs=2, verbose=0).history
    predictions = model.predict(X, verbose=0)
    for k in range(2):
        mae = np.abs(predictions[k][:, 0] - Y[k]).mean()
        assert logs[f"task_{k + 1}_mae"] == pytest.approx([mae, mae], rel=1e-5)


def test_batches_that_do_not_divide_the_rows() -> None:
    model = toy.randomize(_model())
    narrow = {k: v.astype("int32" if k in ("user", "item") else "float32") for k, v in X.items()}
    expected = toy.outputs(model, narrow)
    for batch_size in (1, 7, 20, 64):
        toy.same(model.predict(X, batch_size=batch_size, verbose=0), expected)


@pytest.mark.parametrize("column", [SparseFeat("user", 5, 2), DenseFeat("price", 1)])
def test_a_single_column(column: Any) -> None:
    model = SharedBottom([column], num_tasks=1, tower_dnn_units_lists=[[]])
    x = {name: X[name].astype("float32" if name == "price" else "int32") for name in X}
    toy.same([model.predict(X, verbose=0)], toy.outputs(model, x))


def test_one_row_and_no_row() -> None:
    model = _model()
    one = {name: value[:1] for name, value in X.items()}
    assert [p.shape for p in model.predict(one, verbose=0)] == [(1, 1), (1, 1)]
    model.compile("adam", **toy.QUICK)
    model.fit(one, [y[:1] for y in Y], verbose=0)
    none = {name: value[:0] for name, value in X.items()}
    assert [p.shape for p in model.predict(none, verbose=0)] == [(0, 1), (0, 1)]
    assert [p.shape for p in toy.outputs(model, none)] == [(0, 1), (0, 1)]
    with pytest.raises(ValueError, match=r"`x` should hold at least one row. Received: 0"):
        model.fit(none, [y[:0] for y in Y], verbose=0)


@tensorflow_only
def test_the_training_step_is_traced_once() -> None:
    import tensorflow as tf

    traced: list[bool] = []

    def loss(y_true: Any, y_pred: Any) -> Any:
        if not tf.executing_eagerly():
            traced.append(True)
        return tf.reduce_mean(tf.square(y_true - y_pred), axis=-1)

    model = _model()
    model.compile("adam", loss=[loss, "mse"], metrics=["AUC"], jit_compile=False)
    model.fit(X, {"task_1": Y[0], "task_2": Y[1]}, batch_size=5, epochs=3, verbose=0)
    model.fit(X, Y, batch_size=5, verbose=0)
    assert len(traced) == 1


@tensorflow_only
def test_variables_are_created_before_training_and_metrics_left_empty() -> None:
    model = _model()
    model.compile("adam", metrics=["mae"])
    model.start_steps(model.checked_data(X, Y), batch_size=8, callbacks=None, by_steps=False)
    assert model.optimizer.built
    assert int(model.optimizer.iterations) == 0
    state = [np.asarray(v) for metric in model.metrics for v in metric.variables]
    assert len(state) >= 4  # a sum and a count for each task
    assert not any(v.any() for v in state)


def _uncompilable(value: Any) -> Any:
    """Run on the host, which XLA cannot."""
    import tensorflow as tf

    result = tf.numpy_function(lambda v: v * 2, [value], tf.float32)
    return tf.ensure_shape(result, value.shape)


@tensorflow_only
@pytest.mark.parametrize(
    ("options", "training_compiles", "evaluation_compiles"),
    [
        ({}, True, False),
        ({"jit_compile": True}, True, True),
        ({"jit_compile": False}, False, False),
        ({"run_eagerly": True}, False, False),
    ],
)
def test_who_is_compiled_by_xla(
    options: dict[str, Any], training_compiles: bool, evaluation_compiles: bool
) -> None:
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        pytest.skip("on a GPU the choice is Keras' own")
    model = _model(transform=_uncompilable)
    model.compile("adam", **options)

    def refused(run: Any) -> bool:
        try:
            run()
        except tf.errors.InvalidArgumentError as error:
            return "compile" in str(error).lower()
        return False

    assert refused(lambda: model.fit(X, Y, batch_size=10, verbose=0)) == training_compiles
    assert refused(lambda: model.evaluate(X, Y, batch_size=10, verbose=0)) == evaluation_compiles
    assert refused(lambda: model.predict(X, batch_size=10, verbose=0)) == evaluation_compiles


@pytest.mark.parametrize("given", [{}, {"jit_compile": False, "steps_per_execution": 1}])
def test_what_is_chosen_by_itself_is_chosen_anew_after_loading(
    given: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    model = _model()
    model.compile("sgd", **given)
    model.fit(X, Y, batch_size=10, verbose=0)
    model.save(tmp_path / "model.keras")
    config = keras.models.load_model(tmp_path / "model.keras").get_compile_config()
    expected = {"jit_compile": "auto", "steps_per_execution": "auto", **given}
    assert {option: config[option] for option in expected} == expected


@tensorflow_only
def test_strings_in_every_form() -> None:
    import tensorflow as tf

    word = SparseFeat("word", 20, 2, use_hash=True, dtype="string")
    words = VarLenSparseFeat(SparseFeat("words", 20, 2, use_hash=True, dtype="string"), 2)
    model = SharedBottom([word, words], num_tasks=1, tower_dnn_units_lists=[[]], seed=3)
    model.compile("adam", **toy.QUICK)
    one, two = np.array(["a", "b", "c", "a"]), np.array([["a", "b"], ["c", ""]] * 2)
    expected = model({"word": tf.constant(one[:, None]), "words": tf.constant(two)})
    for form in (str, object, bytes):
        for x in (one, one[:, None]):
            x = {"word": x.astype(form), "words": two.astype(form)}
            toy.same([model.predict(x, batch_size=3, verbose=0)], [expected.numpy()])
            model.evaluate(x, np.ones(4), verbose=0)
    x = {"word": pd.Series(one), "words": two}
    model.fit(x, np.ones(4), batch_size=2, validation_split=0.5, verbose=0)


@tensorflow_only
def test_strings_rule_xla_out() -> None:
    words = SparseFeat("word", 20, 2, use_hash=True, dtype="string")
    model = MMoE(
        [words, DenseFeat("age", 1)],
        num_tasks=2,
        expert_dnn_units=(4,),
        tower_dnn_units_lists=[[], []],
    )
    model.compile("adam")
    assert not model.jit_compile
    x = {"word": np.array([f"w{i % 4}" for i in range(N)]), "age": X["age"]}
    losses = model.fit(x, Y, batch_size=10, epochs=2, verbose=0).history["loss"]
    assert np.isfinite(losses).all()
    head = {name: value[:2] for name, value in x.items()} | {"age": np.zeros(2)}
    (first, second), _ = model.predict(head, verbose=0)
    assert first != second  # the words alone differ


def test_a_saved_model_is_compiled_as_it_was(tmp_path: pathlib.Path) -> None:
    model = _model()
    model.compile(
        keras.optimizers.Adam(0.01),
        loss={"task_1": "mae", "task_2": "mse"},
        loss_weights={"task_2": 2.0},
        metrics={"task_1": ["mae"]},
        **toy.QUICK,
    )
    model.fit(X, Y, batch_size=10, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    expected = model.evaluate(X, Y, batch_size=20, verbose=0, return_dict=True)
    logs = loaded.evaluate(X, Y, batch_size=20, verbose=0, return_dict=True)
    assert logs == pytest.approx(expected, rel=1e-6)
    assert "task_1_mae" in logs
    assert len(loaded.optimizer.variables) == len(model.optimizer.variables)
    for a, b in zip(loaded.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_a_summary_shows_many_inputs_as_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    columns = [SparseFeat(f"feature_{i}", 10, 4) for i in range(40)]
    texts: list[str] = []
    for tasks, used in ((2, columns), (1, columns), (9, columns[:5])):
        model = MMoE(used, num_tasks=tasks, expert_dnn_units=[8])
        for options in ({}, {"show_trainable": True, "line_length": 130}):
            model.summary(print_fn=texts.append, **options)
            lines = texts[-1].splitlines()
            assert (
                f" Total params: {model.count_params():,} ({4 * model.count_params() / 1024:.2f}"
                in (texts[-1])
            )
            for layer in model.layers[len(used) :]:
                assert f"│ {layer.name} (" in texts[-1]
            widths = {len(line) for line in lines if line.startswith(("│", "├", "└"))}
            assert len(widths) == 1
            folded = ["│ 40 inputs " in texts[-1], "feature_" not in texts[-1]]
            assert folded == [len(used) == 40] * 2
            assert sum("│ 40 layers " in line for line in lines) == (len(used) == 40)
