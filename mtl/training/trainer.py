"""What tasks mean to Keras' trainer: labels, losses, masks, metrics, balancers."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Any

import keras

from mtl import checks
from mtl.rows import of_this_replica
from mtl.training import filled, internals, labels, pace, packing, replicas, spread, streams
from mtl.training.balancers import EndOfEpoch, checked_balancer
from mtl.training.callbacks import with_callbacks
from mtl.training.directions import with_directions
from mtl.training.evaluation import (
    evaluating,
    evaluation,
    evaluations_of_fit,
    tell_unseen,
    without_best_of_nothing,
)
from mtl.training.metrics import update_metrics
from mtl.training.objective import Objective, total
from mtl.training.resume import trained
from mtl.training.slices import predict_by_slices
from mtl.training.taskdata import TaskData
from mtl.training.whole import in_turn


class TaskTrainer(TaskData):
    """A Keras model that is trained on several tasks; `MultiTaskModel` says which these are."""

    @property
    def metrics_names(self) -> list[str]:
        """What a list of `evaluate` holds: the losses, then the metrics, each in task order."""
        if not self.compiled:
            return []
        # In the order of Keras' metrics, where its containers come before the tasks' losses; they
        # have no names before the first batch.
        compiled = internals.compiled_metrics(self)
        built = compiled is None or compiled.built
        names = list(self.get_metrics_result()) if built else []
        means = [
            m for m in internals.objective_of(self).metrics if isinstance(m, keras.metrics.Mean)
        ]
        losses = ["loss", *(mean.name for mean in means)]
        return [*losses, *(name for name in names if name not in losses)]

    def _flatten_metrics_in_order(self, logs: dict[str, Any]) -> Any:
        """Return logs as a list; Keras would sort what it doesn't know by name."""
        known = [name for name in self.metrics_names if name in logs]
        values = [logs[name] for name in [*known, *sorted(logs.keys() - set(known))]]
        return values if len(values) > 1 else values[0]

    def split_outputs(self, outputs: Any) -> tuple[Any, dict[str, Any]]:
        """Return the predictions of `tasks`, as `predict` gives them, and hidden ones by name."""
        raise NotImplementedError

    def compile(
        self,
        optimizer: Any = "adam",
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        run_eagerly: bool = False,
        steps_per_execution: Any = "auto",
        jit_compile: Any = "auto",
        auto_scale_loss: bool = True,
        joint_losses: Any = None,
        balancer: Any = None,
    ) -> None:
        """Configure the model for training, as `keras.Model.compile` does.

        Args:
            optimizer: str or Keras optimizer. Defaults to `"adam"`.
            loss: one loss for every task, or a list in task order, or a dict by task name.
                Defaults to None: cross-entropy for classes and labels, the mean squared error
                for regression, `mtl.losses.ZeroInflatedLogNormal` for lifetime values (of which
                other losses, and metrics, see the expected value). Tasks that a dict doesn't name
                have no loss of their own.
            loss_weights: list of float in task order, or a dict by task name. Defaults to None.
            metrics: one metric, or a list of metrics, for every task; or a list with one entry
                per task; or a dict by task name. `"default"` gives each task the metric of its
                type: AUC, mean absolute error, or accuracy. "AUC", of a binary task, is
                `mtl.metrics.StreamingAUC`, which sees rare events; tasks whose labels aren't 0 or 1
                refuse an AUC. A function should return a number for each row: of one that returns a
                number for a batch, such as the root of a mean, the log is the mean over rows where
                labels are missing or rows have weights, which is said once. Defaults to None.
            weighted_metrics: as `metrics`, for metrics that see the sample weights.
            run_eagerly: bool. Whether to run without compiling. Defaults to False.
            steps_per_execution: int or `"auto"`. Batches per call of the compiled function. Keras'
                cost per call is that of a small model's whole step: calls of 8 to 32 batches make
                Shared-Bottom on Census-income 1.6 times as fast on TensorFlow, and 1.1 times on
                JAX. Defaults to `"auto"`: as many as fit into a fraction of a second, up to 32;
                one by one where a callback watches batches, or `fit` gets a data set. Larger
                batches pay, too: MMoE on Census-income trains 1.7 times as many rows per second
                with a `batch_size` of 1,024 as with 256 on JAX, and 1.5 times on TensorFlow;
                4,096 add another 1.1 and 1.3 times, and 16,384 nothing more.
            jit_compile: bool or `"auto"`. Whether to compile by XLA (TensorFlow, JAX) or
                `torch.compile`. Defaults to `"auto"`.
            auto_scale_loss: bool. Whether to scale the loss under `mixed_float16`. Defaults to
                True.
            joint_losses: list of `mtl.losses.JointLoss`, which take the outputs of several tasks;
                they are added to the tasks' losses, and logged by name. Defaults to None.
            balancer: str, `mtl.balancing.Balancer` or None. How to balance the tasks in training:
                a name in `mtl.balancing.BY_NAME`, such as `"pcgrad"`, or an instance. It gets the
                losses after `loss_weights`; evaluation sums them without it. Defaults to None.

        Raises:
            TypeError: a joint loss or balancer of a wrong type.
            ValueError: a dict names an unknown task, a list has not one entry per task, an AUC for
                a task that has none, or the balancer can't serve this model.
        """
        replicas.check(self, compiling=True)
        losses = spread.spread_losses(self.tasks, loss)
        loss_weights = spread.spread_loss_weights(self.tasks, loss_weights)
        given = checks.as_list(joint_losses)
        joint = [*self._own_joint_losses(), *given]
        objective = Objective(
            self.tasks, losses, loss_weights, joint, self.hidden_tasks, list(self.input)
        )
        balancer = checked_balancer(self, balancer, objective)
        single = len(self.tasks) == 1
        super().compile(
            optimizer=optimizer,
            loss=losses[0] if single else losses,
            loss_weights=loss_weights[0] if single and loss_weights else loss_weights,
            metrics=spread.spread_metrics(self.tasks, "metrics", metrics, objective.kinds),
            weighted_metrics=spread.spread_metrics(
                self.tasks, "weighted_metrics", weighted_metrics, objective.kinds
            ),
            run_eagerly=run_eagerly,
            steps_per_execution=1 if steps_per_execution == "auto" else steps_per_execution,
            jit_compile=jit_compile,
            auto_scale_loss=auto_scale_loss,
        )
        internals.set_objective(self, objective)
        internals.count_rows_of_loss(self, filled.MeanOverRows(name="loss"))
        self._joint_losses = given or None
        internals.replace_layer(self, self.balancer, balancer)
        self.balancer = balancer
        chosen = {"steps_per_execution": steps_per_execution, "jit_compile": jit_compile}
        self._auto = [option for option, value in chosen.items() if value == "auto"]
        self.prepare_steps("steps_per_execution" in self._auto, "jit_compile" in self._auto)

    def _own_joint_losses(self) -> list[Any]:
        """Return the losses that layers bring along, as far as the model has their tasks."""
        known = {task.name for task in (*self.tasks, *self.hidden_tasks)}
        losses = [loss for layer in self.layers for loss in getattr(layer, "joint_losses", ())]
        return [loss for loss in losses if known.issuperset(loss.tasks)]

    def get_compile_config(self) -> Any:
        """Return the arguments of `compile`, to save them."""
        config = super().get_compile_config()
        if not config:
            return config
        # As they were given, not what this backend made of them.
        config |= dict.fromkeys(self._auto, "auto")
        for name, value in (("joint_losses", self._joint_losses), ("balancer", self.balancer)):
            config[name] = keras.saving.serialize_keras_object(value)
        return config

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile as a saved model was compiled."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    @in_turn
    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: Any = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: Any = None,
        sample_weight: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Train the model, as `keras.Model.fit` does.

        Args:
            x: dict or DataFrame from feature name to array `(N,)`, `(N, 1)` or `(N, L)`; or a
                data set that yields `(x, y)` or `(x, y, sample_weight)`. Of a list of labels
                TensorFlow's `from_tensor_slices` makes one array: give it a tuple or dict.
            y: list of label arrays in task order, or dict or DataFrame by task name.
            batch_size: int or None. Defaults to 32.
            epochs: int. Defaults to 1.
            verbose: 0, 1, 2 or `"auto"`.
            callbacks: list of Keras callbacks, or None.
            validation_split: float. Last share of the rows that is held out. Defaults to 0.
            validation_data: `(x, y)` or `(x, y, sample_weight)` in the forms above, or a data
                set.
            shuffle: bool. Defaults to True.
            class_weight: dict by task name of dicts from class to weight; the latter alone for a
                single task. Sample weights are multiplied by it. A DataLoader takes none.
            sample_weight: one array for every task, a list in task order, or a dict or DataFrame
                by task name.
            **kwargs: the rarer arguments of `keras.Model.fit`.

        Returns:
            A Keras `History`.

        Raises:
            TypeError: strings where numbers are expected, or inputs without names.
            ValueError: a missing feature or task, a wrong shape, ids that are no integers, a task
                without any label, labels that a cross-entropy doesn't take or infinite ones,
                negative sample weights, or a model that isn't compiled. What tf.data yields is
                checked where it is read; of PyTorch's DataLoader, wrong labels make the loss NaN.
        """
        self.check_compiled("fit")
        replicas.check(self)
        by_class = labels.check_class_weights(self.tasks, class_weight)
        x, y, sample_weight = self.checked_data(x, y, sample_weight, by_class, shuffled=True)
        labels.check_some_labels(self.tasks, "y", y)
        y_val: Any = None
        rest: list[Any] = []
        if isinstance(validation_data, (list, tuple)):
            x_val, y_val, *rest = self.checked_data(*validation_data)
            validation_data = (packing.pack(x_val), y_val, *rest)
        elif validation_data is not None:
            validation_data = self.checked_data(validation_data)[0]
        known = isinstance(x, dict) and (validation_data is None or y_val is not None)
        gaps = labels.any_missing([y, y_val]) or labels.any_without_weight(rest)
        self.masked = not known or gaps
        if self.balancer is not None:
            callbacks = with_callbacks(callbacks, first=EndOfEpoch(self.balancer))
        callbacks = with_directions(callbacks)
        if hasattr(x, "by_pool"):
            streams.check_whole_epochs(kwargs.get("steps_per_epoch"))
            shuffle = False  # it shuffles by itself
        train = trained(
            self, x, without_best_of_nothing(callbacks), kwargs.pop("initial_epoch", 0),
            epochs=epochs, verbose=verbose,
        )  # fmt: skip
        by_steps = bool(kwargs.get("steps_per_epoch") or kwargs.get("validation_steps"))
        self.start_steps((x, y, sample_weight), batch_size, callbacks, by_steps)
        fit = partial(
            super().fit,
            x=packing.pack(x),
            y=y,
            batch_size=batch_size,
            validation_split=validation_split,
            validation_data=validation_data,
            shuffle=shuffle,
            sample_weight=sample_weight,
            **kwargs,
        )
        with evaluations_of_fit():
            return train(fit)

    @in_turn
    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: Any = "auto",
        sample_weight: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Return losses and metrics, as `keras.Model.evaluate` does; data as in `fit`."""
        masked: Any = contextlib.nullcontext()
        if not packing.packed(x):  # by fit, which has checked the data
            self.check_compiled("evaluate")
            x, y, sample_weight = self.checked_data(x, y, sample_weight)
            masked = self._mask_if_missing(x, y, sample_weight)
            x = packing.pack(x)
        data = {"x": x, "y": y, "sample_weight": sample_weight}
        with masked, evaluation():
            logs = super().evaluate(**data, batch_size=batch_size, verbose=verbose, **kwargs)
            objective = internals.objective_of(self)
            if self.masked and isinstance(objective, Objective):
                tell_unseen(objective.seen)
        return logs

    def predict(
        self, x: Any, batch_size: int | None = None, verbose: Any = "auto", **kwargs: Any
    ) -> Any:
        """Return a list of arrays `(N, size)`, one per task, or one array for a single task.

        Args:
            x: inputs as in `fit`.
            batch_size: int or None. The least number of rows per call; small models take up to
                8,192 at once unless there are callbacks. Defaults to None.
            verbose: 0, 1, 2 or `"auto"`.
            **kwargs: `steps` and `callbacks` of `keras.Model.predict`.

        Raises:
            TypeError: strings where numbers are expected, or inputs without names.
            ValueError: a missing feature, a wrong shape, ids that are no integers.
        """
        x = self.in_form(x, labelled=False)
        rows = len(next(iter(x.values()))) if isinstance(x, dict) else None
        if rows == 0:  # which Keras refuses
            return super().predict_on_batch(x)
        with self.steps_of(1 if self._auto_steps else self.steps_per_execution):
            asked = any(value is not None for value in kwargs.values())
            if rows is None or asked or self.replicas > 1:
                x = packing.pack(x)
                return super().predict(x, batch_size=batch_size, verbose=verbose, **kwargs)
            size = pace.rows_at_once(self, batch_size)
            if keras.backend.backend() != "jax":
                return predict_by_slices(self, packing.pack(x), rows, size, verbose)
            x = packing.pack(x, pace.padded(rows, size))
            outputs = super().predict(x, batch_size=size, verbose=verbose)
        return keras.tree.map_structure(lambda output: output[:rows], outputs)

    @in_turn
    def train_on_batch(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        class_weight: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Run one training step, as `keras.Model.train_on_batch` does; data as in `fit`."""
        self.check_compiled("train_on_batch")
        replicas.check(self)
        by_class = labels.check_class_weights(self.tasks, class_weight)
        x, y, sample_weight = self.checked_data(x, y, sample_weight, by_class)
        with self._mask_if_missing(x, y, sample_weight):
            return super().train_on_batch(x, y, sample_weight=sample_weight, **kwargs)

    @in_turn
    def test_on_batch(self, x: Any, y: Any = None, sample_weight: Any = None, **kwargs: Any) -> Any:
        """Evaluate one batch, as `keras.Model.test_on_batch` does; data as in `fit`."""
        self.check_compiled("test_on_batch")
        x, y, sample_weight = self.checked_data(x, y, sample_weight)
        with self._mask_if_missing(x, y, sample_weight), evaluation():
            return super().test_on_batch(x, y, sample_weight=sample_weight, **kwargs)

    def predict_on_batch(self, x: Any) -> Any:
        """Predict one batch; inputs as in `fit`."""
        return super().predict_on_batch(self.taken_inputs.check(x))

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Return the total loss; labels and weights may be lists or dicts by task name."""
        if not isinstance(internals.objective_of(self), Objective):
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        losses, joint = self._loss_terms(x, y, y_pred, sample_weight)
        added = (internals.additional_loss(self, v) for v in of_this_replica(self.losses))
        return total(losses, [*joint, *added], self.balancer if training else None)

    def _loss_terms(self, x: Any, y: Any, y_pred: Any, sample_weight: Any, log: bool = True) -> Any:
        y, sample_weight = self._by_task(y, sample_weight)
        y_pred, hidden = self.split_outputs(y_pred)
        return internals.objective_of(self).terms(
            y, y_pred, hidden, sample_weight, self.masked, self.replicas, x, log
        )

    def _by_task(self, y: Any, sample_weight: Any) -> tuple[Any, Any]:
        weights = spread.by_task(self.tasks, "sample_weight", sample_weight)
        labelled = spread.by_task(self.tasks, "y", y)
        return labelled and [filled.unlabelled(label) for label in labelled], weights

    def task_losses(self, x: Any, y: Any, sample_weight: Any) -> Any:
        """Return the tasks' losses `(T,)` of a batch in training, without a word to the logs."""
        losses, _ = self._loss_terms(x, y, self(x, training=True), sample_weight, log=False)
        return keras.ops.stack([keras.ops.cast(loss, "float32") for loss in losses])

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Update and return the metrics; labels and weights as in `compute_loss`."""
        y, sample_weight = self._by_task(y, sample_weight)
        y_pred, _ = self.split_outputs(y_pred)
        if (compiled := internals.compiled_metrics(self)) is not None:
            update_metrics(compiled, self.tasks, y, y_pred, sample_weight, self.masked)
        return self.get_metrics_result()

    def get_metrics_result(self) -> Any:
        """Return the metrics by name, NaN for tasks without labels."""
        logs = super().get_metrics_result()
        objective = internals.objective_of(self)
        nan = self.masked and isinstance(objective, Objective)
        return objective.seen.without(logs, total=evaluating()) if nan else logs

    def _mask_if_missing(
        self, x: Any, y: Any, sample_weight: Any
    ) -> contextlib.AbstractContextManager[Any]:
        """Mask for a call if labels are missing, or may be: those of a data set aren't seen.

        The call may be a callback's in a `fit` that masks, whose metrics it would build.
        """
        gaps = labels.any_missing(y) or labels.any_without_weight(sample_weight)
        return self.masked_for_a_while(self.masked or not isinstance(x, dict) or gaps)
