"""Pipeline: raw rows to scores, in one process and the next, and inside exported graphs."""

import json
import pathlib
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
import toy

from mtl.calibration import calibrate
from mtl.data import TableEncoder
from mtl.features import SparseFeat
from mtl.metrics import evaluate_tasks
from mtl.models import MMoE, SharedBottom, extract_task
from mtl.serving import Pipeline

ROWS = 200
TASKS = {"a click": "binary", "why": ("multiclass", 3), "spent": "lifetime_value"}
OUTPUTS = ["a_click", "why", "spent"]
FORMATS = {"tensorflow": ["tf_saved_model", "onnx"], "jax": ["tf_saved_model"]}.get(toy.BACKEND, [])

pytestmark = [
    # What Keras' exporters call themselves.
    pytest.mark.filterwarnings("ignore:In the future `np.object`:FutureWarning:keras"),
    pytest.mark.filterwarnings("ignore:.*`native_serialization` parameter:DeprecationWarning"),
]
exported_here = pytest.mark.skipif(not FORMATS, reason="no serving format of torch is supported")


def log(seed: int = 0) -> pd.DataFrame:
    """Return rows with every kind of column, missing values in each."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "city": rng.choice(["Rome", " Oslo", "Zürich", "東京", None], ROWS),
            "home town": rng.choice([3, 7, 10], ROWS),
            "grade": rng.choice([1.5, 0.1, -0.0, np.nan], ROWS),
            "member": rng.random(ROWS) < 0.5,
            "big": rng.choice([2**60, 2**60 + 1, -5], ROWS),
            "item": rng.choice([f"i{i}" for i in range(12)], ROWS),
            "shop": rng.integers(0, 6, ROWS),
            "when": pd.to_datetime(rng.integers(-(10**9), 2 * 10**9, ROWS), unit="s"),
            "age": np.where(rng.random(ROWS) < 0.1, np.nan, rng.normal(40, 9, ROWS)),
            "balance": rng.normal(0, 1, ROWS) * rng.lognormal(3, 2, ROWS),
            "constant": 1.0,
        }
    )
    frame["history"] = ["|".join(f"i{i}" for i in rng.integers(0, 15, n % 9)) for n in range(ROWS)]
    frame["shops"] = [",".join(map(str, rng.integers(0, 8, n % 4))) for n in range(ROWS)]
    frame["seen"] = [rng.integers(0, 9, n % 6).tolist() for n in range(ROWS)]
    frame["tags"] = [rng.choice(["x", "y z", "ü"], n % 3).tolist() for n in range(ROWS)]
    return frame


def strange(seed: int = 1) -> pd.DataFrame:
    """Return other rows: unseen values, blanks, floats for integers, and what is missing."""
    frame = log(seed)
    frame["home town"] = frame["home town"].astype(float)
    frame["grade"] = frame["grade"].astype("float32")
    for i, (name, value) in enumerate(
        [
            ("city", "Atlantis"), ("city", "Rome "), ("city", None), ("home town", np.nan),
            ("home town", 7.5), ("item", "new"), ("when", pd.NaT), ("age", np.nan), ("age", 1e6),
            ("big", 2**60 + 2), ("balance", np.nan), ("history", None), ("history", "||i3|new|"),
            ("shops", "3,03,x"), ("constant", 2.0),
        ]
    ):  # fmt: skip
        frame.loc[i :: 15 + i, name] = value
    frame["tags"] = [
        ["new", None, *row] if i % 4 == 0 else row for i, row in enumerate(frame["tags"])
    ]
    frame["seen"] = [None if i % 7 == 0 else [99, *row] for i, row in enumerate(frame["seen"])]
    return frame


def encoder(**hashed: Any) -> TableEncoder:
    return TableEncoder(
        {
            "city": {},
            "home town": {},
            "grade": {},
            "member": {},
            "big": {},
            "item": {},
            "shop": {},
            **hashed,
        },
        {
            "age": {},
            "balance": {"scaling": "log", "encoding": "bins", "clip": True},
            "constant": {},
        },
        sequences={
            "history": {"separator": "|", "vocabulary": "item", "maxlen": 4},
            "shops": {"separator": ",", "vocabulary": "shop", "maxlen": 2},
            "seen": {"maxlen": 3},
            "tags": {"maxlen": 2},
        },
        times={"when": {"parts": ["month", "day", "weekday", "hour", "minute", "days"]}},
        bins=4,
    ).fit(log())


def model_of(fitted: TableEncoder, **options: Any) -> Any:
    options = {
        "task_names": list(TASKS),
        "task_types": list(TASKS.values()),
        "tower_dnn_units_lists": [[4]] * len(TASKS),
        "bottom_dnn_units": (6,),
        **options,
    }
    model = SharedBottom(fitted.feature_columns, **options)
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 0.3, weight.shape) for weight in model.weights])
    return model


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    fitted = encoder()
    return Pipeline(fitted, model_of(fitted))


def served(pipeline: Pipeline, frame: pd.DataFrame, missing: str = "") -> dict[str, np.ndarray]:
    """Return the inputs of an exported file, as a client has them: by the description alone."""
    inputs = {}
    for one in json.loads(json.dumps(pipeline.describe(missing)))["inputs"]:
        values = frame[one["column"]]
        if one["kind"] == "times":
            array = values.to_numpy().astype("datetime64[s]").astype(np.int64)
        elif one["rank"] == 2:
            rows = [row or [] for row in values]
            gone = np.nan if one["missing"] is None else one["missing"]
            kind = object if one["dtype"] == "string" else one["dtype"]
            array = np.full((len(rows), max(map(len, rows))), gone, dtype=kind)
            for i, row in enumerate(rows):
                array[i, : len(row)] = [gone if value is None else value for value in row]
        elif one["dtype"] == "string":
            array = values.astype(object).where(values.notna(), one["missing"]).to_numpy()
        else:
            array = values.to_numpy().astype(one["dtype"])
        inputs[one["name"]] = array
    return inputs


def test_scores_are_named_and_keep_the_index(pipeline: Pipeline) -> None:
    frame = log().set_index(pd.Index(range(ROWS, 0, -1), name="row"))
    scores = pipeline.predict(frame.assign(more=1))
    value = ["spent", "spent_positive", "spent_mu", "spent_sigma"]
    assert list(scores.columns) == ["a click", "why_0", "why_1", "why_2", *value]
    pd.testing.assert_index_equal(scores.index, frame.index)
    predicted = pipeline.model.predict(pipeline.encoder.transform(frame), verbose=0)
    np.testing.assert_array_equal(scores.to_numpy(), np.concatenate(predicted, axis=1))
    arrays = {name: frame[name].to_numpy() for name in frame}
    arrays["seen"] = [list(row) for row in frame["seen"]]
    arrays["tags"] = frame["tags"].tolist()
    pd.testing.assert_frame_equal(pipeline.predict(arrays), scores.reset_index(drop=True))
    assert pipeline.predict(frame[:0]).shape == (0, 8)
    with pytest.raises(ValueError, match="`frame` should have one column 'city'"):
        pipeline.predict({})
    with pytest.raises(
        TypeError, match=r"`frame` should be a pandas DataFrame\. Received: NoneType"
    ):
        pipeline.predict(None)
    assert repr(pipeline) == "Pipeline(15 raw columns; tasks: a click, why, spent)"


def test_evaluation_is_that_of_encoded_rows(pipeline: Pipeline) -> None:
    rng = np.random.default_rng(0)
    y = {"a click": rng.integers(0, 2, ROWS), "why": rng.integers(0, 3, ROWS)}
    y["spent"] = rng.integers(0, 2, ROWS) * 3.0
    x = pipeline.encoder.transform(log())
    expected = evaluate_tasks(pipeline.model, x, y, groups=log()["item"])
    pd.testing.assert_frame_equal(pipeline.evaluate(log(), y, groups=log()["item"]), expected)


LOAD = """
import sys, mtl, numpy as np, pandas as pd
from mtl.serving import Pipeline
scores = Pipeline.load(sys.argv[1]).predict(pd.read_pickle(sys.argv[2]))
scores.to_pickle(sys.argv[3])
"""


def test_a_loaded_pipeline_predicts_to_the_bit(pipeline: Pipeline, tmp_path: pathlib.Path) -> None:
    pipeline.save(tmp_path / "deep" / "pipeline")
    pipeline.save(tmp_path / "deep" / "pipeline")  # which replaces it
    folder = tmp_path / "deep" / "pipeline"
    assert sorted(file.name for file in folder.iterdir()) == [
        "encoder.json", "manifest.json", "model.keras"
    ]  # fmt: skip
    assert [file.name for file in folder.parent.iterdir()] == ["pipeline"]
    log().to_pickle(tmp_path / "log.pkl")
    paths = [folder, tmp_path / "log.pkl", tmp_path / "scores.pkl"]
    subprocess.run([sys.executable, "-c", LOAD, *map(str, paths)], check=True, timeout=240)
    pd.testing.assert_frame_equal(pd.read_pickle(paths[2]), pipeline.predict(log()), rtol=0, atol=0)


def test_calibrated_models_and_tasks_alone_make_pipelines(tmp_path: pathlib.Path) -> None:
    frame = log()
    fitted = TableEncoder(["city", "shop"], ["age"]).fit(frame)
    model = model_of(
        TableEncoder(["city"], ["age"]).fit(frame), task_types=None, task_names=["a", "b"],
        tower_dnn_units_lists=[[4]] * 2,
    )  # fmt: skip
    y = [(np.arange(ROWS) % 2).astype("float32"), (np.arange(ROWS) % 3 == 0).astype("float32")]
    calibrated = calibrate(model, fitted.transform(frame), y)
    for one in (calibrated, extract_task(calibrated, "b"), extract_task(model, "a")):
        pipeline = Pipeline(fitted, one)
        assert list(pipeline.columns) == ["city", "age"]
        scores = pipeline.predict(frame[["city", "age"]])  # no more is needed
        expected = one.predict(fitted.transform(frame), verbose=0)
        np.testing.assert_array_equal(scores.to_numpy().T, np.reshape(expected, (-1, ROWS)))
        pipeline.save(tmp_path / "pipeline")
        loaded = Pipeline.load(tmp_path / "pipeline")
        pd.testing.assert_frame_equal(loaded.predict(frame), scores, rtol=0, atol=0)


def test_what_does_not_belong_together_is_refused_by_name(pipeline: Pipeline) -> None:
    frame = log()

    def refused(fitted: TableEncoder, model: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Pipeline(fitted, model)

    model = model_of(TableEncoder(["city", "shop"], {"age": {"encoding": "bins"}}).fit(frame))
    refused(TableEncoder(["city"]).fit(frame), model, "none of the name 'shop'")
    other = TableEncoder(["city", "shop"], ["age"]).fit(frame)
    refused(other, model, "feature 'age' as `model` takes it.*'Bins'.*Received: .*None")
    small = frame[frame["city"] != "Rome"]
    other = TableEncoder(["city", "shop"], {"age": {"encoding": "bins"}}).fit(small)
    refused(other, model, "feature 'city' as .*'vocabulary_size': 6.*Received: .*: 5,")
    short = TableEncoder(sequences={"seen": {"maxlen": 2}}).fit(frame)
    long = model_of(TableEncoder(sequences={"seen": {"maxlen": 3}}).fit(frame))
    refused(short, long, "feature 'seen' as .*'maxlen': 3")
    hashed = MMoE([SparseFeat("city", 6, use_hash=True)], task_names=["t"],
                  tower_dnn_units_lists=[[4]])  # fmt: skip
    refused(TableEncoder(["city"]).fit(frame), hashed, "feature 'city' as .*'use_hash': True")
    with pytest.raises(RuntimeError, match="fitted"):
        Pipeline(TableEncoder(["city"]), model)
    for arguments, message in (
        ((3, model), "`encoder` should be a TableEncoder. Received: int"),
        ((pipeline.encoder, keras.Sequential()), "`model` should be a MultiTaskModel. .*Sequenti"),
    ):
        with pytest.raises(TypeError, match=message):
            Pipeline(*arguments)


def damaged(folder: pathlib.Path, how: str) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    if how == "newer":
        manifest |= {"version": 2, "versions": {"mtl": "9.9"}}
    elif how == "other":
        manifest["format"] = "x"
    (folder / "manifest.json").write_text(json.dumps(manifest)[: 30 if how == "cut" else None])
    if how.startswith("no "):
        (folder / how[3:]).unlink()
    elif "." in how:
        (folder / how).write_bytes((folder / how).read_bytes()[:-1] + b"?")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("newer", r"version 2, and this release reads up to 1: use mtl 9\.9 or later"),
        ("other", "manifest.json is that of no pipeline"),
        ("cut", "Unterminated string"),
        ("encoder.json", "encoder.json is damaged"),
        ("model.keras", "model.keras is damaged"),
        ("no model.keras", "model.keras is absent"),
        ("no manifest.json", "manifest.json"),
    ],
)
def test_what_is_no_whole_pipeline_is_refused(
    how: str, message: str, tmp_path: pathlib.Path
) -> None:
    fitted = TableEncoder(["city"]).fit(log())
    Pipeline(fitted, model_of(fitted)).save(tmp_path / "p")
    damaged(tmp_path / "p", how)
    with pytest.raises(ValueError, match=rf"`folder` should hold a whole pipeline.*{message}"):
        Pipeline.load(tmp_path / "p")
    with pytest.raises(FileNotFoundError, match="`folder` should hold a pipeline"):
        Pipeline.load(tmp_path / "q")


def test_nothing_is_overwritten_but_a_pipeline_and_nothing_half_written(
    pipeline: Pipeline, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    for path in (tmp_path / "mine", tmp_path / "mine" / "notes.txt"):
        with pytest.raises(ValueError, match="should be new, or an older folder with manifest"):
            pipeline.save(path)
    pipeline.save(tmp_path / "p")
    before = (tmp_path / "p" / "manifest.json").read_bytes()

    def fail(self: Any, path: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(TableEncoder, "save", fail)
    with pytest.raises(OSError, match="no space"):
        pipeline.save(tmp_path / "p")
    assert (tmp_path / "p" / "manifest.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "p"]


SERVE = """
import sys, numpy as np
folder, inputs, scores = sys.argv[1:4]
with np.load(inputs, allow_pickle=True) as stored:
    x = dict(stored)
served = {}
for format in sys.argv[4:]:
    if format == "onnx":
        import onnxruntime
        session = onnxruntime.InferenceSession(folder + "/model.onnx")
        names = [output.name for output in session.get_outputs()]
        found = dict(zip(names, session.run(None, x), strict=True))
    else:
        import tensorflow as tf
        loaded = tf.saved_model.load(folder + "/saved")
        serve = loaded.signatures["serving_default"]
        found = {k: v.numpy() for k, v in serve(**{k: tf.constant(v) for k, v in x.items()}).items()}
    served |= {format + "/" + name: value for name, value in found.items()}
assert "mtl" not in sys.modules
np.savez(scores, **served)
"""  # noqa: E501


def served_by(folder: pathlib.Path, x: dict[str, np.ndarray]) -> np.ndarray:
    """Return the scores of a SavedModel, in task order."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(folder))
    found = loaded.serve({name: tf.constant(value) for name, value in x.items()})
    return np.concatenate([found[name].numpy() for name in OUTPUTS], axis=1)


def scores_elsewhere(
    pipeline: Pipeline, frame: pd.DataFrame, formats: list[str], folder: pathlib.Path
) -> dict[str, np.ndarray]:
    """Return an exported file's scores by format, in a process that doesn't know mtl."""
    for format in formats:
        pipeline.export(folder / ("model.onnx" if format == "onnx" else "saved"), format=format)
    np.savez(folder / "inputs.npz", **served(pipeline, frame))  # type: ignore[arg-type]
    paths = [str(folder), str(folder / "inputs.npz"), str(folder / "scores.npz")]
    subprocess.run([sys.executable, "-c", SERVE, *paths, *formats], check=True, timeout=240)
    with np.load(paths[2]) as stored:
        return {
            format: np.concatenate(
                [stored[f"{format}/{name}"] for name in pipeline.model.output_names], axis=1
            )
            for format in formats
        }


@exported_here
@pytest.mark.filterwarnings("ignore:`frame` should hold values of the kind:UserWarning")
def test_exported_graphs_score_raw_rows_as_the_pipeline(
    pipeline: Pipeline, tmp_path: pathlib.Path
) -> None:
    rows = pd.concat([log(), strange()], ignore_index=True)
    expected = pipeline.predict(rows).to_numpy()
    assert np.ptp(expected, axis=0).min() > 0.01  # the rows differ in what they are
    for format, scores in scores_elsewhere(pipeline, rows, FORMATS, tmp_path).items():
        np.testing.assert_allclose(scores, expected, rtol=1e-6, atol=1e-6, err_msg=format)


@exported_here
def test_any_name_of_a_column_is_served(tmp_path: pathlib.Path) -> None:
    names = ["a-b", "a_b", "a b", "2nd", "class", "self", "-x", "naïve", "inputs", "click"]
    frame = pd.DataFrame({name: ["u", "v"] * 5 for name in names})
    fitted = TableEncoder(names).fit(frame)
    pipeline = Pipeline(fitted, model_of(fitted))
    expected, x = pipeline.predict(frame).to_numpy(), served(pipeline, frame)
    assert list(x) == [
        "a_b_", "a_b", "a_b__", "input_2nd", "class_", "self_", "input_x", "nauefve", "inputs",
        "click",
    ]  # fmt: skip
    pipeline.export(tmp_path / "saved")
    np.testing.assert_allclose(served_by(tmp_path / "saved", x), expected, rtol=1e-6, atol=1e-6)
    import tensorflow as tf

    signature = tf.saved_model.load(tmp_path / "saved").signatures["serving_default"]
    assert sorted(signature.structured_input_signature[1]) == sorted(x)


@exported_here
def test_hashes_are_served_by_a_saved_model(tmp_path: pathlib.Path) -> None:
    frame = log().assign(user=np.arange(ROWS) * 10**12, word=log()["city"])
    frame.loc[3, "word"] = ""
    fitted = TableEncoder(
        {"user": {"hash": 50}, "word": {"hash": 9}}, sequences={"history": {"separator": "|",
         "hash": 20, "maxlen": 3}, "shops": {"separator": ",", "vocabulary": "user"}},
    ).fit(frame)  # fmt: skip
    pipeline = Pipeline(fitted, model_of(fitted))
    pipeline.export(tmp_path / "saved")
    scores = served_by(tmp_path / "saved", served(pipeline, frame))
    np.testing.assert_allclose(scores, pipeline.predict(frame).to_numpy(), rtol=1e-6, atol=1e-6)
    if toy.BACKEND == "tensorflow":
        with pytest.raises(ValueError, match=r"leave out `hash`.*Received: hash for \['user', 'wo"):
            pipeline.export(tmp_path / "model.onnx", format="onnx")
    assert not (tmp_path / "model.onnx").exists()


@exported_here
def test_a_chosen_marker_stands_for_missing_strings(tmp_path: pathlib.Path) -> None:
    frame = log().assign(city=["", "Rome", None, "Oslo"] * (ROWS // 4))
    fitted = TableEncoder(["city"], sequences={"history": {"separator": "|"}}).fit(frame)
    pipeline = Pipeline(fitted, model_of(fitted))
    with pytest.raises(ValueError, match="`missing` should be no value of column 'city'"):
        pipeline.export(tmp_path / "saved")
    frame.loc[2, "history"] = None
    pipeline.export(tmp_path / "saved", missing="<none>")
    told = json.loads((tmp_path / "saved" / "assets.extra" / "mtl.json").read_text())
    assert told == pipeline.describe("<none>")
    x = served(pipeline, frame, "<none>")
    assert x["city"][2] == "<none>"
    scores = served_by(tmp_path / "saved", x)
    np.testing.assert_allclose(scores, pipeline.predict(frame).to_numpy(), rtol=1e-6, atol=1e-6)


def test_what_can_not_be_served_raw_is_refused(pipeline: Pipeline, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match=r"`pipeline.model.export`: LiteRT .*Received: 'litert'"):
        pipeline.export(tmp_path / "x", format="litert")
    with pytest.raises(ValueError, match="should be 'tf_saved_model' or 'onnx'"):
        pipeline.export(tmp_path / "x", format="torch")
    if toy.BACKEND == "tensorflow":
        frame = pd.DataFrame({"x": pd.Series(["a", 1, "b"], dtype=object)})
        fitted = TableEncoder(["x"]).fit(frame)
        mixed = Pipeline(fitted, model_of(fitted))
        with pytest.raises(ValueError, match="'x' should hold, to be served raw, strings, or numb"):
            mixed.export(tmp_path / "x")
        assert mixed.describe()["inputs"] is None
    for format in {"tf_saved_model", "onnx"} - set(FORMATS):
        with pytest.raises(ValueError, match="KERAS_BACKEND=tensorflow"):
            pipeline.export(tmp_path / "x", format=format)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(toy.BACKEND != "tensorflow", reason="exported on TensorFlow only")
def test_an_onnx_file_tells_its_inputs_and_tasks(
    pipeline: Pipeline, tmp_path: pathlib.Path
) -> None:
    import onnx
    import onnxruntime

    pipeline.export(tmp_path / "model.onnx", format="onnx")
    domains = [one.domain for one in onnx.load(tmp_path / "model.onnx").opset_import]
    assert sorted(domains) == ["", "ai.onnx.ml"]  # each once, as tools expect
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    told = json.loads(session.get_modelmeta().custom_metadata_map["mtl"])
    assert told == json.loads(json.dumps(pipeline.describe()))
    types = {"string": "tensor(string)", "float64": "tensor(double)", "int64": "tensor(int64)"}
    for one, given in zip(told["inputs"], session.get_inputs(), strict=True):
        assert given.name == one["name"]
        assert given.type == types[one["dtype"]]
        assert given.shape == ["batch", f"{given.name}_entries"][: one["rank"]]
    assert told["inputs"][1]["column"] == "home town"
    assert told["inputs"][1]["name"] == "home_town"
    outputs = [(output.name, output.shape) for output in session.get_outputs()]
    assert outputs == [("a_click", ["batch", 1]), ("why", ["batch", 3]), ("spent", ["batch", 4])]
    assert [task["output"] for task in told["tasks"]] == [name for name, _ in outputs]
    for rows in (1, 0):
        x = served(pipeline, log()[:5])
        scores = session.run(None, {name: values[:rows] for name, values in x.items()})
        assert [len(one) for one in scores] == [rows] * 3


@pytest.mark.skipif(toy.BACKEND != "tensorflow", reason="exported on TensorFlow only")
def test_quantized_files_are_small_and_score_nearly_the_same(tmp_path: pathlib.Path) -> None:
    import onnxruntime

    frame = log()
    fitted = TableEncoder(["city", "item"], ["age"], embedding_dim=32).fit(frame)
    model = MMoE(
        fitted.feature_columns, task_names=["a click", "why"], expert_dnn_units=(256, 128),
        tower_dnn_units_lists=[[4], [4]],
    )  # fmt: skip
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 0.25, weight.shape) for weight in model.weights])
    pipeline = Pipeline(fitted, model)
    pipeline.export(tmp_path / "whole.onnx", format="onnx")
    pipeline.export(tmp_path / "small.onnx", format="onnx", quantize=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.onnx", "whole.onnx"]
    whole, small = (tmp_path / f"{name}.onnx" for name in ("whole", "small"))
    assert small.stat().st_size < 0.4 * whole.stat().st_size
    sessions = [onnxruntime.InferenceSession(path) for path in (whole, small)]
    told = [one.get_modelmeta().custom_metadata_map["mtl"] for one in sessions]
    assert told[0] == told[1]
    scores = [one.run(["a_click"], served(pipeline, frame))[0] for one in sessions]
    assert np.ptp(scores[0]) > 0.1
    assert np.abs(scores[1] - scores[0]).mean() < 0.1 * np.ptp(scores[0])
    assert not np.array_equal(scores[1], scores[0])
    with pytest.raises(ValueError, match="`quantize` needs `format='onnx'`"):
        pipeline.export(tmp_path / "saved", quantize=True)
