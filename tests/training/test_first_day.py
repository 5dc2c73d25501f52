"""Faults that users met on their first day, each by the input that showed it."""

import pathlib
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import toy

from mtl.features import DenseFeat, SparseFeat
from mtl.models import MMoE, SharedBottom

tensorflow_only = pytest.mark.skipif(toy.BACKEND != "tensorflow", reason="strategies of TensorFlow")
X, Y = toy.features(), toy.labels()


def test_chunks_with_and_without_missing_labels_are_compiled_once_each() -> None:
    traced = []

    def loss(y_true: Any, y_pred: Any) -> Any:
        traced.append(y_pred)
        return keras.losses.binary_crossentropy(y_true, y_pred)

    model = toy.build("SharedBottom")
    model.compile("sgd", loss=[loss, "mse"], jit_compile=toy.BACKEND == "jax")
    gaps = [np.where(np.arange(24) % 2, y, np.nan).astype("float32") for y in Y]
    for y in (Y, gaps):
        model.fit(X, y, batch_size=8, verbose=0)
        model.evaluate(X, y, batch_size=8, verbose=0)
    count = len(traced)
    for y in (Y, gaps, Y, gaps):
        assert np.isfinite(model.fit(X, y, batch_size=8, verbose=0).history["loss"]).all()
        assert np.isfinite(model.evaluate(X, y, batch_size=8, verbose=0)).all()
    assert len(traced) == count or toy.BACKEND == "torch"  # which runs it each time
    # What is compiled anew is made anew.
    model.compile("sgd", loss=["mse", "mse"], jit_compile=toy.BACKEND == "jax")
    model.fit(X, gaps, batch_size=8, verbose=0)
    assert len(traced) == count or toy.BACKEND == "torch"


def test_a_callback_may_evaluate_what_has_missing_labels() -> None:
    gaps = [np.where(np.arange(24) % 2, y, np.nan).astype("float32") for y in Y]
    seen = []

    class Evaluates(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            seen.append(self.model.evaluate(X, gaps, verbose=0))
            seen.append(self.model.test_on_batch(X, gaps))

    one, other = (toy.build("SharedBottom", seed=4) for _ in range(2))
    for model in (one, other):
        model.compile(keras.optimizers.SGD(0.1), **toy.NO_XLA)
    options: dict[str, Any] = {"batch_size": 8, "epochs": 3, "shuffle": False, "verbose": 0}
    one.fit(X, Y, callbacks=[Evaluates()], **options)
    other.fit(X, Y, **options)
    assert np.isfinite(seen).all()
    toy.same(one.get_weights(), other.get_weights())


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_no_callback_takes_nothing_for_the_best(tmp_path: pathlib.Path) -> None:
    nothing = [Y[0], np.full(24, np.nan, "float32")]
    model = toy.build("SharedBottom")
    model.compile("sgd", **toy.QUICK)
    path = tmp_path / "best.keras"
    watched: dict[str, Any] = {"monitor": "val_task_2_loss", "mode": "min"}
    best = keras.callbacks.ModelCheckpoint(path, save_best_only=True, **watched)
    rate = keras.callbacks.ReduceLROnPlateau(patience=1, **watched)
    callbacks = [best, rate]
    model.fit(X, Y, validation_data=(X, nothing), epochs=3, verbose=0, callbacks=callbacks)
    assert not (isinstance(best.best, float) and np.isnan(best.best))


@pytest.mark.parametrize("policy", ["bfloat16", "float64", "mixed_bfloat16"])
@pytest.mark.parametrize("balancer", [None, "uncertainty", "pcgrad"])
def test_every_policy_trains_with_default_arguments(
    policy: str, balancer: Any, request: pytest.FixtureRequest
) -> None:
    if policy == "float64" and toy.BACKEND == "jax":
        pytest.skip("JAX has no float64 unless told so when it starts")
    request.addfinalizer(lambda: keras.config.set_dtype_policy("float32"))
    keras.config.set_dtype_policy(policy)
    model = toy.build("SharedBottom", l2_reg_dnn=1e-4)
    model.compile("adam", balancer=balancer, **toy.QUICK)
    losses = model.fit(X, Y, batch_size=8, epochs=2, verbose=0).history["loss"]
    assert np.isfinite(losses).all()
    assert np.isfinite(model.evaluate(X, Y, verbose=0)).all()


@pytest.mark.parametrize("compiled", [False, True])
def test_floatx_may_be_float64(compiled: bool, request: pytest.FixtureRequest) -> None:
    if toy.BACKEND == "jax":
        pytest.skip("JAX has no float64 unless told so when it starts")
    policy = keras.config.dtype_policy()
    request.addfinalizer(lambda: keras.config.set_dtype_policy(policy))
    request.addfinalizer(lambda: keras.config.set_floatx("float32"))
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    model = toy.build("PLE")
    model.compile("adam", metrics="default", **({} if compiled else toy.QUICK))
    assert np.isfinite(model.fit(X, Y, batch_size=8, verbose=0).history["loss"]).all()


@tensorflow_only
def test_a_strategy_runs_one_step_per_call() -> None:
    import tensorflow as tf

    strategy = tf.distribute.MirroredStrategy(["/cpu:0"])
    with strategy.scope():
        model = toy.build("SharedBottom")
        model.compile("sgd", jit_compile=False)
    history = model.fit(X, Y, batch_size=8, epochs=2, verbose=0).history
    assert model.steps_per_execution == 1
    assert np.isfinite(history["loss"]).all()
    assert np.isfinite(model.evaluate(X, Y, batch_size=8, verbose=0)).all()
    assert [len(p) for p in model.predict(X, verbose=0)] == [24, 24]


@pytest.mark.parametrize("names", [["zeta", "alpha"], ["click", "click_long"], ["b", "a_loss"]])
def test_lists_of_metrics_are_in_task_order(names: list[str]) -> None:
    model = toy.randomize(toy.build("SharedBottom", task_names=names))
    model.compile("sgd", metrics=[["mae", "mse"]] * 2, weighted_metrics=["mape"], **toy.QUICK)
    assert model.metrics_names == ["loss", f"{names[0]}_loss", f"{names[1]}_loss"]
    logs = model.evaluate(X, Y, verbose=0, return_dict=True)
    listed = model.evaluate(X, Y, verbose=0)
    first, second = names
    kinds = ("mae", "mse", "mape")
    expected = ["loss", f"{first}_loss", f"{second}_loss"]
    plain = [f"{name}_{kind}" for name in names for kind in kinds[:2]]
    weighted = [f"{name}_mape" for name in names]
    assert model.metrics_names == [*expected, *plain, *weighted]
    assert listed == pytest.approx([logs[name] for name in model.metrics_names], rel=1e-6)
    assert model.test_on_batch(X, Y) == pytest.approx(listed, rel=1e-5)
    one = toy.build("SharedBottom", 1)
    one.compile("sgd", **toy.QUICK)
    assert np.isscalar(one.evaluate(X, Y[0], verbose=0))


def _parameter() -> Any:
    torch = pytest.importorskip("torch", reason="the extra torch is not installed")
    return torch.nn.Parameter(torch.ones(()))


NO_WEIGHTS: dict[str, tuple[Any, type[Exception]]] = {
    "variable": (lambda: keras.Variable(0.5, trainable=False), TypeError),
    "tf.Variable": (lambda: tf.Variable(0.5), TypeError),
    "parameter": (_parameter, TypeError),
    "tensor": (lambda: keras.ops.convert_to_tensor(0.5), TypeError),
    "array": (lambda: np.array([0.5]), TypeError),
    "string": (lambda: "1", TypeError),
    "function": (lambda: float, TypeError),
    "nan": (lambda: np.nan, ValueError),
    "negative": (lambda: -1, ValueError),
}


@pytest.mark.parametrize("case", NO_WEIGHTS)
def test_weights_of_losses_that_are_no_numbers_are_refused(case: str) -> None:
    model, (make, error) = toy.build("SharedBottom"), NO_WEIGHTS[case]
    for weights in ([1.0, make()], {"task_2": make()}):
        with pytest.raises(error, match=r"`loss_weights\['task_2'\]` should be a non-negative num"):
            model.compile("sgd", loss_weights=weights)


@pytest.mark.parametrize("activation", [keras.layers.PReLU(), "dice"])
def test_activations_with_weights_are_refused_early(activation: Any) -> None:
    columns = [SparseFeat("u", 10, 4), DenseFeat("p")]
    for factory in (MMoE, SharedBottom):
        with pytest.raises(ValueError, match="`dnn_activation` should be a"):
            factory(columns, num_tasks=2, dnn_activation=activation)
