"""A model grows by new ids, and nothing else of it changes."""

from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
import toy
from keras import ops

from mtl.data import TableEncoder
from mtl.features import SparseFeat, VarLenSparseFeat
from mtl.optimizers import LazyAdagrad, LazyAdam
from mtl.training import grow

X, Y = toy.features(48), toy.labels(rows=48)
pytestmark = pytest.mark.filterwarnings("ignore:Lazy.* received the gradient of a whole")


def larger(users: int = 9, items: int = 8) -> list[Any]:
    """The toy columns, of which two share an embedding, with larger vocabularies."""
    sizes = {"user": users, "item": items, "history": items}
    columns = []
    for column in toy.columns():
        if isinstance(column, VarLenSparseFeat):
            inner = column.sparsefeat._replace(vocabulary_size=sizes[column.name])
            column = column._replace(sparsefeat=inner)
        elif isinstance(column, SparseFeat):
            column = column._replace(vocabulary_size=sizes[column.name])
        columns.append(column)
    return columns


def trained(name: str, optimizer: Any, **options: Any) -> Any:
    model = toy.randomize(toy.build(name))
    model.compile(optimizer, **options, **toy.QUICK)
    model.fit(X, Y, batch_size=16, verbose=0)
    return model


@pytest.mark.parametrize("name", ["MMoE", "STEM"])
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: LazyAdam(0.02),
        lambda: LazyAdagrad(0.02, row_wise=True),
        lambda: keras.optimizers.Adam(0.02),
    ],
    ids=["lazy_adam", "lazy_adagrad", "adam"],
)
def test_old_and_new_ids_are_served_as_before(name: str, optimizer: Any) -> None:
    model = trained(name, optimizer())
    new = {
        **X,
        "user": X["user"] + 5 * (np.arange(48) % 3 == 0),
        "item": X["item"] + (X["item"] == 6),
    }
    before = [model.predict(x, verbose=0) for x in (X, new)]
    weights = [np.array(w) for w in model.get_weights()]
    grown = grow(model, larger())
    for x, expected in zip((X, new), before, strict=True):
        toy.same(grown.predict(x, verbose=0), expected, rtol=0, atol=0)
    assert [(c.name, c.vocabulary_size) for c in grown.feature_columns if c.name == "user"] == [
        ("user", 9)
    ]
    toy.same(model.get_weights(), weights, rtol=0, atol=0)  # which stays as it is


@pytest.mark.parametrize("balancer", [None, "uncertainty"])
def test_old_ids_train_on_as_without_the_new_ones(balancer: Any) -> None:
    model = trained("MMoE", LazyAdam(0.02), balancer=balancer)
    grown = grow(model, larger())
    assert int(grown.optimizer.iterations) == int(model.optimizer.iterations)
    options: dict[str, Any] = {"batch_size": 16, "epochs": 2, "shuffle": False, "verbose": 0}
    logs = [one.fit(X, Y, **options).history["loss"] for one in (model, grown)]
    assert logs[0] == logs[1]
    toy.same(grown.predict(X, verbose=0), model.predict(X, verbose=0), rtol=0, atol=0)
    # And a new id leaves the row that it started as.
    new = {**X, "user": np.full(48, 8)}
    before = grown.predict({**X, "user": np.full(48, 99)}, verbose=0)
    grown.fit(new, Y, **options)
    rows = np.array(ops.convert_to_numpy(grown.encoder.tables[0][1].value))
    table = grown.encoder.tables[0][0]
    user = table.slices["user"].offset
    assert not np.array_equal(rows[user + 8], rows[user + 7])
    assert np.isfinite(np.concatenate(before)).all()


def test_an_encoder_and_its_model_grow_day_by_day() -> None:
    day = pd.DataFrame({"city": ["Rome", "Oslo", None, "Rome"], "age": [1.0, 2, 3, 4]})
    encoder = TableEncoder(["city"], ["age"]).fit(day)
    model = toy.zoo()["SharedBottom"](encoder.feature_columns, task_names=["click"])
    before = model.predict(encoder.transform(day), verbose=0)
    later = encoder.extend(pd.DataFrame({"city": ["Bonn", "Rome", "Kiel", "Kiel"]}), min_count=2)
    model = grow(model, later.feature_columns)
    toy.same([model.predict(later.transform(day), verbose=0)], [before], rtol=0, atol=0)
    ids = later.transform(pd.DataFrame({"city": ["Kiel", "Bonn"], "age": [0.0, 0.0]}))["city"]
    assert ids.tolist() == [4, 0]


def test_what_does_not_fit_is_refused() -> None:
    model = toy.build("MMoE")
    with pytest.raises(ValueError, match=r"vocabulary of at least 5 for 'user'.*Received: 4"):
        grow(model, larger(users=4))
    with pytest.raises(ValueError, match=r"every feature of the model.*'age'"):
        grow(model, larger()[:-1])
    with pytest.raises(ValueError, match="grows over 1,000,000"):
        grow(model, larger(users=1_000_001))
