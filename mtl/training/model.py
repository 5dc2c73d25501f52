"""MultiTaskModel: a functional Keras model that knows its tasks."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from mtl import balancing
from mtl.layers import FeatureEncoder
from mtl.layers.interactions import keras_rs_layers
from mtl.optimizers import LazyOptimizer
from mtl.serving.export import check_export, serving_model, serving_signature
from mtl.tasks import Task
from mtl.training import arrays, pace, packing, spread, steps
from mtl.training.objective import Objective, total, update_metrics
from mtl.training.sharing import shared_parts
from mtl.training.slices import predict_by_slices


@keras.saving.register_keras_serializable(package="mtl")
class MultiTaskModel(keras.Model):
    """A functional `keras.Model` with one output per task, in task order.

    What it adds to Keras: inputs are picked by name from a dict or DataFrame that may hold more;
    labels, sample weights, losses, metrics and loss weights may each be a list in task order or
    a dict by task name, in any combination; a loss or metric given once means every task; bad
    arrays are refused, by name, before training starts.

    A label that is NaN is missing: it takes no part in its task's loss, gradient and metrics. The
    loss of a task is the mean over its valid rows (the sum of weight · loss, divided by their
    number), and 0 for a batch without any.

    On TensorFlow, `jit_compile="auto"` means XLA on CPU too, where it pays for stacked experts.

    Args:
        inputs: dict from input name to `keras.Input`.
        outputs: list of output tensors, each made by a layer that has a `task`.
        name: str or None. Name of the model.
        **kwargs: `trainable` of the Keras model.

    Raises:
        ValueError: an output is made by a layer without a `task`.
    """

    jit_compile: Any  # a property of Keras' trainer
    steps_per_execution: int
    _layers: list[Any]
    _full_batches_by_xla = False  # until `compile` decides
    _step: Any = None
    _has_step_variables = False
    _auto_steps = False
    _missing_labels = True  # unless the data are known to have none

    # With this signature every Keras version revives, clones and pickles the model by its graph.
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.balancer: Any = None
        layers = [output._keras_history.operation for output in self.outputs]
        for layer in layers:
            if not isinstance(getattr(layer, "task", None), Task):
                raise ValueError(
                    "`outputs` should be made by layers that have a task, such as Tower. "
                    f"Received: an output of {layer.name!r}"
                )
        self.tasks: tuple[Task, ...] = tuple(layer.task for layer in layers)
        # A loaded model is scaled for half precision as its layers are, whatever the global policy.
        self.dtype_policy = self.encoder.dtype_policy

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """Return the model that `get_config` described."""
        layers = config.get("layers", ())
        if any(str(layer.get("registered_name")).startswith("keras_rs>") for layer in layers):
            keras_rs_layers()  # whose import registers them
        return super().from_config(config, custom_objects)

    @property
    def task_names(self) -> list[str]:
        """The tasks' own names, in order; `output_names` holds them made safe for backends."""
        return [task.name for task in self.tasks]

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
                for regression. Tasks that a dict doesn't name have no loss of their own.
            loss_weights: list of float in task order, or a dict by task name. Defaults to None.
            metrics: one metric, or a list of metrics, for every task; or a list with one entry
                per task; or a dict by task name. `"default"` gives each task the metric of its
                type: AUC, mean absolute error, or accuracy. Defaults to None.
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
            ValueError: a dict names an unknown task, a list has not one entry per task, or the
                balancer can't serve this model.
        """
        losses = spread.spread_losses(self.tasks, loss)
        loss_weights = spread.spread_loss_weights(self.tasks, loss_weights)
        objective = Objective(self.tasks, losses, loss_weights, joint_losses)
        balancer = self._check_balancer(balancing.get(balancer), objective)
        single = len(self.tasks) == 1
        super().compile(
            optimizer=optimizer,
            loss=losses[0] if single else losses,
            loss_weights=loss_weights[0] if single and loss_weights else loss_weights,
            metrics=spread.spread_metrics(self.tasks, "metrics", metrics),
            weighted_metrics=spread.spread_metrics(
                self.tasks, "weighted_metrics", weighted_metrics
            ),
            run_eagerly=run_eagerly,
            steps_per_execution=1 if steps_per_execution == "auto" else steps_per_execution,
            jit_compile=jit_compile,
            auto_scale_loss=auto_scale_loss,
        )
        self._compile_loss = objective
        self._joint_losses = joint_losses
        self._set_balancer(balancer)
        self._auto_steps = steps_per_execution == "auto"
        self._has_step_variables = False
        self._step = None
        # Keras' "auto" never means XLA on TensorFlow's CPU, where it doubles the speed of stacked
        # experts in training. Evaluation and prediction stay without it: each length of the last
        # batch would be compiled anew, for seconds, to save milliseconds.
        self._full_batches_by_xla = (
            jit_compile == "auto" and not run_eagerly and self._xla_on_cpu_pays()
        )
        for variable in self.trainable_variables:
            variable.sparse_gradient = self._lazy
        if self._lazy:  # its variables are needed when the step is traced
            self.optimizer.build(self.trainable_variables)

    def get_compile_config(self) -> Any:
        """Return the arguments of `compile`, to save them."""
        config = super().get_compile_config()
        if not config:
            return config
        if self._auto_steps:
            config["steps_per_execution"] = "auto"
        for name, value in (("joint_losses", self._joint_losses), ("balancer", self.balancer)):
            config[name] = keras.saving.serialize_keras_object(value)
        return config

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile as a saved model was compiled."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

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
                data set that yields `(x, y)` or `(x, y, sample_weight)`.
            y: list of label arrays in task order, or dict or DataFrame by task name.
            batch_size: int or None. Defaults to 32.
            epochs: int. Defaults to 1.
            verbose: 0, 1, 2 or `"auto"`.
            callbacks: list of Keras callbacks, or None.
            validation_split: float. Last share of the rows that is held out. Defaults to 0.
            validation_data: `(x, y)` or `(x, y, sample_weight)` in the forms above, or a data
                set.
            shuffle: bool. Defaults to True.
            class_weight: dict, for models of one task.
            sample_weight: one array for every task, a list in task order, or a dict by task name.
            **kwargs: the rarer arguments of `keras.Model.fit`.

        Returns:
            A Keras `History`.

        Raises:
            TypeError: strings where numbers are expected, or inputs without names.
            ValueError: a missing feature or task, a wrong shape, ids that are no integers, a task
                without any label, infinite labels, negative sample weights.
        """
        x, y, sample_weight = self._check_data(x, y, sample_weight)
        arrays.check_some_labels(self.tasks, "y", y)
        y_val = None
        if isinstance(validation_data, (list, tuple)):
            x_val, y_val, *rest = self._check_data(*validation_data)
            arrays.check_some_labels(self.tasks, "validation_data", y_val)
            validation_data = (packing.pack(x_val), y_val, *rest)
        if class_weight is not None and isinstance(y, np.ndarray) and sample_weight is None:
            # Keras would look up the class of a NaN.
            sample_weight, class_weight = arrays.weights_of_classes(y, class_weight), None
        known = isinstance(x, dict) and (validation_data is None or y_val is not None)
        self._expect_missing_labels(not known or arrays.any_missing([y, y_val]))
        if self.balancer is not None:
            callbacks = _and_first(_EndOfEpoch(self.balancer), callbacks)
        self._create_variables(x, y, sample_weight)
        self._choose_steps_per_execution(x, batch_size, callbacks, kwargs)
        if self._step is not None:
            self._step.start()
        return super().fit(
            x=packing.pack(x),
            y=y,
            batch_size=batch_size,
            epochs=epochs,
            verbose=verbose,
            callbacks=callbacks,
            validation_split=validation_split,
            validation_data=validation_data,
            shuffle=shuffle,
            class_weight=class_weight,
            sample_weight=sample_weight,
            **kwargs,
        )

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
        if not kwargs.get("_use_cached_eval_dataset"):  # inside fit, which has checked the data
            x, y, sample_weight = self._check_data(x, y, sample_weight)
            arrays.check_some_labels(self.tasks, "y", y)
            self._mask_if_missing(x, y)
            x = packing.pack(x)
        return super().evaluate(
            x=x, y=y, batch_size=batch_size, verbose=verbose, sample_weight=sample_weight, **kwargs
        )

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
        x = arrays.check_inputs(self.feature_columns, x)
        rows = len(next(iter(x.values()))) if isinstance(x, dict) else None
        if rows == 0:  # which Keras refuses
            return super().predict_on_batch(x)
        with self._steps(1 if self._auto_steps else self.steps_per_execution):
            asked = any(value is not None for value in kwargs.values())
            if rows is None or asked or self._replicas > 1:
                x = packing.pack(x)
                return super().predict(x, batch_size=batch_size, verbose=verbose, **kwargs)
            size = pace.rows_at_once(self, batch_size)
            if keras.backend.backend() != "jax":
                return predict_by_slices(self, packing.pack(x), rows, size, verbose)
            x = packing.pack(x, pace.padded(rows, size))
            outputs = super().predict(x, batch_size=size, verbose=verbose)
        return keras.tree.map_structure(lambda output: output[:rows], outputs)

    @property
    def _lazy(self) -> bool:
        return isinstance(getattr(self.optimizer, "inner_optimizer", self.optimizer), LazyOptimizer)

    @property
    def _replicas(self) -> int:
        if keras.backend.backend() != "tensorflow":
            return 1
        return int(self.distribute_strategy.num_replicas_in_sync)

    def train_on_batch(
        self, x: Any, y: Any = None, sample_weight: Any = None, **kwargs: Any
    ) -> Any:
        """Run one training step, as `keras.Model.train_on_batch` does; data as in `fit`."""
        x, y, sample_weight = self._check_data(x, y, sample_weight)
        self._mask_if_missing(x, y)
        return super().train_on_batch(x, y, sample_weight=sample_weight, **kwargs)

    def test_on_batch(self, x: Any, y: Any = None, sample_weight: Any = None, **kwargs: Any) -> Any:
        """Evaluate one batch, as `keras.Model.test_on_batch` does; data as in `fit`."""
        x, y, sample_weight = self._check_data(x, y, sample_weight)
        self._mask_if_missing(x, y)
        return super().test_on_batch(x, y, sample_weight=sample_weight, **kwargs)

    def predict_on_batch(self, x: Any) -> Any:
        """Predict one batch; inputs as in `fit`."""
        return super().predict_on_batch(arrays.check_inputs(self.feature_columns, x))

    def export(
        self,
        filepath: Any,
        format: str = "tf_saved_model",
        verbose: Any = None,
        input_signature: Any = None,
        **kwargs: Any,
    ) -> None:
        """Write the model in a serving format: inputs by feature name, outputs by task name.

        A name that the formats don't accept is made safe ("hours per week" is `hours_per_week`).
        A SavedModel takes the dict of features at `serve`, and named tensors at its signature
        `serving_default`. A LiteRT file with hashed features needs the Flex delegate.

        Args:
            filepath: str or path. A folder for a SavedModel, a file otherwise.
            format: str. `"tf_saved_model"` (on TensorFlow and JAX), `"onnx"` or `"litert"` (on
                TensorFlow), or another of Keras' formats. Defaults to `"tf_saved_model"`.
            verbose: bool or None. Whether to print what was written. Defaults to Keras' choice.
            input_signature: list with one dict of `keras.InputSpec` by feature name, or None.
                Defaults to None: any number of rows.
            **kwargs: the format's own options of `keras.Model.export`.

        Raises:
            ImportError: the ONNX converter isn't installed.
            ValueError: the format can't be made on this backend, or can't hold a hashed feature.
        """
        check_export(self.feature_columns, format)
        serving_model(self).export(
            filepath,
            format=format,
            verbose=verbose,
            input_signature=input_signature or serving_signature(self),
            **kwargs,
        )

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the list of predictions for a dict of inputs, which may hold more than needed."""
        return super().__call__(self._own_inputs(inputs), *args, **kwargs)

    def call(self, inputs: Any, training: Any = None, mask: Any = None, **kwargs: Any) -> Any:
        """Return the predictions; the trainer of JAX comes here without `__call__`."""
        return super().call(self._own_inputs(inputs), training=training, mask=mask, **kwargs)

    def _own_inputs(self, inputs: Any) -> Any:
        if not isinstance(inputs, dict):
            return inputs
        named = packing.unpack(inputs)
        # Keras flattens the dict as it is: one key too many would shift every input after it.
        own = {name: named[name] for name in self.input if name in named}
        # It takes no arrays beside tensors, and strings come as tensors.
        return {
            name: keras.ops.convert_to_tensor(value, self.input[name].dtype)
            if isinstance(value, np.ndarray)
            else value
            for name, value in own.items()
        }

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Return the total loss; labels and weights may be lists or dicts by task name."""
        if not isinstance(self._compile_loss, Objective):
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        losses, joint = self._loss_terms(y, y_pred, sample_weight)
        rest = [*joint, *(self._aggregate_additional_loss(loss) for loss in self.losses)]
        return total(losses, rest, self.balancer if training else None)

    def _loss_terms(self, y: Any, y_pred: Any, sample_weight: Any, **options: Any) -> Any:
        y, sample_weight = (spread.by_task(self.tasks, v) for v in (y, sample_weight))
        return self._compile_loss.terms(
            y, y_pred, sample_weight, self._missing_labels, self._replicas, **options
        )

    def _task_losses(self, x: Any, y: Any, sample_weight: Any) -> Any:
        """Return the tasks' losses `(T,)` of a batch in training, without a word to the logs."""
        losses, _ = self._loss_terms(y, self(x, training=True), sample_weight, log=False)
        return keras.ops.stack(losses)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Update and return the metrics; labels and weights as in `compute_loss`."""
        y, sample_weight = (spread.by_task(self.tasks, v) for v in (y, sample_weight))
        if not self._missing_labels or self._compile_metrics is None:
            return super().compute_metrics(x, y, y_pred, sample_weight)
        update_metrics(self._compile_metrics, self.tasks, y, y_pred, sample_weight)
        return self.get_metrics_result()

    @property
    def shared_variables(self) -> list[Any]:
        """The dense trainable variables that several tasks depend on; embeddings are none.

        Of a stack of experts, some may serve one task alone; gradient balancers leave these out.
        """
        return [variable for variable, _ in shared_parts(self)]

    @property
    def feature_columns(self) -> list[Any]:
        """The feature columns that the model was built from."""
        return list(self.encoder.feature_columns)

    @property
    def encoder(self) -> FeatureEncoder:
        """The layer that turns the features into one vector."""
        return next(layer for layer in self.layers if isinstance(layer, FeatureEncoder))

    def _check_data(self, x: Any, y: Any = None, sample_weight: Any = None) -> tuple[Any, Any, Any]:
        x = arrays.check_inputs(self.feature_columns, x)
        y = arrays.check_labels(self.tasks, y)
        rows = len(next(iter(x.values()))) if isinstance(x, dict) else None
        if rows == 0:
            raise ValueError("`x` should hold at least one row. Received: 0 rows.")
        return x, y, arrays.check_sample_weights(self.tasks, sample_weight, rows)

    def _check_balancer(self, balancer: Any, objective: Objective) -> Any:
        if balancer is None:
            return None
        if self._replicas > 1:
            raise ValueError(
                "`balancer` should be None under a distribution strategy. "
                f"Received: {type(balancer).__name__} with {self._replicas} replicas"
            )
        if objective.without_loss:
            raise ValueError(
                "`balancer` should be given with a loss for every task. "
                f"Received: no loss for {objective.without_loss}"
            )
        if isinstance(balancer, balancing.GradientBalancer):
            steps.shared_positions(self)
        balancer.start(self.tasks)
        return balancer

    def _set_balancer(self, balancer: Any) -> None:
        """Keep a balancer, in place of the one before, among what is trained and saved."""
        before = self.balancer
        if before is not None:
            self._tracker.untrack(before)
        self.balancer = balancer
        # On Keras 3.8 the layers of a functional model are a list that its tracker doesn't keep.
        layers = [layer for layer in self._layers if layer not in (before, balancer)]
        if balancer is not None:
            layers.append(balancer)
        if layers != list(self._layers):
            self._layers = layers

    def _expect_missing_labels(self, missing: bool) -> None:
        """Put the mask of missing labels into the compiled functions, or leave it out."""
        if missing != self._missing_labels:
            self._missing_labels = missing
            self._step = None
            self.train_function = self.test_function = None

    def _mask_if_missing(self, x: Any, y: Any) -> None:
        """Mask from now on if labels are missing, or may be: those of a data set aren't seen."""
        if not self._missing_labels and (not isinstance(x, dict) or arrays.any_missing(y)):
            self._expect_missing_labels(True)

    def _create_variables(self, x: Any, y: Any, sample_weight: Any) -> None:
        """Create the variables of optimizer and metrics before the training step is traced.

        TensorFlow traces a function a second time if its first call created variables.
        """
        if keras.backend.backend() != "tensorflow" or not isinstance(x, dict) or y is None:
            return
        import tensorflow as tf

        # Under a distribution strategy Keras creates them by itself, in the strategy's scope.
        alone = self.distribute_strategy is tf.distribute.get_strategy()
        if not alone or self.optimizer is None or self._has_step_variables:
            return
        self._has_step_variables = True
        x, y, sample_weight = keras.tree.map_structure(
            lambda array: None if array is None else array[:1], (x, y, sample_weight)
        )
        y_pred = self(x, training=False)
        self.compute_loss(x, y, y_pred, sample_weight, training=False)
        self.compute_metrics(x, y, y_pred, sample_weight)
        self.reset_metrics()
        self.optimizer.build(self.trainable_variables)

    def _choose_steps_per_execution(
        self, x: Any, batch_size: int | None, callbacks: Any, options: dict[str, Any]
    ) -> None:
        if not self._auto_steps:
            return
        by_steps = options.get("steps_per_epoch") or options.get("validation_steps")
        plain = isinstance(x, dict) and not by_steps and not self.run_eagerly
        number = pace.steps_at_once(self, batch_size, callbacks) if plain else 1
        if number != self.steps_per_execution:
            self.steps_per_execution = number
            if keras.backend.backend() == "tensorflow":  # whose functions hold the number
                self.train_function = self.test_function = None

    @contextlib.contextmanager
    def _steps(self, number: int) -> Iterator[None]:
        before, self.steps_per_execution = self.steps_per_execution, number
        try:
            yield
        finally:
            self.steps_per_execution = before

    @property
    def _steps_in_functions(self) -> int:
        """The number to make functions for: those that JAX makes for two take any."""
        jax = keras.backend.backend() == "jax"
        return 2 if self._auto_steps and jax else self.steps_per_execution

    def make_train_function(self, force: bool = False) -> Any:
        """Make the function that trains on a batch."""
        if self._full_batches_by_xla and (force or self._step is None):
            self._step = steps.FullBatchesByXLA(self._one_step)
        with self._steps(self._steps_in_functions):
            return super().make_train_function(force)

    def make_test_function(self, force: bool = False) -> Any:
        """Make the function that evaluates a batch."""
        with self._steps(self._steps_in_functions):
            return super().make_test_function(force)

    def train_step(self, *args: Any) -> Any:
        """Run one training step; Keras' trainers call it, each with its own arguments."""
        return self._step(*args) if self._step is not None else self._one_step(*args)

    def _one_step(self, *args: Any) -> Any:
        balancer = self.balancer
        by_steps = balancer is not None and (
            balancer.compares_losses or isinstance(balancer, balancing.GradientBalancer)
        )
        backend = keras.backend.backend()
        if backend == "jax" and (by_steps or self._lazy):
            return steps.jax_step(self, *args)
        if by_steps:
            step = {"tensorflow": steps.tensorflow_step, "torch": steps.torch_step}[backend]
            return step(self, *args)
        return super().train_step(*args)

    def _xla_on_cpu_pays(self) -> bool:
        """Return whether to compile by XLA where Keras' "auto" would not: TensorFlow on CPU."""
        if keras.backend.backend() != "tensorflow":
            return False
        import tensorflow as tf

        if tf.distribute.has_strategy() or tf.config.list_physical_devices("GPU"):
            return False
        with warnings.catch_warnings():
            # Keras refuses where strings or determinism rule XLA out; nobody asked for XLA.
            warnings.filterwarnings("ignore", "Model doesn't support `jit_compile=True`")
            self.jit_compile = True
        supported: bool = self.jit_compile
        self.jit_compile = False
        return supported


class _EndOfEpoch(keras.callbacks.Callback):
    """Tells a balancer of each epoch's end, before other callbacks save the model."""

    def __init__(self, balancer: Any) -> None:
        super().__init__()
        self._balancer = balancer

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._balancer.end_epoch()


def _and_first(callback: Any, callbacks: Any) -> Any:
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks.callbacks.insert(0, callback)
        callback.set_model(callbacks.model)
        return callbacks
    return [callback, *keras.tree.flatten(callbacks)] if callbacks is not None else [callback]
