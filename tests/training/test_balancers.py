"""Balancers in `fit`: what reaches which parameters, and how it is saved."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import toy
from keras import ops

from mtl import balancing
from mtl.balancing import BY_NAME, GradientBalancer
from mtl.losses import OrderPenalty
from mtl.training.steps import gradient_products, shared_positions

LEARNING_RATE = 0.5


def build(name: str = "PLE", **options: Any) -> Any:
    return toy.randomize(toy.build(name, l2_reg_embedding=1e-2, **options))


def change(**options: Any) -> tuple[Any, list[np.ndarray]]:
    """Take one step of gradient descent; return the model and minus the gradient."""
    model = build(**options.pop("build", {}))
    before = [ops.convert_to_numpy(v) for v in model.trainable_variables]
    model.compile(keras.optimizers.SGD(LEARNING_RATE), **options, **toy.NO_XLA)
    model.fit(toy.features(), toy.labels(), batch_size=24, verbose=0)
    after = [ops.convert_to_numpy(v) for v in model.trainable_variables]
    changes = [(a - b) / LEARNING_RATE for a, b in zip(after, before, strict=False)]
    return model, changes


@keras.saving.register_keras_serializable(package="test")
class Given(GradientBalancer):
    """Coefficients and weights as they are given."""

    def __init__(self, given=(2.0, -3.0), weights=(1.0, 1.0), **kwargs):
        super().__init__(**kwargs)
        self.given, self.task_weights = given, weights

    def weights_of(self, losses):
        return ops.convert_to_tensor(self.task_weights, "float32")

    def coefficients(self, gram, losses):
        return ops.convert_to_tensor(self.given, "float32")


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.5, 4.0)])
def test_shared_parameters_get_the_coefficients_and_others_the_weighted_sum(weights):
    penalty = OrderPenalty("task_1", "task_2", 0.7)
    model, got = change(balancer=Given(weights=weights), joint_losses=[penalty])
    by_task = [change(loss_weights=one)[1] for one in ([1, 0], [0, 1])]
    # Each of these holds the regularisation once; the rest is that and the penalty.
    rest = change(loss={}, joint_losses=[penalty])[1]
    regularisation = change(loss={}, joint_losses=[OrderPenalty("task_1", "task_2", 0)])[1]
    by_task = [[g - r for g, r in zip(task, regularisation, strict=True)] for task in by_task]
    shared = dict(shared_positions(model))
    assert 0 < len(shared) < len(got)
    for i, total in enumerate(got):
        mask = shared.get(i, 0.0)
        mask = 1.0 if mask is None else mask
        expected = rest[i] + sum(
            (mask * c + (1 - mask) * w) * task[i]
            for c, w, task in zip((2, -3), weights, by_task, strict=True)
        )
        np.testing.assert_allclose(total, expected, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("balancer", sorted(BY_NAME))
def test_a_newcomer_trains_under_every_balancer(balancer):
    model = toy.build("Newcomer")
    assert {v.path.split("/")[0] for v in model.shared_variables} == {"common"}
    before = model.get_weights()
    model.compile(keras.optimizers.SGD(0.1), balancer=balancer, **toy.QUICK)
    losses = model.fit(toy.features(), toy.labels(), epochs=2, verbose=0).history["loss"]
    assert np.isfinite(losses).all()
    after = [ops.convert_to_numpy(v) for v in model.weights][: len(before)]
    assert all(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_inner_products_are_those_of_the_gradients():
    model = build()
    model.compile("sgd", **toy.NO_XLA)
    x, y = toy.features(), toy.labels()
    x, y, _ = model.checked_data(x, y)
    products = gradient_products(model)(x, y, None)
    regularisation = change(loss={}, joint_losses=[OrderPenalty("task_1", "task_2", 0)])[1]
    vectors = []
    for k in range(2):
        gradients = change(loss_weights=[1.0 - k, k])[1]
        vectors.append(
            np.concatenate(
                [
                    ((gradients[i] - regularisation[i]) * (1 if mask is None else mask)).ravel()
                    for i, mask in shared_positions(model)
                ]
            )
        )
    np.testing.assert_allclose(products, np.array(vectors) @ np.array(vectors).T, rtol=1e-3)
    # The logs start anew afterwards, and the weights are untouched.
    toy.same(model.get_weights(), build().get_weights(), rtol=0, atol=0)


@pytest.mark.parametrize("lazy", [False, True])
def test_weights_are_those_of_the_losses(lazy):
    """Fixed weights train as loss weights do; with a lazy optimizer, too."""
    from mtl.optimizers import LazyAdam

    if lazy and toy.BACKEND == "torch":
        pytest.skip("lazy optimizers work on TensorFlow and JAX")
    results = []
    for options in ({"balancer": balancing.Fixed([0.5, 2])}, {"loss_weights": [0.5, 2]}):
        model = build("SharedBottom")
        model.compile(
            LazyAdam(0.05, epsilon=1e-3) if lazy else keras.optimizers.SGD(0.5),
            **options,
            **toy.NO_XLA,
        )
        model.fit(toy.features(), toy.labels(), batch_size=8, epochs=2, shuffle=False, verbose=0)
        results.append(model.get_weights())
    toy.same(*results, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(toy.BACKEND == "torch", reason="lazy optimizers work on TensorFlow and JAX")
def test_a_gradient_balancer_works_with_a_lazy_optimizer():
    from mtl.optimizers import LazyAdam

    results = []
    # The first step divides a gradient by its own size: epsilon keeps the least ones from being
    # blown up, and with them the last digits in which two sums of the same terms differ.
    for optimizer in (LazyAdam(0.05, epsilon=1e-3), keras.optimizers.Adam(0.05, epsilon=1e-3)):
        model = toy.randomize(toy.build("MMoE", l2_reg_embedding=0))
        model.compile(optimizer, balancer=Given(), **toy.NO_XLA)
        # One step, in which every row is looked up that has a gradient.
        model.fit(toy.features(), toy.labels(), batch_size=24, verbose=0)
        results.append(model.get_weights())
    toy.same(*results, rtol=1e-5, atol=1e-6)


def test_pcgrad_without_conflict_is_the_plain_sum():
    same_task = [toy.labels()[0]] * 2
    results = []
    for balancer in ("pcgrad", None):
        model = build("MMoE")
        for a, b in zip(
            model.get_layer("task_1").weights, model.get_layer("task_2").weights, strict=True
        ):
            b.assign(ops.convert_to_numpy(a))
        model.compile(keras.optimizers.SGD(0.5), balancer=balancer, **toy.NO_XLA)
        model.fit(toy.features(), same_task, batch_size=24, verbose=0)
        results.append(model.get_weights())
    toy.same(results[0][: len(results[1])], results[1], rtol=1e-5, atol=1e-6)


def test_evaluation_sums_the_losses_without_the_balancer():
    model = build("SharedBottom")
    model.compile("sgd", balancer=balancing.Fixed([5, 7]), **toy.QUICK)
    logs = model.evaluate(toy.features(), toy.labels(), batch_size=24, verbose=0, return_dict=True)
    plain = build("SharedBottom")
    plain.compile("sgd", **toy.QUICK)
    expected = plain.evaluate(toy.features(), toy.labels(), 24, verbose=0, return_dict=True)
    np.testing.assert_allclose(logs["loss"], expected["loss"], rtol=1e-6)


@pytest.mark.parametrize("name", BY_NAME)
def test_a_task_without_labels_in_a_batch_stops_nothing(name):
    model, x, y = build("SharedBottom"), toy.features(), toy.labels()
    y[1][:12] = np.nan
    before = model.get_weights()
    model.compile(keras.optimizers.SGD(0.1), balancer=name, **toy.NO_XLA)
    model.fit(x, y, batch_size=12, epochs=2, shuffle=False, verbose=0)
    after = model.get_weights()
    assert all(np.isfinite(w).all() for w in after)
    assert np.abs(after[2] - before[2]).max() > 0


@pytest.mark.skipif(toy.BACKEND == "tensorflow", reason="the next test is stricter")
@pytest.mark.parametrize("name", BY_NAME)
def test_training_goes_on_after_saving_as_if_never_interrupted(name, tmp_path):
    x, y = toy.features(), toy.labels()
    options = {"batch_size": 8, "shuffle": False, "verbose": 0}
    model = build("SharedBottom")
    model.compile(keras.optimizers.Adam(0.01), balancer=name, **toy.NO_XLA)
    model.fit(x, y, epochs=3, **options)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.balancer) is BY_NAME[name]
    for m in (model, loaded):
        m.fit(x, y, epochs=2, **options)
    toy.same(loaded.get_weights(), model.get_weights(), rtol=0, atol=0)
    for a, b in zip(loaded.balancer.variables, model.balancer.variables, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b))
    # Without its balancer it is the plain model.
    plain = keras.models.load_model(tmp_path / "model.keras", compile=False)
    assert len(plain.weights) == len(build("SharedBottom").weights)


CONTINUE = """
import sys
import keras, numpy as np
sys.path.insert(0, {here!r})
import mtl, toy
for name in {names}:
    model = keras.models.load_model({folder!r} + f"/{{name}}.keras")
    model.fit(toy.features(), toy.labels(), batch_size=24, epochs=2, shuffle=False, verbose=0)
    np.savez({folder!r} + f"/{{name}}.npz", *model.get_weights())
"""


@pytest.mark.slow
def test_training_goes_on_in_another_process_to_the_bit(tmp_path):
    names = list(BY_NAME)
    options = {"batch_size": 24, "epochs": 2, "shuffle": False, "verbose": 0}
    models = {}
    for name in names:
        models[name] = build("SharedBottom")
        models[name].compile(keras.optimizers.Adam(0.01), balancer=name, **toy.QUICK)
        models[name].fit(toy.features(), toy.labels(), **options)
        models[name].save(tmp_path / f"{name}.keras")
    script = CONTINUE.format(here=str(Path(__file__).parents[1]), names=names, folder=str(tmp_path))
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True)
    for name, model in models.items():
        model.fit(toy.features(), toy.labels(), **options)
        weights = list(np.load(tmp_path / f"{name}.npz").values())
        toy.same(weights, model.get_weights(), rtol=0, atol=0)


def test_another_compile_takes_another_balancer():
    model = build("SharedBottom")
    count = len(model.weights)
    for balancer, more in (("uncertainty", 1), ("gradnorm", 5), (None, 0), ("famo", 4)):
        model.compile("adam", balancer=balancer, **toy.QUICK)
        assert len(model.weights) == count + more
        assert (model.balancer is None) == (balancer is None)
        model.fit(toy.features(), toy.labels(), batch_size=24, verbose=0)


@pytest.mark.skipif(toy.BACKEND != "tensorflow", reason="compiles by XLA what others always do")
@pytest.mark.parametrize("name", ["gradnorm", "famo", "nash_mtl", "stch", "db_mtl"])
def test_balancers_compile_by_xla(name):
    results = []
    for options in ({}, {"jit_compile": False}):
        model = build("SharedBottom")
        model.compile(keras.optimizers.SGD(0.01), balancer=name, **options)
        model.fit(toy.features(), toy.labels(), batch_size=10, epochs=2, shuffle=False, verbose=0)
        results.append(model.get_weights())
    toy.same(*results, rtol=1e-4, atol=1e-5)


def test_half_precision_scales_the_loss_and_not_the_balance():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = toy.build("SharedBottom")
    finally:
        keras.config.set_dtype_policy("float32")
    model.compile(keras.optimizers.SGD(0.1), balancer="gradnorm", **toy.NO_XLA)
    plain = toy.build("SharedBottom")
    plain.compile(keras.optimizers.SGD(0.1), balancer="gradnorm", **toy.NO_XLA)
    for m in (model, plain):
        m.fit(toy.features(), toy.labels(), batch_size=24, epochs=3, verbose=0)
    weights = [ops.convert_to_numpy(m.balancer.task_weights) for m in (model, plain)]
    np.testing.assert_allclose(*weights, rtol=1e-2)
    assert abs(weights[1][0] - 1) > 0.02


def test_half_precision_scales_what_a_balancer_changes():
    changes = []
    for policy in ("mixed_float16", "float32"):
        keras.config.set_dtype_policy(policy)
        try:
            model = toy.build("MMoE", l2_reg_embedding=0)
        finally:
            keras.config.set_dtype_policy("float32")
        model = toy.randomize(model)
        before = [ops.convert_to_numpy(v) for v in model.shared_variables]
        model.compile(keras.optimizers.SGD(0.1), balancer=Given(), **toy.NO_XLA)
        model.fit(toy.features(), toy.labels(), batch_size=24, verbose=0)
        after = [ops.convert_to_numpy(v) for v in model.shared_variables]
        changes.append([a - b for a, b in zip(after, before, strict=True)])
    toy.same(*changes, rtol=5e-2, atol=1e-4)
    assert max(np.abs(change).max() for change in changes[1]) > 1e-2


def test_shared_variables_of_each_model():
    def names(model):
        return [variable.path for variable in model.shared_variables]

    assert {n.split("/")[0] for n in names(toy.build("SharedBottom"))} == {"bottom"}
    assert {n.split("/")[0] for n in names(toy.build("MMoE"))} == {"experts"}
    assert {n.split("/")[0] for n in names(toy.build("MoE"))} == {"experts", "gate"}
    assert {n.split("/")[0] for n in names(toy.build("ESMM"))} == {"ctr"}
    assert names(toy.build("MMoE", 1)) == []


def test_of_extraction_only_what_several_tasks_depend_on_is_shared():
    """Three levels: all of the first, of the second all but the task gates, the last's shared."""
    model = toy.build("PLE", num_levels=3)
    masks = {model.trainable_variables[i].path: mask for i, mask in shared_positions(model)}
    every = {"experts/kernel_0", "experts/bias_0", "gate_shared/logits/kernel"}
    gates = {"gate_0/logits/kernel", "gate_1/logits/kernel"}
    expected = {f"extraction_1/{name}" for name in every | gates}
    expected |= {f"extraction_2/{name}" for name in every}
    assert {n for n, mask in masks.items() if mask is None} == expected
    last = {n: mask.ravel().tolist() for n, mask in masks.items() if mask is not None}
    assert last == {
        f"extraction_3/experts/{name}": [0, 0, 0, 0, 1] for name in ("kernel_0", "bias_0")
    }


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: build("SharedBottom").compile(balancer="nothing"), "`balancer` should be one of"),
        (lambda: build("SharedBottom", num_tasks=1).compile(balancer="rlw"), "of several tasks"),
        (
            lambda: build("SharedBottom", bottom_dnn_units=[]).compile(balancer="mgda"),
            "should share dense parameters",
        ),
        (
            lambda: build("SharedBottom").compile(loss={"task_1": "mse"}, balancer="dwa"),
            r"a loss for every task.*\['task_2'\]",
        ),
    ],
)
def test_bad_balancers_are_refused_by_compile(make, message):
    with pytest.raises(ValueError, match=message):
        make()
