"""Methods that weigh losses: their equations, worked out by hand for two tasks."""

import math
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from mtl import balancing
from mtl.balancing import DWA, FAMO, RLW, STCH, Fixed, GradNorm, Uncertainty
from mtl.tasks import Task

TASKS = [Task("click"), Task("price", "regression")]


def started(balancer: Any) -> Any:
    balancer.start(TASKS)
    return balancer


def weights(balancer: Any, losses: list[float]) -> np.ndarray:
    return ops.convert_to_numpy(balancer.weights_of(ops.convert_to_tensor(losses, "float32")))


def array(variable: Any) -> np.ndarray:
    return ops.convert_to_numpy(variable)


@pytest.mark.parametrize("given", [[0.25, 3], {"price": 3, "click": 0.25}])
def test_fixed_weights(given):
    balancer = started(Fixed(given))
    np.testing.assert_allclose(weights(balancer, [5, 7]), [0.25, 3])
    assert balancer.get_config()["weights"] == given
    np.testing.assert_allclose(weights(started(Fixed()), [5, 7]), [1, 1])


def test_uncertainty():
    """L = e^-s_1 L_1 + s_1/2 + e^-s_2 L_2 / 2 + s_2/2; s below 0 is not clamped."""
    balancer = started(Uncertainty())
    np.testing.assert_allclose(weights(balancer, [5, 7]), [1, 0.5])
    losses = ops.convert_to_tensor([5.0, 7.0])
    assert float(array(balancer.penalty(losses))) == 0
    balancer.log_variance.assign([math.log(4), -math.log(2)])
    np.testing.assert_allclose(weights(balancer, [5, 7]), [0.25, 1])
    np.testing.assert_allclose(array(balancer.penalty(losses)), math.log(2) / 2, rtol=1e-6)
    # Without a label of the second task there is nothing to be uncertain of.
    alone = balancer.penalty(ops.convert_to_tensor([5.0, 0.0]))
    np.testing.assert_allclose(array(alone), math.log(2), rtol=1e-6)


def test_random_weights_sum_to_one_and_are_a_softmax_of_normal_numbers():
    balancer = started(RLW(seed=3))
    drawn = np.array([weights(balancer, [5, 7]) for _ in range(400)])
    np.testing.assert_allclose(drawn.sum(axis=1), 1, rtol=1e-6)
    # log w_1 - log w_2 is z_1 - z_2, of variance 2; 4 standard errors.
    difference = np.diff(np.log(drawn), axis=1)
    assert abs(difference.mean()) < 4 * math.sqrt(2 / 400)
    assert abs(difference.var() - 2) < 4 * 2 * math.sqrt(2 / 400)
    again = started(RLW(seed=3))
    np.testing.assert_array_equal([weights(again, [5, 7]) for _ in range(3)], drawn[:3])


def test_dynamic_weight_average():
    balancer = started(DWA(temperature=2))
    for epoch in [([4, 8], [2, 4]), ([2, 5], [1, 1])]:  # means (3, 6), (1.5, 3)
        np.testing.assert_allclose(weights(balancer, [1, 1]), [1, 1])
        for losses in epoch:
            balancer.observe(ops.convert_to_tensor(losses, "float32"))
        balancer.end_epoch()
    # Both halved: equal weights. Then means (0.75, 3): ratios 1/2 and 1.
    np.testing.assert_allclose(weights(balancer, [1, 1]), [1, 1], rtol=1e-6)
    balancer.observe(ops.convert_to_tensor([0.75, 3.0]))
    balancer.end_epoch()
    a, b = math.exp(0.25), math.exp(0.5)
    np.testing.assert_allclose(weights(balancer, [1, 1]), [2 * a / (a + b), 2 * b / (a + b)], 1e-6)


def test_gradnorm():
    """|g_1| = 2 and |g_2| = 1; w = (1, 1), α = 1.

    First step: both progress by 1, so the target is Ḡ = 1.5 for both. G_1 = 2 is above and G_2 = 1
    below: dL/dw = (+2, -1). Adam's first step is the learning rate in that direction, 0.1:
    (0.9, 1.1), whose sum is 2 already.
    Second: L = (1, 4) of (2, 4) is progress (1/2, 1), mean 3/4, r = (2/3, 4/3). G = (1.8, 1.1),
    Ḡ = 1.45, targets (0.967, 1.933): dL/dw = (+2, -1) again.
    """
    balancer = started(GradNorm(alpha=1, learning_rate=0.1))
    gram = ops.convert_to_tensor([[4.0, 0.3], [0.3, 1.0]])
    first = balancer.coefficients(gram, ops.convert_to_tensor([2.0, 4.0]))
    np.testing.assert_allclose(array(first), [1, 1])
    np.testing.assert_allclose(weights(balancer, [2, 4]), [0.9, 1.1], rtol=1e-5)
    np.testing.assert_allclose(array(balancer.first_losses), [2, 4])
    second = balancer.coefficients(gram, ops.convert_to_tensor([1.0, 4.0]))
    np.testing.assert_allclose(array(second), [0.9, 1.1], rtol=1e-5)
    np.testing.assert_allclose(weights(balancer, [1, 4]), [0.8, 1.2], rtol=1e-5)


def test_gradnorm_starts_a_task_at_its_first_label():
    balancer = started(GradNorm())
    balancer.coefficients(ops.eye(2), ops.convert_to_tensor([2.0, 0.0]))
    np.testing.assert_allclose(array(balancer.first_losses), [2, 0])
    balancer.coefficients(ops.eye(2), ops.convert_to_tensor([1.0, 3.0]))
    np.testing.assert_allclose(array(balancer.first_losses), [2, 3])
    assert np.isfinite(weights(balancer, [1, 3])).all()


def test_famo():
    """z = (1/2, 1/2): weights (1/L_1, 1/L_2) over their sum; for L = (1, 3): (3/4, 1/4).

    Losses fall to (1/2, 3): δ = (log 2, 0); Jᵀδ = z (δ - z·δ) = (log 2)/4 (1, -1). Adam's first
    step is the learning rate against it: ξ = (-0.1, 0.1), less weight for the task that fell.
    """
    balancer = started(FAMO(learning_rate=0.1, gamma=0))
    np.testing.assert_allclose(weights(balancer, [1, 3]), [0.75, 0.25], rtol=1e-6)
    balancer.compare(*(ops.convert_to_tensor(v, "float32") for v in ([1, 3], [0.5, 3])))
    np.testing.assert_allclose(array(balancer.logits), [-0.1, 0.1], rtol=1e-5)
    z = np.exp([-0.1, 0.1]) / np.exp([-0.1, 0.1]).sum()
    expected = z / [1, 3] / (z / [1, 3]).sum()
    np.testing.assert_allclose(weights(balancer, [1, 3]), expected, rtol=1e-5)
    # With losses as they are, γ alone pulls ξ back: gradient γ ξ, of Adam's second step.
    decayed = started(FAMO(learning_rate=0.1, gamma=0.5))
    decayed.logits.assign([-0.2, 0.2])
    decayed.compare(*(ops.convert_to_tensor([1.0, 3.0]),) * 2)
    np.testing.assert_allclose(array(decayed.logits), [-0.1, 0.1], rtol=1e-5)


def test_famo_leaves_out_a_task_without_labels():
    balancer = started(FAMO())
    np.testing.assert_allclose(weights(balancer, [0, 3]), [0, 1])
    np.testing.assert_allclose(weights(balancer, [0, 0]), [0, 0])
    balancer.compare(*(ops.convert_to_tensor(v, "float32") for v in ([0, 3], [0, 3])))
    np.testing.assert_allclose(array(balancer.logits), [0, 0])


def value_of(balancer, losses):
    """What the logs show as the loss."""
    losses = ops.convert_to_tensor(losses, "float32")
    return float(ops.sum(balancer.weights_of(losses) * losses) + balancer.penalty(losses))


def epoch(balancer, *batches):
    for losses in batches:
        balancer.observe(ops.convert_to_tensor(losses, "float32"))
    balancer.end_epoch()


def test_stch():
    """λ = (1, 2), z = (0, 1), μ = 1/2; the last epoch of the warm-up has the means (2, 5).

    For L = (1, 3): L - z = (1, 2) of (2, 4), f = log 1/2 for both, λ f / μ = log (1/4, 1/16): a
    softmax of (4/5, 1/5). dL/dL_k = T λ_k softmax_k / (L_k - z_k) = (8/5, 2/5).
    L = T μ log (1/4 + 1/16) = log 5/16.
    """
    balancer = started(STCH(0.5, warmup=2, preferences={"price": 2, "click": 1}, ideal=[0, 1]))
    for losses in ([9, 9], [1, 5]):
        np.testing.assert_allclose(weights(balancer, [1, 3]), [1, 0.5], rtol=1e-6)
        np.testing.assert_allclose(value_of(balancer, [1, 3]), math.log(2), rtol=1e-5)
        epoch(balancer, losses, [3, 5])
    np.testing.assert_allclose(weights(balancer, [1, 3]), [1.6, 0.4], rtol=1e-6)
    np.testing.assert_allclose(value_of(balancer, [1, 3]), math.log(5 / 16), rtol=1e-5)
    epoch(balancer, [7, 7])  # n stays
    np.testing.assert_allclose(weights(balancer, [1, 3]), [1.6, 0.4], rtol=1e-6)


def test_stch_is_the_greatest_loss_for_a_small_mu_and_their_sum_for_a_great_one():
    small, great = (started(STCH(mu, warmup=0)) for mu in (1e-4, 1e4))
    losses = [0.3, 0.5]
    np.testing.assert_allclose(weights(small, losses), [0, 2 / 0.5], atol=1e-6)
    np.testing.assert_allclose(value_of(small, losses), 2 * math.log(0.5), rtol=1e-3)
    np.testing.assert_allclose(weights(great, losses), [1 / 0.3, 1 / 0.5], rtol=1e-4)
    # The greatest exponent is taken off: these are 9210 and -9210.
    np.testing.assert_allclose(weights(started(STCH(1e-3, warmup=0)), [1e-4, 1e4]), [0, 2e-4])


def test_stch_leaves_out_a_task_without_labels_and_one_better_than_its_ideal():
    balancer = started(STCH(warmup=1, ideal=[0, 1]))
    epoch(balancer, [2, 0], [4, 5], [0, 0])  # means (3, 5)
    np.testing.assert_allclose(array(balancer.nadir), [3, 5])
    for losses, expected in (([0, 3], [0, 0.5]), ([2, 0.5], [0.5, 0]), ([0, 0], [0, 0])):
        np.testing.assert_allclose(weights(balancer, losses), expected, rtol=1e-6)
        assert math.isfinite(value_of(balancer, losses))


@pytest.mark.parametrize("name", balancing.BY_NAME)
def test_every_method_has_a_name_and_survives_its_config(name):
    balancer = balancing.get(name)
    assert type(balancer) is balancing.BY_NAME[name]
    assert balancing.get(balancer) is balancer
    config = keras.saving.serialize_keras_object(balancer)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(balancer)
    assert again.get_config() == balancer.get_config()


def test_bad_balancers_are_refused():
    assert balancing.get(None) is None
    with pytest.raises(ValueError, match=r"`balancer` should be one of .*'pcgrad'.* 'adam'"):
        balancing.get("adam")
    with pytest.raises(TypeError, match=r"`balancer` should be a name or a Balancer. Received: 3"):
        balancing.get(3)
    with pytest.raises(ValueError, match=r"several tasks.*'click'"):
        Uncertainty().start(TASKS[:1])
    balancer = started(Uncertainty())
    balancer.start(TASKS)  # once more for the same tasks
    with pytest.raises(ValueError, match="should be a new one for every model"):
        balancer.start([Task("other"), *TASKS])


@pytest.mark.parametrize("given", [[1], {"click": 1}, {"click": 1, "price": 1, "other": 2}])
def test_fixed_weights_are_one_per_task(given):
    with pytest.raises(ValueError, match=r"`weights` should have one entry per task of \['click'"):
        started(Fixed(given))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Fixed([1, -1]), r"`weights\[1\]`.*-1"),
        (lambda: DWA(temperature=0), "`temperature`.*0"),
        (lambda: GradNorm(alpha=-1), "`alpha`.*-1"),
        (lambda: FAMO(learning_rate=0), "`learning_rate`.*0"),
        (lambda: RLW(seed=-1), "`seed`.*-1"),
        (lambda: STCH(mu=0), "`mu`.*0"),
        (lambda: STCH(warmup=-1), "`warmup`.*-1"),
        (lambda: STCH(ideal=[0, -1]), r"`ideal\[1\]`.*-1"),
        (lambda: STCH(preferences={"click": 0}), r"`preferences\['click'\]`.*0"),
        (lambda: started(STCH(preferences={"click": 1})), "`preferences` should have one entry"),
    ],
)
def test_arguments_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()
