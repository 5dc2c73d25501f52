"""What every layer does, whatever it computes. A new layer is tested by an entry in CASES."""

import inspect
import json
import pickle
import re
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
from encoding import sequence
from keras import ops, tree
from numpy_layers import BACKEND, copy_of, draw, randomize

import mtl.layers
from mtl.features import DenseFeat, SparseFeat
from mtl.seeds import glorot


class Case(NamedTuple):
    """How a layer is made, and what it is called on."""

    arguments: dict[str, Any]
    inputs: Any


ROWS = 6
ONE = draw(ROWS, 5)
SCENARIOS = [draw(ROWS, 5), np.array([[0], [1], [0], [9], [2], [-1]], "int32")]
PAIR = [draw(ROWS, 5), draw(ROWS, 3, seed=1)]
STACK = draw(ROWS, 3, 5)
FIVE = [draw(ROWS, 5, seed=i) for i in range(5)]
THREE = FIVE[:3]
TWO = FIVE[:2]
RATE = np.linspace(0, 1, ROWS, dtype="float32")[:, None]


@keras.saving.register_keras_serializable(package="test_layer_contract")
def halve(x):
    return x * 0.5


COLUMNS = [
    DenseFeat("age"),
    SparseFeat("user", 5, 2, embeddings_initializer="normal"),
    sequence("clicks", 6, 3, combiner="max"),
    SparseFeat("site", 4, 3),
]
FULL_COLUMNS = [
    *COLUMNS,
    SparseFeat("page", 4, 3, embedding_name="site"),
    SparseFeat("frozen", 4, 3, trainable=False),
    SparseFeat("raw", 9, 2, use_hash=True),
    sequence("items", 6, 3, combiner="sum", length_name="length"),
    sequence("seen", 6, 3, weight_name="weight", weight_norm=True, length_name="length"),
    DenseFeat("size", 2, transform_fn=halve),
]


IDS = {"user": 1, "clicks": 3, "site": 1, "page": 1, "frozen": 1, "raw": 1, "items": 3, "seen": 3}
FEATURES = {
    name: np.random.default_rng(i).integers(-1, 6, (ROWS, width), "int32")
    for i, (name, width) in enumerate({**IDS, "length": 1}.items())
} | {"age": draw(ROWS, 1), "weight": draw(ROWS, 3, 1), "size": draw(ROWS, 2)}
FEW_FEATURES = {name: FEATURES[name] for name in ("age", "user", "clicks", "site")}

DNN = {"activation": "tanh", "l2_reg": 0.1, "dropout": 0.3, "use_bn": True, "seed": 1}
GATES = {"gate_units": [3], "gate_temperature": 0.5, "shared_gate": True}
SELECT = {"gate": "dselect_k", "num_selected": 3, "entropy_weight": 0.1}
ENCODER = {"l2_reg": 0.1, "seed": 1, "dense_embedding_dim": 3}
SUBSETS = {"user": [0, 1, 4], "item": [2, 3]}
EXTRACTION = {"num_tasks": 2, "num_experts_specific": 2, "num_experts_shared": 3}
LINKS = [["own", "stopped", "other"], [None, "own", "other"]]
FUSION = {"num_experts": [2, 1, 1], "links": LINKS, "residual": "native"}
FUSED = {
    "names": ["a", "b", "c"],
    "feature_gates": [2, 3],
    "residual": "self",
    "gate_units": [3],
    "gate_temperature": 0.5,
}
HEAD = {"task_type": "multiclass", "num_outputs": 3, "task_name": "first task"}

# By layer: "full" gives each argument of the constructor a value that isn't its default.
CASES: dict[str, dict[str, Case]] = {
    "CrossStitchUnit": {
        "plain": Case({"num_outputs": 3}, STACK),
        "full": Case({"num_outputs": 2, "per_channel": True}, STACK),
    },
    "DNN": {
        "no units": Case({"units": ()}, ONE),
        "plain": Case({"units": [4], "seed": 1}, ONE),
        "full": Case({"units": [4, 3], **DNN}, ONE),
    },
    "DSelectK": {
        "one expert": Case({"num_experts": 1}, ONE),
        "plain": Case({"num_experts": 4, "seed": 1}, ONE),
        "full": Case(
            {
                "num_experts": 5,
                "num_selected": 3,
                "units": [4],
                "temperature": 4.0,
                "entropy_weight": 0.1,
                **DNN,
            },
            ONE,
        ),
    },
    "Experts": {
        "no units": Case({"num_experts": 2, "units": []}, ONE),
        "groups without units": Case({"num_experts": [2, 1, 1], "units": []}, THREE),
        "plain": Case({"num_experts": 3, "units": [4], "seed": 1}, ONE),
        "groups on one input": Case({"num_experts": [2, 1], "units": [4], "seed": 1}, ONE),
        "groups": Case({"num_experts": [2, 1, 1], "units": [4, 3], **DNN}, THREE),
        "subsets": Case({"num_experts": 2, "units": [4], "subsets": SUBSETS, "seed": 1}, ONE),
        "full": Case({"num_experts": [2, 1], "units": [4, 3], "subsets": SUBSETS, **DNN}, ONE),
    },
    "Extraction": {
        "no units": Case({**EXTRACTION, "units": [], "seed": 1}, THREE),
        "plain": Case({**EXTRACTION, "units": [4], "seed": 1}, ONE),
        "three inputs": Case({**EXTRACTION, "units": [4], **GATES, **DNN}, THREE),
        "full": Case(
            {**EXTRACTION, "units": [4], "subsets": SUBSETS, **GATES, **SELECT, **DNN}, ONE
        ),
    },
    "FeatureEncoder": {
        "dense": Case({"feature_columns": [DenseFeat("age")]}, FEW_FEATURES),
        "plain": Case({"feature_columns": COLUMNS, "seed": 1}, FEW_FEATURES),
        "projected": Case({"feature_columns": COLUMNS, **ENCODER}, FEW_FEATURES),
        "full": Case({"feature_columns": FULL_COLUMNS, **ENCODER}, FEATURES),
    },
    "Fusion": {
        "no units": Case({**FUSION, "units": [], "seed": 1}, FIVE),
        "plain": Case({**FUSION, "units": [4], "seed": 1}, ONE),
        "an empty bank": Case({**FUSION, "num_experts": [0, 2, 1], "units": [4], "seed": 1}, THREE),
        "inputs of gates": Case({**FUSION, **FUSED, "units": [4], **DNN}, FIVE),
        "subsets": Case({**FUSION, "units": [4], "subsets": SUBSETS, **DNN}, ONE),
        "full": Case({**FUSION, **FUSED, **SELECT, "num_selected": 1, "units": [4], **DNN}, ONE),
    },
    "Gate": {
        "plain": Case({"num_experts": 4, "seed": 1}, ONE),
        "full": Case(
            {"num_experts": 4, "units": [4], "temperature": 0.5, "task_name": "a task", **DNN}, ONE
        ),
    },
    "GatedDNN": {
        "no units": Case({"seed": 1}, PAIR),
        "plain": Case({"units": [4], "seed": 1}, PAIR),
        "full": Case({"units": [4, 3], "position": "output", "gate_units": [2], **DNN}, PAIR),
    },
    "InformationTransfer": {
        "full": Case({"seed": 1}, TWO),
    },
    "Isotonic": {
        "plain": Case({"num_points": 2}, RATE),
        "full": Case({"num_points": 5, "task_name": "first task"}, RATE),
    },
    "PartitionedNormalization": {
        "plain": Case({"num_scenarios": 3}, SCENARIOS),
        "full": Case({"num_scenarios": 3, "momentum": 0.5, "epsilon": 0.1}, SCENARIOS),
    },
    "Platt": {
        "plain": Case({}, RATE),
        "full": Case({"task_name": "first task"}, RATE),
    },
    "StarDNN": {
        "no units": Case({"num_scenarios": 3}, SCENARIOS),
        "plain": Case({"num_scenarios": 3, "units": [4], "seed": 1}, SCENARIOS),
        "full": Case({"num_scenarios": 3, "units": [4, 3], **DNN}, SCENARIOS),
    },
    "StarDense": {
        "full": Case({"num_scenarios": 3, "units": 4, "l2_reg": 0.1, "seed": 1}, SCENARIOS),
    },
    "Routing": {
        "plain": Case({"num_outputs": 2, "seed": 1}, STACK),
        "full": Case({"num_outputs": 4, "connection": "aver", "penalty": 0.1, "seed": 1}, STACK),
    },
    "Scaling": {
        "plain": Case({}, ONE),
        "full": Case({"rate": 3.0, "skip": 2}, ONE),
    },
    "Tower": {
        "plain": Case({"seed": 1}, ONE),
        "full": Case({"units": [4], **HEAD, **DNN}, ONE),
    },
}
# Layers whose outputs under a mixed policy aren't of its compute dtype.
OUTPUT_DTYPES = dict.fromkeys(["Isotonic", "Platt", "Tower"], "float32")
BIAS_OF_DNN = re.compile(r"(dense_\d+/(scenario_)?bias|bias_\d+)$")
# On TensorFlow tracing takes longer than a step without it; on JAX it is the other way round.
QUICK = {"run_eagerly": True} if BACKEND == "tensorflow" else {}


class Subject:
    """A case of a layer, under the layer's name."""

    def __init__(self, name, case):
        if case not in CASES.get(name, {}):
            pytest.fail(f"CASES in {__file__} should hold the case {case!r} of mtl.layers.{name}")
        self.name = name
        self.type = getattr(mtl.layers, name)
        self.arguments, self._inputs = CASES[name][case]

    @property
    def draws(self):
        """Whether it draws anew in each call in training."""
        return self.name == "Routing" or bool(self.arguments.get("dropout"))

    @property
    def normalises(self):
        return self.name == "PartitionedNormalization" or bool(self.arguments.get("use_bn"))

    def inputs(self, rows=ROWS):
        return tree.map_structure(lambda v: v[:rows], self._inputs)

    def new(self, **arguments):
        return self.type(**{**self.arguments, **arguments})

    def built(self, **arguments):
        layer = self.new(**arguments)
        layer.build(tree.map_structure(lambda x: (None, *x.shape[1:]), self.inputs()))
        return layer


def cases(*, full=False):
    names = mtl.layers.__all__
    # Each case compiles for seconds on JAX, where the layers' equations are tested elsewhere.
    full = full or BACKEND == "jax"
    found = [(n, c) for n in names for c in CASES.get(n, ["full"]) if c == "full" or not full]
    return pytest.mark.parametrize("subject", found, indirect=True, ids="-".join)


@pytest.fixture
def subject(request):
    return Subject(*request.param)


each_case, each_layer = cases(), cases(full=True)


def tensors(x):
    return tree.map_structure(ops.convert_to_tensor, x)


def arrays(outputs):
    outputs = [ops.cast(y, "float32") for y in tree.flatten(outputs)]
    return [np.array(ops.convert_to_numpy(y)) for y in outputs]


def same(one, other):
    """Assert that outputs (or lists of weights) are equal to the bit."""
    one, other = arrays(one), arrays(other)
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


def model_of(layer, x, *, head=False):
    """Return a functional model of the layer; with a head, of one output for any loss."""
    if isinstance(x, dict):
        inputs = {k: keras.Input(v.shape[1:], name=k, dtype=str(v.dtype)) for k, v in x.items()}
    else:
        inputs = tree.map_structure(lambda v: keras.Input(v.shape[1:], dtype=str(v.dtype)), x)
    outputs = layer(inputs)
    if head:
        outputs = [keras.layers.Flatten()(y) for y in tree.flatten(outputs)]
        outputs = keras.layers.Concatenate()(outputs) if len(outputs) > 1 else outputs[0]
        outputs = keras.layers.Dense(1, name="head", kernel_initializer=glorot(0))(outputs)
    return keras.Model(inputs, outputs)


def parameters(layer_type):
    found = dict(inspect.signature(layer_type.__init__).parameters)
    return {n: p for n, p in found.items() if n != "self" and p.kind is not p.VAR_KEYWORD}


def test_cases_are_of_layers_in_the_list():
    assert set(CASES) == set(mtl.layers.__all__)


@each_layer
def test_the_full_case_sets_every_argument(subject):
    defaults = {name: p.default for name, p in parameters(subject.type).items()}
    alone = {"subsets"} if subject.name == "Fusion" else set()  # in a case of its own
    assert set(subject.arguments) == set(defaults) - alone
    assert [n for n, value in subject.arguments.items() if value == defaults[n]] == []


@each_case
def test_config_holds_every_argument_as_json(subject):
    layer = subject.new(name="own", trainable=False, dtype="mixed_bfloat16")
    config = layer.get_config()
    assert set(parameters(subject.type)) < set(config)
    for name, value in subject.arguments.items():
        if name != "feature_columns":
            assert config[name] == (list(value) if isinstance(value, tuple) else value)
    assert json.loads(json.dumps(config)) == config
    assert subject.type.from_config(config).get_config() == config
    assert subject.type.from_config(json.loads(json.dumps(config))).get_config() == config


@each_case
def test_a_twin_from_the_config_does_the_same(subject):
    x = tensors(subject.inputs())
    layer = randomize(subject.built(name="own"))
    twin = copy_of(layer, x)
    assert twin.get_config() == layer.get_config()
    assert [w.path for w in twin.weights] == [w.path for w in layer.weights]
    same(layer(x), twin(x))
    assert len(layer.losses) == len(twin.losses)
    same(layer.losses, twin.losses)
    if subject.arguments.get("seed") is not None:  # the same units are dropped
        same(layer(x, training=True), twin(x, training=True))
        same(layer.weights, twin.weights)


@each_case
def test_copies_of_a_model_are_equal_to_the_bit(subject, tmp_path):
    x = subject.inputs()
    layer = subject.new(name="own")
    model = model_of(layer, x)
    start = layer.get_weights()
    randomize(layer)
    outputs = model(tensors(x))

    def assert_copy(copy):
        own = copy.get_layer("own")
        assert own is not layer
        assert own.get_config() == layer.get_config()
        same(own.get_weights(), layer.get_weights())
        same(copy(tensors(x)), outputs)

    model.save(tmp_path / "model.keras")
    assert_copy(keras.models.load_model(tmp_path / "model.keras"))
    assert_copy(pickle.loads(pickle.dumps(model)))
    clone = keras.models.clone_model(model)
    if subject.arguments.get("seed") is not None:
        same(clone.get_layer("own").get_weights(), start)
    clone.set_weights(model.get_weights())
    assert_copy(clone)
    model.save_weights(tmp_path / "model.weights.h5")
    other = model_of(subject.new(name="own"), x)
    other.load_weights(tmp_path / "model.weights.h5")
    assert_copy(other)


@each_case
def test_the_seed_tells_the_weights_and_what_is_dropped(subject):
    if "seed" not in parameters(subject.type):
        same(subject.built().weights, subject.built().weights)
        return
    if "seed" not in subject.arguments:
        same(subject.built(seed=1).weights, [])
        return
    one, again, other = (subject.built(seed=seed) for seed in (7, 7, 8))
    same(one.weights, again.weights)
    unseeded = [subject.built(seed=None) for _ in range(2)]
    for pair in ((one, other), unseeded):
        for a, b in zip(pair[0].weights, pair[1].weights, strict=True):
            drawn = np.ptp(ops.convert_to_numpy(a)) > 0 and not a.path.endswith("/alpha")
            assert drawn == bool(re.search("kernel|table", a.path)), a.path
            assert np.array_equal(*arrays([a, b])) != drawn, a.path
    x = tensors(subject.inputs())
    other.set_weights(one.get_weights())
    dropped = [arrays(layer(x, training=True)) for layer in (one, again, other)]
    same(dropped[0], dropped[1])
    for a, b in zip(dropped[0], dropped[2], strict=True):
        assert np.array_equal(a, b) != subject.draws


@each_case
def test_training_is_an_argument_and_off_by_default(subject):
    layer, x = randomize(subject.built()), tensors(subject.inputs())
    calm = layer(x)
    same(calm, layer(x, training=False))
    same(calm, layer(x, training=None))
    weights = layer.get_weights()
    for a, b in zip(arrays(calm), arrays(layer(x, training=True)), strict=True):
        assert np.array_equal(a, b) != (subject.normalises or subject.draws)
    changed = [
        weight.path.rsplit("/", 1)[1]
        for weight, before in zip(layer.weights, weights, strict=True)
        if not np.array_equal(before, ops.convert_to_numpy(weight))
    ]
    assert set(changed) == ({"moving_mean", "moving_variance"} if changed else set())
    assert bool(changed) == subject.normalises


@each_case
def test_shapes_are_as_told_for_any_number_of_rows(subject):
    layer, shape_of = subject.built(), lambda y: tuple(y.shape)
    full = layer(tensors(subject.inputs()))
    for rows in (ROWS, 1, 0):
        x = subject.inputs(rows)
        outputs = layer(tensors(x))
        told = layer.compute_output_shape(tree.map_structure(np.shape, x))
        assert told == tree.map_structure(shape_of, outputs)
        for part, whole in zip(arrays(outputs), arrays(full), strict=True):
            np.testing.assert_allclose(part, whole[:rows], rtol=1e-6, atol=1e-6)
    told = layer.compute_output_shape(tree.map_structure(lambda v: (None, *v.shape[1:]), x))
    assert told == tree.map_structure(shape_of, model_of(layer, x).output)


def trained(subject, **arguments):
    """Return a layer after a step of gradient descent, and its weights before."""
    layer, x = subject.new(**arguments), subject.inputs()
    model = model_of(layer, x, head=True)
    before = layer.get_weights()
    model.compile(keras.optimizers.SGD(0.1), "mse", auto_scale_loss=False, **QUICK)
    loss = model.train_on_batch(x, np.full((ROWS, 1), 5, "float32"))
    assert np.isfinite(loss)
    return layer, before


def assert_trained(subject, layer, before):
    trainable = {id(weight) for weight in layer.trainable_weights}
    for weight, start in zip(layer.weights, before, strict=True):
        value = ops.convert_to_numpy(weight)
        assert weight.dtype == "float32"
        assert np.isfinite(value).all()
        if subject.arguments.get("use_bn") and BIAS_OF_DNN.search(weight.path):
            continue  # the normalisation takes it out again
        moving = "moving_" in weight.path
        assert np.array_equal(value, start) != (id(weight) in trainable or moving), weight.path


@each_case
def test_the_gradient_reaches_every_weight(subject):
    assert_trained(subject, *trained(subject))


@each_layer
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_computes_in_half(subject, policy):
    x = subject.inputs()
    layer, full = randomize(subject.built(dtype=policy)), randomize(subject.built())
    model = model_of(layer, x)
    outputs = model.predict(x, verbose=0)
    expected = OUTPUT_DTYPES.get(subject.name, policy.removeprefix("mixed_"))
    for output in [*tree.flatten(outputs), *tree.flatten(model.output)]:
        assert keras.backend.standardize_dtype(output.dtype) == expected
    for half, whole in zip(arrays(outputs), arrays(full(tensors(x))), strict=True):
        np.testing.assert_allclose(half, whole, rtol=0.1, atol=0.1)
    assert_trained(subject, *trained(subject, dtype=policy))


@each_layer
@pytest.mark.skipif(BACKEND == "torch", reason="torch.compile takes minutes, and warns")
def test_what_supports_jit_computes_the_same_under_jit(subject):
    layer, x = randomize(subject.built()), subject.inputs()
    model = model_of(layer, x)
    assert layer.supports_jit
    model.compile(jit_compile=True)
    eager = model(tensors(x))
    for jit, expected in zip(tree.flatten(model.predict(x, verbose=0)), arrays(eager), strict=True):
        np.testing.assert_allclose(jit, expected, rtol=1e-6, atol=1e-6)


def test_what_stands_alone_weighs_one_without_a_warning():
    gate = mtl.layers.Gate(1)
    same(gate(tensors(ONE)), np.ones((ROWS, 1), "float32"))
    assert model_of(gate, ONE).output.shape == (None, 1)
    clicks = sequence("clicks", 6, 1, weight_name="weight", weight_norm=True)
    x = {"clicks": np.array([[5], [0]], "int32"), "weight": draw(2, 1, 1)}
    encoder = mtl.layers.FeatureEncoder([clicks])
    encoded = encoder(tensors(x))
    same(encoded, encoder.embeddings("clicks")[[5, 0]] * [[1], [0]])
