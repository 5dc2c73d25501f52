"""join: several processes as one training, on JAX."""

from __future__ import annotations

import inspect
from typing import Any

import keras

from mtl import checks, devices
from mtl.training import internals


def join(
    address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout: int = 10,
) -> None:
    """Join the processes of a training: call it first, before models and data are made.

    ```python
    mtl.training.join("10.0.0.1:1234", num_processes=2, process_id=0)  # under Slurm: join()
    mtl.training.shard_tables()  # or keras.distribution.DataParallel(auto_shard_dataset=False)
    ```

    Each process runs the same script, on rows of its own (a `ParquetStream` shares row groups out
    by itself), and makes the same calls of `fit`, `evaluate`, `predict` and `save` in the same
    order; a step takes a batch of each. If one is lost, the others end with an error, after the
    timeout at most and a few seconds. Start all again, then, with a `mtl.callbacks.Checkpoint` in
    a folder that all of them see.

    Args:
        address: str or None. Host and port of the first process. Defaults to None: what the
            cluster says, as far as JAX knows it (Slurm, Kubernetes, Open MPI, cloud TPUs).
        num_processes: int or None. Defaults to None, as `address`.
        process_id: int or None. Which one this is, from 0. Defaults to None, as `address`.
        timeout: int. Seconds without a sign of life after which a process counts as lost.
            Defaults to 10.

    Raises:
        RuntimeError: a backend other than JAX; JAX has been used, or has joined, already; or the
            others can't be reached.
        ValueError: an argument out of range, or nothing that says who the others are.
    """
    if keras.backend.backend() != "jax":
        raise RuntimeError(
            "`join` should be called with KERAS_BACKEND=jax: other backends train in one process. "
            f"Received: KERAS_BACKEND={keras.backend.backend()}"
        )
    jax: Any = devices.jax()
    timeout = checks.positive_int("timeout", timeout)
    options: dict[str, Any] = {
        "heartbeat_timeout_seconds": timeout,
        "shutdown_timeout_seconds": timeout,
    }
    known = inspect.signature(jax.distributed.initialize).parameters  # not of JAX 0.5
    # On CPUs, what is sent for one step could overtake what is sent for another.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    jax.distributed.initialize(
        address,
        num_processes,
        process_id,
        **{name: value for name, value in options.items() if name in known},
    )
    if internals.random_seed() is None and (seed := devices.common_seed()) is not None:
        keras.utils.set_random_seed(seed)  # one dropout for all
