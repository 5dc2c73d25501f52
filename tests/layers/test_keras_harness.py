"""Keras' own test of a layer, as its layers are tested."""

import keras
import numpy as np
import pytest
from encoding import sequence
from keras.src.testing import TestCase
from numpy_layers import BACKEND

import mtl.layers
from mtl.features import DenseFeat, SparseFeat
from mtl.layers import FeatureEncoder

FULL = {"l2_reg": 0.1, "dropout": 0.3, "use_bn": True, "seed": 1}
EXTRACTION = {"num_tasks": 2, "num_experts_specific": 1, "num_experts_shared": 2, "units": [4]}
SUBSETS = {"user": [0, 3], "item": [1, 2, 4]}
COLUMNS = [
    SparseFeat("user", 5, 2),
    SparseFeat("frozen", 5, 2, trainable=False),
    SparseFeat("page", 9, 3, use_hash=True),
    sequence("clicks", 6, 3, combiner="max", length_name="length", weight_name="weight"),
    DenseFeat("age", 2),
]
FEATURES = {
    "user": np.array([[0], [7]], "int32"),
    "frozen": np.array([[1], [-1]], "int32"),
    "page": np.array([[3], [77]], "int32"),
    "clicks": np.array([[1, 2, 0], [5, 6, 7]], "int32"),
    "length": np.array([[2], [0]], "int32"),
    "weight": np.array([[[1], [2], [3]], [[4], [5], [6]]], "float32"),
    "age": np.array([[0.5, 1], [2, 3]], "float32"),
}


@keras.saving.register_keras_serializable(package="test_keras_harness")
class Encoder(FeatureEncoder):
    """FeatureEncoder with the dict of features as an argument named `inputs`.

    The harness spreads a dict over the arguments of `build` and `call`, one for each key. A layer
    whose single argument is a dict is beyond it, but for its data in another dict. Its training
    check then hands over that outer dict as it is.
    """

    def build(self, inputs):
        super().build(inputs)

    def call(self, inputs):
        return super().call(inputs.get("inputs", inputs))

    def compute_output_spec(self, inputs):
        return super().compute_output_spec(inputs.get("inputs", inputs))


def expected(trainable, shape, *, fixed=0, dropouts=0, losses=0, lists=False):
    """Return the harness's arguments: numbers of weights, fixed ones and generators."""
    return {
        "expected_num_trainable_weights": trainable,
        "expected_num_non_trainable_weights": fixed,
        "expected_num_non_trainable_variables": fixed + dropouts,
        "expected_num_seed_generators": dropouts,
        "expected_num_losses": losses,
        "expected_output_shape": shape,
        "expected_output_dtype": keras.tree.map_shape_structure(lambda _: "float32", shape),
        # On TensorFlow the harness hands inputs and outputs to tf.data, which takes no lists.
        "run_training_check": trainable > 0
        and not (BACKEND == "tensorflow" and (type(shape) is list or lists)),
    }


ONE = {"input_shape": (2, 5)}
THREE = {"input_shape": ((2, 5),) * 3}

STACK = {"input_shape": (2, 3, 5)}
PAIR = {"input_shape": ((2, 5), (2, 3))}
SCENARIOS = {
    "input_data": [
        np.ones((2, 5), "float32"),
        np.array([[0], [7]], "int32"),
    ]
}
FUSION = {
    "num_experts": [1, 2, 1],
    "links": [["own", None, "other"], ["stopped", "own", "other"]],
}

# By layer: its arguments, its inputs, and what the harness should count.
CASES = {
    "CrossStitchUnit": [
        ({"num_outputs": 2}, STACK, expected(1, [(2, 5)] * 2)),
        ({"num_outputs": 3, "per_channel": True}, STACK, expected(1, [(2, 5)] * 3)),
    ],
    "DNN": [
        ({"units": ()}, ONE, expected(0, (2, 5))),
        ({"units": [4, 4], **FULL}, ONE, expected(8, (2, 4), fixed=4, dropouts=2, losses=2)),
    ],
    "DSelectK": [
        ({"num_experts": 1}, ONE, expected(0, (2, 1))),
        (
            {"num_experts": 5, "num_selected": 2, "units": [4], "entropy_weight": 0.1, **FULL},
            ONE,
            # The DNN's kernel, bias, gamma, beta; kernel and bias of the bits and of the weights.
            expected(4 + 4, (2, 5), fixed=2, dropouts=1, losses=1 + 2),
        ),
    ],
    "Experts": [
        ({"num_experts": 2, "units": []}, ONE, expected(0, (2, 2, 5))),
        (
            {"num_experts": [2, 1, 1], "units": [4, 4], **FULL},
            THREE,
            expected(8, (2, 4, 4), fixed=4, dropouts=2, losses=2),
        ),
        (
            {"num_experts": [2, 1], "units": [4, 4], "subsets": SUBSETS, **FULL},
            ONE,
            expected(9, (2, 6, 4), fixed=4, dropouts=2, losses=3),
        ),
    ],
    "Extraction": [
        (
            {**EXTRACTION, "shared_gate": True, "gate_units": [4], **FULL},
            THREE,
            # Experts: kernel, bias, gamma, beta; each of three gates those and its logits.
            expected(4 + 3 * 5, [(2, 4)] * 3, fixed=2 + 3 * 2, dropouts=1 + 3, losses=1 + 3),
        ),
        (
            {**EXTRACTION, "subsets": SUBSETS, "seed": 1},
            ONE,
            expected(3 + 2, [(2, 4)] * 2),
        ),
    ],
    "FeatureEncoder": [
        (
            {"feature_columns": COLUMNS, "l2_reg": 0.1, "seed": 1},
            {"input_data": {"inputs": FEATURES}},
            expected(2, (2, 2 + 2 + 3 + 2 + 2), fixed=1, losses=2),
        ),
        (
            {"feature_columns": COLUMNS, "dense_embedding_dim": 4},
            {"input_data": {"inputs": FEATURES}},
            expected(3, (2, 2 + 2 + 3 + 2 + 4), fixed=1),
        ),
    ],
    "Fusion": [
        ({**FUSION, "units": [4], "seed": 1}, ONE, expected(2 + 2, [(2, 4)] * 2)),
        (
            {**FUSION, "units": [4], "residual": "self", "feature_gates": [2, 3], **FULL},
            {"input_shape": ((2, 5),) * 5},
            # Experts, three kernels of their feature gates, two gates, and two of their own.
            expected(4 + 3 + 2 + 2, [(2, 4)] * 2, fixed=2, dropouts=1, losses=1),
        ),
    ],
    "Gate": [
        (
            {"num_experts": 4, "units": [4], "temperature": 0.5, **FULL},
            ONE,
            expected(5, (2, 4), fixed=2, dropouts=1, losses=1),
        ),
    ],
    "GatedDNN": [
        (
            {"units": [4], "gate_units": [3], **FULL},
            PAIR,
            # The layer, and for its input and its output a gate of two layers, one normalised.
            expected(4 + 2 * 6, (2, 4), fixed=2 + 2 * 2, dropouts=1 + 2, losses=1 + 2),
        ),
    ],
    "InformationTransfer": [
        ({"seed": 1}, {"input_shape": ((2, 5),) * 2}, expected(1, (2, 5))),
    ],
    "Isotonic": [({"num_points": 3}, {"input_shape": (2, 1)}, expected(0, (2, 1), fixed=2))],
    "PartitionedNormalization": [
        ({"num_scenarios": 3}, SCENARIOS, expected(4, (2, 5), fixed=2, lists=True))
    ],
    "Platt": [({}, {"input_shape": (2, 1)}, expected(0, (2, 1), fixed=2))],
    "Routing": [
        (
            {"num_outputs": 2, "penalty": 0.1, "seed": 1},
            STACK,
            expected(2, [(2, 5)] * 2, dropouts=1, losses=1),
        ),
    ],
    "Scaling": [({"rate": 2.0, "skip": 1}, ONE, expected(1, (2, 5)))],
    "StarDNN": [
        (
            {"num_scenarios": 3, "units": [4], **FULL},
            SCENARIOS,
            expected(8, (2, 4), fixed=2, dropouts=1, losses=2, lists=True),
        )
    ],
    "StarDense": [
        (
            {"num_scenarios": 3, "units": 4, "l2_reg": 0.1},
            SCENARIOS,
            expected(4, (2, 4), losses=2, lists=True),
        )
    ],
    "Tower": [
        ({}, ONE, expected(2, (2, 1))),
        (
            {"units": [4], "task_type": "multiclass", "num_outputs": 3, **FULL},
            ONE,
            expected(6, (2, 3), fixed=2, dropouts=1, losses=1),
        ),
    ],
}
TYPES = {"FeatureEncoder": Encoder}


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")  # by the harness
@pytest.mark.parametrize("name", mtl.layers.__all__)
def test_the_harness_of_keras_passes(name):
    if name not in CASES:
        pytest.fail(f"CASES in {__file__} should hold a case of mtl.layers.{name}")
    for arguments, inputs, counts in CASES[name]:
        TestCase().run_layer_test(
            TYPES.get(name, getattr(mtl.layers, name)),
            init_kwargs=arguments,
            **inputs,
            **counts,
            supports_masking=False,
        )
