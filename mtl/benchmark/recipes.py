"""How each data set's models are sized and trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from mtl import models
from mtl.tasks import per_task


def zoo() -> dict[str, Any]:
    """Return the factories of `mtl.models` by name, in the order of tables."""
    every = {name: getattr(models, name) for name in models.__all__}
    return {name: factory for name, factory in every.items() if hasattr(factory, "search")}


@dataclass(frozen=True)
class Training:
    """How a model is trained.

    Attributes:
        learning_rate: float. At the start.
        batch_size: int. Rows per step.
        epochs: int. Upper limit.
        patience: int. Epochs without a better value of `monitor` before training stops. The best
            epoch's weights are restored, if there are validation rows.
        monitor: str. What is best on the validation rows: the least `"loss"`, or the greatest
            `"score"`, the mean over tasks of AUC (R² for regressions).
        optimizer: str. `"adam"` (with `weight_decay`, AdamW) or `"lazy_adam"`.
        schedule: str. The learning rate: `"constant"`, or `"cosine"`, to 0 over all `epochs`.
        warmup: float in [0, 1). Share of all steps over which the learning rate first rises, from
            0 in a straight line.
        weight_decay: float. Decoupled decay of all weights, per step and unit of learning rate.
        ema: float in [0, 1). Momentum of the average of the weights over the steps, which takes
            the weights' place in validation and at the end; 0 for none.
        refit: bool. Whether validation rows, which have told what to choose, are trained on with
            the others: for all `epochs` then, without an early stop. Trees are grown twice, the
            second time as many as did best on these rows.
    """

    learning_rate: float = 0.001
    batch_size: int = 1024
    epochs: int = 20
    patience: int = 3
    monitor: str = "loss"
    optimizer: str = "adam"
    schedule: str = "constant"
    warmup: float = 0.0
    weight_decay: float = 0.0
    ema: float = 0.0
    refit: bool = False

    def identity(self) -> dict[str, Any]:
        """Return what tells one training from another, by name.

        That is all but a `warmup` of 0: results and studies from before there was one go on.
        """
        return {k: v for k, v in asdict(self).items() if v or k != "warmup"}


@dataclass(frozen=True)
class Recipe:
    """Sizes and training settings for one data set.

    Attributes:
        sizes: dict from model to keyword arguments of its factory.
        training: how models are trained.
        funnel: positions of a funnel's steps among the data's tasks, such as "click" and "click
            and conversion", or None where models of a funnel can't be trained.
        own_training: dict from model to the settings in which its training differs.
        encoder: dict of settings of the `mtl.data.TableEncoder`, for data sets that have one.
        trees: dict of LightGBM's settings that replace `mtl.benchmark.boosted.SETTINGS`.
        leave_out: names of features that trees are given and networks are not, such as ids that
            these learn by heart.
    """

    sizes: Mapping[str, Mapping[str, Any]]
    training: Training
    funnel: tuple[int, int] | None
    own_training: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    encoder: Mapping[str, Any] = field(default_factory=dict)
    trees: Mapping[str, Any] = field(default_factory=dict)
    leave_out: Sequence[str] = ()

    def lacks(self, model: str) -> str:
        """Return what a model needs that the recipe doesn't have, in words; "" if it fits."""
        factory, sizes = zoo()[model], self.sizes.get(model, {})
        if factory.funnel and self.funnel is None:
            return "a funnel"
        for names in factory.needs:
            if all(sizes.get(name) is None for name in names):
                return f"{' or '.join(f'`{name}`' for name in names)} in [models.{model}]"
        return ""

    def fits(self, model: str) -> bool:
        """Return whether a model can be trained: some need a funnel, some to be told a feature."""
        return not self.lacks(model)

    def task_names_of(self, model: str, task_names: Sequence[str]) -> list[str]:
        """Return the names of a model's tasks out of those of the data: all, or a funnel's steps.

        Raises:
            ValueError: the model needs a funnel, or an argument, and there is none.
        """
        if lack := self.lacks(model):
            raise ValueError(f"{model} should have {lack}. Received: none")
        if self.funnel is None or not zoo()[model].funnel:
            return list(task_names)
        return [task_names[position] for position in self.funnel]

    def training_of(self, model: str) -> Training:
        """Return how a model is trained."""
        return replace(self.training, **self.own_training.get(model, {}))

    def with_training(self, **settings: Any) -> Recipe:
        """Return a copy with other settings for all models; None keeps what stands."""
        given = {key: value for key, value in settings.items() if value is not None}
        own = {
            model: {key: value for key, value in training.items() if key not in given}
            for model, training in self.own_training.items()
        }
        return replace(self, training=replace(self.training, **given), own_training=own)

    def with_sizes(self, model: str, options: Mapping[str, Any]) -> Recipe:
        """Return a copy with other options of one model's factory."""
        return replace(self, sizes={**self.sizes, model: options})

    def with_funnel(self, funnel: tuple[int, int] | None) -> Recipe:
        """Return a copy with another funnel."""
        return replace(self, funnel=funnel)


_CENSUS_EXPERTS: dict[str, Any] = {"num_experts": 8, "expert_dnn_units": (16,)}
_CENSUS_LEVELS: dict[str, Any] = {
    "num_experts_specific": 4,
    "num_experts_shared": 4,
    "expert_dnn_units": (16,),
}
_CENSUS_SIX: dict[str, Any] = {"num_experts_specific": 1, "num_experts_shared": 3}

CENSUS_INCOME = Recipe(
    sizes={
        name: {**sizes, "tower_dnn_units_lists": per_task(8)}
        for name, sizes in {
            "SharedBottom": {"bottom_dnn_units": (16,)},
            "MoE": _CENSUS_EXPERTS,
            "MMoE": _CENSUS_EXPERTS,
            "CGC": _CENSUS_LEVELS,
            "PLE": {**_CENSUS_LEVELS, "num_levels": 2},
            "ESMM": {},
        }.items()
    },
    training=Training(learning_rate=0.01, batch_size=1024, epochs=100, patience=10),
    funnel=(1, 0),
)

_CENSUS_WIDE: dict[str, dict[str, Any]] = {
    "SharedBottom": {"bottom_dnn_units": (128, 64)},
    "MMoE": {"num_experts": 6, "expert_dnn_units": (128, 64)},
    "PLE": {**_CENSUS_SIX, "expert_dnn_units": (96,), "num_levels": 2},
    "AdaTT": {**_CENSUS_SIX, "expert_dnn_units": (128, 64)},
    "CrossStitch": {"column_dnn_units": (128, 64)},
}

# Six experts in two levels, as in the AdaTT paper's table; MMoE's experts, of one level with two
# layers, and PLE's levels, of one width, are the nearest that the factories make.
CENSUS_INCOME_3 = Recipe(
    sizes={
        name: {**sizes, "tower_dnn_units_lists": per_task(32)}
        for name, sizes in _CENSUS_WIDE.items()
    },
    training=replace(CENSUS_INCOME.training, learning_rate=0.003, patience=5),
    funnel=None,
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
    training=Training(learning_rate=0.001, batch_size=256, epochs=5, patience=5),
    funnel=(0, 1),
)

_EXPERTS: dict[str, Any] = {"num_experts": 8, "expert_dnn_units": (64, 32)}
_LEVELS: dict[str, Any] = {
    "num_experts_specific": 4,
    "num_experts_shared": 4,
    "expert_dnn_units": (64, 32),
}

# For a table that nobody has tuned on: the factories' towers, experts of one common size.
OWN = Recipe(
    sizes={
        "SharedBottom": {"bottom_dnn_units": (128, 64)},
        "MoE": _EXPERTS,
        "MMoE": _EXPERTS,
        "CGC": _LEVELS,
        "PLE": {**_LEVELS, "num_levels": 2},
        "ESMM": {},
    },
    training=Training(learning_rate=0.002, batch_size=512, epochs=50, patience=5),
    funnel=None,
)
FUNNEL = OWN.with_funnel((0, 1))
REGRESSIONS = OWN

# Its tasks are two, four or seven: one tower for each, whatever their number.
_KUAIRAND_TOWERS = {"DBMTL": (32,), "PEPNet": (256,), "ESMM": (512,), "Funnel": (512,)}
KUAIRAND = replace(
    OWN,
    sizes={
        name: {
            "tower_dnn_units_lists": per_task(*_KUAIRAND_TOWERS.get(name, ())),
            "dnn_activation": "silu",
            "dnn_dropout": 0.4,
            "dense_scaling": 6.0,
        }
        for name in zoo()
    },
)
