"""How much a call does: steps in fit, rows in predict; neither changes a result."""

from typing import Any

import keras
import numpy as np
import pytest
import toy

from mtl.training import pace

N = 150
X, Y = toy.features(N), toy.labels(rows=N)


class Watcher(keras.callbacks.Callback):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seen.append(batch)


def test_small_models_take_many_steps_and_rows_per_call_and_large_ones_few(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = toy.build("SharedBottom")
    most = 1 if toy.BACKEND == "torch" else 32
    assert pace.steps_at_once(model, 1024, None) == most
    assert pace.steps_at_once(model, None, [keras.callbacks.EarlyStopping()]) == most
    assert pace.rows_at_once(model, 100) == 8192
    assert pace.rows_at_once(model, 10_000) == 10_000
    # As if the model were so large that a call should do 20 rows.
    tables = sum(np.prod(weight.shape) for _, weight in model.encoder.tables)
    monkeypatch.setattr(pace, "_WORK", 20 * int(model.count_params() - tables))
    assert pace.steps_at_once(model, 5, None) == min(most, 4)
    assert pace.steps_at_once(model, 1024, None) == 1
    assert [pace.rows_at_once(model, size) for size in (10, 17, None)] == [16, 17, 32]


@pytest.mark.parametrize(
    ("make", "steps"),
    [
        (Watcher, 1),
        (keras.callbacks.TerminateOnNaN, 1),
        (lambda: keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: None), 1),
        (lambda: keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: None), 32),
        (lambda: keras.callbacks.ModelCheckpoint("x.keras", save_freq=10), 1),
        (lambda: keras.callbacks.ModelCheckpoint("x.keras"), 32),
        (lambda: keras.callbacks.CallbackList([]), 1),
    ],
)
def test_callbacks_that_watch_batches_see_each(make: Any, steps: int) -> None:
    if toy.BACKEND == "torch":
        steps = 1
    assert pace.steps_at_once(toy.build("ESMM"), 10, [make()]) == steps


@pytest.mark.parametrize(
    ("have", "rows", "want"), [(1, 8, 1), (3, 8, 4), (4, 8, 4), (7, 6, 12), (6, 6, 6), (9, 4, 12)]
)
def test_few_lengths_occur(have: int, rows: int, want: int) -> None:
    assert pace.padded(have, rows) == want


@pytest.mark.parametrize("rows", [1, 5, 64, N])
def test_predictions_do_not_depend_on_the_rows_per_call(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = toy.randomize(toy.build("SharedBottom"))
    x = {name: value[:rows] for name, value in X.items()}
    expected = toy.outputs(model, {k: v.reshape(rows, -1) for k, v in x.items()})
    for most in (1, 32, 8192):
        monkeypatch.setattr(pace, "_MOST_ROWS", most)
        for batch_size in (None, 7, 64):
            got = model.predict(x, batch_size=batch_size, verbose=0)
            assert [len(output) for output in got] == [rows, rows]
            toy.same(got, expected)
    watched = model.predict(x, batch_size=7, verbose=0, callbacks=[Watcher()])
    toy.same(watched, expected)


@pytest.mark.skipif(toy.BACKEND == "torch", reason="one step per call on torch")
def test_steps_per_call_change_nothing() -> None:
    results = []
    for steps in ("auto", 1):
        model = toy.build("SharedBottom", seed=3)
        model.compile("adam", metrics=["mae"], steps_per_execution=steps, **toy.NO_XLA)
        history = model.fit(
            X, Y, batch_size=20, epochs=2, shuffle=False, verbose=0, validation_data=(X, Y)
        ).history
        assert model.steps_per_execution == (32 if steps == "auto" else 1)
        results.append((history, model.get_weights(), model.evaluate(X, Y, verbose=0)))
    (one, weights, scores), (other, same_weights, same_scores) = results
    assert one.keys() == other.keys()
    for key in one:
        np.testing.assert_allclose(one[key], other[key], rtol=1e-5)
    toy.same(weights, same_weights)
    np.testing.assert_allclose(scores, same_scores, rtol=1e-5)


def test_a_watcher_in_a_later_fit_sees_every_batch() -> None:
    model = toy.build("SharedBottom")
    model.compile("sgd", **toy.NO_XLA)
    model.fit(X, Y, batch_size=50, verbose=0)
    watcher = Watcher()
    model.fit(X, Y, batch_size=50, verbose=0, callbacks=[watcher])
    assert watcher.seen == [0, 1, 2]
    model.fit(X, Y, batch_size=50, verbose=0, steps_per_epoch=2, callbacks=None)
    assert model.steps_per_execution == 1


@pytest.mark.skipif(toy.BACKEND == "torch", reason="one step per call on torch")
def test_every_row_of_a_data_set_is_predicted_after_training_in_many_steps() -> None:
    model = toy.build("SharedBottom")
    model.compile("sgd", **toy.NO_XLA)
    expected = model.predict(X, verbose=0)
    model.fit(X, [y * 0 for y in Y], batch_size=50, verbose=0)
    assert model.steps_per_execution == 32

    class Batches(keras.utils.PyDataset):
        def __len__(self) -> int:
            return 15

        def __getitem__(self, index: int) -> Any:
            return ({name: value[index * 10 : index * 10 + 10] for name, value in X.items()},)

    trained = model.predict(X, verbose=0)
    assert np.abs(trained[0] - expected[0]).max() > 1e-4
    toy.same(model.predict(Batches(), verbose=0), trained)
    toy.same(model.predict(X, batch_size=20, verbose=0, callbacks=[Watcher()]), trained)
    toy.same(model.predict_on_batch(X), trained)
    # The total loss: on TensorFlow Keras doesn't weigh the tasks' losses by the batches' lengths.
    losses = [model.evaluate(X, Y, verbose=0, batch_size=rows)[0] for rows in (20, N)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.skipif(toy.BACKEND == "torch", reason="it compiles nothing")
def test_each_number_of_steps_is_compiled_once_and_on_jax_one_serves_all() -> None:
    traced = []

    def loss(y_true: Any, y_pred: Any) -> Any:
        traced.append(y_pred)
        return keras.losses.binary_crossentropy(y_true, y_pred)

    model = toy.build("SharedBottom")
    model.compile("sgd", loss=[loss, "mse"])
    counts = []
    for _ in range(3):
        watcher = Watcher()
        model.fit(X, Y, batch_size=50, verbose=0)
        model.fit(X, Y, batch_size=50, verbose=0, callbacks=[watcher])
        assert watcher.seen == [0, 1, 2]
        counts.append(len(traced))
    assert len(set(counts)) == 1
    if toy.BACKEND == "jax":
        assert counts[0] == 1


def test_auto_is_saved_and_a_number_is_kept(tmp_path: Any) -> None:
    for given in ("auto", 1 if toy.BACKEND == "torch" else 3):  # Keras' torch takes 1 only
        model = toy.build("SharedBottom")
        model.compile("sgd", steps_per_execution=given, **toy.NO_XLA)
        model.save(tmp_path / "m.keras")
        loaded = keras.models.load_model(tmp_path / "m.keras")
        loaded.fit(X, Y, batch_size=50, verbose=0)
        auto = 1 if toy.BACKEND == "torch" else 32
        assert loaded.steps_per_execution == (auto if given == "auto" else given)
