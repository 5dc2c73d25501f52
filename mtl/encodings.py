"""Encodings of a number as several, for networks: one-hot bins and piecewise-linear parts.

They are the `transform_fn` of a `DenseFeat`, and so a part of the model: it is saved, exported and
served with them, and takes the number as it is. With `dense_embedding_dim`, a bin's column of the
one-hot code is multiplied by a learned vector: an embedding per bin.

```python
age = DenseFeat("age", transform_fn=PiecewiseLinear.fit(train["age"], bins=32))
model = MMoE([age, ...], task_names=["click", "buy"], dense_embedding_dim=8)
```
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from mtl import checks

__all__ = ["Bins", "PiecewiseLinear", "quantile_edges"]

_LARGEST = float(np.finfo(np.float32).max)


class Encoding:
    """A function from numbers `(B, 1)` to codes `(B, output_dim)`, with edges between its bins.

    Args:
        edges: list of float. Strictly increasing.

    Raises:
        TypeError: edges that are no numbers.
        ValueError: edges that are too few, infinite, or don't increase.
    """

    _least_edges = 0

    def __init__(self, edges: Sequence[float]) -> None:
        self.edges = _check_edges(edges, self._least_edges)

    @property
    def output_dim(self) -> int:
        """How many numbers the code of one number has."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"edges": self.edges}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Return the encoding that `get_config` described."""
        return cls(**config)


@keras.saving.register_keras_serializable(package="mtl")
class Bins(Encoding):
    """The one-hot code of the bin that holds a number, behind the number itself.

    T - 1 edges make T bins: bin t holds the v with edges[t-1] <= v < edges[t]. The number stays in
    the code, because a network can't tell order and distance from bins.

    Args:
        edges: list of T - 1 floats. Strictly increasing; none makes one bin.
        keep_value: bool. Whether the code starts with the number itself. Defaults to True.

    Raises:
        TypeError: edges that are no numbers.
        ValueError: edges that are infinite or don't increase.

    Call arguments:
        value: tensor `(B, 1)`.

    Returns:
        A float32 tensor `(B, 1 + T)`, or `(B, T)` without the value.
    """

    def __init__(self, edges: Sequence[float], keep_value: bool = True) -> None:
        super().__init__(edges)
        self.keep_value = bool(keep_value)

    @classmethod
    def fit(
        cls, values: Any, bins: int = 32, keep_value: bool = True, min_share: float = 0
    ) -> Bins:
        """Return at most `bins` bins, equally full on these values (see `quantile_edges`)."""
        return cls(quantile_edges(values, bins, min_share), keep_value)

    @property
    def output_dim(self) -> int:
        """How many numbers the code of one number has."""
        return len(self.edges) + 1 + self.keep_value

    def __call__(self, value: Any) -> Any:
        """Return the code of each number."""
        value = ops.cast(value, "float32")
        one = ops.ones_like(value)
        above = ops.cast(value >= _constant(self.edges), "float32")
        # Above the lower edge and not above the upper one.
        code = ops.concatenate([one, above], axis=-1) - ops.concatenate(
            [above, ops.zeros_like(value)], axis=-1
        )
        return ops.concatenate([value, code], axis=-1) if self.keep_value else code

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "keep_value": self.keep_value}


@keras.saving.register_keras_serializable(package="mtl")
class PiecewiseLinear(Encoding):
    """The piecewise-linear encoding: how far a number is through each bin.

    T + 1 edges b_0 < … < b_T make T bins, and component t = 1 … T of the code is

        e_t = 0                                   if v < b_{t-1} and t > 1,
        e_t = 1                                   if v >= b_t and t < T,
        e_t = (v - b_{t-1}) / (b_t - b_{t-1})     otherwise,

    so that a linear function of the code is any piecewise-linear function of v. Beyond the first
    and the last edge it goes on as a line.

    Args:
        edges: list of T + 1 floats, at least two. Strictly increasing.

    Raises:
        TypeError: edges that are no numbers.
        ValueError: edges that are fewer than two, infinite, or don't increase.

    Call arguments:
        value: tensor `(B, 1)`.

    Returns:
        A float32 tensor `(B, T)`.

    References:
        - Gorishniy et al., On Embeddings for Numerical Features in Tabular Deep Learning, NeurIPS
          2022, equation 1; the quantile bins of section 3.2.1
    """

    _least_edges = 2

    @classmethod
    def fit(cls, values: Any, bins: int = 32, min_share: float = 0) -> PiecewiseLinear:
        """Return at most `bins` bins, equally full on these values (see `quantile_edges`)."""
        inner = quantile_edges(values, bins, min_share)
        column = np.asarray(values, np.float32)
        low, high = float(column.min()), float(column.max())
        if low == high:
            high = low + max(1.0, abs(low))
        return cls([low, *(edge for edge in inner if edge < high), high])

    @property
    def output_dim(self) -> int:
        """How many numbers the code of one number has."""
        return len(self.edges) - 1

    def __call__(self, value: Any) -> Any:
        """Return the code of each number."""
        low, high = np.array(self.edges[:-1]), np.array(self.edges[1:])
        code = (ops.cast(value, "float32") - _constant(low)) / _constant(high - low)
        least, most = np.zeros(len(low)), np.ones(len(low))
        least[0], most[-1] = -_LARGEST, _LARGEST
        return ops.minimum(ops.maximum(code, _constant(least)), _constant(most))


BY_NAME: dict[str, Any] = {"bins": Bins, "piecewise_linear": PiecewiseLinear}


def quantile_edges(values: Any, bins: int, min_share: float = 0) -> list[float]:
    """Return the edges between bins that hold about equally many values.

    A value that fills more than a bin's share gets a bin of its own, and the others share what is
    left: half of the rows at zero don't cost half of the bins. Edges lie midway between
    neighbouring values.

    Args:
        values: array of N finite numbers, N at least 1.
        bins: int. The most bins; fewer where there are fewer values.
        min_share: float in [0, 1). The least share of the values that a bin holds. What few rows
            tell apart, such as a tenth of them that aren't zero, is divided no further then.
            Defaults to 0.

    Returns:
        A list of at most `bins - 1` floats, strictly increasing in float32.

    Raises:
        TypeError: `bins` is no integer, or `min_share` no number.
        ValueError: no bin, no value, a value that isn't finite, or a share out of range.
    """
    bins = checks.positive_int("bins", bins)
    least = checks.rate("min_share", min_share) * np.size(values)
    column = np.asarray(values, np.float32).reshape(-1)
    if not len(column) or not np.isfinite(column).all():
        raise ValueError(
            "`values` should hold at least one number, and finite ones. "
            f"Received: {len(column)} numbers, {int((~np.isfinite(column)).sum())} not finite"
        )
    distinct, counts = np.unique(column, return_counts=True)
    last = _fill(counts, bins, least)
    middle = (distinct[last].astype(np.float64) + distinct[last + 1]) / 2
    # Between neighbours in float32 there is no midpoint: the upper one divides them as well.
    rounded = middle.astype(np.float32)
    return [float(edge) for edge in np.where(rounded > distinct[last], rounded, distinct[last + 1])]


def _fill(counts: npt.NDArray[np.int64], bins: int, least: float = 0) -> npt.NDArray[np.int64]:
    """Return the index of each bin's last distinct value, without the last bin's."""
    if len(counts) <= bins and counts.min() >= least:
        return np.arange(len(counts) - 1)
    heavy = np.zeros(len(counts), bool)
    while True:  # a heavy value leaves the others a smaller share, which makes more heavy
        left = bins - int(heavy.sum())
        rest = counts[~heavy].sum()
        fitting = min(left, rest // least) if least else left
        share = max(rest / max(fitting, 1), least)
        more = ~heavy & (counts >= share)
        if left <= 1 or not more.any():
            break
        heavy |= more
    ends: list[int] = []
    filled, before_heavy = 0, [*heavy[1:], False]
    for i, count in enumerate(counts[:-1].tolist()):
        filled += count
        full = max(share / 2, least) if before_heavy[i] else share
        if heavy[i] or filled >= full:
            ends.append(i)
            filled = 0
        if len(ends) == bins - 1:
            break
    while ends and counts[ends[-1] + 1 :].sum() < least:
        ends.pop()
    return np.array(ends, int)


def _check_edges(edges: Any, least: int) -> list[float]:
    numbers = checks.floats("edges", edges)
    in_float32 = np.array(numbers, np.float32)
    if len(numbers) < least:
        raise ValueError(f"`edges` should hold at least {least} numbers. Received: {numbers}")
    if not (np.isfinite(in_float32).all() and (np.diff(in_float32) > 0).all()):
        raise ValueError(
            f"`edges` should be finite and strictly increasing in float32. Received: {numbers}"
        )
    return numbers


def _constant(values: Any) -> Any:
    return ops.convert_to_tensor(np.asarray(values, np.float32))
