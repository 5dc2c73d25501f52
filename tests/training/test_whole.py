"""Whatever ends a call, and from however many threads: no weight is lost."""

import pathlib
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import keras
import numpy as np
import pytest
import toy

from mtl.metrics import evaluate_tasks
from mtl.models import extract_task

X, Y = toy.features(48), toy.labels(rows=48)


def batches(fail_at: int, error: type[BaseException] = OSError) -> Any:
    """Batches of eight rows, of which reading one fails."""

    class Batches(keras.utils.PyDataset):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> Any:
            if index == fail_at:
                raise error("disk")
            rows = slice(8 * index, 8 * index + 8)
            x = {k: np.reshape(v, (48, -1))[rows] for k, v in X.items()}
            return x, tuple(v[rows, None] for v in Y)

    return Batches()


def _as_raised(error: type[BaseException]) -> Any:
    """An error in data that TensorFlow reads comes as one of its own."""
    if toy.BACKEND != "tensorflow":
        return error
    import tensorflow as tf

    return (error, tf.errors.UnknownError)


class Interrupt(keras.callbacks.Callback):
    """Raises at the n-th time that Keras comes by."""

    def __init__(self, hook: str, n: int = 1) -> None:
        super().__init__()
        self.left = n
        setattr(self, hook, self.count)

    def count(self, *args: Any, **kwargs: Any) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def model(**options: Any) -> Any:
    model = toy.build("SharedBottom", dnn_dropout=0.2)
    model.compile(keras.optimizers.Adam(0.05), metrics=["mae"], **{**toy.QUICK, **options})
    return model


def is_whole(model: Any, tmp_path: pathlib.Path) -> None:
    """Assert that a model has all its weights, predicts, saves and trains."""
    assert all(np.isfinite(w).all() for w in model.get_weights())
    expected = model.predict(X, verbose=0)
    model.save(tmp_path / "model.keras")
    # Without the optimizer: where no step was done, it has no variables yet.
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    toy.same(loaded.predict(X, verbose=0), expected)
    assert np.isfinite(model.fit(X, Y, verbose=0).history["loss"]).all()


def test_threads_predict_evaluate_and_train_in_turn() -> None:
    one = model()
    expected = one.predict(X, verbose=0)
    calls = [
        lambda: one.predict(X, verbose=0),
        lambda: one.predict(X, verbose=0, batch_size=7, callbacks=[keras.callbacks.Callback()]),
        lambda: one.predict_on_batch(X),
    ]
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(calls[i % 3]) for i in range(40)]
        others = [pool.submit(one.evaluate, X, Y, verbose=0) for _ in range(4)]
    for future in futures:
        toy.same(future.result(), expected)
    for other in others[1:]:
        assert other.result() == pytest.approx(others[0].result(), rel=1e-5)
    steps = one.steps_per_execution
    with ThreadPoolExecutor(4) as pool:
        fits = [pool.submit(one.fit, X, Y, batch_size=16, verbose=0) for _ in range(4)]
    assert all(np.isfinite(fit.result().history["loss"]).all() for fit in fits)
    assert int(one.optimizer.iterations) == 4 * 3
    assert one.steps_per_execution in (steps, 32)


def test_whatever_reads_a_model_may_run_beside_training() -> None:
    one = toy.build("ESMM", dnn_dropout=0.2)
    one.compile(keras.optimizers.Adam(0.01), metrics=["mae"], **toy.NO_XLA)
    y = [Y[0], Y[0] * Y[1]]
    one.fit(X, y, batch_size=8, epochs=1, verbose=0)
    tensors = {k: keras.ops.convert_to_tensor(v) for k, v in X.items()}
    readers: list[Any] = [
        lambda: one.predict(X, verbose=0),
        lambda: one.predict_on_batch(X),
        lambda: one(tensors),
        one.get_weights,
        lambda: extract_task(one, "cvr").predict(X, verbose=0),
        lambda: one.evaluate(X, y, verbose=0),
        lambda: evaluate_tasks(one, X, y),
    ]
    begun = int(one.optimizer.iterations)
    with ThreadPoolExecutor(4) as pool:
        fit = pool.submit(one.fit, X, y, batch_size=8, epochs=20, verbose=0)
        futures = [pool.submit(readers[i % len(readers)]) for i in range(4 * len(readers))]
    assert np.isfinite(fit.result().history["loss"]).all()
    for future in futures:
        future.result()
    assert int(one.optimizer.iterations) == begun + 20 * 6  # no batch was left out


@pytest.mark.parametrize("reader", ["predict", "predict_on_batch", "__call__"])
def test_added_losses_are_those_of_their_own_step(reader: str) -> None:
    one = toy.build("SharedBottom", l2_reg_embedding=1e6)
    x = toy.features(48, seed=2)
    if reader == "__call__":
        x = {k: keras.ops.convert_to_tensor(v) for k, v in x.items()}
    one.compile("sgd", **toy.NO_XLA)
    expected = one.evaluate(X, Y, batch_size=48, verbose=0)
    with ThreadPoolExecutor(1) as pool:
        futures = []

        def binary_crossentropy(y: Any, p: Any) -> Any:
            """Between the layers' losses and their sum, let another thread call the layers."""
            futures.append(pool.submit(getattr(one, reader), x, **quiet))
            wait(futures, timeout=0.5)
            return keras.losses.binary_crossentropy(y, p)

        quiet = {"verbose": 0} if reader == "predict" else {}
        one.compile("sgd", loss=binary_crossentropy, **toy.NO_XLA)
        assert one.evaluate(X, Y, batch_size=48, verbose=0) == pytest.approx(expected, rel=1e-5)
    for future in futures:
        future.result()


def test_data_and_callbacks_may_predict_in_another_thread() -> None:
    one = model()

    class Hard(keras.utils.PyDataset):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> Any:
            one.predict(X, verbose=0)
            rows = slice(8 * index, 8 * index + 8)
            x = {k: np.reshape(v, (48, -1))[rows] for k, v in X.items()}
            return x, tuple(v[rows, None] for v in Y)

    class Waits(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            with ThreadPoolExecutor(1) as pool:
                pool.submit(one.predict, X, verbose=0).result(60)

    # In a thread, so that what would wait for ever fails.
    with ThreadPoolExecutor(1) as pool:
        fit = pool.submit(one.fit, Hard(workers=2), shuffle=False, verbose=0, callbacks=[Waits()])
        assert np.isfinite(fit.result(120).history["loss"]).all()
    assert int(one.optimizer.iterations) == 4


@pytest.mark.parametrize("at_the_end", ["get_weights", "predict", "evaluate"])
@pytest.mark.parametrize("by_batch", ["get_weights", "predict_on_batch", "call"])
def test_callbacks_read_the_model_as_they_like(at_the_end: str, by_batch: str) -> None:
    tensors = {k: keras.ops.convert_to_tensor(v) for k, v in X.items()}

    def read(model: Any, how: str) -> None:
        calls = {
            "get_weights": model.get_weights,
            "predict": lambda: model.predict(X, verbose=0),
            "predict_on_batch": lambda: model.predict_on_batch(X),
            "evaluate": lambda: model.evaluate(X, Y, verbose=0),
            "call": lambda: model(tensors),
        }
        calls[how]()

    class Reads(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            read(self.model, at_the_end)

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            read(self.model, by_batch)

    one, other = model(), model()
    options: dict[str, Any] = {"batch_size": 16, "epochs": 2, "shuffle": False, "verbose": 0}
    one.fit(X, Y, callbacks=[Reads()], **options)
    other.fit(X, Y, **options)
    toy.same(one.get_weights(), other.get_weights(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["predict", "evaluate"])
@pytest.mark.parametrize("n", [1, 3])
def test_an_interrupt_while_predicting_changes_nothing(
    method: str, n: int, tmp_path: pathlib.Path
) -> None:
    one = model(steps_per_execution=1)
    one.fit(X, Y, batch_size=16, verbose=0)
    before, expected = one.get_weights(), one.predict(X, verbose=0)
    hook = {"predict": "on_predict_batch_end", "evaluate": "on_test_batch_end"}[method]
    data = (X,) if method == "predict" else (X, Y)
    with pytest.raises(KeyboardInterrupt):
        getattr(one, method)(*data, batch_size=8, verbose=0, callbacks=[Interrupt(hook, n)])
    toy.same(one.get_weights(), before, rtol=0, atol=0)
    toy.same(one.predict(X, verbose=0), expected, rtol=0, atol=0)
    is_whole(one, tmp_path)


@pytest.mark.parametrize("fail_at", [0, 2])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("trained", [False, True])
def test_data_that_fail_leave_the_last_whole_step(
    fail_at: int, error: type[BaseException], trained: bool, tmp_path: pathlib.Path
) -> None:
    one, other = model(), model()
    for each in (one, other):
        if trained:
            each.fit(X, Y, batch_size=16, shuffle=False, verbose=0)
    with pytest.raises(_as_raised(error)):
        one.fit(batches(fail_at, error), shuffle=False, verbose=0)
    for step in range(fail_at):
        x, y = batches(9)[step]
        other.train_on_batch(x, list(y))
    if fail_at == 0:
        toy.same(one.get_weights(), other.get_weights(), rtol=0, atol=0)
    else:
        toy.same(one.get_weights(), other.get_weights(), rtol=1e-4, atol=1e-5)
    assert int(one.optimizer.iterations) == int(other.optimizer.iterations)
    is_whole(one, tmp_path)


@pytest.mark.parametrize("optimizer", ["adam", "lazy_adam"])
@pytest.mark.filterwarnings("ignore:LazyAdam received the gradient of a whole")
def test_an_interrupt_in_training_leaves_the_last_whole_step(
    optimizer: str, tmp_path: pathlib.Path
) -> None:
    from mtl.optimizers import LazyAdam

    def made(steps: int) -> Any:
        chosen = keras.optimizers.Adam(0.05) if optimizer == "adam" else LazyAdam(0.05)
        one = toy.build("SharedBottom", dnn_dropout=0.2)
        one.compile(chosen, balancer="uncertainty", **toy.QUICK)
        with pytest.raises(KeyboardInterrupt):
            one.fit(
                X, Y, batch_size=8, epochs=3, shuffle=False, verbose=0,
                callbacks=[Interrupt("on_train_batch_end", steps)],
            )  # fmt: skip
        return one

    one = made(8)
    assert int(one.optimizer.iterations) == 8
    # The same steps, whole: the interrupt comes with the next epoch's begin.
    other = toy.build("SharedBottom", dnn_dropout=0.2)
    chosen = keras.optimizers.Adam(0.05) if optimizer == "adam" else LazyAdam(0.05)
    other.compile(chosen, balancer="uncertainty", **toy.QUICK)
    other.fit(X, Y, batch_size=8, shuffle=False, verbose=0)
    other.fit(
        {k: v[:16] for k, v in X.items()},
        [v[:16] for v in Y],
        batch_size=8,
        shuffle=False,
        verbose=0,
    )
    toy.same(one.get_weights()[:4], other.get_weights()[:4], rtol=1e-4, atol=1e-5)
    is_whole(one, tmp_path)


class InterruptedSGD(keras.optimizers.SGD):
    """Ctrl-C comes when it has updated half of the weights, for the n-th time."""

    def __init__(self, n: int = 10**9, **kwargs: Any) -> None:
        super().__init__(0.05, **kwargs)
        self.left, self.updated = n, 0

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        super().update_step(gradient, variable, learning_rate)
        self.updated = (self.updated + 1) % len(self._trainable_variables)
        if self.updated == len(self._trainable_variables) // 2:
            if toy.BACKEND == "jax":
                import jax

                jax.debug.callback(self.count)
            else:
                self.count()

    def count(self) -> None:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Python's own handler, which programs in the background don't have."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("steps", ["epoch", "batch"])
@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_in_the_middle_of_a_step_waits_for_its_end(
    steps: str, tmp_path: pathlib.Path
) -> None:
    def made(n: int) -> Any:
        one = toy.build("SharedBottom")
        options = {} if toy.BACKEND == "jax" else {"run_eagerly": True}
        one.compile(InterruptedSGD(n), steps_per_execution=1, **options)
        return one

    one, other = made(4), made(10**9)
    options: dict[str, Any] = {"batch_size": 16, "shuffle": False, "verbose": 0}
    handler = signal.getsignal(signal.SIGINT)
    train = {
        "epoch": lambda: one.fit(X, Y, epochs=9, **options),
        "batch": lambda: [one.train_on_batch(X, Y) for _ in range(9)],
    }
    with pytest.raises(KeyboardInterrupt):
        train[steps]()
    assert signal.getsignal(signal.SIGINT) is handler
    if steps == "epoch":
        other.fit(X, Y, **options)
        other.fit({k: v[:16] for k, v in X.items()}, [v[:16] for v in Y], **options)
    else:
        for _ in range(4):
            other.train_on_batch(X, Y)
    assert int(one.optimizer.iterations) == 4
    toy.same(one.get_weights(), other.get_weights(), rtol=1e-5, atol=1e-6)
    one.optimizer.left = 10**9
    is_whole(one, tmp_path)


def test_a_callback_that_catches_an_error_lets_training_go_on() -> None:
    class Looks(keras.callbacks.Callback):
        seen = 0

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            try:
                self.model.predict(X, verbose=0, callbacks=[Interrupt("on_predict_batch_end")])
            except KeyboardInterrupt:
                self.seen += 1
            assert all(np.isfinite(w).all() for w in self.model.get_weights())

    one, other, looks = model(), model(), Looks()
    options: dict[str, Any] = {"batch_size": 16, "epochs": 3, "shuffle": False, "verbose": 0}
    one.fit(X, Y, callbacks=[looks], **options)
    other.fit(X, Y, **options)
    assert looks.seen == 3
    toy.same(one.get_weights(), other.get_weights(), rtol=1e-4, atol=1e-5)


def test_an_error_in_a_validation_or_a_step_by_hand() -> None:
    one = model()
    one.fit(X, Y, batch_size=16, verbose=0)
    with pytest.raises(_as_raised(OSError), match="disk"):
        one.fit(X, Y, batch_size=16, validation_data=batches(1), verbose=0)
    assert int(one.optimizer.iterations) == 6
    assert all(np.isfinite(w).all() for w in one.get_weights())
    with pytest.raises(_as_raised(OSError), match="disk"):
        one.evaluate(batches(1), verbose=0)
    with pytest.raises(_as_raised(OSError), match="disk"):
        one.predict(batches(1), verbose=0)
    assert np.isfinite(one.evaluate(X, Y, verbose=0)).all()
