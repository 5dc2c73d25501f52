"""MultiTaskModel: a functional Keras model that knows its tasks."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import keras
import numpy as np

from mtl.context import held
from mtl.layers import FeatureEncoder
from mtl.layers.interactions import keras_rs_layers
from mtl.rows import meet_replicas
from mtl.tasks import Task
from mtl.training import packing
from mtl.training.sharing import shared_parts
from mtl.training.stepped import returns_every_output
from mtl.training.summary import fold_inputs
from mtl.training.trainer import TaskTrainer

_NARROW = ("int8", "int16", "uint8", "uint16")
_in_graph: ContextVar[bool] = ContextVar("in_graph", default=False)


@keras.saving.register_keras_serializable(package="mtl")
class MultiTaskModel(TaskTrainer):
    """A functional `keras.Model` with one output per task, in task order.

    What it adds to Keras: inputs are picked by name from a dict or DataFrame that may hold more;
    labels, sample weights, losses, metrics and loss weights may each be a list in task order or
    a dict by task name, in any combination; a loss or metric given once means every task; bad
    arrays are refused, by name, before training starts.

    A label that is NaN is missing: it takes no part in its task's loss, gradient and metrics. The
    loss of a task is the mean over its valid rows (the sum of weight · loss, divided by their
    number), and 0 for a batch without any.

    Some models have tasks that they keep to themselves, such as an ESMM's P(conversion | click).
    Joint losses see their predictions under their names, and `extract_task` makes models of them;
    `predict`, labels, metrics and exported files know nothing of them.

    On TensorFlow, `jit_compile="auto"` means XLA on CPU too, where it pays for stacked experts.

    Made and compiled in the scope of a `tf.distribute.MirroredStrategy`, it trains what one device
    would, up to rounding: means, moments of normalisations and logs are over all replicas' rows, of
    which a batch may have any number. Exceptions are dropout, which replicas draw alike; an
    optimizer's clipping, which Keras does on each replica; functions that return one number for a
    batch; and logs that callbacks see amid an epoch.

    Args:
        inputs: dict from input name to `keras.Input`.
        outputs: list of output tensors, each made by a layer that has a `task`. Those of hidden
            tasks may be among them; a model that has no others shows them.
        name: str or None. Name of the model.
        **kwargs: `trainable` of the Keras model.

    Attributes:
        tasks: tuple of `mtl.tasks.Task`, in the order of predictions, labels and metrics.
        hidden_tasks: tuple of `mtl.tasks.Task`.
        hidden_outputs: list of the symbolic outputs of `hidden_tasks`; `outputs` are the others.

    Raises:
        ValueError: an output is made by a layer without a `task`.
    """

    output_names: list[str]
    _hidden: tuple[int, ...] = ()

    # With this signature every Keras version revives, clones and pickles the model by its graph.
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.balancer: Any = None
        every = list(self.outputs)
        layers = {layer.name: layer for layer in self.layers}
        heads: list[Any] = [layers.get(name) for name in self.output_names]
        for name, head in zip(self.output_names, heads, strict=True):
            if not isinstance(getattr(head, "task", None), Task):
                raise ValueError(
                    "`outputs` should be made by layers that have a task, such as Tower. "
                    f"Received: an output of {name!r}"
                )
        hidden = [i for i, head in enumerate(heads) if head.task.hidden]
        self._hidden = tuple(hidden if len(hidden) < len(heads) else ())
        self._shown = tuple(i for i in range(len(heads)) if i not in self._hidden)
        self.hidden_outputs = [every[i] for i in self._hidden]
        self.tasks = tuple(heads[i].task for i in self._shown)
        self.hidden_tasks = tuple(heads[i].task for i in self._hidden)
        self.output_names = [heads[i].name for i in self._shown]  # for Keras' metrics
        # A loaded model is scaled for half precision as its layers are, whatever the global policy.
        self.dtype_policy = self.encoder.dtype_policy

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """Return the model that `get_config` described."""
        layers = config.get("layers", ())
        if any(str(layer.get("registered_name")).startswith("keras_rs>") for layer in layers):
            keras_rs_layers()  # whose import registers them
        wide = {**config, "layers": [_wide(layer) for layer in layers]} if layers else config
        return super().from_config(wide, custom_objects)

    @property
    def task_names(self) -> list[str]:
        """The tasks' own names, in order; `output_names` holds them made safe for backends."""
        return [task.name for task in self.tasks]

    @property
    def outputs(self) -> list[Any]:
        """The symbolic outputs of `tasks`; to Keras, which runs the graph, the hidden ones too."""
        every = super().outputs
        return [every[i] for i in self._shown] if self._hidden and not _in_graph.get() else every

    def _run_through_graph(self, *args: Any, **kwargs: Any) -> Any:
        with held(_in_graph, True):
            return super()._run_through_graph(*args, **kwargs)

    @property
    def encoders(self) -> list[FeatureEncoder]:
        """The layers that turn features into vectors."""
        return [layer for layer in self.layers if isinstance(layer, FeatureEncoder)]

    @property
    def encoder(self) -> FeatureEncoder:
        """The first of `encoders`; most models have one."""
        return self.encoders[0]

    @property
    def feature_columns(self) -> list[Any]:
        """The feature columns that the model was built from: those of all its encoders."""
        columns = {c.name: c for encoder in self.encoders for c in encoder.feature_columns}
        return list(columns.values())

    @property
    def shared_variables(self) -> list[Any]:
        """The dense trainable variables that several tasks depend on; embeddings are none.

        Of a stack of experts, some may serve one task alone; gradient balancers leave these out.
        """
        return [variable for variable, _ in shared_parts(self)]

    def summary(self, *args: Any, print_fn: Any = None, **kwargs: Any) -> None:
        """Print the layers, as `keras.Model.summary` does; many inputs are one row.

        Args:
            *args: as `keras.Model.summary` takes them, by name, too.
            print_fn: function of the text, or None. Defaults to None: to print it.
            **kwargs: see `args`.
        """
        show = print_fn or print
        super().summary(*args, print_fn=lambda text, **_: show(fold_inputs(text)), **kwargs)

    def save(self, filepath: Any, overwrite: bool = True, **kwargs: Any) -> None:
        """Save the model as a `.keras` file, as `keras.Model.save` does.

        `keras.saving.save_model` asks no model, and with ".h5" writes a file that doesn't load.

        Args:
            filepath: str or path, ending in ".keras".
            overwrite: bool. Whether to replace a file without asking. Defaults to True.
            **kwargs: `zipped` of `keras.Model.save`.

        Raises:
            ValueError: another kind of file, which would not load.
        """
        if str(filepath).endswith((".h5", ".hdf5")):
            raise ValueError(
                "`filepath` should end with '.keras': the old format can't hold these layers, and "
                f"the file would not load. Received: {str(filepath)!r}"
            )
        with self.written_once() as first:
            if first:
                super().save(filepath, overwrite=overwrite, **kwargs)

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Refuse: Keras would quantise the towers alone, and the saved model would not load.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            "`quantize` should not be called on a MultiTaskModel: Keras has no quantisation of "
            "embedding tables and stacked experts. Export the model, and quantise that."
        )

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
        `serving_default`. An ONNX file has its outputs in task order, as `predict` has, and calls
        the number of rows "batch" everywhere. A LiteRT file with hashed features needs the Flex
        delegate.

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
        from mtl.serving.export import check_export, serving_model, serving_signature, tidy_onnx

        check_export(self.feature_columns, format)
        with self.written_once() as first:
            if not first:
                return
            serving_model(self).export(
                filepath,
                format=format,
                verbose=verbose,
                input_signature=input_signature or serving_signature(self),
                **kwargs,
            )
            if format == "onnx":
                tidy_onnx(filepath, self.output_names)

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the list of predictions for a dict of inputs, which may hold more than needed."""
        return super().__call__(self._own_inputs(inputs), *args, **kwargs)

    def call(self, inputs: Any, training: Any = None, mask: Any = None, **kwargs: Any) -> Any:
        """Return the predictions; the trainer of JAX comes here without `__call__`."""
        # Keras has forgotten what layers added to the last loss, in a list that replicas share.
        meet_replicas()
        if isinstance(inputs, dict) and inputs.keys() != self.input.keys():
            inputs = self._own_inputs(inputs)
        outputs = super().call(inputs, training=training, mask=mask, **kwargs)
        return outputs if returns_every_output() else self.split_outputs(outputs)[0]

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        """Return the specs of what `call` returns."""
        return self.split_outputs(super().compute_output_spec(*args, **kwargs))[0]

    def split_outputs(self, outputs: Any) -> tuple[Any, dict[str, Any]]:
        """Return the predictions of `tasks`, as `predict` gives them, and hidden ones by name."""
        every = len(self._shown) + len(self._hidden)
        if not self._hidden or len(keras.tree.flatten(outputs)) < every:
            return outputs, {}
        shown = [outputs[i] for i in self._shown]
        hidden = {
            task.name: outputs[i] for i, task in zip(self._hidden, self.hidden_tasks, strict=True)
        }
        return (shown if len(shown) > 1 else shown[0]), hidden

    def _own_inputs(self, inputs: Any) -> Any:
        if not isinstance(inputs, dict):
            return inputs
        named = packing.unpack(inputs)
        # Keras flattens the dict as it is: one key too many would shift every input after it.
        own = {name: named[name] for name in self.input if name in named}
        for name, value in own.items():
            dtype = self.input[name].dtype
            if dtype == "int32" and hasattr(value, "dtype"):
                own[name] = value = self.taken_inputs.narrow(name, value)
            # It takes no arrays beside tensors, and strings come as tensors.
            if isinstance(value, np.ndarray):
                own[name] = keras.ops.convert_to_tensor(value, dtype)
        return own


def _wide(layer: dict[str, Any]) -> dict[str, Any]:
    """Return a layer's description, of an input with 32 bits if ids had fewer and could wrap."""
    if layer.get("class_name") != "InputLayer" or layer["config"]["dtype"] not in _NARROW:
        return layer
    return {**layer, "config": {**layer["config"], "dtype": "int32"}}
