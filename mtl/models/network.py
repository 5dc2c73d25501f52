"""Network: what a factory builds its model with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from mtl import checks, devices
from mtl.features import DenseFeat, check_columns, model_inputs
from mtl.layers import FeatureEncoder, Scaling, Tower
from mtl.layers.dropout import Dropout
from mtl.layers.dselect_k import check_gate
from mtl.layers.encoder import layout
from mtl.models.groups import expert_subsets
from mtl.models.options import DEFAULTS, GatedOptions, Groups, Towers, Unpack
from mtl.names import distinct, safe_name
from mtl.seeds import derive_seed
from mtl.tasks import resolve_tasks, tower_units
from mtl.training import MultiTaskModel
from mtl.training.graph import maker

__all__ = ["Network", "add"]


class Network:
    """Inputs, encoders, names and seeds of layers, towers: all but the paper.

    A factory makes one first, which checks features and tasks, and calls it from the features to
    the predictions. Nothing is built before the first `encode`.

    Args:
        dnn_feature_columns: list of feature columns.
        tower_dnn_units_lists: list of lists of int, one per task, or a default by `per_task`.
        **options: what models take (see `mtl.models.options.GatedOptions`), checked by `@model`.

    Attributes:
        columns: list of checked feature columns.
        tasks: list of `Task`.
        tower_units: list of tuples of int, one per task.

    Raises:
        TypeError: features or tasks of a wrong type.
        ValueError: invalid features or tasks, or a task that has the name of an input.
    """

    def __init__(
        self,
        dnn_feature_columns: Any,
        tower_dnn_units_lists: Towers,
        **options: Unpack[GatedOptions],
    ) -> None:
        given: dict[str, Any] = {**DEFAULTS, **options}
        if given["seed"] is None:  # the same weights in every process
            given["seed"] = devices.common_seed()
        self.columns = check_columns(dnn_feature_columns)
        self.tasks = resolve_tasks(given["num_tasks"], given["task_types"], given["task_names"])
        self.tower_units = tower_units(tower_dnn_units_lists, len(self.tasks))
        self.dense_embedding_dim = given["dense_embedding_dim"]
        self._given = given
        self._dnn = {
            "activation": given["dnn_activation"],
            "l2_reg": given["l2_reg_dnn"],
            "dropout": given["dnn_dropout"],
            "use_bn": bool(given["dnn_use_bn"]),
        }
        self._specs = {spec.name: spec for spec in model_inputs(self.columns)}
        self._inputs: dict[str, Any] = {}
        self._encoded: list[tuple[Any, dict[str, range]]] = []
        outputs = {task.output_name for task in self.tasks}
        if clash := [name for name in self._specs if name in outputs]:
            raise ValueError(
                f"`task_names` should differ from the names of the inputs. Received: {clash[0]!r} "
                "as both (is a label among the features?)"
            )
        self._taken = outputs | self._specs.keys()

    def layer_name(self, name: str) -> str:
        """Return a layer's name, made different from every input and task: users name those."""
        return distinct(name, self._taken)

    def named(self, name: str, k: int | None = None) -> dict[str, Any]:
        """Return name and seed of one layer.

        Args:
            name: str. Its name, from which its seed follows.
            k: int or None. Index of the task that the layer serves: its name, which comes after
                the layer's, says so. Defaults to None.
        """
        seed = self.seed(name if k is None else f"{name}_{k}")
        shown = name if k is None else f"{name}_{self.tasks[k].output_name}"
        return {"name": self.layer_name(shown), "seed": seed}

    def layer(self, name: str, k: int | None = None) -> dict[str, Any]:
        """Return name and seed, as `named`, and DNN options of one layer."""
        return {**self.named(name, k), **self._dnn}

    def seed(self, name: str) -> int | None:
        """Return the seed of what has that name."""
        return derive_seed(self._given["seed"], name)

    def groups(
        self,
        expert_features: Groups,
        units: Sequence[int] | None,
        embeddings: str = "shared",
    ) -> Any:
        """Return the `subsets` of experts of these widths that `expert_features` asks for."""
        if expert_features is not None and embeddings != "shared":
            raise ValueError(
                "`expert_features` should be None where `embeddings` isn't 'shared': the experts "
                f"of a group see a part of one encoding. Received: {embeddings!r}"
            )
        return expert_subsets(self.columns, self.dense_embedding_dim, expert_features, units)

    def gates(self, num_experts: int, groups: Any = None) -> dict[str, Any]:
        """Return what the options say of gates, as `Extraction` and `gate_of` take it.

        Args:
            num_experts: int. How many experts, of each group, a gate weighs at least.
            groups: what `groups` returned, or None. Defaults to None.
        """
        given = self._given
        kind = {key: given[key] for key in ("gate", "num_selected", "entropy_weight")}
        check_gate(num_experts * (len(groups) if groups else 1), **kind)
        dnn, temperature = given["gate_dnn_units"], given["gate_temperature"]
        return {"gate_units": dnn, "gate_temperature": temperature, **kind}

    def encode(
        self,
        name: str = "encoder",
        features: Sequence[str] | None = None,
        k: int | None = None,
    ) -> Any:
        """Return encoded features x `(B, D)`, from tables of their own for each name.

        Args:
            name: str. Name of the layer, from which the seed of its tables follows.
            features: list of feature names, or None. Defaults to None: all of them.
            k: int or None. Index of the task that has these tables for itself, as in `layer`.
                Defaults to None.
        """
        own = self.layer(name, k)
        columns = [c for c in self.columns if features is None or c.name in features]
        inputs = {spec.name: self._input(spec) for spec in model_inputs(columns)}
        x = FeatureEncoder(
            columns,
            l2_reg=self._given["l2_reg_embedding"],
            seed=own["seed"],
            dense_embedding_dim=self.dense_embedding_dim,
            name=own["name"],
        )(inputs)
        prefix = "embedding" if name == "encoder" else name
        spans = layout(columns, self.dense_embedding_dim)
        numbers = [spans[c.name].start for c in columns if isinstance(c, DenseFeat)]
        if (rate := self._given["dense_scaling"]) and numbers:
            x = Scaling(rate, min(numbers), name=self.named(f"{prefix}_scaling", k)["name"])(x)
        if rate := self._given["embedding_dropout"]:
            x = Dropout(rate, **self.named(f"{prefix}_dropout", k))(x)
        self._encoded.append((x, spans))
        return x

    def encode_paths(self, embeddings: str) -> Any:
        """Return the inputs of T + 1 paths, as `mtl.layers.Extraction` takes them.

        Args:
            embeddings: str. `"shared"`: all paths read one encoding x. `"per_task"`: task k reads
                x_k, from tables of its own, and the shared path their mean.
                `"shared_and_per_task"`: the shared path has tables of its own, too.

        Returns:
            x, or a list of x_1, …, x_T and the shared path's.
        """
        if embeddings == "shared":
            return self.encode()
        own = [self.encode(k=k) for k in range(len(self.tasks))]
        if embeddings == "per_task":
            return [*own, ops.mean(ops.stack(own), axis=0)]
        return [*own, self.encode()]

    def _input(self, spec: Any) -> Any:
        if spec.name not in self._inputs:
            self._inputs[spec.name] = keras.Input(spec.shape, name=spec.name, dtype=spec.dtype)
        return self._inputs[spec.name]

    def ids(self, feature: str) -> Any:
        """Return the ids `(B, 1)` of a `SparseFeat` as they come in, unknown ones among them."""
        return self._input(self._specs[feature])

    def select(self, x: Any, features: Sequence[str]) -> Any:
        """Return the columns of x that some features have, in the order of x.

        Args:
            x: what `encode` returned.
            features: list of feature names.
        """
        spans = next(spans for tensor, spans in self._encoded if tensor is x)
        wanted = np.concatenate([np.full(len(spans[name]), name in features) for name in spans])
        if wanted.all():
            return x
        # Runs of neighbours: column by column it would take twice as long on a CPU.
        ends = np.flatnonzero(np.diff(wanted)) + 1
        runs = ops.split(x, ends.tolist(), axis=1)[0 if wanted[0] else 1 :: 2]
        return ops.concatenate(runs, axis=1) if len(runs) > 1 else runs[0]

    def head(self, k: int) -> dict[str, Any]:
        """Return name and task of the layer that predicts task k."""
        task = self.tasks[k]
        return {
            "name": task.output_name,
            "task_name": task.name,
            "task_type": task.type,
            "num_outputs": task.size,
        }

    def check_features(self, argument: str, names: Any) -> list[str]:
        """Return names of features as a list, or raise if an argument holds anything else."""
        known = [column.name for column in self.columns]
        features = checks.entries(argument, names, f"a list of names of features out of {known}")
        for name in features:
            if name not in known:
                raise ValueError(
                    f"`{argument}` should hold names of features out of {known}. Received: {name!r}"
                )
        if not features or len(set(features)) < len(features):
            raise ValueError(
                f"`{argument}` should hold at least one feature, and each once. Received: {names}"
            )
        return features

    def tower(
        self,
        k: int,
        z: Any,
        hidden: str | None = None,
        hidden_type: str = "binary",
        number: int = 0,
        units: Sequence[int] | None = None,
    ) -> Any:
        """Return a prediction by a tower of task k's widths.

        Args:
            k: int. Index of the task.
            z: tensor `(B, H)`.
            hidden: str or None. Name of a hidden task to predict in place of task k.
                Defaults to None.
            hidden_type: str. Type of the hidden task. Defaults to "binary".
            number: int. Tells towers of the same k from each other: each number has a seed of its
                own. Defaults to 0.
            units: list of int or None. Other widths than the task's. Defaults to None.
        """
        given, own = self.layer("tower", k), self.head(k)
        if number:
            given["seed"] = self.seed(f"tower_{k}_{number}")
        if hidden is not None:
            name = self.layer_name(safe_name(hidden, "task"))
            self._taken.add(name)
            own = {"name": name, "task_name": hidden, "task_type": hidden_type, "hidden": True}
        widths = self.tower_units[k] if units is None else units
        return Tower(widths, **{**given, **own})(z)

    def towers(self, z: Sequence[Any]) -> list[Any]:
        """Return the predictions of all tasks, from a tensor `(B, H)` for each."""
        return [self.tower(k, z[k]) for k in range(len(self.tasks))]

    def model(self, outputs: Sequence[Any], losses: Sequence[Any] = ()) -> MultiTaskModel:
        """Return the model.

        Args:
            outputs: list of predictions: those of the tasks, in their order, then hidden ones.
            losses: list of `JointLoss` that belong to the model, whatever it is compiled with.
        """
        if losses:
            maker(outputs[-1]).joint_losses += losses
        inputs = {name: self._inputs[name] for name in self._specs if name in self._inputs}
        return MultiTaskModel(inputs, list(outputs), name=self._given["name"])


def add(x: Any, y: Any) -> Any:
    """Return x + y, of one shape `(B, D)`.

    Keras' own sum fails on TensorFlow for a batch without rows: it takes y for a bias.
    """
    return ops.sum(ops.stack([x, y]), axis=0)
