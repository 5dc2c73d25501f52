"""z_t = w_p · h_1 g(z_{t-1}) + w_q · h_1 f_t(x), and a calibrator of the order."""

from itertools import pairwise
from typing import Any

import keras
import numpy as np
import pytest
import reference as ref
import toy

from mtl.layers import InformationTransfer
from mtl.losses import OrderPenalty
from mtl.models import AITM

X = toy.features()


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("tasks", [1, 2, 4])
def test_predictions_follow_the_equation(tasks: int, share: bool) -> None:
    model = toy.randomize(
        toy.build("AITM", num_tasks=tasks, bottom_dnn_units=[8, 5], share_transfer=share)
    )
    w, z = ref.weights(model), None
    v = ref.encode(model, X)
    expected = []
    for t in range(1, tasks + 1):
        q = ref.dnn(w, f"bottom_task_{t}", v)
        if z is None:
            z = q
        else:
            p = ref.dnn(w, f"information_task_{t}", z)
            z = ref.transfer(w, "transfer" if share else f"transfer_task_{t}", p, q)
        expected.append(ref.tower(w, f"task_{t}", z))
    toy.same(toy.outputs(model, X), expected, atol=1e-5, rtol=1e-5)
    kernels = [path for path in w if path.startswith("transfer")]
    assert len(kernels) == (min(tasks - 1, 1) if share else tasks - 1)


def transfer(kernel: Any, p: Any, q: Any) -> np.ndarray:
    layer = InformationTransfer()
    layer.build([p.shape, q.shape])
    layer.kernel.assign(np.concatenate(kernel, axis=1))
    inputs = [keras.ops.convert_to_tensor(v, "float32") for v in (p, q)]
    return np.array(keras.ops.convert_to_numpy(layer(inputs)))


def test_the_transfer_by_hand() -> None:
    rng = np.random.default_rng(0)
    h1, h2, h3 = rng.normal(size=(3, 4, 4))
    p, q = rng.normal(size=(2, 6, 4))
    # Of two equal vectors each has half.
    toy.same([transfer((h1, h2, h3), q, q)], [q @ h1], atol=1e-5)
    # Without scores the mixture is the mean.
    toy.same([transfer((np.eye(4), 0 * h2, h3), p, q)], [(p + q) / 2], atol=1e-5)
    # Each score is that of one vector alone: where q is 0, its score is 0 whatever p is.
    score = np.sum((p @ h2) * (p @ h3), axis=1, keepdims=True) / 2
    toy.same([transfer((h1, h2, h3), p, 0 * q)], [p @ h1 * ref.sigmoid(score)], atol=1e-5)


def test_the_transfer_takes_two_of_one_width() -> None:
    with pytest.raises(ValueError, match=r"two inputs of one width.*Received"):
        InformationTransfer().build([(None, 3), (None, 4)])


def test_the_calibrator_by_hand() -> None:
    """ŷ_1 = (.2, .4) and ŷ_2 = (.3, .1): of two rows, one is out of order by .1."""
    (calibrator,) = toy.build("AITM").get_layer("task_2").joint_losses
    y = {
        "task_1": np.array([[0.2], [0.4]], "float32"),
        "task_2": np.array([[0.3], [0.1]], "float32"),
    }
    assert float(calibrator({}, y, {})) == pytest.approx(0.6 * (0.1 + 0) / 2, rel=1e-5)


def test_the_calibrator_is_a_mean_over_rows_and_in_the_total() -> None:
    model = toy.randomize(toy.build("AITM", num_tasks=3, calibrator_weight=2.0, l2_reg_embedding=0))
    for k in (1, 2):  # half of the rows are out of order
        before, own = (np.log(p / (1 - p)) for p in toy.outputs(model, X)[k - 1 : k + 1])
        bias = model.get_layer(f"task_{k + 1}").logits.bias
        bias.assign(bias + np.median(before - own))
    model.compile("sgd", **toy.QUICK)
    p = toy.outputs(model, X)
    y = toy.labels(3)
    for batch_size in (24, 8):
        logs = model.evaluate(X, y, batch_size=batch_size, verbose=0, return_dict=True)
        names = ["calibrator_task_2", "calibrator_task_3"]
        for name, (earlier, later) in zip(names, pairwise(p), strict=True):
            excess = np.maximum(later - earlier, 0)
            assert 0 < (excess > 0).mean() < 1
            assert logs[name] == pytest.approx(2 * excess.mean(), rel=1e-4)
        tasks = sum(logs[f"task_{k}_loss"] for k in (1, 2, 3))
        assert logs["loss"] == pytest.approx(tasks + sum(logs[name] for name in names), rel=1e-5)


def test_the_calibrator_can_be_left_out() -> None:
    model = toy.build("AITM", calibrator_weight=0)
    assert not any(getattr(layer, "joint_losses", ()) for layer in model.layers)
    assert isinstance(toy.build("AITM").get_layer("task_2").joint_losses[0], OrderPenalty)


@pytest.mark.filterwarnings("ignore:Gradients do not exist:UserWarning")
def test_a_loss_reaches_its_own_step_and_those_before() -> None:
    model = toy.randomize(toy.build("AITM", num_tasks=3, calibrator_weight=0))
    start = model.get_weights()
    moved = []
    for k in range(3):
        model.set_weights(start)
        model.compile(
            keras.optimizers.SGD(1.0), loss={f"task_{k + 1}": "binary_crossentropy"}, **toy.QUICK
        )
        model.train_on_batch(X, toy.labels(3))
        changed = {
            weight.path.split("/")[0]
            for weight, before in zip(model.weights, start, strict=True)
            if not np.array_equal(weight.numpy(), before)
        }
        moved.append({name for name in changed if name != "encoder"})
    bottoms = [{f"bottom_task_{k}", f"information_task_{k}"} for k in (1, 2, 3)]
    first = {"bottom_task_1"}
    assert moved == [
        {"task_1", *first},
        {"task_2", "transfer", *first, *bottoms[1]},
        {"task_3", "transfer", *first, *bottoms[1], *bottoms[2]},
    ]


def test_every_part_of_a_fresh_model_differs() -> None:
    w = ref.weights(toy.build("AITM", num_tasks=3, share_transfer=False))
    for part in ("bottom_task_{}/dense_0/kernel", "task_{}/logits/kernel"):
        kernels = [w[part.format(k)] for k in (1, 2, 3)]
        assert all(np.abs(kernels[i] - kernels[i - 1]).max() > 1e-3 for i in range(3))
    transfers = [w[f"transfer_task_{k}/kernel"] for k in (2, 3)]
    assert np.abs(transfers[0] - transfers[1]).max() > 1e-3
    every = np.concatenate([t.ravel() for t in transfers])
    assert abs(every.std() - 0.01) < 0.002


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"task_types": ["binary", "regression"]}, r"AITM.*binary tasks.*Received.*regression"),
        ({"calibrator_weight": -1}, r"`calibrator_weight`.*non-negative.*Received: -1"),
        ({"calibrator_weight": "1"}, r"`calibrator_weight`.*non-negative.*Received: '1'"),
    ],
)
def test_what_is_wrong_is_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises((ValueError, TypeError), match=match):
        AITM(toy.columns(), num_tasks=2, **options)
