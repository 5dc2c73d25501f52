"""How every model is put together: inputs → encoder → body → towers → model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras

from mtl import checks
from mtl.features import check_columns, model_inputs
from mtl.layers import FeatureEncoder, Tower
from mtl.layers.dropout import Dropout
from mtl.seeds import derive_seed
from mtl.tasks import resolve_tasks, tower_units
from mtl.training.model import MultiTaskModel


class Plan:
    """The arguments that all factories share, validated before anything is built.

    Args:
        dnn_feature_columns: feature columns.
        num_tasks: int or None.
        task_types: list or None.
        task_names: list or None.
        tower_dnn_units_lists: list of lists of int, one per task.
        default_towers: the factory's default of `tower_dnn_units_lists`.
        dense_embedding_dim: int or None.
        l2_reg_embedding: float.
        l2_reg_dnn: float.
        seed: int or None.
        dnn_dropout: float in [0, 1).
        embedding_dropout: float in [0, 1).
        dnn_activation: str or function.
        dnn_use_bn: bool.
        name: str or None. The model's name.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: an argument out of range, or arguments that disagree.
    """

    def __init__(
        self,
        dnn_feature_columns: Any,
        num_tasks: int | None,
        task_types: Any,
        task_names: Any,
        tower_dnn_units_lists: Any,
        default_towers: Sequence[Sequence[int]],
        dense_embedding_dim: int | None,
        l2_reg_embedding: float,
        l2_reg_dnn: float,
        seed: int | None,
        dnn_dropout: float,
        embedding_dropout: float,
        dnn_activation: Any,
        dnn_use_bn: bool,
        name: str | None,
    ) -> None:
        self.columns = check_columns(dnn_feature_columns)
        self.inputs = model_inputs(self.columns)
        self.tasks = resolve_tasks(num_tasks, task_types, task_names)
        self.tower_units = tower_units(tower_dnn_units_lists, len(self.tasks), default_towers)
        self.dense_embedding_dim = checks.positive_int_or_none(
            "dense_embedding_dim", dense_embedding_dim
        )
        self.l2_reg_embedding = checks.non_negative_float("l2_reg_embedding", l2_reg_embedding)
        self.embedding_dropout = checks.rate("embedding_dropout", embedding_dropout)
        self.seed = checks.seed("seed", seed)
        self.name = name
        self._dnn = {
            "activation": checks.activation("dnn_activation", dnn_activation),
            "l2_reg": checks.non_negative_float("l2_reg_dnn", l2_reg_dnn),
            "dropout": checks.rate("dnn_dropout", dnn_dropout),
            "use_bn": bool(dnn_use_bn),
        }
        outputs = {task.output_name for task in self.tasks}
        clash = [spec.name for spec in self.inputs if spec.name in outputs]
        if clash:
            raise ValueError(
                f"`task_names` should differ from the names of the inputs. Received: {clash[0]!r} "
                "as both (is a label among the features?)"
            )
        self._taken = outputs | {spec.name for spec in self.inputs}

    def layer_name(self, name: str) -> str:
        """Return a layer's name, made different from every input and task: users name those."""
        while name in self._taken:
            name += "_"
        return name

    def options(self, name: str) -> dict[str, Any]:
        """Return name, seed and DNN options of one layer; its seed follows from its name."""
        return {
            "name": self.layer_name(name),
            "seed": derive_seed(self.seed, name),
            **self._dnn,
        }

    def tower(self, index: int) -> Tower:
        """Return the tower of one task."""
        task = self.tasks[index]
        options = self.options(f"tower_{index}") | {"name": task.output_name}
        return Tower(
            self.tower_units[index],
            task_type=task.type,
            num_outputs=task.size,
            task_name=task.name,
            **options,
        )


def encode(plan: Plan) -> tuple[dict[str, Any], Any]:
    """Return the model's inputs by name, and the encoded features x `(B, D)`."""
    inputs = {
        spec.name: keras.Input(spec.shape, name=spec.name, dtype=spec.dtype) for spec in plan.inputs
    }
    encoder = FeatureEncoder(
        plan.columns,
        l2_reg=plan.l2_reg_embedding,
        seed=derive_seed(plan.seed, "encoder"),
        dense_embedding_dim=plan.dense_embedding_dim,
        name=plan.layer_name("encoder"),
    )
    x = encoder(inputs)
    if plan.embedding_dropout:
        x = Dropout(
            plan.embedding_dropout,
            seed=derive_seed(plan.seed, "embedding_dropout"),
            name=plan.layer_name("embedding_dropout"),
        )(x)
    return inputs, x


def assemble(plan: Plan, body: Callable[[Any], list[Any]]) -> MultiTaskModel:
    """Wire inputs → encoder → body → towers.

    Args:
        plan: the checked arguments.
        body: function from the encoded features `(B, D)` to a list with one tensor per task.

    Returns:
        A `MultiTaskModel` with one output per task.
    """
    inputs, x = encode(plan)
    outputs = [plan.tower(k)(z) for k, z in enumerate(body(x))]
    return MultiTaskModel(inputs, outputs, name=plan.name)
