"""Serving formats: inputs by feature name, outputs by task name, predictions as in Keras."""

import importlib.util
import pathlib
import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import toy

from mtl.features import DenseFeat, SparseFeat
from mtl.models import MMoE, extract_task

FORMATS = {"tensorflow": ["tf_saved_model", "onnx", "litert"], "jax": ["tf_saved_model"]}
TASKS = ["first task", "2nd"]
OUTPUTS = ["first_task", "2nd"]
Served = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]

pytestmark = [
    # What Keras' exporters and TensorFlow call themselves.
    pytest.mark.filterwarnings("ignore:In the future `np.object`:FutureWarning:keras"),
    pytest.mark.filterwarnings("ignore:.*`native_serialization` parameter:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated:UserWarning"),
]
_NONE = pytest.param("", marks=pytest.mark.skip(reason="no serving format of torch is supported"))
_OLD = importlib.util.find_spec("keras.src.export.litert") is None
_LITERT = pytest.mark.skipif(_OLD, reason=f"Keras {keras.__version__} exports no LiteRT")
exported_here = pytest.mark.parametrize(
    "format",
    [
        pytest.param(format, marks=_LITERT if format == "litert" else [])
        for format in FORMATS.get(toy.BACKEND, [])
    ]
    or [_NONE],
)
tensorflow_only = pytest.mark.skipif(
    toy.BACKEND != "tensorflow", reason="exported on TensorFlow only"
)


def columns(x: dict[str, np.ndarray], model: Any) -> dict[str, np.ndarray]:
    """Return the arrays in the shapes and dtypes of the model's inputs."""
    rows = len(x["age"])
    return {
        name: np.asarray(x[name], spec.dtype).reshape(rows, *spec.shape[1:])
        for name, spec in model.input.items()
    }


def export(
    model: Any, format: str, folder: pathlib.Path, names: dict[str, str] | None = None
) -> Served:
    """Export, load what was written without Keras, and return how to call it by feature name.

    `names` are those under which the format takes features that it can't name.
    """

    def renamed(x: dict[str, Any]) -> dict[str, Any]:
        return {(names or {}).get(name, name): value for name, value in x.items()}

    if format == "tf_saved_model":
        import tensorflow as tf

        model.export(folder / "saved", verbose=False)
        loaded = tf.saved_model.load(str(folder / "saved"))
        signature = loaded.signatures["serving_default"]

        def saved_model(x: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            tensors = {name: tf.constant(value) for name, value in x.items()}
            by_name = {k: v.numpy() for k, v in signature(**renamed(tensors)).items()}
            toy.same(by_name.values(), [v.numpy() for v in loaded.serve(tensors).values()])
            return by_name

        return saved_model
    if format == "onnx":
        import onnxruntime

        model.export(folder / "model.onnx", format=format, verbose=False)
        session = onnxruntime.InferenceSession(folder / "model.onnx")
        outputs = [output.name for output in session.get_outputs()]
        return lambda x: dict(zip(outputs, session.run(None, renamed(x)), strict=True))
    import tensorflow as tf

    model.export(folder / "model.tflite", format=format, verbose=False)
    interpreter = tf.lite.Interpreter(str(folder / "model.tflite"))
    return lambda x: interpreter.get_signature_runner("serving_default")(**renamed(x))


@exported_here
@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in toy.SOME),
        ("MMoE", {"gate": "dselect_k"}),
        ("CrossStitch", {"per_channel": True}),
        ("SNR", {"connection": "aver"}),
    ],
)
def test_every_model_is_served_by_name(
    name: str, options: dict[str, Any], format: str, tmp_path: pathlib.Path
) -> None:
    model = toy.randomize(toy.build(name, task_names=TASKS, dnn_use_bn=True, **options))
    serve = export(model, format, tmp_path)
    for rows in (5, 1):
        x = toy.features(rows)
        x["user"][0] = -1  # reads the unknown row, everywhere
        served = serve(columns(x, model))
        assert set(served) == set(OUTPUTS)
        predictions = [served[output] for output in OUTPUTS]
        toy.same(predictions, toy.outputs(model, x), atol=1e-5, rtol=0)


@exported_here
@pytest.mark.parametrize(("name", "task"), [("PLE", "2nd"), ("ESMM", "cvr")])
def test_one_task_is_served_alone(
    name: str, task: str, format: str, tmp_path: pathlib.Path
) -> None:
    part = extract_task(toy.randomize(toy.build(name, task_names=TASKS)), task)
    x = toy.features(5)
    served = export(part, format, tmp_path)(columns(x, part))
    assert set(served) == {task}
    toy.same(served.values(), toy.outputs(part, x), atol=1e-5, rtol=0)


@pytest.mark.skipif(toy.BACKEND not in FORMATS, reason="no SavedModel on this backend")
def test_an_exported_task_carries_nothing_of_the_others(tmp_path: pathlib.Path) -> None:
    import tensorflow as tf

    whole = toy.build("CGC", num_experts_specific=4)
    part = extract_task(whole, "task_1")
    sizes = []
    for i, model in enumerate((whole, part)):
        model.export(tmp_path / str(i), verbose=False)
        variables = tf.saved_model.load(str(tmp_path / str(i))).variables
        sizes.append(sum(int(np.prod(v.shape)) for v in variables))
    assert sizes == [whole.count_params(), part.count_params()]
    x_width, experts, others = 3 + 3 + 3 + 2 + 1, 8, 4
    gone = others * (x_width + 1) * experts  # the other task's experts
    gone += x_width * (4 + 1)  # its gate
    gone += (experts + 1) * 6 + (6 + 1) * 1  # its tower
    assert sizes[0] - sizes[1] == gone


@tensorflow_only
def test_onnx_outputs_come_in_task_order_and_share_one_batch_axis(tmp_path: pathlib.Path) -> None:
    import onnxruntime

    names = ["zeta", "alpha", "mid 1", "beta", *(f"t{i}" for i in range(10, 0, -1))]
    model = toy.randomize(toy.build("SharedBottom", num_tasks=len(names), task_names=names))
    model.export(tmp_path / "model.onnx", format="onnx", verbose=False)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert [output.name for output in session.get_outputs()] == model.output_names
    assert {i.name: i.shape for i in session.get_inputs()} == {
        name: ["batch", *spec.shape[1:]] for name, spec in model.input.items()
    }
    assert [output.shape for output in session.get_outputs()] == [["batch", 1]] * len(names)
    for rows in (3, 1):
        x = toy.features(rows)
        served = session.run(None, columns(x, model))
        toy.same(served, model.predict(x, verbose=0), atol=1e-5, rtol=0)


@exported_here
def test_names_that_formats_refuse_are_made_safe(format: str, tmp_path: pathlib.Path) -> None:
    names = ["age years", "age_years", "größe", "C:D"]
    model = MMoE(
        [*(SparseFeat(name, 5, 4) for name in names), DenseFeat("age")],
        task_names=["bought?"],
        tower_dnn_units_lists=[[4]],
    )
    toy.randomize(model)
    x = {name: np.array([[i], [4 - i]], "int32") for i, name in enumerate(names)}
    x["age"] = np.array([[0.5], [-2.0]], "float32")
    safe = {"age years": "age_years_", "größe": "gruf6udfe", "C:D": "C_D"}
    served = export(model, format, tmp_path, safe)(x)
    assert list(served) == ["bought_"]
    toy.same(served.values(), toy.outputs(model, x), atol=1e-5, rtol=0)


@exported_here
def test_hashed_and_wide_ids(format: str, tmp_path: pathlib.Path) -> None:
    wide = SparseFeat("wide", 50, 4, dtype="int64")
    hashed = SparseFeat("hashed", 50, 4, dtype="int64", use_hash=True)
    for features in ([wide, DenseFeat("age")], [hashed, wide]):
        model = MMoE(features, task_names=["t"], tower_dnn_units_lists=[[4]])
        if format == "onnx" and hashed in features:
            with pytest.raises(ValueError, match=r"hashed features.*Received.*\['hashed'\]"):
                model.export(tmp_path / "model.onnx", format="onnx")
            continue
        if format == "litert" and hashed in features:
            model.export(tmp_path / "hashed.tflite", format="litert", verbose=False)
            continue  # runs where the Flex delegate is linked in, which it is not in Python
        toy.randomize(model)
        x = {
            "wide": np.array([[3], [2**40], [-1]]),
            "hashed": np.array([[3], [2**40], [-1]]),
            "age": np.array([[0.5], [1.0], [-2.0]], "float32"),
        }
        x = {name: x[name].astype(spec.dtype) for name, spec in model.input.items()}
        served = export(model, format, tmp_path)(x)
        toy.same(served.values(), toy.outputs(model, x), atol=1e-5, rtol=0)


@tensorflow_only
def test_strings_are_served(tmp_path: pathlib.Path) -> None:
    model = MMoE(
        [SparseFeat("word", 50, 4, dtype="string", use_hash=True)],
        task_names=["t"],
        tower_dnn_units_lists=[[4]],
    )
    toy.randomize(model)
    x = {"word": np.array([["a"], ["b"], [""]], object)}
    served = export(model, "tf_saved_model", tmp_path)(x)
    toy.same(served.values(), [model.predict(x, verbose=0)], atol=1e-5, rtol=0)


@tensorflow_only
def test_a_loaded_model_is_exported_with_a_fixed_number_of_rows(tmp_path: pathlib.Path) -> None:
    model = toy.randomize(toy.build("SharedBottom", task_names=TASKS))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    specs = {
        name: keras.InputSpec(shape=(4, *spec.shape[1:]), dtype=spec.dtype, name=name)
        for name, spec in loaded.input.items()
    }
    loaded.export(tmp_path / "model.onnx", format="onnx", verbose=False, input_signature=[specs])
    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert {i.name: i.shape[0] for i in session.get_inputs()} == dict.fromkeys(specs, 4)
    x = toy.features(4)
    served = session.run(None, columns(x, loaded))
    toy.same(served, toy.outputs(model, x), atol=1e-5, rtol=0)


def test_what_a_backend_cannot_write_is_refused_before_it_starts(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = toy.build("SharedBottom")
    for format in {"tf_saved_model", "onnx", "litert"} - set(FORMATS.get(toy.BACKEND, [])):
        expected = rf"`format='{format}'`.*KERAS_BACKEND=tensorflow.*Received: .*{toy.BACKEND}"
        with pytest.raises(ValueError, match=expected):
            model.export(tmp_path / "model.tflite", format=format)
    if toy.BACKEND == "tensorflow":
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(ImportError, match=re.escape("pip install 'keras-mtl[onnx]'")):
            model.export(tmp_path / "model.onnx", format="onnx")
    assert list(tmp_path.iterdir()) == []
