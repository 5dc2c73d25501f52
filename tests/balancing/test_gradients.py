"""Methods that need the gradients themselves: worked out by hand, their theory, their state."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from keras import ops
from stepping import MODES, stepping

from mtl.balancing import DualBalancing, GradDrop, MetaBalance
from mtl.tasks import Task

TASKS = [Task("click"), Task("buy")]
# g_1 = (3, 4 | 1), g_2 = (0, -1 | 2) on two parameters, a vector and a matrix.
FIRST, SECOND = [[3.0, 4], [[1.0]]], [[0.0, -1], [[2.0]]]


def start(balancer: Any, tasks: Any = TASKS) -> Any:
    balancer.start(tasks, [(2,), (1, 1)])
    return balancer


def runner(balancer: Any, mode: str = "graph") -> Callable[..., np.ndarray]:
    """Return the function from gradients and losses to d as one vector, which moves the state."""
    step = stepping(balancer, balancer.combine, mode)

    def run(gradients: Any, losses: Any = (1.0, 1.0)) -> np.ndarray:
        tensors = [[ops.convert_to_tensor(np.asarray(g, "float32")) for g in t] for t in gradients]
        combined = step(tensors, ops.convert_to_tensor(np.asarray(losses, "float32")))
        return np.concatenate([ops.convert_to_numpy(d).ravel() for d in combined])

    return run


def state_of(balancer: Any) -> dict[str, np.ndarray]:
    store: dict[str, Any] = {}
    balancer.save_own_variables(store)
    return {name: np.array(value) for name, value in store.items()}


# --- DB-MTL ---


@pytest.mark.parametrize("mode", MODES)
def test_dual_balancing_by_hand(mode: str) -> None:
    """With losses 1/2 and 2, log-gradients are (6, 8 | 2) and (0, -1/2 | 1)."""
    logs = np.array([[6, 8, 2], [0, -0.5, 1]])
    n_1, n_2 = np.linalg.norm(logs, axis=1)
    run = runner(start(DualBalancing(beta=0)), mode)
    np.testing.assert_allclose(
        run([FIRST, SECOND], [0.5, 2]), logs[0] + n_1 / n_2 * logs[1], rtol=1e-5
    )
    # With averages, a step of (g_1, g_2) and one of (g_2, g_1), all losses 1; β_2 = 1 / 2√2.
    first, second = np.array([[3, 4, 1.0], [0, -1, 2]]), np.array([[0, -1, 2.0], [3, 4, 1]])
    run = runner(start(DualBalancing(beta=0.5, sigma=0.5)), mode)
    averages = 0.5 * first
    for given, after in (([FIRST, SECOND], averages), ([SECOND, FIRST], None)):
        if after is None:
            forget = 0.5 / 2**0.5
            after = forget * averages + (1 - forget) * second
        norms = np.linalg.norm(after, axis=1)
        expected = norms.max() * np.sum(after / norms[:, None], axis=0)
        np.testing.assert_allclose(run(given), expected, rtol=1e-5)


def test_dual_balancing_does_not_see_the_scale_of_a_loss() -> None:
    run = runner(start(DualBalancing()))
    plain = run([FIRST, SECOND], [0.5, 2])
    scaled = [[np.multiply(1e3, g) for g in SECOND]]
    run = runner(start(DualBalancing()))
    np.testing.assert_allclose(run([FIRST, *scaled], [0.5, 2e3]), plain, rtol=1e-5)


def test_dual_balancing_keeps_the_average_of_a_task_without_labels() -> None:
    balancer = start(DualBalancing())
    run = runner(balancer)
    run([FIRST, SECOND])
    before = [ops.convert_to_numpy(v) for v in balancer.averages]
    d = run([FIRST, [[0.0, 0], [[0.0]]]], [1, 0])
    for old, new in zip(before, map(ops.convert_to_numpy, balancer.averages), strict=True):
        np.testing.assert_array_equal(new[1], old[1])
        assert not np.array_equal(new[0], old[0])
    np.testing.assert_allclose(d / d[0], [1, 4 / 3, 1 / 3], rtol=1e-5)  # along g_1 alone


def test_dual_balancing_minimises_logarithms() -> None:
    balancer = start(DualBalancing())
    losses = ops.convert_to_tensor([0.5, 2.0])
    np.testing.assert_allclose(ops.convert_to_numpy(balancer.weights_of(losses)), [2, 0.5])
    total = ops.sum(balancer.weights_of(losses) * losses) + balancer.penalty(losses)
    np.testing.assert_allclose(float(total), 0, atol=1e-6)  # log 1/2 + log 2


# --- MetaBalance ---


@pytest.mark.parametrize("mode", MODES)
def test_metabalance_by_hand(mode: str) -> None:
    """Lengths are 5 and 1 on the vector, 1 and 2 on the matrix: ratios 5 and 1/2 to the first."""
    run = runner(start(MetaBalance(relax=0.7)), mode)
    # g_2 is scaled by 0.7 · 5 + 0.3 = 3.8, and by 0.7 / 2 + 0.3 = 0.65.
    np.testing.assert_allclose(run([FIRST, SECOND]), [3, 4 - 3.8, 1 + 1.3], rtol=1e-5)
    # Then 1 and 5, 2 and 1: averages 0.9 · 0.1 · (5, 1) + 0.1 · (1, 5) are as 5.5 to 5.9, and
    # (1, 2), (2, 1) as 2.9 to 2.8.
    vector, matrix = (0.7 * r + 0.3 for r in (5.5 / 5.9, 2.9 / 2.8))
    expected = [3 * vector, -1 + 4 * vector, 2 + matrix]
    np.testing.assert_allclose(run([SECOND, FIRST]), expected, rtol=1e-5)


def test_metabalance_makes_all_lengths_that_of_the_target() -> None:
    run = runner(start(MetaBalance("buy", relax=1)))
    d = run([FIRST, SECOND]) - [0, -1, 2]
    np.testing.assert_allclose([np.linalg.norm(d[:2]), d[2]], [1, 2], rtol=1e-5)
    run = runner(start(MetaBalance("buy", relax=0)))
    np.testing.assert_allclose(run([FIRST, SECOND]), [3, 3, 3], rtol=1e-6)


def test_metabalance_waits_for_labels_and_spares_what_the_target_does_not_reach() -> None:
    nothing = [[0.0, 0], [[0.0]]]
    run = runner(start(MetaBalance(relax=1)))
    np.testing.assert_allclose(run([nothing, SECOND]), [0, -1, 2])  # no target yet
    np.testing.assert_allclose(run([FIRST, SECOND]), [3, 4 - 5, 1 + 1], rtol=1e-5)
    np.testing.assert_allclose(run([FIRST, nothing]), [3, 4, 1], rtol=1e-5)
    np.testing.assert_allclose(run([FIRST, SECOND]), [3, 4 - 5, 1 + 1], rtol=1e-5)
    run = runner(start(MetaBalance(relax=1)))
    np.testing.assert_allclose(run([[FIRST[0], [[0.0]]], SECOND]), [3, 4 - 5, 2], rtol=1e-5)


# --- GradDrop ---


def test_graddrop_keeps_one_sign_of_each_entry() -> None:
    """P is (1, 4/5 · …): entries 1 and 3 don't conflict; in the second, 4 is kept 8 times of 10."""
    balancer = start(GradDrop())
    run = runner(balancer)
    drawn = np.array([run([FIRST, SECOND]) for _ in range(400)])
    np.testing.assert_array_equal(drawn[:, [0, 2]], [[3, 3]] * 400)
    assert set(drawn[:, 1]) == {4, -1}
    assert abs((drawn[:, 1] == 4).mean() - 0.8) < 4 * (0.8 * 0.2 / 400) ** 0.5


def test_graddrop_draws_a_sign_for_each_entry() -> None:
    balancer = GradDrop(leak={"click": 0.25, "buy": 0.5})
    balancer.start(TASKS, [(1000,)])
    d = runner(balancer)([[np.full(1000, 2.0)], [np.full(1000, -2.0)]])
    assert set(d) == {2 - 0.5 * 2, -2 + 0.25 * 2}
    assert abs((d > 0).mean() - 0.5) < 4 * 0.5 / 1000**0.5


@pytest.mark.parametrize("mode", MODES)
def test_graddrop_without_conflict_or_with_a_full_leak_is_the_sum(mode: str) -> None:
    run = runner(start(GradDrop()), mode)
    np.testing.assert_allclose(run([FIRST, FIRST]), [6, 8, 2])
    run = runner(start(GradDrop(leak=1)), mode)
    np.testing.assert_allclose(run([FIRST, SECOND]), [3, 3, 3])


# --- What each of them does ---


@pytest.mark.parametrize("method", [DualBalancing, MetaBalance, GradDrop])
def test_a_task_without_gradient_is_left_out_and_state_goes_on(method: Any) -> None:
    nothing = [[0.0, 0], [[0.0]]]
    balancer = start(method())
    run = runner(balancer)
    run([FIRST, SECOND])
    before = state_of(balancer)
    d = run([nothing, nothing], [0, 0])
    np.testing.assert_array_equal(d, 0)
    other = start(method())
    other.load_own_variables(before)
    assert state_of(other).keys() == before.keys()
    again = runner(other)([nothing, nothing], [0, 0])
    np.testing.assert_array_equal(again, d)
    following = [runner(b)([SECOND, FIRST], [2, 3]) for b in (balancer, other)]
    np.testing.assert_array_equal(*following)
    assert not other.trainable_variables


@pytest.mark.parametrize("method", [DualBalancing, MetaBalance])
def test_infinite_gradients_spoil_no_average(method: Any) -> None:
    balancer = start(method())
    run = runner(balancer)
    run([FIRST, SECOND])
    run([FIRST, [[np.inf, 1], [[np.nan]]]])
    assert np.isfinite(run([FIRST, SECOND])).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: start(MetaBalance("pay")), r"`target` should be one of ['click', 'buy']."),
        (lambda: MetaBalance(relax=1.5), "`relax` should be a number in [0, 1]. Received: 1.5"),
        (lambda: MetaBalance(beta=1), "`beta` should be a number in [0, 1). Received: 1"),
        (lambda: DualBalancing(beta=-1), "`beta` should be a number in [0, 1). Received: -1"),
        (lambda: DualBalancing(sigma=-1), "`sigma` should be a non-negative number. Received: -1"),
        (lambda: GradDrop(leak=2), "`leak` should be a number in [0, 1]. Received: 2"),
        (lambda: GradDrop(leak=[0, 2]), "`leak[1]` should be a number in [0, 1]. Received: 2"),
        (lambda: start(GradDrop(leak=[0])), "`leak` should have one entry per task"),
    ],
)
def test_errors(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


def test_a_balancer_of_another_model_is_refused() -> None:
    balancer = start(DualBalancing())
    start(balancer)
    with pytest.raises(ValueError, match="should be a new one for every model"):
        balancer.start(TASKS, [(3,), (1, 1)])
