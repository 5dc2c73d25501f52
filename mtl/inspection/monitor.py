"""GateMonitor: the gates' entropy and the dead experts, epoch by epoch."""

from __future__ import annotations

import math
from typing import Any

import keras

from mtl import checks
from mtl.inspection.gates import GateProbe, dead_experts, gate_entropy
from mtl.names import safe_name


class GateMonitor(keras.callbacks.Callback):
    """Adds to each epoch's logs how evenly the gates mix, and how many experts are dead.

    ```python
    sample = {name: values[:4096] for name, values in data.val[0].items()}
    history = model.fit(*data.train, epochs=5, callbacks=[GateMonitor(sample)])
    history.history["gate_entropy_income_1"]  # task income, level 1
    ```

    The logs get `gate_entropy_<gate>_<level>` (see `gate_entropy`; gates of a single expert have
    none) and `dead_experts_<level>`, a number (see `dead_experts`), where `<gate>` is the name of
    a task, made safe as in the other logs, or "shared". `History` holds them; callbacks that come
    later in the list see them too, so that `EarlyStopping`, `CSVLogger` or `TensorBoard` may
    follow. Training goes on as it would without the monitor, to the bit.

    Args:
        x: dict or DataFrame of inputs to look at; some thousand rows tell enough.
        threshold: float above 0. An expert is dead if every gate gives it a mean weight below
            `threshold / E`. Defaults to 0.01.
        log_dir: str, path or None. Folder to write scalars to for TensorBoard, by epoch. Defaults
            to None: none are written.
        batch_size: int. Rows at once. Defaults to 8192.

    Raises:
        TypeError: an argument of a wrong type; in `fit`, inputs that `predict` refuses.
        ValueError: an argument out of range; in `fit`, a model without gates.
    """

    def __init__(
        self, x: Any, threshold: float = 0.01, log_dir: Any = None, batch_size: int = 8192
    ) -> None:
        super().__init__()
        self._x = x
        self._threshold = checks.positive_float("threshold", threshold)
        self._log_dir = log_dir
        self._batch_size = checks.positive_int("batch_size", batch_size)
        self._writer: Any = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Find the gates."""
        self._probe = GateProbe(self.model)
        if self._log_dir is not None:
            import tensorflow as tf

            self._writer = tf.summary.create_file_writer(str(self._log_dir))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Add to the logs."""
        weights = self._probe(self._x, self._batch_size)
        values = {
            f"gate_entropy_{safe_name(gate, 'task')}_{level}": float(entropy)
            for (level, gate), entropy in zip(weights, gate_entropy(weights), strict=True)
            if not math.isnan(entropy)
        }
        dead = [level for level, _ in dead_experts(weights, self._threshold)]
        for level in dict.fromkeys(level for level, _ in weights):
            values[f"dead_experts_{level}"] = dead.count(level)
        if logs is not None:
            logs.update(values)
        if self._writer is not None:
            self._write(epoch, values)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _write(self, epoch: int, values: dict[str, float]) -> None:
        import tensorflow as tf

        # What tf.summary.scalar writes; that function needs the package tensorboard.
        summary = tf.compat.v1.SummaryMetadata
        scalar = summary(plugin_data=summary.PluginData(plugin_name="scalars"), data_class=1)
        with self._writer.as_default():
            for name, value in values.items():
                tf.summary.write(name, tf.constant(value, tf.float32), epoch, scalar)
        self._writer.flush()
