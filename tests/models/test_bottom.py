"""h = bottom(x): a cross network or a factorization machine beside a DNN, or any Keras layer."""

import os
import pathlib
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest
import reference as ref
import toy

from mtl.features import DenseFeat, SparseFeat
from mtl.models import SharedBottom, extract_task

pytest.importorskip("keras_rs", reason="the extra rs is not installed")

LEFT_OUT = {"bottom_dnn_units": (128, 128)}  # the default: a layer has its own units


def rs_weights(model: Any, name: str) -> list[np.ndarray]:
    return [np.array(value, "float64") for value in model.get_layer(name).get_weights()]


def expected_outputs(w: ref.Weights, h: np.ndarray) -> list[np.ndarray]:
    return [ref.tower(w, name, h) for name in ("task_1", "task_2")]


def test_a_cross_network_stands_beside_the_dnn() -> None:
    model = toy.randomize(toy.build("SharedBottom", bottom="dcn"))
    x, w = toy.features(), ref.weights(model)
    v = c = ref.encode(model, x)
    for name in ("cross_0", "cross_1"):
        kernel, bias = rs_weights(model, name)
        c = v * (c @ kernel + bias) + c
    h = np.concatenate([c, ref.dnn(w, "bottom", v)], axis=1)
    assert h.shape == (24, 12 + 8)
    toy.same(toy.outputs(model, x), expected_outputs(w, h), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dim", [None, 3])
def test_a_factorization_machine_stands_beside_the_dnn(dim: int | None) -> None:
    model = toy.randomize(toy.build("SharedBottom", bottom="deepfm", dense_embedding_dim=dim))
    x, w = toy.features(), ref.weights(model)
    v = ref.encode(model, x)
    if dim:
        kernel = w["encoder/dense_kernel"]
        v = np.concatenate([v[:, :9], v[:, 9:11] @ kernel[:2], v[:, 11:] @ kernel[2:]], axis=1)
    count = 5 if dim else 3
    fields = [v[:, 3 * i : 3 * i + 3] for i in range(count)]
    products = [(fields[i] * fields[j]).sum(1) for i in range(count) for j in range(i)]
    linear = v @ w["linear/kernel"]
    h = np.concatenate([linear, np.stack(products, 1), ref.dnn(w, "bottom", v)], axis=1)
    assert h.shape == (24, 1 + count * (count - 1) // 2 + 8)
    toy.same(toy.outputs(model, x), expected_outputs(w, h), atol=1e-4, rtol=1e-4)


def test_with_units_of_one_a_tower_without_units_is_a_deepfm() -> None:
    # ŷ = σ(w·x + Σ ⟨v_i, v_j⟩ + DNN(x)), of the paper, is one of the functions of the model.
    towers = [[], []]
    model = toy.build(
        "SharedBottom", bottom="deepfm", bottom_dnn_units=(8, 1), tower_dnn_units_lists=towers
    )
    toy.randomize(model)
    kernel = next(weight for weight in model.weights if weight.path == "task_1/logits/kernel")
    kernel.assign(np.ones(kernel.shape))
    x, w = toy.features(), ref.weights(model)
    v = ref.encode(model, x)
    a, b, c = v[:, :3], v[:, 3:6], v[:, 6:9]
    square_of_sum, sum_of_squares = (a + b + c) ** 2, a**2 + b**2 + c**2
    fm = v @ w["linear/kernel"] + (square_of_sum - sum_of_squares).sum(1, keepdims=True) / 2
    logit = fm + ref.dnn(w, "bottom", v) + w["task_1/logits/bias"]
    toy.same(toy.outputs(model, x)[:1], [ref.sigmoid(logit)], atol=1e-4, rtol=1e-4)


def test_interactions_start_as_every_layer_does() -> None:
    model = toy.build("SharedBottom", bottom="dcn", seed=1)
    again, other = (toy.build("SharedBottom", bottom="dcn", seed=seed) for seed in (1, 2))
    kernels = [rs_weights(m, f"cross_{i}")[0] for m in (model, other) for i in (0, 1)]
    assert len({kernel.tobytes() for kernel in kernels}) == 4
    np.testing.assert_array_equal(rs_weights(again, "cross_1")[0], kernels[1])
    assert np.std(kernels) == pytest.approx(np.sqrt(2 / (12 + 12)), rel=0.1)
    fm = [
        rs_weights(toy.build("SharedBottom", bottom="deepfm", seed=seed), "linear")[0]
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(fm[0], fm[1])
    assert not np.array_equal(fm[0], fm[2])


def test_l2_penalises_the_kernels_of_cross_layers() -> None:
    def loss(**options: Any) -> float:
        model = toy.build("SharedBottom", bottom="dcn", l2_reg_dnn=0.1, **options)
        toy.outputs(model, toy.features())
        kernels = [rs_weights(model, f"cross_{i}")[0] for i in (0, 1)]
        rest = [v for path, v in ref.weights(model).items() if "/dense_0/kernel" in path]
        squares = sum((kernel**2).sum() for kernel in kernels + rest)
        assert len(rest) == 3
        found = sum(float(keras.ops.convert_to_numpy(value)) for value in model.losses)
        assert found == pytest.approx(0.1 * squares, rel=1e-4)
        return found

    assert loss(l2_reg_embedding=0) > 0


@keras.saving.register_keras_serializable(package="test_bottom")
class Twice(keras.layers.Layer):
    """A user's layer with weights: 2 x ⊙ w."""

    def build(self, input_shape: Any) -> None:
        self.w = self.add_weight(name="w", shape=input_shape[1:], initializer="ones")

    def call(self, inputs: Any) -> Any:
        return 2 * inputs * self.w


def layers() -> list[Any]:
    dense = keras.layers.Dense(5, "tanh", name="own")
    return [Twice(), keras.Sequential([dense, keras.layers.Dense(4)]), keras.layers.Dense(7)]


@pytest.mark.parametrize("index", range(3))
def test_any_layer_serves(index: int, tmp_path: pathlib.Path) -> None:
    layer = layers()[index]
    model = toy.randomize(toy.build("SharedBottom", bottom=layer, **LEFT_OUT))
    assert layer in model.layers
    x, w = toy.features(), ref.weights(model)
    v = ref.encode(model, x)
    h = np.array(keras.ops.convert_to_numpy(layer(keras.ops.convert_to_tensor(v, "float32"))))
    toy.same(toy.outputs(model, x), expected_outputs(w, h), atol=1e-5, rtol=1e-5)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    toy.same(toy.outputs(loaded, x), toy.outputs(model, x), rtol=0, atol=0)
    part = extract_task(model, "task_2")
    toy.same(toy.outputs(part, x), toy.outputs(model, x)[1:], rtol=0, atol=0)
    assert part.get_layer(layer.name) is not layer


_LOAD = """
import keras, numpy as np
import mtl
model = keras.models.load_model("model.keras")
outputs = model.predict(dict(np.load("x.npz")), batch_size=24, verbose=0)
np.savez("outputs.npz", *outputs)
"""


@pytest.mark.slow
def test_a_new_process_loads_it_after_import_mtl(tmp_path: pathlib.Path) -> None:
    model = toy.randomize(toy.build("SharedBottom", bottom="dcn"))
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "x.npz", **toy.features())
    environment = {**os.environ, "KERAS_BACKEND": toy.BACKEND}
    command = [sys.executable, "-c", _LOAD]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=600)
    with np.load(tmp_path / "outputs.npz") as there:
        expected = model.predict(toy.features(), batch_size=24, verbose=0)
        toy.same([there["arr_0"], there["arr_1"]], expected, rtol=0, atol=0)


@pytest.mark.parametrize("bottom", ["dcn", "deepfm"])
def test_without_keras_rs_the_extra_is_named(
    bottom: str, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    model = toy.build("SharedBottom", bottom=bottom)
    model.save(tmp_path / "model.keras")
    monkeypatch.setitem(sys.modules, "keras_rs", None)
    with pytest.raises(ImportError, match=r"keras-rs: pip install 'keras-mtl\[rs\]'"):
        toy.build("SharedBottom", bottom=bottom)
    with pytest.raises(ImportError, match=r"keras-rs: pip install 'keras-mtl\[rs\]'"):
        keras.models.load_model(tmp_path / "model.keras")
    toy.build("SharedBottom")


A, B, C = SparseFeat("a", 5, 2), SparseFeat("b", 5, 3), DenseFeat("c", 2)


@pytest.mark.parametrize(
    ("columns", "options", "match"),
    [
        ([A, C], {"bottom": "mlp"}, r"`bottom`.*'deepfm'.*Keras layer.*Received: 'mlp'"),
        ([A, C], {"bottom": None}, r"`bottom`.*Keras layer.*Received: None"),
        ([A, C], {"bottom": keras.layers.Dense}, r"`bottom`.*Keras layer.*Received: <class"),
        ([A, B], {"bottom": "deepfm"}, r"'deepfm'.*one size.*{'a': 2, 'b': 3}"),
        ([A, C], {"bottom": "deepfm"}, r"'deepfm'.*at least two embeddings.*{'a': 2}"),
        ([A, C], {"bottom": "deepfm", "dense_embedding_dim": 3}, r"one size.*{'a': 2, 'c': 3}"),
    ],
)
def test_bad_bottoms_are_refused(columns: list[Any], options: dict[str, Any], match: str) -> None:
    with pytest.raises((TypeError, ValueError), match=match):
        SharedBottom(columns, num_tasks=2, **options)


@pytest.mark.parametrize("name", ["user", "task_1", "encoder"])
def test_a_layer_with_a_name_that_is_taken_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"`bottom` should have a name of its own.*{name}"):
        toy.build("SharedBottom", bottom=keras.layers.Dense(4, name=name), **LEFT_OUT)


def test_a_layer_is_not_given_units() -> None:
    with pytest.raises(ValueError, match=r"`bottom_dnn_units` should be left out.*\(8,\)"):
        toy.build("SharedBottom", bottom=keras.layers.Dense(4))


def test_a_layer_that_returns_no_vector_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`bottom` should return a tensor of shape \(B, H\)"):
        toy.build("SharedBottom", bottom=keras.layers.Reshape((3, 4)), **LEFT_OUT)
