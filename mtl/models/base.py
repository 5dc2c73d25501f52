"""MultiTaskModel: a functional Keras model that knows its tasks."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from mtl.layers import FeatureEncoder
from mtl.models import arrays, pace, packing, spread
from mtl.models.bottoms import keras_rs_layers
from mtl.models.export import check_export, serving_model, serving_signature
from mtl.models.steps import FullBatchesByXLA, lazy_jax_step
from mtl.optimizers import LazyOptimizer
from mtl.tasks import Task


@keras.saving.register_keras_serializable(package="mtl")
class MultiTaskModel(keras.Model):
    """A functional `keras.Model` with one output per task, in task order.

    What it adds to Keras: inputs are picked by name from a dict or DataFrame that may hold more;
    labels, sample weights, losses, metrics and loss weights may each be a list in task order or
    a dict by task name, in any combination; a loss or metric given once means every task; bad
    arrays are refused, by name, before training starts. On TensorFlow, `jit_compile="auto"`
    means XLA on CPU too, where it pays for stacked experts.

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
    _full_batches_by_xla = False  # until `compile` decides
    _step: Any = None
    _has_step_variables = False
    _auto_steps = False

    # With this signature every Keras version revives, clones and pickles the model by its graph.
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
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
    ) -> None:
        """Configure the model for training, as `keras.Model.compile` does.

        Args:
            optimizer: str or Keras optimizer. Defaults to `"adam"`.
            loss: one loss for every task, or a list in task order, or a dict by task name.
                Defaults to None: cross-entropy for classes and labels, the mean squared error
                for regression.
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
                one by one where a callback watches batches, or `fit` gets a data set.
            jit_compile: bool or `"auto"`. Whether to compile by XLA (TensorFlow, JAX) or
                `torch.compile`. Defaults to `"auto"`.
            auto_scale_loss: bool. Whether to scale the loss under `mixed_float16`. Defaults to
                True.

        Raises:
            ValueError: a dict names an unknown task, or a list has not one entry per task.
        """
        super().compile(
            optimizer=optimizer,
            loss=spread.spread_losses(self.tasks, loss),
            loss_weights=spread.spread_loss_weights(self.tasks, loss_weights),
            metrics=spread.spread_metrics(self.tasks, "metrics", metrics),
            weighted_metrics=spread.spread_metrics(
                self.tasks, "weighted_metrics", weighted_metrics
            ),
            run_eagerly=run_eagerly,
            steps_per_execution=1 if steps_per_execution == "auto" else steps_per_execution,
            jit_compile=jit_compile,
            auto_scale_loss=auto_scale_loss,
        )
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
        return {**config, "steps_per_execution": "auto"} if config and self._auto_steps else config

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
            ValueError: a missing feature or task, a wrong shape, ids that are no integers.
        """
        x, y, sample_weight = self._check_data(x, y, sample_weight)
        if isinstance(validation_data, (list, tuple)):
            x_val, *rest = self._check_data(*validation_data)
            validation_data = (packing.pack(x_val), *rest)
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
                return self._predict_by_slices(packing.pack(x), rows, size, verbose)
            x = packing.pack(x, pace.padded(rows, size))
            outputs = super().predict(x, batch_size=size, verbose=verbose)
        return keras.tree.map_structure(lambda output: output[:rows], outputs)

    def _predict_by_slices(self, x: dict[str, Any], rows: int, size: int, verbose: Any) -> Any:
        """Predict without a data pipeline, which takes longer to start and to stop."""
        self.make_predict_function()
        if hasattr(self.predict_function, "get_concrete_function"):
            import tensorflow as tf

            # One trace for every number of rows.
            specs = {k: tf.TensorSpec((None, *v.shape[1:]), v.dtype) for k, v in x.items()}
            self.predict_function.get_concrete_function([(specs,)])
        starts = range(0, rows, size)
        progress = keras.callbacks.CallbackList(
            add_progbar=verbose != 0, verbose=verbose, epochs=1, steps=len(starts), model=self
        )
        parts = []
        progress.on_predict_begin()
        for step, start in enumerate(starts):
            progress.on_predict_batch_begin(step)
            part = {name: value[start : start + size] for name, value in x.items()}
            parts.append(super().predict_on_batch(part))
            progress.on_predict_batch_end(step)
        progress.on_predict_end()
        return keras.tree.map_structure(lambda *values: np.concatenate(values), *parts)

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
        return super().train_on_batch(x, y, sample_weight=sample_weight, **kwargs)

    def test_on_batch(self, x: Any, y: Any = None, sample_weight: Any = None, **kwargs: Any) -> Any:
        """Evaluate one batch, as `keras.Model.test_on_batch` does; data as in `fit`."""
        x, y, sample_weight = self._check_data(x, y, sample_weight)
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
        y, sample_weight = (spread.by_task(self.tasks, v) for v in (y, sample_weight))
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Update and return the metrics; labels and weights as in `compute_loss`."""
        y, sample_weight = (spread.by_task(self.tasks, v) for v in (y, sample_weight))
        return super().compute_metrics(x, y, y_pred, sample_weight)

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
        steps = pace.steps_at_once(self, batch_size, callbacks) if plain else 1
        if steps != self.steps_per_execution:
            self.steps_per_execution = steps
            if keras.backend.backend() == "tensorflow":  # whose functions hold the number
                self.train_function = self.test_function = None

    @contextlib.contextmanager
    def _steps(self, steps: int) -> Iterator[None]:
        before, self.steps_per_execution = self.steps_per_execution, steps
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
            self._step = FullBatchesByXLA(super().train_step)
        with self._steps(self._steps_in_functions):
            return super().make_train_function(force)

    def make_test_function(self, force: bool = False) -> Any:
        """Make the function that evaluates a batch."""
        with self._steps(self._steps_in_functions):
            return super().make_test_function(force)

    def train_step(self, *args: Any) -> Any:
        """Run one training step; Keras' trainers call it, each with its own arguments."""
        if self._step is not None:
            return self._step(*args)
        if self._lazy and keras.backend.backend() == "jax":
            return lazy_jax_step(self, *args)
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
