"""How each data set's models are sized and trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

MODELS = ("SharedBottom", "MoE", "MMoE", "CGC", "PLE", "ESMM")


@dataclass(frozen=True)
class Recipe:
    """Sizes and training settings for one data set.

    Attributes:
        sizes: keyword arguments of each model's factory, by its name.
        funnel: "click" and "click and conversion" task of ESMM, out of a pair of tasks that is
            no funnel: the position of each in the data's tasks.
        learning_rate: float.
        batch_size: int. Rows per step.
        epochs: int. Upper limit.
        patience: int. Epochs without a better validation loss before training stops and the best
            weights are restored; unused without validation data.
        optimizer: str. `"adam"` or `"lazy_adam"`.
    """

    sizes: Mapping[str, Mapping[str, Any]]
    funnel: tuple[int, int]
    learning_rate: float
    batch_size: int
    epochs: int
    patience: int
    optimizer: str = "adam"

    def with_training(self, **settings: Any) -> Recipe:
        """Return a copy with other training settings; None keeps what stands."""
        return replace(self, **{key: value for key, value in settings.items() if value is not None})


_CENSUS_EXPERTS: dict[str, Any] = {"num_experts": 8, "expert_dnn_units": (16,)}
_CENSUS_LEVELS: dict[str, Any] = {
    "num_experts_specific": 4,
    "num_experts_shared": 4,
    "expert_dnn_units": (16,),
}

CENSUS_INCOME = Recipe(
    sizes={
        name: {**sizes, "tower_dnn_units_lists": ((8,), (8,))}
        for name, sizes in {
            "SharedBottom": {"bottom_dnn_units": (16,)},
            "MoE": _CENSUS_EXPERTS,
            "MMoE": _CENSUS_EXPERTS,
            "CGC": _CENSUS_LEVELS,
            "PLE": {**_CENSUS_LEVELS, "num_levels": 2},
            "ESMM": {},
        }.items()
    },
    funnel=(1, 0),
    learning_rate=0.01,
    batch_size=1024,
    epochs=100,
    patience=10,
)

_ADULT_TOWERS = ((32, 32), (32, 32))
_ADULT_EXPERTS = {
    "num_experts": 8,
    "expert_dnn_units": (64, 64),
    "gate_dnn_units": (32, 32),
    "tower_dnn_units_lists": _ADULT_TOWERS,
}
_ADULT_LEVELS = {
    "num_experts_specific": 8,
    "num_experts_shared": 4,
    "expert_dnn_units": (64, 64),
    "gate_dnn_units": (16, 16),
    "tower_dnn_units_lists": _ADULT_TOWERS,
}

ADULT = Recipe(
    sizes={
        "SharedBottom": {
            "bottom_dnn_units": (128, 128),
            "tower_dnn_units_lists": ((64, 32), (64, 32)),
        },
        "MoE": _ADULT_EXPERTS,
        "MMoE": _ADULT_EXPERTS,
        "CGC": _ADULT_LEVELS,
        "PLE": {**_ADULT_LEVELS, "num_levels": 2},
        "ESMM": {"tower_dnn_units_lists": ((64, 64), (64, 64))},
    },
    funnel=(0, 1),
    learning_rate=0.001,
    batch_size=256,
    epochs=5,
    patience=5,
)
