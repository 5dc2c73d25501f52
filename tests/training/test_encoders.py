"""Models with several encoders: tables of their own, over all features or some."""

import pathlib
from typing import Any

import keras
import numpy as np
import pytest
import toy
from keras import ops

from mtl.models.network import Network
from mtl.models.options import per_task
from mtl.optimizers import LazyAdam
from mtl.training import MultiTaskModel

X, Y = toy.features(), toy.labels()
on_torch_it_warns = pytest.mark.filterwarnings("ignore:LazyAdam received the gradient of a whole")


def of_tasks() -> MultiTaskModel:
    """Tables of its own for each task, and shared ones."""
    net = Network(toy.columns(), per_task(4), num_tasks=2, seed=5, l2_reg_embedding=0)
    shared = net.encode("encoder_shared")
    z = [ops.concatenate([net.encode(f"encoder_{k}"), shared], axis=1) for k in range(2)]
    return net.model(net.towers(z))


def of_parts() -> MultiTaskModel:
    """One encoder for the user's features, one for the item's: neither has all."""
    net = Network(toy.columns(), per_task(4), num_tasks=2, seed=5, embedding_dropout=0.1)
    user = net.encode("user_encoder", ["user", "age"])
    item = net.encode("item_encoder", ["item", "history", "price"])
    return net.model(net.towers([ops.concatenate([user, item], axis=1), user]))


def test_they_are_listed_and_their_columns_are_the_models() -> None:
    names = {column.name for column in toy.columns()}
    tasks, parts = of_tasks(), of_parts()
    assert {e.name for e in tasks.encoders} == {"encoder_shared", "encoder_0", "encoder_1"}
    assert {e.name for e in parts.encoders} == {"user_encoder", "item_encoder"}
    assert parts.encoder is parts.encoders[0]
    for model in (tasks, parts):
        assert {column.name for column in model.feature_columns} == names
        assert len(model.feature_columns) == len(names)
        with pytest.raises(ValueError, match=r"Missing: \['item'\]"):
            model.predict({k: v for k, v in X.items() if k != "item"}, verbose=0)


def test_each_has_tables_and_a_seed_of_its_own() -> None:
    tables = [weight.numpy() for e in of_tasks().encoders for _, weight in e.tables]
    assert [table.shape for table in tables] == [(15, 3)] * 3
    assert len({table.tobytes() for table in tables}) == 3
    again = [weight.numpy() for e in of_tasks().encoders for _, weight in e.tables]
    toy.same(tables, again, rtol=0, atol=0)


@on_torch_it_warns
@pytest.mark.parametrize("build", [of_tasks, of_parts])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", LazyAdam])
def test_every_table_is_trained(build: Any, optimizer: Any, tmp_path: pathlib.Path) -> None:
    model = build()
    before = [weight.numpy() for e in model.encoders for _, weight in e.tables]
    made = optimizer if isinstance(optimizer, str) else optimizer(0.01)
    model.compile(made, **toy.QUICK)
    model.fit(X, Y, batch_size=8, epochs=2, verbose=0)
    after = [weight.numpy() for e in model.encoders for _, weight in e.tables]
    assert all(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    toy.same(toy.outputs(loaded, X), toy.outputs(model, X), rtol=0, atol=0)


@pytest.mark.skipif(toy.BACKEND == "torch", reason="gradients of whole tables on torch")
def test_a_lazy_optimizer_leaves_rows_alone_in_every_table() -> None:
    model = of_tasks()
    x = {name: value.copy() for name, value in X.items()}
    x["user"][:] = 1
    model.compile(LazyAdam(0.01), **toy.QUICK)
    before = [e.embeddings("user") for e in model.encoders]
    model.fit(x, Y, batch_size=8, verbose=0)
    for start, encoder in zip(before, model.encoders, strict=True):
        moved = np.abs(encoder.embeddings("user") - start).max(axis=1) > 0
        assert moved.tolist() == [False, True, False, False, False]


@on_torch_it_warns
def test_lazy_adam_is_adam_where_all_rows_are_looked_up() -> None:
    x = {name: value[:20] for name, value in X.items()}
    x["user"] = np.tile(np.arange(-1, 5), 4)[:20].astype("int32")
    x["item"] = np.tile(np.arange(-1, 7), 3)[:20].astype("int32")
    x["history"] = np.tile(np.arange(-1, 8), 7)[:60].reshape(20, 3).astype("int32")
    y = [label[:20] for label in Y]
    weights = []
    for optimizer in (keras.optimizers.Adam(0.01, epsilon=1e-3), LazyAdam(0.01, epsilon=1e-3)):
        model = of_tasks()
        model.compile(optimizer, **toy.QUICK)
        model.fit(x, y, batch_size=20, verbose=0)
        weights.append(model.get_weights())
    toy.same(*weights, atol=1e-6, rtol=1e-4)


def test_what_one_task_alone_reaches_is_not_shared() -> None:
    net = Network(toy.columns(), per_task(4), num_tasks=2)
    bottom = keras.layers.Dense(3, name="bottom")
    own = [keras.layers.Dense(3, name=f"own_{k}") for k in range(2)]
    x = [net.encode(f"encoder_{k}") for k in range(2)]
    model = net.model(net.towers([own[k](bottom(x[k])) for k in range(2)]))
    assert {variable.path.split("/")[0] for variable in model.shared_variables} == {"bottom"}


def test_columns_of_x_are_found_by_feature() -> None:
    net = Network(toy.columns(), per_task(), num_tasks=1)
    x = net.encode()
    part = net.encode("part", ["age", "item"])
    inputs = net.model([net.tower(0, x)]).input
    picked = keras.Model(
        inputs, [x, net.select(x, ["age", "item"]), net.select(part, ["age"]), part]
    )
    tensors = {k: ops.convert_to_tensor(np.reshape(X[k], (24, -1))) for k in inputs}
    whole, some, age, both = (ops.convert_to_numpy(v) for v in picked(tensors))
    # x: user 0-2, item 3-5, history 6-8, price 9-10, age 11.
    np.testing.assert_array_equal(some, whole[:, [3, 4, 5, 11]])
    np.testing.assert_array_equal(age, both[:, 3:])
    np.testing.assert_array_equal(age[:, 0], X["age"])
