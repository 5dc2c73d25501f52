"""Calibration after training."""

import pathlib
from typing import Any

import keras
import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

from mtl.calibration import calibrate
from mtl.features import DenseFeat, SparseFeat
from mtl.layers import Isotonic, Platt
from mtl.metrics import evaluate_tasks, log_loss, pcoc
from mtl.models import CGC, ESMM, SharedBottom, extract_task
from mtl.training.model import MultiTaskModel

BACKEND = keras.backend.backend()
METHODS = {"platt": Platt, "isotonic": Isotonic}
N = 2000
RNG = np.random.default_rng(0)
X = {"age": RNG.normal(size=(N, 3)).astype("float32"), "user": RNG.integers(0, 5, N)}
COLUMNS = [DenseFeat("age", 3), SparseFeat("user", 5, 2)]
MIXED: dict[str, Any] = {
    "task_names": ["will click", "watch time", "kind", "tags"],
    "task_types": ["binary", "regression", ("multiclass", 3), ("multilabel", 2)],
    "tower_dnn_units_lists": [[]] * 4,
}
OTHERS = [RNG.normal(size=N), RNG.integers(0, 3, N), RNG.integers(0, 2, (N, 2))]


def randomized(model: Any) -> Any:
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=w.shape) for w in model.weights])
    return model


def mixed() -> Any:
    return randomized(SharedBottom(COLUMNS, bottom_dnn_units=[4], **MIXED))


def draw(p: np.ndarray, slope: float = 0.4, intercept: float = -1.5, seed: int = 1) -> np.ndarray:
    """Labels whose log-odds are a linear function of those predicted."""
    p = p[:, 0].astype("float64").clip(1e-6, 1 - 1e-6)
    truth = 1 / (1 + np.exp(-slope * np.log(p / (1 - p)) - intercept))
    return (np.random.default_rng(seed).random(len(p)) < truth).astype("float32")


class Miscalibrated:
    """A model that is over-confident and predicts too much, labels, and what it becomes."""

    def __init__(self) -> None:
        self.model = mixed()
        self.p = self.model.predict(X, verbose=0)
        self.y = [draw(self.p[0]), *OTHERS]
        self.weights = RNG.integers(0, 3, N)
        self._calibrated: dict[str, Any] = {}

    def calibrated(self, method: str) -> Any:
        if method not in self._calibrated:
            model = calibrate(self.model, X, self.y, method, sample_weight=self.weights)
            self._calibrated[method] = model
        return self._calibrated[method]


@pytest.fixture(scope="module")
def off() -> Miscalibrated:
    return Miscalibrated()


@pytest.fixture(scope="module", params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def same(a: Any, b: Any) -> None:
    """Assert that two lists of arrays are equal to the bit."""
    for left, right in zip(a, b, strict=True):
        np.testing.assert_array_equal(left, right, strict=True)


def test_calibration_improves_held_out_rows(off: Miscalibrated, method: str) -> None:
    half = N // 2
    x, x_test = ({k: v[part] for k, v in X.items()} for part in np.split(np.arange(N), 2))
    calibrated = calibrate(off.model, x, [y[:half] for y in off.y], method)
    test = [y[half:] for y in off.y]
    before, after = (evaluate_tasks(m, x_test, test) for m in (off.model, calibrated))
    click, was = after.loc["will click"], before.loc["will click"]
    assert was["log_loss"] - click["log_loss"] > 0.1
    assert abs(np.log(click["pcoc"])) < 0.15 < abs(np.log(was["pcoc"]))
    assert click["ece"] < 0.05 < was["ece"]
    assert click["auc"] == pytest.approx(was["auc"], abs=1e-5 if method == "platt" else 0.02)


def test_a_calibrated_model_is_one_of_the_same_tasks(off: Miscalibrated, method: str) -> None:
    calibrated = off.calibrated(method)
    assert type(calibrated) is MultiTaskModel
    assert calibrated.tasks == off.model.tasks
    assert calibrated.output_names == off.model.output_names == [
        "will_click", "watch_time", "kind", "tags"
    ]  # fmt: skip
    layer = calibrated.get_layer("will_click")
    assert type(layer) is METHODS[method]
    assert layer.task == off.model.tasks[0]
    first, *others = calibrated.predict(X, verbose=0)
    assert first.shape == (N, 1)
    assert first.dtype == "float32"
    mapped = keras.ops.convert_to_numpy(layer(off.p[0]))
    np.testing.assert_allclose(first, mapped, rtol=1e-4, atol=1e-6)
    same(others, off.p[1:])
    # The model that it was made of is another one.
    same(off.model.predict(X, verbose=0), off.p)
    assert off.model.get_layer("will_click").task == off.model.tasks[0]
    assert not {id(w) for w in off.model.weights} & {id(w) for w in calibrated.weights}


def test_platt_is_the_most_likely_map(off: Miscalibrated) -> None:
    slope, intercept = off.calibrated("platt").get_layer("will_click").get_weights()
    y, p, w = off.y[0], off.p[0][:, 0].astype("float64"), off.weights
    logits = np.log(p / (1 - p))
    q = 1 / (1 + np.exp(-slope * logits - intercept))
    ones, zeros = (y[w > 0] == 1).sum(), (y[w > 0] == 0).sum()
    target = np.where(y == 1, (ones + 1) / (ones + 2), 1 / (zeros + 2))
    # At the optimum the gradient of the cross-entropy is zero.
    gradient = [np.average((q - target) * x, weights=w) for x in (np.ones(N), logits)]
    np.testing.assert_allclose(gradient, 0, atol=1e-6)
    assert slope == pytest.approx(0.4, abs=0.1)
    assert intercept == pytest.approx(-1.5, abs=0.2)


def test_isotonic_is_the_regression_of_scikit_learn(off: Miscalibrated) -> None:
    y, p = off.y[0], off.p[0][:, 0].astype("float64")
    regression = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(p, y, off.weights)
    other = {"age": X["age"][::-1] * 2, "user": X["user"]}
    for x in (X, other):
        expected = regression.predict(off.model.predict(x, verbose=0)[0][:, 0].astype("float64"))
        q = off.calibrated("isotonic").predict(x, verbose=0)[0][:, 0]
        np.testing.assert_allclose(q, expected, rtol=1e-4, atol=1e-4)


def test_missing_and_weightless_rows_are_left_out(off: Miscalibrated, method: str) -> None:
    kept = off.weights == 1
    rest = [y[kept] for y in off.y]
    missing = [np.where(kept, off.y[0], np.nan), *OTHERS]
    fitted = [
        calibrate(off.model, {k: v[kept] for k, v in X.items()}, rest, method, batch_size=100),
        calibrate(off.model, X, missing, method),
        calibrate(off.model, X, off.y, method, sample_weight={"will click": kept * 7}),
    ]
    first, *others = [m.get_layer("will_click").get_weights() for m in fitted]
    for other in others:
        for a, b in zip(first, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_saved_and_loaded_it_predicts_the_same(
    off: Miscalibrated, method: str, tmp_path: pathlib.Path
) -> None:
    calibrated = off.calibrated(method)
    calibrated.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded) is MultiTaskModel
    assert loaded.tasks == off.model.tasks
    same(loaded.predict(X, verbose=0), calibrated.predict(X, verbose=0))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="exported on TensorFlow only")
@pytest.mark.filterwarnings("ignore:In the future `np.object`:FutureWarning:keras")
def test_it_is_exported(off: Miscalibrated, method: str, tmp_path: pathlib.Path) -> None:
    import onnxruntime

    calibrated = off.calibrated(method)
    calibrated.export(tmp_path / "model.onnx", format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    x = {"age": X["age"], "user": X["user"].astype("int32")[:, None]}
    served = session.run(calibrated.output_names, x)
    for a, b in zip(served, calibrated.predict(X, verbose=0), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)  # a step may be steep


def test_training_on_leaves_the_maps_and_the_other_model_alone(off: Miscalibrated) -> None:
    calibrated = calibrate(off.model, X, off.y)
    before = calibrated.get_weights(), off.model.get_weights()
    maps = calibrated.get_layer("will_click").get_weights()
    calibrated.compile("sgd", run_eagerly=BACKEND == "tensorflow")
    calibrated.fit(X, off.y, batch_size=N, verbose=0)
    changed = [
        np.abs(a - b).max() for a, b in zip(calibrated.get_weights(), before[0], strict=True)
    ]
    assert max(changed) > 1e-4
    same(calibrated.get_layer("will_click").get_weights(), maps)
    same(off.model.get_weights(), before[1])


def test_a_compiled_model_is_copied_without_its_optimizer(off: Miscalibrated) -> None:
    model = mixed()
    model.compile("adam", jit_compile=False)
    calibrated = calibrate(model, X, off.y)
    assert not calibrated.compiled
    same(calibrated.predict(X, verbose=0)[1:], off.p[1:])


def test_twice_calibrated(off: Miscalibrated) -> None:
    twice = calibrate(off.calibrated("platt"), X, off.y, "isotonic", sample_weight=off.weights)
    assert twice.output_names == off.model.output_names
    # Platt keeps the ranking, which is nearly all that isotonic regression sees.
    alone = off.calibrated("isotonic").predict(X, verbose=0)[0]
    np.testing.assert_allclose(twice.predict(X, verbose=0)[0], alone, atol=0.02)


def test_one_task_is_taken_out(method: str) -> None:
    model = randomized(
        CGC(
            COLUMNS,
            task_names=["click", "click_uncalibrated"],  # a name that the copy would take
            num_experts_specific=2,
            num_experts_shared=1,
            expert_dnn_units=[4],
            tower_dnn_units_lists=[[]] * 2,
        )
    )
    y = [draw(p, seed=i) for i, p in enumerate(model.predict(X, verbose=0))]
    calibrated = calibrate(model, X, y, method)
    assert calibrated.output_names == model.output_names
    predictions = calibrated.predict(X, verbose=0)
    for k, name in enumerate(model.task_names):
        part = extract_task(calibrated, name)
        assert part.output_names == [name]
        assert part.get_layer("extraction_1").num_tasks == 1
        np.testing.assert_allclose(part.predict(X, verbose=0), predictions[k], rtol=1e-3, atol=1e-3)
    # The other way round: the part of the model is calibrated.
    own = calibrate(extract_task(model, "click"), X, y[0], method)
    assert own.task_names == ["click"]
    np.testing.assert_allclose(own.predict(X, verbose=0), predictions[0], rtol=0.01, atol=0.01)


def test_esmm_is_calibrated_by_output_and_keeps_its_hidden_rate(method: str) -> None:
    model = randomized(ESMM(COLUMNS, tower_dnn_units_lists=[[4], [4]]))
    p_ctr = model.predict(X, verbose=0)[0]
    p_cvr = extract_task(model, "cvr").predict(X, verbose=0)
    click = draw(p_ctr)
    y = [click, click * draw(p_cvr, seed=2)]
    calibrated = calibrate(model, X, y, method)
    before, after = (evaluate_tasks(m, X, y) for m in (model, calibrated))
    assert list(after.index) == ["ctr", "ctcvr", "cvr"]
    np.testing.assert_allclose(after.loc[["ctr", "ctcvr"], "pcoc"], 1, atol=0.01)
    assert (before["log_loss"] - after["log_loss"])[["ctr", "ctcvr"]].min() > 0.05
    np.testing.assert_allclose(after.loc["cvr"], before.loc["cvr"], rtol=1e-5)
    part = extract_task(calibrated, "ctcvr").predict(X, verbose=0)
    np.testing.assert_allclose(part, calibrated.predict(X, verbose=0)[1], rtol=1e-3, atol=1e-3)
    hidden = extract_task(calibrated, "cvr").predict(X, verbose=0)
    np.testing.assert_allclose(hidden, p_cvr, rtol=1e-4, atol=1e-6)


def test_mixed_precision(off: Miscalibrated, method: str) -> None:
    before = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy("mixed_bfloat16")
        model = mixed()
    finally:
        keras.config.set_dtype_policy(before)
    calibrated = calibrate(model, X, off.y, method)
    p = calibrated.predict(X, verbose=0)[0]
    assert p.dtype == "float32"
    assert pcoc(off.y[0], p) == pytest.approx(1, abs=0.01)
    assert log_loss(off.y[0], p) < 0.7 * log_loss(off.y[0], off.p[0])
    assert calibrated.get_layer("will_click_uncalibrated").dtype_policy.name == "mixed_bfloat16"


@pytest.mark.parametrize("size", [0, 1e4])
def test_constant_and_saturated_predictions(method: str, size: float) -> None:
    model = SharedBottom(COLUMNS[:1], num_tasks=1, bottom_dnn_units=[], tower_dnn_units_lists=[[]])
    model.set_weights([np.full(w.shape, size if len(w.shape) == 2 else 0) for w in model.weights])
    p = model.predict(X, verbose=0)[:, 0]
    y = (X["age"].sum(axis=1) > 0).astype("float32")
    assert set(np.unique(p).astype(float)) >= ({0.5} if size == 0 else {0, 1})
    q = calibrate(model, X, y, method).predict(X, verbose=0)[:, 0]
    if size == 0:
        np.testing.assert_allclose(q, y.mean(), rtol=1e-3)
    else:
        assert log_loss(y, q) < 0.01


def test_bad_arguments_are_refused(off: Miscalibrated) -> None:
    with pytest.raises(ValueError, match=r"`method`.*\['isotonic', 'platt'\].*Received: 'beta'"):
        calibrate(off.model, X, off.y, "beta")
    with pytest.raises(ValueError, match=r"`model` should have a binary task.*'watch time'"):
        calibrate(extract_task(off.model, "watch time"), X, off.y[1])
    for labels, received in (
        (np.ones(N), rf"{N} labelled rows, of the classes \[1\.0\]"),
        (np.full(N, np.nan), r"0 labelled rows, of the classes \[\]"),
    ):
        with pytest.raises(ValueError, match=rf"`y\['will click'\]`.*both classes.*{received}"):
            calibrate(off.model, X, [labels, *OTHERS])
    with pytest.raises(ValueError, match=r"`y\['will click'\]` should hold 0 and 1.*0\.5"):
        calibrate(off.model, X, [np.full(N, 0.5), *OTHERS])
