"""make_funnel: impressions, clicks and conversions with known probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mtl import checks
from mtl.data.dataset import MultiTaskData
from mtl.data.synthetic import check_correlation, check_num_samples, split_rows
from mtl.features import DenseFeat, SparseFeat

_NUM_SEGMENTS = 20
_NUM_CATEGORIES = 50
_TASTES = 3  # dimensions of the user-item interaction
_SPREAD = 1.5  # standard deviation of the logits over the impressions

Array = npt.NDArray[Any]


def make_funnel(
    num_samples: int = 100_000,
    *,
    num_users: int = 1_000,
    num_items: int = 500,
    click_rate: float = 0.2,
    conversion_rate: float = 0.1,
    selection_bias: float = 0.5,
    embedding_dim: int = 8,
    seed: int | None = 0,
) -> MultiTaskData:
    """Make a funnel (impression → click → conversion) whose probabilities are known.

    ```
    pCTR = σ(a + s·u(x)),  pCVR = σ(b + s·v(x)),  pCTCVR = pCTR · pCVR
    click ~ Bernoulli(pCTR),  conversion ~ Bernoulli(pCVR),  y = [click, click · conversion]
    ```

    The scores u and v are sums of effects of the user, the user's segment, the item, the item's
    category, two dense features, and a product of the user's and the item's latent tastes; both
    are scaled to mean 0 and standard deviation 1 over the rows, and correlate by
    `selection_bias` exactly. Real logs have no pCVR of impressions without a click, so only
    here can a pCVR be scored over the entire space as well as over the clicked rows.

    Args:
        num_samples: int. Impressions, 80 % for training, 10 % validation and 10 % test.
            Defaults to 100,000.
        num_users: int. Size of "user_id". Defaults to 1,000.
        num_items: int. Size of "item_id"; low ids are shown more often. Defaults to 500.
        click_rate: float in (0, 1). Mean pCTR over all impressions. Defaults to 0.2.
        conversion_rate: float in (0, 1). Mean pCVR over all impressions, clicked or not.
            Defaults to 0.1.
        selection_bias: float in [-1, 1]. Correlation of the click and conversion logits over the
            impressions. 0: clicked rows convert like all rows. Positive: they convert more
            often than the entire space, negative (clickbait): less. Defaults to 0.5.
        embedding_dim: int. Embedding size of the four sparse features. Defaults to 8.
        seed: int or None. None draws a new set at each call. Defaults to 0.

    Returns:
        A MultiTaskData with the binary tasks "ctr" and "ctcvr"; `truth` holds "ctr", "cvr" and
        "ctcvr", (N,) float32 each.

    Raises:
        TypeError, ValueError: an argument of a wrong type or out of range.

    References:
        - Ma et al., "Entire Space Multi-Task Model: An Effective Approach for Estimating
          Post-Click Conversion Rate", SIGIR 2018: the funnel and its sample selection bias
    """
    rows = check_num_samples(num_samples)
    num_users = checks.positive_int("num_users", num_users)
    num_items = checks.positive_int("num_items", num_items)
    click_rate = _check_rate("click_rate", click_rate)
    conversion_rate = _check_rate("conversion_rate", conversion_rate)
    correlation = check_correlation("selection_bias", selection_bias)
    embedding_dim = checks.positive_int("embedding_dim", embedding_dim)
    rng = np.random.default_rng(checks.seed("seed", seed))

    sizes = {
        "user_id": num_users,
        "user_segment": _NUM_SEGMENTS,
        "item_id": num_items,
        "item_category": _NUM_CATEGORIES,
    }
    x = _draw_impressions(rng, rows, num_users, num_items)
    u = _standardize(_draw_score(rng, x, sizes))
    other = _draw_score(rng, x, sizes)
    # Without its part along u, a score is exactly uncorrelated with u over these rows.
    other = other - other.mean()
    other = _standardize(other - (other @ u) / (u @ u) * u)
    v = correlation * u + np.sqrt(1 - correlation**2) * other

    ctr = _probabilities(u, click_rate)
    cvr = _probabilities(v, conversion_rate)
    click = rng.random(rows) < ctr
    conversion = rng.random(rows) < cvr
    sparse = [SparseFeat(name, size, embedding_dim, dtype="int32") for name, size in sizes.items()]
    dense = [DenseFeat("user_activity", 1), DenseFeat("item_price", 1)]
    return split_rows(
        x,
        [click, click & conversion],
        {"ctr": ctr, "cvr": cvr, "ctcvr": ctr * cvr},
        [*sparse, *dense],
        ["ctr", "ctcvr"],
        "binary",
    )


def _draw_impressions(
    rng: np.random.Generator, rows: int, num_users: int, num_items: int
) -> dict[str, Array]:
    """Draw (rows,) ids and dense values; segment and price go with the user and the item."""
    segment = rng.integers(_NUM_SEGMENTS, size=num_users)
    category = rng.integers(_NUM_CATEGORIES, size=num_items)
    popularity = 1 / (10 + np.arange(num_items))
    user = rng.integers(num_users, size=rows)
    item = rng.choice(num_items, size=rows, p=popularity / popularity.sum())
    activity = rng.normal(size=num_users)[user] + rng.normal(size=rows)
    price = rng.normal(size=num_items)[item] + 0.5 * rng.normal(size=rows)
    return {
        "user_id": user.astype(np.int32),
        "user_segment": segment[user].astype(np.int32),
        "item_id": item.astype(np.int32),
        "item_category": category[item].astype(np.int32),
        "user_activity": activity.astype(np.float32),
        "item_price": price.astype(np.float32),
    }


def _draw_score(rng: np.random.Generator, x: dict[str, Array], sizes: dict[str, int]) -> Array:
    """Draw effects and sum them up: (rows,) float64."""
    main = sum(rng.normal(size=size)[x[name]] for name, size in sizes.items())
    dense = sum(
        rng.normal() * x[name].astype(np.float64) for name in ("user_activity", "item_price")
    )
    user_taste = rng.normal(size=(sizes["user_id"], _TASTES))[x["user_id"]]
    item_taste = rng.normal(size=(sizes["item_id"], _TASTES))[x["item_id"]]
    score: Array = main + 0.5 * dense + np.sum(user_taste * item_taste, axis=1) / np.sqrt(_TASTES)
    return score


def _standardize(score: Array) -> Array:
    centred: Array = score - score.mean()
    centred /= centred.std()
    return centred


def _probabilities(score: Array, rate: float) -> Array:
    """Return σ(a + s·score) with the a for which the mean is `rate`, found by bisection."""
    low, high = -100.0, 100.0
    for _ in range(50):
        middle = (low + high) / 2
        probabilities: Array = 1 / (1 + np.exp(-(middle + _SPREAD * score)))
        low, high = (middle, high) if probabilities.mean() < rate else (low, middle)
    return probabilities


def _check_rate(name: str, value: Any) -> float:
    if checks.rate(name, value) == 0:
        raise ValueError(f"`{name}` should be a number in (0, 1). Received: {value!r}")
    return float(value)
