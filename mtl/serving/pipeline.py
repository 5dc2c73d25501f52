"""Pipeline: an encoder and its model as one thing, from raw rows to scores."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

import mtl
from mtl import checks
from mtl.data import TableEncoder
from mtl.data.files import atomic_folder, atomic_path
from mtl.features import DenseFeat, VarLenSparseFeat
from mtl.metrics import evaluate_tasks
from mtl.serving.export import check_export, input_names
from mtl.serving.onnx_model import export_onnx, quantize_onnx
from mtl.serving.raw import RawInput, raw_inputs
from mtl.serving.saved_model import export_saved_model
from mtl.training.model import MultiTaskModel

_FORMAT, _VERSION = "mtl.Pipeline", 1
MANIFEST, _ENCODER, _MODEL = "manifest.json", "encoder.json", "model.keras"
_VALUE = ("", "_positive", "_mu", "_sigma")  # what a lifetime value's columns end with


class Pipeline:
    """An encoder and a model that belong together: raw rows in, named scores out.

    ```python
    pipeline = Pipeline(encoder, model)
    scores = pipeline.predict(frame)
    pipeline.save("pipeline")
    pipeline.export("model.onnx", format="onnx")  # raw columns are its inputs
    ```

    Args:
        encoder: a fitted `TableEncoder`. It may know more columns than the model takes.
        model: a model of `mtl.models`; calibrated ones, and tasks taken out of one, are such, too.

    Attributes:
        columns: dict from name to `mtl.data.raw.RawColumn`: the raw columns that the model needs.

    Raises:
        RuntimeError: the encoder isn't fitted.
        TypeError: no encoder, or no model of `mtl.models`.
        ValueError: a feature of the model that the encoder doesn't give, or gives in another form.
    """

    def __init__(self, encoder: TableEncoder, model: MultiTaskModel) -> None:
        for name, value, kind in (
            ("encoder", encoder, TableEncoder), ("model", model, MultiTaskModel),
        ):  # fmt: skip
            if not isinstance(value, kind):
                raise TypeError(
                    f"`{name}` should be a {kind.__name__}. Received: {type(value).__name__}"
                )
        _check_together(encoder, model)
        self.encoder, self.model = encoder, model
        self.columns = {
            name: column
            for name, column in encoder.columns.items()
            if any(one in model.input for one in column.inputs)
        }

    def predict(self, frame: Any, batch_size: int = 8192) -> pd.DataFrame:
        """Return the scores of raw rows.

        Args:
            frame: pd.DataFrame, or dict from column to array of N raw values. What the model
                doesn't need may be absent.
            batch_size: int. Rows per step. Defaults to 8192.

        Returns:
            A DataFrame with the index of `frame` and a float32 column per task, by its name; with
            several outputs, "<task>_0" and so on per class or label, and of a lifetime value the
            expected value as "<task>", then "<task>_positive", "<task>_mu" and "<task>_sigma".

        Raises:
            TypeError: neither a frame nor a dict, or values that a column can't hold.
            ValueError: a column is missing or infinite.
        """
        frame = _frame(frame)
        x, names = self._transform(frame), _score_names(self.model.tasks)
        if not len(frame):
            return pd.DataFrame(columns=names, index=frame.index, dtype="float32")
        scores = self.model.predict(x, batch_size=batch_size, verbose=0)
        scores = [np.reshape(one, (len(frame), -1)) for one in checks.as_list(scores)]
        return pd.DataFrame(np.concatenate(scores, axis=1), index=frame.index, columns=names)

    def evaluate(self, frame: Any, labels: Any, **options: Any) -> pd.DataFrame:
        """Return a table of every metric of every task on raw rows.

        Args:
            frame: pd.DataFrame or dict, as for `predict`.
            labels: DataFrame or dict by task name, or list of arrays in task order.
            **options: `groups`, `sample_weight` and `batch_size` of `mtl.metrics.evaluate_tasks`.

        Raises:
            TypeError, ValueError: as `predict`, and as `evaluate_tasks`.
        """
        return evaluate_tasks(self.model, self._transform(_frame(frame)), labels, **options)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write model, encoder and a manifest into a folder, whole or not at all.

        Args:
            folder: str or path. An older pipeline there gives way.

        Raises:
            ValueError: something else than a pipeline is there.
        """
        with atomic_folder(Path(folder), MANIFEST) as temporary:
            self.model.save(temporary / _MODEL)
            self.encoder.save(temporary / _ENCODER)
            files = {name: _digest(temporary / name) for name in (_MODEL, _ENCODER)}
            manifest = {
                "format": _FORMAT, "version": _VERSION, **self.describe(), "files": files
            }  # fmt: skip
            (temporary / MANIFEST).write_text(
                json.dumps(manifest, ensure_ascii=False, indent=1), encoding="utf-8"
            )

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Pipeline:
        """Read a pipeline that `save` wrote; its predictions are the same to the bit.

        Raises:
            FileNotFoundError: there is no such folder.
            ValueError: a folder that holds no pipeline, a damaged one, a part of one, or one that
                a newer mtl wrote.
        """
        path = Path(folder)
        if not path.exists():
            raise FileNotFoundError(f"`folder` should hold a pipeline. Received: {str(path)!r}")
        try:
            manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
            _check_manifest(manifest)
            for name, digest in manifest["files"].items():
                if not (path / name).is_file() or _digest(path / name) != digest:
                    state = "damaged" if (path / name).exists() else "absent"
                    raise ValueError(f"{name} is {state}")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                "`folder` should hold a whole pipeline that this release of mtl reads. "
                f"Received: {str(path)!r} ({error})"
            ) from error
        encoder = TableEncoder.load(path / _ENCODER)
        return cls(encoder, keras.models.load_model(path / _MODEL))

    def export(
        self,
        path: str | os.PathLike[str],
        format: str = "tf_saved_model",
        missing: str = "",
        quantize: bool = False,
    ) -> None:
        """Write a file for servers that takes raw columns and gives scores by task.

        Its inputs are the columns, by name: strings, or numbers as float64, `(N,)`; lists as
        `(N, L)`, padded with missing values; times as int64 seconds since 1970; and integers beyond
        2**53, or that are hashed, as int64. A missing value is `missing`, NaN, or of int64 the
        least integer, -2**63. Names that formats don't accept are made safe. The outputs are
        those of `model.export`. What `encoder.transform` refuses, such as infinite numbers, gives
        scores without meaning.

        A SavedModel has another signature, "serve_ids", that takes what the encoder gives. A file
        tells its inputs and tasks in JSON (see `describe`): ONNX under "mtl" in its metadata, a
        SavedModel in "assets.extra/mtl.json".

        Args:
            path: str or path. A folder for a SavedModel, a file for ONNX; an older one is replaced.
            format: str. `"tf_saved_model"` (on TensorFlow and JAX) or `"onnx"` (on TensorFlow).
                Defaults to `"tf_saved_model"`.
            missing: str. What stands for a missing string. Defaults to `""`.
            quantize: bool. Whether an ONNX file has weights of 8 bits, by ONNX Runtime's own tool:
                a smaller file, faster where layers are wide, whose scores are a little others.
                Defaults to False.

        Raises:
            ImportError: the ONNX converter isn't installed.
            ValueError: a format that can't hold the encoder, or can't be made on this backend; a
                column of strings and numbers; or one that has `missing` as a value.
        """
        if format not in ("tf_saved_model", "onnx"):
            advice = ": LiteRT has no tables of strings" if format == "litert" else ""
            raise ValueError(
                "`format` should be 'tf_saved_model' or 'onnx' to take raw rows; other formats "
                f"take ids, by `pipeline.model.export`{advice}. Received: {format!r}"
            )
        if quantize and format != "onnx":
            raise ValueError(f"`quantize` needs `format='onnx'`. Received: format={format!r}")
        check_export(self.model.feature_columns, format)
        hashed = [name for name, column in self.columns.items() if column.settings.get("hash")]
        if hashed and format == "onnx":
            raise ValueError(
                "`format='onnx'` should be used without hashed columns, for ONNX has no such "
                "operation: list their values (leave out `hash`), or export a SavedModel. "
                f"Received: hash for {hashed}"
            )
        given = self.model, self.columns, self._raw_inputs(missing), self.describe(missing)
        if format == "onnx":
            with atomic_path(Path(path)) as file:
                export_onnx(file, *given)
                if quantize:
                    quantize_onnx(file)
        else:
            with atomic_folder(Path(path), "saved_model.pb") as folder:
                export_saved_model(folder, *given)

    def describe(self, missing: str = "") -> dict[str, Any]:
        """Return what the pipeline is, as a JSON-compatible dict.

        Args:
            missing: str. What stands for a missing string in an exported file. Defaults to `""`.

        Returns:
            A dict: "versions" of mtl and Keras; "inputs", a list of dicts as
            `mtl.serving.raw.RawInput`, or None if the columns can't be served raw; and "tasks", a
            list of dicts of the task's "name", its "type", its "output" in an exported file, and
            the "columns" of `predict`.
        """
        try:
            inputs = [one.to_json() for one in self._raw_inputs(missing)]
        except ValueError:
            inputs = None
        tasks = self.model.tasks
        return {
            "versions": {"mtl": mtl.__version__, "keras": keras.__version__},
            "inputs": inputs,
            "tasks": [
                {
                    "name": task.name, "type": task.type, "output": output,
                    "columns": _score_names([task]),
                }
                for task, output in zip(tasks, self.model.output_names, strict=True)
            ],
        }  # fmt: skip

    def __repr__(self) -> str:
        tasks = ", ".join(self.model.task_names)
        return f"Pipeline({len(self.columns)} raw columns; tasks: {tasks})"

    def _raw_inputs(self, missing: str) -> list[RawInput]:
        names = input_names(self.columns, self.model.output_names)
        return raw_inputs(self.columns, names, missing)

    def _transform(self, frame: pd.DataFrame) -> dict[str, Any]:
        return self.encoder.transform(frame, self.columns)


def _check_together(encoder: TableEncoder, model: MultiTaskModel) -> None:
    given = {column.name: column for column in encoder.feature_columns}
    for column in model.feature_columns:
        own = given.get(column.name)
        if own is None:
            raise ValueError(
                "`encoder` should give every feature of `model`. "
                f"Received: none of the name {column.name!r}"
            )
        if (mine := _form(own)) != (needed := _form(column)):
            raise ValueError(
                f"`encoder` should give feature {column.name!r} as `model` takes it, "
                f"{needed}. Received: {mine}"
            )


def _form(column: Any) -> dict[str, Any]:
    """Return what an encoder and a model must agree on in a feature."""
    if isinstance(column, DenseFeat):
        encoding: Any = column.transform_fn
        return {
            "kind": "number", "dimension": column.dimension,
            "encoding": encoding and (type(encoding).__name__, encoding.get_config()),
        }  # fmt: skip
    form = {"kind": "id", "vocabulary_size": column.vocabulary_size, "use_hash": column.use_hash}
    if isinstance(column, VarLenSparseFeat):
        form |= {"kind": "ids", "maxlen": column.maxlen, "length_name": column.length_name}
    return form


def _score_names(tasks: Any) -> list[str]:
    names = []
    for task in tasks:
        if task.size == 1:
            names.append(task.name)
        elif task.type == "lifetime_value":
            names += [f"{task.name}{end}" for end in _VALUE]
        else:
            names += [f"{task.name}_{i}" for i in range(task.size)]
    return names


def _frame(frame: Any) -> Any:
    if isinstance(frame, Mapping):
        return pd.DataFrame({name: _series(values) for name, values in frame.items()})
    return frame


def _series(values: Any) -> Any:
    """Return raw values of N rows without an index, by which pandas would align them."""
    if isinstance(values, np.ndarray) and values.ndim > 1:
        values = list(values)
    # As floats, large integers beside None would lose digits.
    return pd.Series(values, dtype=object if isinstance(values, list) else None).array


def _check_manifest(manifest: Any) -> None:
    """Raise a ValueError unless this release reads such a pipeline."""
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise ValueError(f"{MANIFEST} is that of no pipeline")
    version = manifest.get("version")
    if not isinstance(version, int) or version > _VERSION:
        raise ValueError(
            f"it is of version {version!r}, and this release reads up to {_VERSION}: "
            f"use mtl {manifest.get('versions', {}).get('mtl')} or later"
        )
    if set(manifest["files"]) != {_MODEL, _ENCODER}:
        raise ValueError(f"{MANIFEST} should list {_MODEL} and {_ENCODER}")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()
