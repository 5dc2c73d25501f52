"""Several devices on JAX train what one trains, whatever the batches and tables are cut into."""

import pathlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
import toy

from mtl.features import SparseFeat
from mtl.inspection import collectives
from mtl.layers import tables
from mtl.losses import OrderPenalty
from mtl.models import MMoE
from mtl.optimizers import LazyAdagrad, LazyAdam
from mtl.training import grow, shard_tables

if toy.BACKEND != "jax":
    pytest.skip("keras.distribution works on JAX", allow_module_level=True)

ROWS, BATCH = 107, 25  # batches, and a rest, that four devices can't share
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture
def spread() -> Iterator[Any]:
    """A function that spreads the models made from then on over four devices."""

    def over_four(kind: str = "tables") -> None:
        assert len(keras.distribution.list_devices()) == 4
        if kind == "tables":
            shard_tables()
        else:
            keras.distribution.set_distribution(keras.distribution.DataParallel())

    yield over_four
    keras.distribution.set_distribution(None)


def data(rows: int = ROWS) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    x, y = toy.features(rows), toy.labels(rows=rows)
    y[0][::3] = np.nan
    return x, y


def built(name: str = "SharedBottom", **options: Any) -> Any:
    return toy.build(name, l2_reg_embedding=0.01, **options)


class Batches(keras.utils.PyDataset):
    """Batches of 20 to 24 rows."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Any:
        x, y = data()
        rows = slice(20 * index, 20 * index + 20 + index)
        return {name: v[rows] for name, v in x.items()}, [v[rows] for v in y]


class Inputs(Batches):
    """The same without labels."""

    def __getitem__(self, index: int) -> Any:
        return super().__getitem__(index)[:1]


def by_arrays(model: Any) -> list[Any]:
    x, y = data()
    weights = np.linspace(0, 2, ROWS).astype("float32")
    history = model.fit(
        x, y, batch_size=BATCH, epochs=2, sample_weight=weights, validation_split=0.2, verbose=0
    )
    results = [history.history[key] for key in sorted(history.history)]
    results += [model.evaluate(x, y, batch_size=31, verbose=0)]
    return results + model.predict(x, verbose=0)


def by_dataset(model: Any) -> list[Any]:
    history = model.fit(Batches(), epochs=2, verbose=0, shuffle=False, validation_data=Batches())
    results = [history.history[key] for key in sorted(history.history)]
    results += [model.evaluate(Batches(), verbose=0)]
    return results + model.predict(Inputs(), verbose=0)


def by_generator(model: Any) -> list[Any]:
    def batches() -> Iterator[Any]:
        yield from (Batches()[i] for i in range(5))

    history = model.fit(batches(), steps_per_epoch=5, verbose=0, shuffle=False)
    return [history.history[key] for key in sorted(history.history)]


def by_tf_data(model: Any) -> list[Any]:
    tf = pytest.importorskip("tensorflow")
    x, y = data()
    dataset = tf.data.Dataset.from_tensor_slices((x, tuple(y))).batch(BATCH)
    history = model.fit(dataset, verbose=0, shuffle=False)
    return [history.history[key] for key in sorted(history.history)]


def batch_by_batch(model: Any) -> list[Any]:
    x, y = data(23)
    results = [model.train_on_batch(x, y), model.test_on_batch(x, y)]
    return results + model.predict_on_batch(x)


@pytest.mark.parametrize("train", [by_arrays, by_dataset, by_generator, by_tf_data, batch_by_batch])
def test_batches_of_any_length_are_as_on_one_device(spread: Any, train: Any) -> None:
    def results() -> list[Any]:
        keras.utils.set_random_seed(0)
        model = built()
        model.compile(LazyAdam(0.01), metrics=["mae", "AUC"])
        return train(model)

    expected = results()
    spread()
    for ours, theirs in zip(results(), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, **CLOSE)


@pytest.mark.parametrize(
    ("name", "options", "compiled"),
    [
        ("MMoE", {"dnn_use_bn": True}, {}),
        ("MMoE", {"gate": "dselect_k", "num_selected": 2, "entropy_weight": 0.1}, {}),
        ("SharedBottom", {"dnn_dropout": 0.3}, {"balancer": "uncertainty"}),
        ("SharedBottom", {}, {"balancer": "pcgrad"}),
        ("SharedBottom", {}, {"joint_losses": [OrderPenalty("task_1", "task_2")]}),
        ("STAR", {"dnn_use_bn": True}, {}),
        ("ESMM", {}, {}),
        ("SharedBottom", {"task_types": ["binary", "regression"]}, {}),
    ],
)
def test_rows_that_fill_a_batch_up_count_nowhere(
    spread: Any, name: str, options: dict[str, Any], compiled: dict[str, Any]
) -> None:
    """Neither in the moments of a normalisation, nor in what is added to the loss."""

    def results() -> list[Any]:
        keras.utils.set_random_seed(0)
        model = built(name, **options)
        # A bias before a normalisation has a gradient of rounding errors: no full steps for it.
        model.compile(LazyAdam(0.01, epsilon=1e-3), **compiled)
        x, y = data()
        history = model.fit(x, y, batch_size=BATCH, epochs=2, verbose=0, shuffle=False)
        return [*history.history.values(), *model.predict(x, verbose=0)]

    expected = results()
    spread()
    for ours, theirs in zip(results(), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_labels_that_are_integers_and_several_classes(spread: Any) -> None:
    def results() -> list[Any]:
        model = built("SharedBottom", task_types=[("multiclass", 3), ("multilabel", 2)])
        model.compile(LazyAdam(0.01), metrics="default")
        classes = np.arange(ROWS) % 3
        several = np.stack([classes == 1, classes > 0], axis=1).astype("int32")
        history = model.fit(data()[0], [classes, several], batch_size=BATCH, verbose=0)
        return list(history.history.values())

    keras.utils.set_random_seed(0)
    expected = results()
    spread()
    keras.utils.set_random_seed(0)
    np.testing.assert_allclose(results(), expected, **CLOSE)


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [
        ("SharedBottom", lambda: LazyAdam(0.01, row_wise=True, global_clipnorm=0.1)),
        ("SharedBottom", lambda: LazyAdam(0.01, weight_decay=0.01)),
        ("STEM", lambda: LazyAdagrad(0.1, clipnorm=0.05)),
    ],
)
def test_lazy_updates_of_shared_tables(spread: Any, name: str, optimizer: Any) -> None:
    """Rows that a batch looks up several times, and those that it doesn't, in every table."""

    def results() -> list[Any]:
        model = built(name)
        model.compile(optimizer())
        x, y = data(44)
        model.fit(x, y, batch_size=11, epochs=2, verbose=0, shuffle=False)
        return model.get_weights()

    expected = results()
    spread()
    for ours, theirs in zip(results(), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, **CLOSE)


def test_devices_hold_equal_parts_of_tables_and_of_their_state(spread: Any) -> None:
    spread()
    model = built()
    model.compile(LazyAdam(row_wise=True))
    [(table, weight)] = model.encoder.tables
    assert table.shape[0] % 4  # so that there are rows which no id reads
    assert weight.shape[0] == table.shape[0] + -table.shape[0] % 4
    of_table = [v for v in model.optimizer.variables if "table_0" in v.path]
    assert len(of_table) == 3
    for variable in [weight, *of_table]:
        shard = variable.value.sharding.shard_shape(variable.shape)
        assert shard == (variable.shape[0] // 4, *variable.shape[1:])
    assert model.get_weights()[0].shape == table.shape


def test_files_know_nothing_of_devices(spread: Any, tmp_path: pathlib.Path) -> None:
    x, y = data()

    def made(folder: str) -> Any:
        model = built("SharedBottom")
        model.compile(LazyAdam(0.01))
        model.fit(x, y, batch_size=BATCH, verbose=0, shuffle=False)
        model.save(tmp_path / folder)
        return model.predict(x, verbose=0)

    def loaded(file: str) -> list[Any]:
        model = keras.models.load_model(tmp_path / file)
        before = model.predict(x, verbose=0)
        model.fit(x, y, batch_size=BATCH, verbose=0, shuffle=False)
        return [before, model.predict(x, verbose=0)]

    expected = made("one.keras")
    trained_on = loaded("one.keras")
    spread()
    np.testing.assert_allclose(made("four.keras"), expected, **CLOSE)
    for file in ("one.keras", "four.keras"):
        np.testing.assert_allclose(loaded(file), trained_on, **CLOSE)
    keras.distribution.set_distribution(None)
    np.testing.assert_allclose(loaded("four.keras"), trained_on, **CLOSE)


def test_weights_go_from_one_device_to_four_and_back(spread: Any) -> None:
    one = built(seed=3)
    spread()
    four = built(seed=4)
    four.set_weights(one.get_weights())
    four.encoder.set_weights(one.encoder.get_weights())
    for ours, theirs in zip(four.get_weights(), one.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(four.encoder.embeddings("item"), one.encoder.embeddings("item"))


def test_a_table_starts_the_same_whoever_draws_its_rows(
    spread: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_BLOCK", 16)
    columns = [
        SparseFeat("user", 103, embedding_dim=3),
        SparseFeat("ones", 33, embedding_dim=3, embeddings_initializer="ones"),
        SparseFeat("item", 49, embedding_dim=3, embeddings_initializer="glorot_normal"),
    ]

    def weights() -> list[Any]:
        model = MMoE(columns, num_tasks=2, seed=1)
        return [model.encoder.embeddings(column.name) for column in columns]

    expected = weights()
    assert 0.5e-4 < expected[0].std() < 2e-4  # of DeepCTR's initializer
    assert len(np.unique(expected[0])) == expected[0].size  # no two blocks alike
    spread()
    for ours, theirs in zip(weights(), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_grown_tables_are_shared_out_too(spread: Any) -> None:
    x, y = data()

    def grown() -> list[Any]:
        model = built("SharedBottom")
        model.compile(LazyAdam(0.01))
        model.fit(x, y, batch_size=BATCH, verbose=0, shuffle=False)
        larger = [c._replace(vocabulary_size=16) if c.name == "user" else c for c in toy.columns()]
        other = grow(model, larger)
        other.fit({**x, "user": x["user"] + 4}, y, batch_size=BATCH, verbose=0, shuffle=False)
        return [other.encoder.embeddings("user"), *other.predict(x, verbose=0)]

    expected = grown()
    spread()
    for ours, theirs in zip(grown(), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, **CLOSE)


def test_an_optimizer_of_whole_tables_is_refused(spread: Any) -> None:
    spread()
    with pytest.raises(ValueError, match=r"`optimizer` should be lazy .*Received: Adam"):
        built().compile("adam")


def test_what_devices_send_doesnt_grow_with_the_tables(spread: Any) -> None:
    spread()

    def sent(vocabulary: int) -> list[str]:
        columns = [SparseFeat("user", vocabulary, embedding_dim=3), *toy.columns()[2:]]
        model = MMoE(columns, num_tasks=2, task_names=["task_1", "task_2"], seed=1)
        model.compile(LazyAdam())
        x, y = data(BATCH)
        table = collectives(model, x, y)
        assert len(table) > 3
        assert table["bytes"].sum() > 4 * 4 * BATCH  # ids at least
        return sorted(map(" ".join, zip(table["kind"], table["shapes"], strict=True)))

    assert sent(1003) == sent(50_007)
