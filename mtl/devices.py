"""Devices and processes: keras.distribution on JAX shares out batches and tables among them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import keras
import numpy as np

from mtl.context import held

_GATHERED = 2**20  # rows of a table that come from other processes at once

# By their paths: tables of `mtl.layers.FeatureEncoder`, and what a lazy optimizer keeps of each.
_TABLES = r".*table_\d+(_(momentum|velocity|accumulator))?"
_SPEAKERS = r".*table_\d+_speakers"


def shard_tables(devices: Sequence[str] | None = None) -> Any:
    """Share out embedding tables, and batches, among devices: call it before models are made.

    ```python
    mtl.training.shard_tables()
    model = MMoE(columns, task_names=["click", "buy"])
    model.compile(LazyAdam())
    ```

    Of each table, and of its optimizer's state, a device holds an equal part of the rows; all other
    weights are on every device. A batch is cut into equal parts, too. What is trained is what one
    device would train, up to rounding. Files and `get_weights` know nothing of it: a model that was
    trained on eight devices loads on one, or on six.

    Under several processes (see `join`) each has rows of its own, in batches of one length. Files
    are written by the first one; every process has to call `save`.

    It is `keras.distribution.ModelParallel` on a mesh of one axis, `"batch"`, for which a
    `keras.distribution.LayoutMap` names the tables. To leave tables whole on each device, set
    `keras.distribution.DataParallel()`.

    Args:
        devices: list of str, such as `["gpu:0", "gpu:1"]`, or None. Defaults to None: all devices
            of all processes.

    Returns:
        The `keras.distribution.ModelParallel`, which is set from here on.

    Raises:
        RuntimeError: a backend other than JAX.
    """
    if keras.backend.backend() != "jax":
        raise RuntimeError(
            "`shard_tables` should be called with KERAS_BACKEND=jax. "
            f"Received: KERAS_BACKEND={keras.backend.backend()}"
        )
    names = list(devices or keras.distribution.list_devices())
    mesh = keras.distribution.DeviceMesh((len(names),), ["batch"], names)
    layouts = keras.distribution.LayoutMap(mesh)
    layouts[_TABLES] = ("batch", None)
    layouts[_SPEAKERS] = ("batch",)
    sharded = keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch")
    keras.distribution.set_distribution(sharded)
    return sharded


def shards_tables() -> bool:
    """Return whether tables may be shared out."""
    return isinstance(distribution(), keras.distribution.ModelParallel)


def padded(rows: int) -> int:
    """Return the rows that a table needs so that any number of the devices get equal parts."""
    if not shards_tables():
        return rows
    return rows + -rows % int(distribution().device_mesh.devices.size)


def drawn_in_parts(shape: Sequence[int], layout: Any, draw: Callable[[int, int], Any]) -> Any:
    """Return a global array of which each process draws the rows that it holds.

    Args:
        shape: shape of the array.
        layout: `jax.sharding.NamedSharding`, of whatever mesh.
        draw: function of the first row and the one after the last.
    """
    mesh = distribution().device_mesh.backend_mesh
    return jax().make_array_from_callback(
        tuple(shape),
        jax().sharding.NamedSharding(mesh, layout.spec),
        lambda index: draw(*index[0].indices(shape[0])[:2]),
    )


def whole(variable: Any) -> np.ndarray:
    """Return all rows of a variable, from all processes, which have to call this together."""
    values = _on_host(variable.value)
    return values[: variable.real_rows] if hasattr(variable, "real_rows") else values


def put(variable: Any, values: Any) -> None:
    """Give a variable all of its rows."""
    values = np.asarray(values)
    missing = variable.shape[0] - len(values) if len(variable.shape) else 0
    if missing and getattr(variable, "real_rows", None) == len(values):
        values = np.concatenate([values, np.zeros((missing, *values.shape[1:]), values.dtype)])
    variable.assign(values)


def _on_host(value: Any) -> np.ndarray:
    if not hasattr(value, "is_fully_addressable") or _is_here(value):
        return np.asarray(keras.ops.convert_to_numpy(value))
    # Some rows at a time: a device may not have room for all.
    everywhere = jax().sharding.NamedSharding(value.sharding.mesh, jax().sharding.PartitionSpec())
    pick = jax().jit(
        lambda v, start, size: jax().lax.dynamic_slice_in_dim(v, start, size),
        static_argnums=2,
        out_shardings=everywhere,
    )
    blocks = [
        np.asarray(pick(value, start, min(_GATHERED, len(value) - start)))
        for start in range(0, len(value), _GATHERED)
    ]
    return np.concatenate(blocks)


def _is_here(value: Any) -> bool:
    return bool(value.is_fully_addressable or value.is_fully_replicated)


def is_shared_out(variable: Any) -> bool:
    """Return whether devices hold different parts of a variable."""
    return distribution() is not None and not variable.value.sharding.is_fully_replicated


_writing: ContextVar[bool] = ContextVar("writing", default=False)


@contextlib.contextmanager
def written_once(variables: Iterable[Any]) -> Iterator[bool]:
    """Let one process write what all of them hold; all have to come here.

    Args:
        variables: those to write, which have all their rows within, in the first process.

    Yields:
        Whether this process is the one to write.
    """
    if processes() == 1 or _writing.get():
        yield True
        return
    from jax.experimental import multihost_utils

    first = is_first()
    taken = []
    for variable in variables:
        value = variable._value
        if not _is_here(value):
            rows = _on_host(value)
            if first:
                taken.append((variable, value))
                variable._value = rows
    current = keras.distribution.distribution()
    try:
        # Keras makes variables to compare with as it writes: under a distribution, with all others.
        keras.distribution.set_distribution(None)
        with held(_writing, True):
            yield first
    finally:
        keras.distribution.set_distribution(current)
        for variable, value in taken:
            variable._value = value
        multihost_utils.sync_global_devices("written")


def jax() -> Any:
    """Return JAX, which is imported where it is the backend alone."""
    import jax

    return jax


def distribution() -> Any:
    """Return the distribution that JAX runs under, or None."""
    return keras.distribution.distribution() if keras.backend.backend() == "jax" else None


def processes() -> int:
    """Return the number of JAX's processes."""
    if keras.backend.backend() != "jax":
        return 1
    return int(jax().process_count())


def is_first() -> bool:
    """Return whether this is the first, or the only, of JAX's processes."""
    return processes() == 1 or int(jax().process_index()) == 0


def shareable(rows: int) -> int:
    """Return the rows that a batch needs so that the devices of a process get equal parts."""
    current = distribution()
    mesh = current.device_mesh
    every = mesh.shape[mesh.axis_names.index(current.batch_dim_name)]
    return rows + -rows % max(int(every) // processes(), 1)


def common_seed() -> int | None:
    """Return a random seed that all processes have, or None if there is but one."""
    if processes() == 1:
        return None
    return int(of_every_process(int(np.random.default_rng().integers(2**31 - 1)))[0, 0])


def of_every_process(*numbers: int) -> np.ndarray:
    """Return some numbers of each process, `(processes, numbers)`."""
    mine = np.array([numbers], "int32")
    if processes() == 1:
        return mine
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(mine[0]))


def shared_out(batch: Any) -> Any:
    """Return a process' arrays as its part of global ones, in the distribution's layout."""
    current = distribution()
    return keras.tree.map_structure(
        lambda v: jax().make_array_from_process_local_data(
            current.get_data_layout(v.shape).backend_layout, np.asarray(v)
        ),
        batch,
    )


def in_rows(outputs: Any) -> Any:
    """Return tensors of a step in the layout of its batch."""
    current = distribution()
    return keras.tree.map_structure(
        lambda v: jax().lax.with_sharding_constraint(
            v, current.get_data_layout(v.shape).backend_layout
        ),
        outputs,
    )


def own_rows(array: Any) -> Any:
    """Return, of a global array in the layout of a batch, the rows of this process."""
    if array.is_fully_addressable:
        return array
    # With a second axis of devices, several hold the same rows.
    shards = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
    return np.concatenate([np.asarray(shards[start]) for start in sorted(shards)])
