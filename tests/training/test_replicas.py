"""Two replicas of TensorFlow's MirroredStrategy train what one device trains."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
import toy

from mtl.losses import ConversionRisk, FunnelLoss, JRCLoss, OrderPenalty, PairwiseRankLoss
from mtl.optimizers import LazyAdam

if toy.BACKEND != "tensorflow":
    pytest.skip("strategies of TensorFlow", allow_module_level=True)

import tensorflow as tf

ROWS, BATCH = 11, 10  # the last batch is a row, of which one replica gets none
PAIR = ("task_1", "task_2")
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture(scope="session")
def mirrored() -> Any:
    """One for the process: TensorFlow gives a second one's collectives the keys of the first."""
    strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
    assert strategy.num_replicas_in_sync == 2
    return strategy


def data(rows: int = ROWS) -> tuple[dict[str, np.ndarray], list[np.ndarray], np.ndarray]:
    x, y = toy.features(rows), toy.labels(rows=rows)
    y[0][::3] = np.nan
    y[1][:4] = np.nan  # all that the first replica has of these, where batches are of 7
    return x, y, np.linspace(0, 2, rows).astype("float32")


def same(strategy: Any, results: Callable[[], list[Any]], **options: Any) -> None:
    """Assert that a function of no arguments returns the same within a strategy's scope."""
    keras.utils.set_random_seed(0)
    expected = results()
    keras.utils.set_random_seed(0)
    with strategy.scope():
        received = results()
    for ours, theirs in zip(received, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, **{**CLOSE, **options})


def fitted(name: str, compiled: dict[str, Any] | None = None, **options: Any) -> list[Any]:
    """Return logs and weights of a model that was trained a little."""
    model = toy.build(name, l2_reg_embedding=0.01, seed=1, **options)
    model.compile(**{"optimizer": sgd(), "run_eagerly": True, **(compiled or {})})
    x, y, weights = data()
    how = {"batch_size": BATCH, "shuffle": False, "verbose": 0}
    history = model.fit(x, y, sample_weight=weights, **how).history
    return [*history.values(), *model.get_weights()]


def sgd(rate: float = 0.5) -> Any:
    return keras.optimizers.SGD(rate)


def adam() -> Any:
    return keras.optimizers.Adam(0.01, epsilon=1e-3)


@pytest.mark.parametrize(
    ("name", "optimizer", "eager"),
    [("SharedBottom", sgd, False), ("MMoE", adam, True), ("ESMM", sgd, True)],
)
def test_replicas_train_what_one_device_trains(
    mirrored: Any, name: str, optimizer: Any, eager: bool
) -> None:
    def results() -> list[Any]:
        model = toy.build(name, l2_reg_embedding=0.01, seed=1)
        how = {"run_eagerly": True} if eager else {"jit_compile": False}
        model.compile(optimizer(), metrics=["mae", "AUC"], **how)
        x, y, weights = data()
        history = model.fit(
            x,
            y,
            sample_weight=weights,
            batch_size=BATCH,
            shuffle=False,
            verbose=0,
            validation_data=(x, y),
            validation_batch_size=7,
        ).history
        evaluated = model.evaluate(x, y, sample_weight=weights, batch_size=7, verbose=0)
        predicted = model.predict(x, batch_size=BATCH, verbose=0)
        logs = [history[key] for key in sorted(history)]
        return [*logs, evaluated, *predicted, *model.get_weights()]

    same(mirrored, results)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SharedBottom", {"dnn_use_bn": True}),
        ("STAR", {}),
        ("MMoE", {"gate": "dselect_k", "num_selected": 2, "entropy_weight": 0.1}),
        ("SharedBottom", {"task_types": ["regression", "lifetime_value"]}),
    ],
)
def test_means_over_rows_in_layers_are_of_the_whole_batch(
    mirrored: Any, name: str, options: dict[str, Any]
) -> None:
    """Moments, too: their variances as differences of squares, which costs a digit."""
    same(mirrored, lambda: fitted(name, **options), rtol=1e-4, atol=1e-5)


def test_joint_losses_are_of_the_whole_batch(mirrored: Any) -> None:
    joint = [
        OrderPenalty(*PAIR),
        FunnelLoss(*PAIR),
        ConversionRisk(*PAIR, cvr="task_2", estimator="snips"),
        PairwiseRankLoss("task_2", groups="user"),
        JRCLoss("task_2"),
    ]
    same(mirrored, lambda: fitted("SharedBottom", {"joint_losses": joint}))


@pytest.mark.parametrize("reduction", ["sum", "mean_with_sample_weight"])
def test_losses_of_other_reductions(mirrored: Any, reduction: str) -> None:
    loss = keras.losses.BinaryCrossentropy(reduction=reduction)
    same(mirrored, lambda: fitted("SharedBottom", {"optimizer": sgd(0.01), "loss": loss}))


def test_labels_that_are_integers_and_several_classes(mirrored: Any) -> None:
    def results() -> list[Any]:
        model = toy.build("SharedBottom", task_types=[("multiclass", 3), ("multilabel", 2)], seed=1)
        model.compile(sgd(), metrics="default", run_eagerly=True)
        classes = np.arange(ROWS) % 3
        several = np.stack([classes == 1, classes > 0], axis=1).astype("int32")
        history = model.fit(data()[0], [classes, several], batch_size=BATCH, verbose=0)
        return [*history.history.values(), *model.get_weights()]

    same(mirrored, results)


def test_data_sets_of_any_batches(mirrored: Any) -> None:
    x, y, _ = data(21)

    class Batches(keras.utils.PyDataset):
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> Any:
            rows = slice(7 * index, 7 * index + 5 + index)
            return {name: v[rows] for name, v in x.items()}, [v[rows] for v in y]

    def generated() -> Iterator[Any]:
        yield from (Batches()[i] for i in range(3))

    def results() -> list[Any]:
        model = toy.build("SharedBottom", seed=1)
        model.compile(sgd(), run_eagerly=True)
        dataset = tf.data.Dataset.from_tensor_slices((x, tuple(y))).batch(BATCH)
        kept = [
            model.fit(dataset, shuffle=False, verbose=0),
            model.fit(Batches(), shuffle=False, verbose=0),
        ]
        kept.append(model.fit(generated(), steps_per_epoch=3, shuffle=False, verbose=0))
        logs = [value for history in kept for value in history.history.values()]
        return [*logs, model.evaluate(Batches(), verbose=0), *model.get_weights()]

    same(mirrored, results)


@pytest.mark.parametrize("rows", [5, 1])
def test_one_batch(mirrored: Any, rows: int) -> None:
    def results() -> list[Any]:
        model = toy.build("SharedBottom", seed=1)
        model.compile(sgd(), metrics=["mae", "AUC"], run_eagerly=True)
        x, _, weights = data(rows)
        y = toy.labels(rows=rows)
        y[0][1:3] = np.nan
        logs = [
            model.train_on_batch(x, y, weights + 1),
            model.test_on_batch(x, y),
            [value for _, value in sorted(model.test_on_batch(x, y, return_dict=True).items())],
        ]
        predictions = model.predict_on_batch(x)
        assert [len(p) for p in predictions] == [rows, rows]
        return [*logs, *predictions, *model.get_weights()]

    same(mirrored, results)


def test_dropout_draws(mirrored: Any) -> None:
    with mirrored.scope():
        assert all(np.isfinite(v).all() for v in fitted("SharedBottom", dnn_dropout=0.3))


def test_what_needs_the_gradients_of_one_device_is_refused(mirrored: Any) -> None:
    with mirrored.scope():
        model = toy.build("SharedBottom")
        with pytest.raises(ValueError, match=r"`balancer` should be None under a distribution"):
            model.compile("sgd", balancer="pcgrad")
        with pytest.raises(ValueError, match=r"Lazy optimizers should be used on one device"):
            model.compile(LazyAdam())
        with pytest.raises(ValueError, match=r"`steps_per_execution` should be 1 or 'auto'"):
            model.compile("sgd", steps_per_execution=2)


def test_what_lies_outside_of_the_scope_is_refused(mirrored: Any) -> None:
    outside = toy.build("SharedBottom")
    outside.compile("sgd", run_eagerly=True)
    with mirrored.scope():
        inside = toy.build("SharedBottom")
        for call in (lambda: outside.compile("sgd"), lambda: outside.fit(*data()[:2])):
            with pytest.raises(RuntimeError, match="model should be made within the scope"):
                call()
    with pytest.raises(RuntimeError, match="`compile` should be called within the scope"):
        inside.compile("sgd")


@pytest.mark.parametrize(
    "kind", ["MultiWorkerMirroredStrategy", "experimental.CentralStorageStrategy"]
)
def test_other_strategies_are_refused(kind: str) -> None:
    *within, name = kind.split(".")
    strategy = getattr(tf.distribute.experimental if within else tf.distribute, name)()
    with strategy.scope():
        model = toy.build("SharedBottom")
        with pytest.raises(
            RuntimeError, match=r"tf\.distribute\.MirroredStrategy.*mtl\.training\.join"
        ):
            model.compile("sgd")


def test_a_keras_distribution_is_refused() -> None:
    model = toy.build("SharedBottom")
    with contextlib.ExitStack() as stack:
        stack.callback(keras.distribution.set_distribution, None)
        keras.distribution.set_distribution(keras.distribution.DataParallel(devices=["cpu:0"]))
        with pytest.raises(RuntimeError, match=r"KERAS_BACKEND=jax\. Received: .*tensorflow"):
            model.compile("sgd")
