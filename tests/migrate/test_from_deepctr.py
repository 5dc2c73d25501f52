"""A model of DeepCTR becomes a model of the zoo that predicts the same."""

import pathlib
from typing import Any

import keras
import numpy as np
import pytest
import toy
from deepctr.layers import DNN, PredictionLayer
from deepctr.models import ESMM, MMOE, PLE, SharedBottom

import mtl.models
from mtl.features import DenseFeat, SparseFeat, VarLenSparseFeat
from mtl.migrate import from_deepctr, to_deepctr

pytestmark = [
    pytest.mark.skipif(
        toy.BACKEND != "tensorflow", reason="DeepCTR's models need the TensorFlow backend"
    ),
    # DeepCTR's layers get masks from its embeddings that they don't ask for.
    pytest.mark.filterwarnings("ignore:Layer '.*was passed an input with a mask:UserWarning"),
]
ROWS = 24


def _cube(value: Any) -> Any:
    return value**3


def _sequence(name: str, table: str, group: str, **options: Any) -> Any:
    ids = SparseFeat(name, 7, embedding_dim=3, embedding_name=table, group_name=group)
    return VarLenSparseFeat(ids, 4, **options)


# DeepCTR's x goes by group: city | item, history, viewed | user, rated, bought, weighed | dense;
# ours has all single ids first. "viewed", the last to name it, holds the embedding "item" there.
COLUMNS = [
    DenseFeat("price", 2),
    SparseFeat("city", 4, embedding_dim=2, group_name="a"),
    _sequence("rated", "rated", "c", combiner="max", weight_name="stars", weight_norm=False),
    SparseFeat("item", 7, embedding_dim=3, group_name="b"),
    _sequence("history", "item", "b", combiner="mean"),
    SparseFeat("user", 5, embedding_dim=3, group_name="c", trainable=False),
    _sequence("bought", "bought", "c", combiner="sum", length_name="bought_length"),
    DenseFeat("age", 1, transform_fn=_cube),
    _sequence("weighed", "weighed", "c", combiner="mean", length_name="length", weight_name="w"),
    _sequence("viewed", "item", "b", combiner="sum", weight_name="w"),
]


def _data(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = {
        "price": rng.normal(size=(ROWS, 2)),
        "age": rng.normal(size=(ROWS, 1)),
        "stars": rng.normal(size=(ROWS, 4, 1)),
        "w": rng.normal(size=(ROWS, 4, 1)),
    }
    x = {name: value.astype("float32") for name, value in x.items()}
    for name, size in {"city": 4, "item": 7, "user": 5}.items():
        x[name] = rng.integers(0, size, (ROWS, 1)).astype("int32")
    for name in ("rated", "history", "bought", "weighed", "viewed"):
        x[name] = rng.integers(0, 7, (ROWS, 4)).astype("int32")
    x["bought_length"], x["length"] = rng.integers(0, 5, (2, ROWS, 1)).astype("int32")
    # Empty sequences; those with combiner "max" are known to differ.
    x["history"][:3] = x["viewed"][2:5] = x["bought_length"][4:7] = x["length"][6:9] = 0
    x["rated"][:, 0] = 1
    return x


X = _data()


def _build(factory: Any, columns: list[Any] = COLUMNS, **options: Any) -> Any:
    """Build a small model of DeepCTR; options replace what is small by default."""
    width = "bottom" if factory is SharedBottom else "expert"
    small = {} if factory is ESMM else {f"{width}_dnn_hidden_units": (8, 5)}
    # Units that relu silences would hide wrong weights.
    defaults = {"tower_dnn_hidden_units": (6,), "dnn_activation": "tanh", **small}
    return factory(to_deepctr(columns), **{**defaults, **options})


def _random(model: Any, x: dict[str, np.ndarray] = X) -> Any:
    """Give every weight of a DeepCTR model a random value, small enough to saturate nothing."""
    _outputs(model, x)  # there is no batch normalisation before
    rng = np.random.default_rng(1)
    gain = {1: 1, 2: 4}  # kernels more than biases: predictions should vary
    values = [rng.normal(size=w.shape) * gain[w.ndim] / w.shape[0] ** 0.5 for w in model.weights]
    variances = [w.path.endswith("variance") for w in model.weights]
    model.set_weights(
        [abs(v) + 0.5 if positive else v for v, positive in zip(values, variances, strict=True)]
    )
    return model


def _outputs(model: Any, x: dict[str, np.ndarray] = X) -> list[np.ndarray]:
    return toy.outputs(model, {tensor.name: x[tensor.name] for tensor in model.inputs})


def _assert_same(new: Any, old: Any, x: dict[str, np.ndarray] = X) -> None:
    expected = _outputs(old, x)
    assert all(np.std(values) > 1e-2 for values in expected), [np.std(v) for v in expected]
    toy.same(_outputs(new, x), expected, atol=1e-5, rtol=1e-5)


_THREE = {"task_names": ("a", "b", "c"), "task_types": ("binary", "regression", "binary")}


@pytest.mark.parametrize("use_bn", [False, True])
@pytest.mark.parametrize(
    ("factory", "options"),
    [
        (SharedBottom, {"task_types": ("binary", "regression")}),
        (SharedBottom, {"bottom_dnn_hidden_units": ()}),
        (MMOE, {"num_experts": 3, **_THREE}),
        (MMOE, {"num_experts": 3, "gate_dnn_hidden_units": (4, 3)}),
        (MMOE, {"num_experts": 3, "expert_dnn_hidden_units": ()}),
        (PLE, {"num_levels": 1, "specific_expert_num": 2}),
        (PLE, {"num_levels": 2, "shared_expert_num": 3, **_THREE}),
        (PLE, {"num_levels": 3, "specific_expert_num": 2, "gate_dnn_hidden_units": (4,)}),
        (PLE, {"num_levels": 2, "expert_dnn_hidden_units": (), "tower_dnn_hidden_units": ()}),
        (ESMM, {}),
        (ESMM, {"tower_dnn_hidden_units": ()}),
    ],
)
def test_predictions_agree(factory: Any, options: dict[str, Any], use_bn: bool) -> None:
    old = _random(_build(factory, dnn_use_bn=use_bn, **options))
    new = from_deepctr(old, COLUMNS)
    _assert_same(new, old)


_OPTIONS = {
    "l2_reg_embedding": 1e-3,
    "l2_reg_dnn": 1e-2,
    "seed": 7,
    "dnn_dropout": 0.25,
    "dnn_activation": "elu",
    "dnn_use_bn": True,
    "task_names": ("click rate", "buy!"),
}


@pytest.mark.parametrize(
    ("factory", "theirs", "ours"),
    [
        (
            SharedBottom,
            {"bottom_dnn_hidden_units": (8, 5), "task_types": ("binary", "regression")},
            {"bottom_dnn_units": (8, 5), "task_types": ("binary", "regression")},
        ),
        (
            MMOE,
            {"num_experts": 3, "gate_dnn_hidden_units": [4]},
            {"num_experts": 3, "gate_dnn_units": (4,), "expert_dnn_units": (8, 5)},
        ),
        (
            PLE,
            {"num_levels": 2, "specific_expert_num": 1, "shared_expert_num": 3},
            {
                "num_levels": 2,
                "num_experts_specific": 1,
                "num_experts_shared": 3,
                "expert_dnn_units": (8, 5),
            },
        ),
        (ESMM, {}, {}),
    ],
)
def test_the_model_is_what_our_factory_builds(
    factory: Any, theirs: dict[str, Any], ours: dict[str, Any]
) -> None:
    new = from_deepctr(_build(factory, **_OPTIONS, **theirs), COLUMNS)
    name = "MMoE" if factory is MMOE else factory.__name__
    expected = getattr(mtl.models, name)(
        COLUMNS, tower_dnn_units_lists=[(6,), (6,)], **_OPTIONS, **ours
    )
    assert type(new) is type(expected)
    assert new.tasks == expected.tasks
    configs = [
        [layer.get_config() for layer in model.layers if type(layer).__module__.startswith("mtl")]
        for model in (new, expected)
    ]
    assert configs[0] == configs[1]
    assert new.count_params() == expected.count_params()


@pytest.mark.parametrize("names", [["age"], ["price", "age"], ["user"], ["history"]])
def test_columns_of_one_kind(names: list[str]) -> None:
    columns = [column for column in COLUMNS if column.name in names]
    old = _random(_build(SharedBottom, columns))
    _assert_same(from_deepctr(old, columns), old)


def test_the_order_of_the_columns_is_read_from_the_model() -> None:
    old = _random(_build(ESMM))
    _assert_same(from_deepctr(old, COLUMNS[::-1]), old)


@pytest.mark.parametrize("factory", [SharedBottom, MMOE, PLE, ESMM])
def test_inputs_may_be_named_like_our_layers(factory: Any) -> None:
    names = [
        "encoder",
        "bottom",
        "experts",
        "gate_0",
        "gate_click_rate",
        "extraction_1",
        "cvr",
    ]
    columns = [DenseFeat(name) for name in names]
    x = {name: X["price"][:, :1] * (1 + i) for i, name in enumerate(names)}
    old = _random(_build(factory, columns, task_names=("gate_0_", "click rate")), x)
    new = from_deepctr(old, columns)
    assert new.task_names == ["gate_0_", "click rate"]
    _assert_same(new, old, x)


def test_the_columns_may_be_deepctrs() -> None:
    old = _random(_build(MMOE))
    _assert_same(from_deepctr(old, to_deepctr(COLUMNS)), old)


def test_an_empty_sequence_pooled_by_the_maximum_gives_zeros() -> None:
    old = _random(_build(SharedBottom))
    x = {**X, "rated": np.zeros_like(X["rated"])}
    new = from_deepctr(old, COLUMNS)
    assert np.abs(_outputs(new, x)[0] - _outputs(old, x)[0]).max() > 0.1
    encoder = keras.Model(new.inputs, new.get_layer("encoder").output)
    start = 2 + 3 + 3  # city, item, user
    assert not keras.ops.convert_to_numpy(encoder(x))[:, start : start + 3].any()


def test_unknown_ids_start_at_zero() -> None:
    columns = [SparseFeat("user", 5, embedding_dim=3)]
    new = from_deepctr(_random(_build(ESMM, columns)), columns)
    table = new.get_layer("encoder").weights[0].numpy()
    assert table[:5].all()
    assert not table[5:].any()


def test_the_weights_are_copies() -> None:
    old = _random(_build(MMOE))
    before, expected = old.get_weights(), _outputs(old)
    new = from_deepctr(old, COLUMNS)
    new.compile(keras.optimizers.SGD(0.1), **toy.QUICK)
    new.fit(X, toy.labels(rows=ROWS), batch_size=ROWS, verbose=0)
    assert np.abs(_outputs(new)[0] - expected[0]).max() > 1e-4
    toy.same(old.get_weights(), before, rtol=0, atol=0)


def test_batch_normalisation_before_the_first_call_and_from_a_file(tmp_path: pathlib.Path) -> None:
    old = _build(SharedBottom, dnn_use_bn=True)
    new = from_deepctr(old, COLUMNS)  # `old` has no batch normalisation yet
    toy.same(_outputs(new), _outputs(old), atol=1e-5, rtol=1e-5)
    _random(old).save_weights(tmp_path / "old.weights.h5")
    loaded = _build(SharedBottom, dnn_use_bn=True)
    _outputs(loaded)
    loaded.load_weights(tmp_path / "old.weights.h5")
    _assert_same(from_deepctr(loaded, COLUMNS), old)


def _own(body: Any, activations: tuple[str, str] = ("relu", "relu")) -> Any:
    """Wire DeepCTR's layers in a way of one's own; `body` gives the towers' inputs."""
    x = keras.Input((2,), name="price")
    tops = [DNN([4], a)(z) for a, z in zip(activations, body(x), strict=True)]
    logits = [keras.layers.Dense(1, use_bias=False)(top) for top in tops]
    return keras.Model(x, [PredictionLayer()(logit) for logit in logits])


def _experts_of_different_inputs(x: Any) -> list[Any]:
    experts = [DNN([4])(x), DNN([4])(DNN([2])(x))]
    stack = keras.layers.Lambda(lambda e: keras.ops.stack(e, axis=1))(experts)
    gates = [keras.layers.Dense(2, activation="softmax")(DNN([])(x)) for _ in range(2)]
    columns = [keras.layers.Lambda(lambda g: keras.ops.expand_dims(g, -1))(g) for g in gates]
    mix = keras.layers.Lambda(lambda v: keras.ops.sum(v[0] * v[1], axis=1))
    return [mix([stack, column]) for column in columns]


def _reversed(model: Any) -> Any:
    return keras.Model(model.inputs, model.outputs[::-1])


def _conversion_alone(model: Any) -> Any:
    cvr = model.layers[-2].output
    assert cvr is not model.outputs[0]
    return keras.Model(model.inputs, [cvr, model.outputs[1]])


@pytest.mark.parametrize(
    ("model", "received"),
    [
        (lambda: None, "None"),
        (lambda: COLUMNS, "SparseFeat"),
        (lambda: toy.build("MMoE"), "Tower"),
        (lambda: keras.Sequential([keras.layers.Dense(1)]), "Sequential"),
        (lambda: keras.Model((m := _build(MMOE)).inputs, m.outputs[:1]), "Functional"),
        (lambda: _reversed(_build(PLE)), "wired in another way"),
        (lambda: _reversed(_build(ESMM)), "Multiply"),
        (lambda: _build(PLE, shared_expert_num=0), "without shared experts"),
        (lambda: _build(PLE, specific_expert_num=0), "wired in another way"),
        (lambda: _conversion_alone(_build(ESMM)), "a product of others than the first task"),
        (lambda: _own(lambda x: [x, x]), "InputLayer.*where a Lambda should be"),
        (lambda: _own(lambda x: [DNN([5])(x), DNN([5])(x)]), "all should be the same"),
        (lambda: _own(lambda x: [DNN([5])(x)] * 2, ("relu", "tanh")), "all should be the same"),
        (lambda: _own(lambda x: [DNN([5])(keras.layers.Dense(3)(x))] * 2), r"through \['Dense'\]"),
        (lambda: _own(lambda x: [keras.layers.Lambda(_cube)(x)] * 2), "isn't a mixture"),
        (lambda: _own(_experts_of_different_inputs), "wired in another way"),
    ],
)
def test_other_models_are_refused(model: Any, received: str) -> None:
    with pytest.raises(ValueError, match=rf"`model` should be a SharedBottom.*{received}"):
        from_deepctr(model(), COLUMNS)


@pytest.fixture(scope="module")
def model() -> Any:
    return _build(SharedBottom)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("user", {"vocabulary_size": 6}, "`vocabulary_size`.*should be 5, as.*Received: 6"),
        ("user", {"embedding_dim": 4}, "`embedding_dim`.*should be 3, as.*Received: 4"),
        ("user", {"use_hash": True}, "`use_hash`.*should be False, as.*Received: True"),
        ("user", {"embedding_name": "rated"}, "vocabulary_size"),
        ("rated", {"maxlen": 5}, "`maxlen`.*should be 4, as.*Received: 5"),
        ("rated", {"combiner": "sum"}, "`combiner`.*should be 'max', as.*Received: 'sum'"),
        ("rated", {"length_name": "n"}, "`length_name`.*should be None, as.*Received: 'n'"),
        ("rated", {"weight_name": None}, "`weight_name`.*should be 'stars', as.*Received: None"),
        ("rated", {"weight_norm": True}, "`weight_norm`.*should be False, as.*Received: True"),
        ("bought", {"length_name": None}, "`length_name`.*should be 'bought_length', as"),
        ("price", {"dimension": 1}, "`dimension`.*should be 2, as.*Received: 1"),
        ("age", {"transform_fn": None}, "`transform_fn`.*should be <function.*Received: None"),
        ("price", {"name": "cost"}, r"Received: \['price'\] missing, \['cost'\] unknown"),
    ],
)
def test_other_columns_are_refused(
    model: Any, name: str, changes: dict[str, Any], message: str
) -> None:
    columns = [c._replace(**changes) if c.name == name else c for c in COLUMNS]
    assert columns != COLUMNS
    with pytest.raises(ValueError, match=message):
        from_deepctr(model, columns)


@pytest.mark.parametrize(("feature", "table"), [("rated", "item"), ("history", "history")])
def test_embeddings_are_shared_as_in_the_model(model: Any, feature: str, table: str) -> None:
    columns = list(COLUMNS)
    index = [column.name for column in columns].index(feature)
    column = columns[index]
    columns[index] = column._replace(sparsefeat=column.sparsefeat._replace(embedding_name=table))
    with pytest.raises(ValueError, match=r"`embedding_name`.*should be shared as in `model`"):
        from_deepctr(model, columns)


def test_hashed_features_are_refused() -> None:
    columns = [SparseFeat("user", 5, use_hash=True), DenseFeat("age")]
    old = _build(ESMM, columns)
    with pytest.raises(ValueError, match="`use_hash` of feature 'user' should be False: ids fall"):
        from_deepctr(old, columns)
    with pytest.raises(ValueError, match="`use_hash` of feature 'user' should be True, as"):
        from_deepctr(old, [columns[0]._replace(use_hash=False), columns[1]])


@pytest.mark.parametrize("activation", ["dice", keras.layers.PReLU])
def test_activations_that_keras_has_no_name_for_are_refused(activation: Any) -> None:
    old = _build(SharedBottom, dnn_activation=activation)
    with pytest.raises(ValueError, match=r"`dnn_activation`.*Received: .*(dice|PReLU)"):
        from_deepctr(old, COLUMNS)


def test_what_the_factory_refuses() -> None:
    old = _build(ESMM, task_names=("cvr", "ctcvr"))
    with pytest.raises(ValueError, match="should not hold 'cvr'"):
        from_deepctr(old, COLUMNS)
    with pytest.raises(TypeError, match=r"should hold SparseFeat.*Received: 'user'"):
        from_deepctr(old, ["user"])
