"""Gradient surgery: cases worked out by hand, what theory says of each method, and edge cases."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from scipy.optimize import minimize, nnls
from stepping import MODES, stepping

from mtl import balancing
from mtl.balancing import (
    IMTLG,
    MGDA,
    AlignedMTL,
    CAGrad,
    FairGrad,
    GradientBalancer,
    GradVac,
    NashMTL,
    PCGrad,
    UPGrad,
)

METHODS = [PCGrad, GradVac, MGDA, CAGrad, AlignedMTL, IMTLG, NashMTL, FairGrad, UPGrad]
DETERMINISTIC = METHODS[2:]

# g_1 = (2, 0), g_2 = (-1, 1), and g_1 = (2, 0), g_2 = (1, 1).
CONFLICT, HARMONY = [[4, -2], [-2, 2]], [[4, 2], [2, 2]]


def make(method: type[GradientBalancer], tasks: int, **options: Any) -> GradientBalancer:
    balancer = method(**options)
    balancer.build((tasks,))
    return balancer


def runner(balancer: GradientBalancer, mode: str = "graph") -> Callable[[Any], np.ndarray]:
    """Return the function from a Gram matrix to the coefficients, which also moves the state."""
    step = stepping(balancer, balancer.coefficients, mode)

    def run(gram: Any) -> np.ndarray:
        gram = ops.convert_to_tensor(np.asarray(gram, "float32"))
        c = ops.convert_to_numpy(step(gram, ops.ones(gram.shape[0])))
        assert c.dtype == "float32"
        return c.astype("float64")

    return run


@functools.cache
def prepared(method: type[GradientBalancer], tasks: int, mode: str) -> Any:
    balancer = make(method, tasks)
    return balancer, runner(balancer, mode)


def solve(method: type[GradientBalancer], gram: Any, mode: str = "graph") -> np.ndarray:
    """Return the first coefficients of a method with its default arguments."""
    balancer, run = prepared(method, len(gram), mode)
    if method is GradVac:
        balancer.targets.assign(np.zeros((len(gram), len(gram))))
    return run(gram)  # type: ignore[no-any-return]


def gradients(tasks: int, seed: int, size: int | None = None) -> np.ndarray:
    """Return gradients of all angles, the longest ten times as long as the shortest."""
    rng = np.random.default_rng([tasks, seed])
    g = rng.normal(size=(tasks, tasks + 2 if size is None else size))
    lengths = np.geomspace(0.5, 5, tasks)
    return (g / np.linalg.norm(g, axis=1, keepdims=True) * lengths[:, None]).astype("float32")


MANY = [gradients(tasks, seed).astype("float64") for tasks in (3, 5) for seed in range(6)]


# --- By hand ---


HAND: list[tuple[type[GradientBalancer], dict[str, Any], Any, list[float]]] = [
    # g_1 + 2/2 g_2 and g_2 + 2/4 g_1; nothing without conflict. GradVac starts from targets of 0.
    (PCGrad, {}, CONFLICT, [1.5, 2]),
    (PCGrad, {}, HARMONY, [1, 1]),
    (GradVac, {}, CONFLICT, [1.5, 2]),
    (GradVac, {}, HARMONY, [1, 1]),
    # c_1 = (g_2 - g_1) · g_2 / |g_1 - g_2|² = 4 / 10, 0 / 2, and -2 / 10, outside of the hull.
    (MGDA, {}, CONFLICT, [0.4, 0.6]),
    (MGDA, {}, HARMONY, [0, 1]),
    (MGDA, {}, [[26, 4], [4, 2]], [0, 1]),
    # g_0 = (1, 1) / 2, √φ = c / √2. With g_1 · d = g_2 · d, d = (s, 3s), and 10 s² - 4 s + 1/2 = φ:
    # s = 1/4 for c = 1/2, which happens to be along g_2; (4 + √8.8) / 20 for c = 0.8.
    (CAGrad, {}, CONFLICT, [0.5, 0.75]),
    (CAGrad, {"c": 0.8}, CONFLICT, [0.2 * (2 + 2.2**0.5), 0.3 * (2 + 2.2**0.5)]),
    # g_0 = (3, 1) / 2: g_2 · g_0 = 2 < g_1 · g_0 = 3, and so it stays: d = g_0 + √φ g_2 / |g_2|.
    (CAGrad, {}, HARMONY, [0.5, 0.5 + 0.25 * 5**0.5]),
    (CAGrad, {"c": 0}, CONFLICT, [0.5, 0.5]),
    # √M = (M + √|M|) / √(tr M + 2 √|M|), so that M^(-1/2) 1 is √10 / 20 (6, 8), and (2, 4) without
    # conflict. σ² is 3 - √5.
    (AlignedMTL, {}, CONFLICT, [6 * (30 - 500**0.5) ** 0.5 / 20, 8 * (30 - 500**0.5) ** 0.5 / 20]),
    (AlignedMTL, {}, HARMONY, [2 * (30 - 500**0.5) ** 0.5 / 20, 4 * (30 - 500**0.5) ** 0.5 / 20]),
    (AlignedMTL, {}, [[9, 0], [0, 1]], [1 / 3, 1]),
    # c_1 |g_1| = c_2 |g_2|, whatever the angle.
    (IMTLG, {}, CONFLICT, [1 / (1 + 2**0.5), 1 / (1 + 0.5**0.5)]),
    (IMTLG, {}, HARMONY, [1 / (1 + 2**0.5), 1 / (1 + 0.5**0.5)]),
    # c_k |g_k| = 1 / √(1 + cosine), the cosine is ±1 / √2.
    (NashMTL, {}, CONFLICT, [(1 - 0.5**0.5) ** -0.5 / 2, (1 - 0.5**0.5) ** -0.5 / 2**0.5]),
    (NashMTL, {}, HARMONY, [(1 + 0.5**0.5) ** -0.5 / 2, (1 + 0.5**0.5) ** -0.5 / 2**0.5]),
    # α = 1 is Nash-MTL. For α = 1/2 and orthogonal gradients |g_k|² c = c^-2, for α = 2 it is
    # c^(-1/2); with a cosine of 1/2, 3/2 c is it.
    (FairGrad, {}, CONFLICT, [(1 - 0.5**0.5) ** -0.5 / 2, (1 - 0.5**0.5) ** -0.5 / 2**0.5]),
    (FairGrad, {"alpha": 0.5}, [[4, 0], [0, 1]], [4 ** (-1 / 3), 1]),
    (FairGrad, {"alpha": 2}, [[4, 0], [0, 1]], [4 ** (-2 / 3), 1]),
    (FairGrad, {"alpha": 2}, [[1, 0.5], [0.5, 1]], [1.5 ** (-2 / 3)] * 2),
    # g_1 loses its part along g_2, g_1 + g_2 = (1, 1), and g_2 that along g_1, (0, 1) = g_2 +
    # g_1 / 2; d is their mean. Without conflict it is that of the gradients.
    (UPGrad, {}, CONFLICT, [0.75, 1]),
    (UPGrad, {}, HARMONY, [0.5, 0.5]),
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("method", "options", "gram", "expected"), HAND)
def test_two_tasks_by_hand(
    method: Any, options: dict[str, Any], gram: Any, expected: list[float], mode: str
) -> None:
    c = runner(make(method, 2, **options), mode)(gram) if options else solve(method, gram, mode)
    np.testing.assert_allclose(c, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_gradvac_turns_gradients_to_the_average_cosine(mode: str) -> None:
    run = runner(make(GradVac, 2, beta=0.5), mode)
    np.testing.assert_allclose(run(CONFLICT), [1.5, 2], atol=1e-6)
    # The cosine was -1/√2, and half of it is the target now: g_1 gets |g_1| / |g_2| =√2 times
    # (-1/(2√2) √(1/2) / √(7/8) + 1/√2) g_2, which is 1 - 1/√7 times; g_2 gets half of that of g_1.
    mend = 1 - 7**-0.5
    np.testing.assert_allclose(run(CONFLICT), [1 + mend / 2, 1 + mend], atol=1e-6)


# --- What theory says ---


def test_mgda_is_the_shortest_vector_of_the_hull() -> None:
    for g in MANY:
        c, gram = solve(MGDA, g @ g.T), g @ g.T
        assert c.min() >= 0
        assert c.sum() == pytest.approx(1, abs=1e-6)
        gains = gram @ c - c @ gram @ c
        np.testing.assert_allclose(np.minimum(gains, 0), 0, atol=1e-5)
        np.testing.assert_allclose(gains[c > 1e-6], 0, atol=1e-5)


@pytest.mark.parametrize("g", MANY[::2])
def test_mgda_agrees_with_scipy(g: np.ndarray) -> None:
    found = minimize(
        lambda w: w @ g @ g.T @ w,
        np.full(len(g), 1 / len(g)),
        jac=lambda w: 2 * g @ g.T @ w,
        bounds=[(0, 1)] * len(g),
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        method="SLSQP",
        options={"ftol": 1e-12},
    )
    np.testing.assert_allclose(solve(MGDA, g @ g.T) @ g, found.x @ g, atol=2e-5)


@pytest.mark.parametrize("g", MANY[::2])
def test_cagrad_agrees_with_scipy_on_the_primal_problem(g: np.ndarray) -> None:
    mean = g.mean(0)
    radius = 0.5 * np.linalg.norm(mean)
    found = minimize(  # over d and a bound from below on what a task gains
        lambda x: -x[-1],
        np.append(mean, (g @ mean).min()),
        constraints=[
            {"type": "ineq", "fun": lambda x: g @ x[:-1] - x[-1]},
            {"type": "ineq", "fun": lambda x: radius**2 - np.sum((x[:-1] - mean) ** 2)},
        ],
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 300},
    )
    d = solve(CAGrad, g @ g.T) @ g
    assert np.linalg.norm(d - mean) <= radius * (1 + 1e-5)
    assert (g @ d).min() == pytest.approx(found.x[-1], abs=1e-5)
    np.testing.assert_allclose(d, found.x[:-1], atol=1e-3)


def test_cagrad_where_all_tasks_cannot_be_improved() -> None:
    # g_1 and g_2 are opposite, and g_0 = (-1/3, 1/3) can be moved to where both gain 0, not less.
    g = np.array([[1, 0], [-2, 0], [0, 1]])
    c = runner(make(CAGrad, 3, c=0.9))(g @ g.T)
    d = c @ g
    assert d[0] == pytest.approx(0, abs=2e-3)
    assert np.linalg.norm(d - g.mean(0)) <= 0.9 * np.linalg.norm(g.mean(0)) * (1 + 1e-3)


def test_imtlg_projects_equally_on_all_gradients() -> None:
    for g in MANY:
        c = solve(IMTLG, g @ g.T)
        assert c.sum() == pytest.approx(1, abs=1e-4)
        projections = g @ (c @ g) / np.linalg.norm(g, axis=1)
        scale = np.linalg.norm(c[:, None] * g)
        np.testing.assert_allclose(projections, projections.mean(), atol=1e-5 * scale)


def test_imtlg_is_the_linear_system_of_the_paper() -> None:
    g = MANY[0]
    u = g / np.linalg.norm(g, axis=1, keepdims=True)
    apart, unit = g[0] - g[1:], u[0] - u[1:]
    rest = g[0] @ unit.T @ np.linalg.inv(apart @ unit.T)
    np.testing.assert_allclose(solve(IMTLG, g @ g.T), [1 - rest.sum(), *rest], rtol=1e-4)


def test_aligned_gradients_are_orthogonal_and_of_one_length() -> None:
    # The sum of the aligned gradients Ĝ is d; Ĝ is the nearest multiple of an isometry to G.
    for g in MANY:
        left, values, right = np.linalg.svd(g.T, full_matrices=False)
        aligned = values.min() * left @ right
        np.testing.assert_allclose(np.linalg.svd(aligned)[1], values.min())
        np.testing.assert_allclose(solve(AlignedMTL, g @ g.T) @ g, aligned.sum(1), atol=2e-5)


def test_aligned_mtl_leaves_out_what_the_gradients_do_not_span() -> None:
    # g_1 = (2, 0), g_2 = (-1, 0): GᵀG has the one eigenvector (2, -1) / √5.
    np.testing.assert_allclose(solve(AlignedMTL, [[4, -2], [-2, 1]]), [0.4, -0.2], atol=1e-6)


def test_nash_mtl_gives_every_task_the_same_part() -> None:
    for g in MANY:
        c = solve(NashMTL, g @ g.T)
        assert c.min() > 0
        np.testing.assert_allclose(g @ (c @ g), 1 / c, rtol=5e-5)
        assert np.linalg.norm(c @ g) == pytest.approx(len(g) ** 0.5, rel=1e-5)


@pytest.mark.parametrize("alpha", [0.2, 0.5, 1, 2, 10])
def test_fairgrad_solves_its_equation(alpha: float) -> None:
    run = runner(make(FairGrad, 5, alpha=alpha))
    for g in MANY[6:]:
        c = run(g @ g.T)
        assert c.min() > 0
        np.testing.assert_allclose((g @ (c @ g)) * c ** (1 / alpha), 1, rtol=1e-3)
        if alpha == 1:
            np.testing.assert_array_equal(c, solve(NashMTL, g @ g.T))


def test_fairgrad_goes_from_the_greatest_sum_of_gains_to_the_greatest_least_gain() -> None:
    g = MANY[0]
    sums, least = [], []
    for alpha in (0.1, 1, 10):
        d = runner(make(FairGrad, 3, alpha=alpha))(g @ g.T) @ g
        gains = g @ d / np.linalg.norm(d)
        sums.append(gains.sum())
        least.append(gains.min())
    assert sums == sorted(sums, reverse=True)
    assert least == sorted(least)
    assert sums[0] == pytest.approx(np.linalg.norm(g.sum(0)), rel=2e-2)
    shortest = np.linalg.norm(solve(MGDA, g @ g.T) @ g)  # the least gain that MGDA makes
    assert least[-1] == pytest.approx(shortest, rel=5e-2)


def test_fairgrad_leaves_tasks_out_that_the_others_help_most() -> None:
    # g_1 · g_2 and g_1 · g_3 are so great that c_1 is below float32 in a Newton step.
    g = np.array([[100, 100.0], [1, 0.2], [0.1, 1]])
    d = runner(make(FairGrad, 3, alpha=20))(g @ g.T) @ g
    assert np.isfinite(d).all()
    assert (g @ d).min() > 0


def test_upgrad_projects_on_the_cone_that_hurts_no_task() -> None:
    # What is taken from g_k to get there is a combination of the gradients, weights of one sign.
    for g in [*MANY, *(gradients(5, seed, 3).astype("float64") for seed in range(4))]:
        projections = [row + g.T @ nnls(g.T, -row)[0] for row in g]
        d = solve(UPGrad, g @ g.T) @ g
        np.testing.assert_allclose(d, np.mean(projections, axis=0), atol=1e-4)
        assert (g @ d).min() > -1e-4


def operated(g: np.ndarray, orders: Any, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what the equation of GradVac makes of gradients, and the cosines that it met."""
    changed, met = g.copy(), targets.copy()
    for i, order in enumerate(orders):
        for j in order:
            n_i, n_j = np.linalg.norm(changed[i]), np.linalg.norm(g[j])
            met[i, j] = phi = changed[i] @ g[j] / (n_i * n_j)
            if phi < targets[i, j]:
                sine = np.sqrt(1 - targets[i, j] ** 2)
                step = n_i * (targets[i, j] * np.sqrt(1 - phi**2) - phi * sine) / (n_j * sine)
                changed[i] += step * g[j]
                cosine = changed[i] @ g[j] / (np.linalg.norm(changed[i]) * n_j)
                assert cosine == pytest.approx(targets[i, j])
    return changed, met


def all_orders(tasks: int) -> Any:
    others = [[j for j in range(tasks) if j != i] for i in range(tasks)]
    return itertools.product(*(itertools.permutations(some) for some in others))


def test_pcgrad_projects_in_random_orders() -> None:
    g = np.array([[1, 0, 0.2], [-1, 0.8, 0], [-0.5, -1, 1]])
    sums = [operated(g, orders, np.zeros((3, 3)))[0].sum(0) for orders in all_orders(3)]
    assert len(np.unique(np.round(sums, 6), axis=0)) == 8
    seen = set()
    for _ in range(100):
        far = np.abs(sums - solve(PCGrad, g @ g.T) @ g).max(-1)
        assert far.min() < 1e-5
        seen.add(far.argmin())
    assert len(seen) == 8


def test_gradvac_follows_its_equation_in_random_orders() -> None:
    balancer: Any = make(GradVac, 3, beta=0.3)
    run = runner(balancer)
    rng = np.random.default_rng(0)
    targets, turned = np.zeros((3, 3)), 0
    for _ in range(4):
        g = rng.normal(size=(3, 4)) + 0.4
        d = run(g @ g.T) @ g
        averages = ops.convert_to_numpy(balancer.targets)
        far = []
        for orders in all_orders(3):
            changed, met = operated(g, orders, targets)
            expected = targets + 0.3 * (met - targets)
            far.append(max(np.abs(changed.sum(0) - d).max(), np.abs(expected - averages).max()))
            turned += int(np.sum((met < targets) & (targets > 0)))
        assert min(far) < 1e-5
        targets = averages.astype("float64")
    assert turned > 0


# --- What every method does ---


@pytest.mark.parametrize("scale", [1e-6, 1e3])
@pytest.mark.parametrize("method", METHODS)
def test_the_scale_of_all_gradients_does_not_matter(method: Any, scale: float) -> None:
    g = MANY[0]
    # Of three tasks, random orders give different results.
    gram = np.array(CONFLICT) if method in (PCGrad, GradVac) else g @ g.T
    factor = scale if method in (NashMTL, FairGrad) else 1
    scaled = solve(method, gram * scale**2) * factor
    np.testing.assert_allclose(scaled, solve(method, gram), rtol=1e-4, atol=1e-6)


def test_nash_mtl_and_imtlg_see_angles_alone() -> None:
    g, s = MANY[0], np.array([1e-3, 1, 100])
    other = g * s[:, None]
    c = solve(NashMTL, other @ other.T)
    np.testing.assert_allclose(c * s, solve(NashMTL, g @ g.T), rtol=1e-4)
    c = solve(IMTLG, other @ other.T) * s / solve(IMTLG, g @ g.T)
    np.testing.assert_allclose(c, c[0], rtol=1e-4)


@pytest.mark.parametrize("method", DETERMINISTIC)
def test_the_order_of_the_tasks_does_not_matter(method: Any) -> None:
    for g in MANY[6:]:
        order = [2, 0, 4, 3, 1]
        c = solve(method, g[order] @ g[order].T)
        expected = solve(method, g @ g.T)[order]
        np.testing.assert_allclose(c, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("method", METHODS)
def test_a_task_without_gradient_is_left_out(method: Any) -> None:
    g = np.array([[2.0, 0], [0, 0], [-1, 1]])
    expected = next(e for m, options, gram, e in HAND if m is method and gram is CONFLICT)
    c = solve(method, g @ g.T)
    np.testing.assert_allclose(c, [expected[0], 0, expected[1]], atol=2e-6)
    np.testing.assert_array_equal(solve(method, np.zeros((3, 3))), 0)


def test_gradvac_takes_no_average_of_a_task_without_gradient() -> None:
    balancer: Any = make(GradVac, 3)
    g = np.array([[2.0, 0], [0, 0], [-1, 1]])
    runner(balancer)(g @ g.T)
    average = -0.01 / 2**0.5
    expected = [[0, 0, average], [0, 0, 0], [average, 0, 0]]
    np.testing.assert_allclose(ops.convert_to_numpy(balancer.targets), expected, atol=1e-7)


OPPOSITE = np.array([[2.0, 0], [-4, 0]])
EQUAL = np.array([[1.0, 2], [1, 2]])
# d of equal gradients g in units of g, and of opposite ones.
DEGENERATE = [
    (PCGrad, 2, 0),
    (GradVac, 2, 0),
    (MGDA, 1, 0),
    (CAGrad, 1.5, -0.5),
    (AlignedMTL, 2, None),
    (IMTLG, 1, 0),
    (NashMTL, (2 / 5) ** 0.5, 0),
    (FairGrad, (2 / 5) ** 0.5, 0),
    (UPGrad, 1, 0),
]


@pytest.mark.parametrize(("method", "equal", "opposite"), DEGENERATE)
def test_equal_and_opposite_gradients(method: Any, equal: float, opposite: float | None) -> None:
    d = solve(method, EQUAL @ EQUAL.T) @ EQUAL
    np.testing.assert_allclose(d, equal * EQUAL[0], rtol=1e-4)
    if opposite is not None:
        d = solve(method, OPPOSITE @ OPPOSITE.T) @ OPPOSITE
        np.testing.assert_allclose(d, [opposite, 0], atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_coefficients_are_finite_whatever_the_gradients(method: Any) -> None:
    tasks = 8
    rng = np.random.default_rng(0)
    few, one = rng.normal(size=(tasks, 2)), np.ones((tasks, 1))
    wide = rng.normal(size=(tasks, 9)) * np.geomspace(1e-8, 1e4, tasks)[:, None]
    stationary = rng.normal(size=(tasks, 9))
    stationary -= stationary.mean(0)
    mixed = few * np.array([1, 0, 1, 0, 1, 1, 0, 1])[:, None]
    signs = np.array([[1], [-1], [1], [-1], [0], [1], [1], [2]])
    for g in (few, one, wide, stationary, mixed, signs):
        assert np.isfinite(solve(method, g @ g.T)).all()


@pytest.mark.parametrize("method", METHODS)
def test_eight_tasks(method: Any) -> None:
    g = gradients(8, 0, 40)
    c = solve(method, g @ g.T)
    d = c @ g
    assert c.shape == (8,)
    assert (g @ d).min() > 0  # nearly orthogonal gradients: all methods improve all tasks


# --- State and arguments ---


def same_state(one: GradientBalancer, other: GradientBalancer) -> bool:
    pairs = zip(one.variables, other.variables, strict=True)
    return all(np.array_equal(*map(ops.convert_to_numpy, pair)) for pair in pairs)


@pytest.mark.parametrize("method", [PCGrad, GradVac])
def test_state_goes_on_where_it_was(method: Any) -> None:
    g = np.array([[1, 0, 0.2], [-1, 0.8, 0], [-0.5, -1, 1]])
    first, other = make(method, 3), make(method, 3, seed=3)
    assert len(first.variables) == (1 if method is PCGrad else 2)
    assert not first.trainable_variables
    assert same_state(first, make(method, 3))
    run = runner(first)
    assert len(np.unique(np.round([run(g @ g.T) for _ in range(8)], 5), axis=0)) > 1
    assert not same_state(first, make(method, 3))
    store: dict[str, Any] = {}
    first.save_own_variables(store)
    store = {name: np.array(value) for name, value in store.items()}
    other.load_own_variables(store)
    assert same_state(first, other)
    following = [run(g @ g.T) for _ in range(4)]
    first.load_own_variables(store)
    np.testing.assert_array_equal([run(g @ g.T) for _ in range(4)], following)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (PCGrad, {"seed": 3}),
        (GradVac, {"beta": 0.2, "seed": None}),
        (CAGrad, {"c": 0.2}),
        (FairGrad, {"alpha": 2.0}),
    ],
)
def test_configuration(method: Any, options: dict[str, Any]) -> None:
    for given in (options, {}):
        balancer = method(**given)
        copy = method.from_config(balancer.get_config())
        assert copy.get_config() == balancer.get_config()
        assert given.items() <= copy.get_config().items()


def test_every_method_is_registered() -> None:
    for method in balancing.BY_NAME.values():
        assert keras.saving.get_registered_object(f"mtl>{method.__name__}") is method


@pytest.mark.parametrize(
    ("error", "message", "create"),
    [
        (ValueError, r"`c` should be a number in \[0, 1\). Received: 1", lambda: CAGrad(c=1)),
        (TypeError, "`c` should be a number", lambda: CAGrad(c="0.5")),  # type: ignore[arg-type]
        (ValueError, r"`beta` should be a number in \[0, 1\)", lambda: GradVac(beta=-0.1)),
        (ValueError, "`alpha` should be a positive number. Received: 0", lambda: FairGrad(alpha=0)),
        (ValueError, "`seed` should be a non-negative integer or None", lambda: PCGrad(seed=-1)),
        (
            ValueError,
            "MGDA should be given at most 12 tasks.* Received: 13",
            lambda: make(MGDA, 13),
        ),
    ],
)
def test_errors(error: type[Exception], message: str, create: Callable[[], Any]) -> None:
    with pytest.raises(error, match=message):
        create()
