"""Rows of a table that devices share: each device looks up, and updates, those that it holds.

XLA's partitioner does the same from the plain operations, in four times as many messages of five
times as many bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mtl import devices


def is_shared(variable: Any, lookups: int | None = None) -> bool:
    """Return whether a table is cut over the devices that share a batch, and nothing else is.

    Args:
        variable: an embedding table, as `mtl.layers.FeatureEncoder` marks it.
        lookups: int or None. The rows of a batch, of which every device needs as many. Defaults to
            None.
    """
    if not getattr(variable, "shared_out", False) or devices.distribution() is None:
        return False
    mesh = devices.distribution().device_mesh
    return len(mesh.axis_names) == 1 and (lookups or 0) % mesh.devices.size == 0


def look_up(table: Any, rows: Any) -> Any:
    """Return `table[rows]` for rows `(B, …)` of a batch; the result is cut as the batch is."""
    lax, axis = devices.jax().lax, _axis()

    def local(own: Any, rows: Any) -> Any:
        every = lax.all_gather(rows, axis, tiled=True)
        found = own.at[_places(own, every)].get(mode="fill", fill_value=0)
        # All but one of the devices have zeros.
        return lax.psum_scatter(found, axis, scatter_dimension=0, tiled=True)

    return _on_each(local, (axis, axis), axis)(table, rows)


def sum_by_row(speakers: Any, rows: Any, values: Any) -> tuple[Any, Any, Any]:
    """Return, for each row that was looked up, the sum of its values, where it is held.

    Args:
        speakers: integers, one per row of a table; those of looked-up rows are written: the
            number of the lookup that speaks for the row.
        rows: integers `(L,)`, the rows that were looked up.
        values: tensor `(L, dim)`.

    Returns:
        The speakers; the rows, on every device; and the sums, `(L, dim)` on each device, for those
        lookups that speak for a row of its own, else 0.
    """
    jax, axis = devices.jax(), _axis()

    def local(own: Any, rows: Any, values: Any) -> Any:
        every, values = (jax.lax.all_gather(v, axis, tiled=True) for v in (rows, values))
        places = _places(own, every)
        own = own.at[places].set(jax.numpy.arange(len(every), dtype="int32"), mode="drop")
        mine = (places < len(own))[:, None]
        speaker = own.at[places].get(mode="fill", fill_value=0)
        values = jax.numpy.where(mine, values, 0)
        return own, every, jax.ops.segment_sum(values, speaker, num_segments=len(every))

    return _on_each(local, (axis, axis, axis), (axis, None, axis))(speakers, rows, values)  # type: ignore[no-any-return]


def update_rows(
    variables: Sequence[Any], speakers: Any, rows: Any, sums: Any, update: Callable[..., Any]
) -> list[Any]:
    """Return variables in which the rows that were looked up are new.

    Args:
        variables: tensors `(rows of the table, …)`.
        speakers: what `sum_by_row` returned, as are `rows` and `sums`.
        rows: see `speakers`.
        sums: see `speakers`.
        update: function of the sums of some rows and the list of these rows of the variables, to
            the list of their new values.
    """
    axis = _axis()

    def local(own: Any, speakers: Any, every: Any, sums: Any) -> Any:
        places = _places(speakers, every)
        speaker = speakers.at[places].get(mode="fill", fill_value=0)
        new = update(sums[speaker], [v.at[places].get(mode="fill", fill_value=0) for v in own])
        # A row that was looked up twice is written twice, with equal values.
        return [v.at[places].set(n, mode="drop") for v, n in zip(own, new, strict=True)]

    places = [axis] * len(variables)
    return _on_each(local, (places, axis, None, axis), places)(  # type: ignore[no-any-return]
        list(variables), speakers, rows, sums
    )


def _axis() -> str:
    return str(devices.distribution().device_mesh.axis_names[0])


def _places(own: Any, rows: Any) -> Any:
    """Return where the device has rows, or behind its last one where it hasn't."""
    jax = devices.jax()
    place = rows - jax.lax.axis_index(_axis()) * len(own)
    return jax.numpy.where((place >= 0) & (place < len(own)), place, len(own))


def _on_each(function: Any, inputs: Any, outputs: Any) -> Any:
    """Return a function that runs on every device, of arrays cut by an axis, or whole: None."""
    jax = devices.jax()
    spec = jax.sharding.PartitionSpec

    def cut(axes: Any) -> Any:
        return jax.tree.map(spec, axes, is_leaf=lambda axis: axis is None)

    options = {
        "mesh": devices.distribution().device_mesh.backend_mesh,
        "in_specs": cut(inputs),
        "out_specs": cut(outputs),
    }
    if hasattr(jax, "shard_map"):
        return jax.shard_map(function, check_vma=False, **options)
    from jax.experimental import shard_map as module  # of JAX 0.5

    run: Any = module.shard_map
    return run(function, check_rep=False, **options)
