"""What devices send each other in a training step, as JAX compiled it."""

from __future__ import annotations

import math
import re
from typing import Any

import keras
import pandas as pd

from mtl import devices
from mtl.training import MultiTaskModel

_RESULT = re.compile(
    r"= (.+?) (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(?:-start)?\("
)
_TENSOR = re.compile(r"(pred|[sfu](\d+)|bf(16))\[([\d,]*)\]")


def collectives(model: MultiTaskModel, x: Any, y: Any, sample_weight: Any = None) -> pd.DataFrame:
    """Return what the devices send each other in a training step.

    Args:
        model: a compiled model, under a `keras.distribution` on JAX.
        x: inputs of a batch, as `fit` takes them.
        y: its labels.
        sample_weight: its sample weights, or None. Defaults to None.

    Returns:
        A DataFrame with a row per operation of the compiled program: "kind", such as "all-gather",
        "shapes" of its results, and "bytes" of these on one device.

    Raises:
        RuntimeError: there is no distribution, or another backend.
        ValueError: the model isn't compiled, or data that `fit` refuses.
    """
    if not model.distributed:
        raise RuntimeError(
            "`model` should be used under a keras.distribution on JAX, such as "
            "mtl.training.shard_tables(). Received: a model on one device"
        )
    rows = [
        {"kind": kind, "shapes": shapes, "bytes": sum(map(_bytes, _TENSOR.finditer(shapes)))}
        for shapes, kind in _RESULT.findall(_compiled(model, x, y, sample_weight).as_text())
    ]
    return pd.DataFrame(rows, columns=["kind", "shapes", "bytes"])


def _compiled(model: MultiTaskModel, *data: Any) -> Any:
    model.check_compiled("collectives")
    model.test_on_batch(*data)  # which makes the metrics
    model.optimizer.build(model.trainable_variables)
    batch = devices.shared_out(tuple(v for v in model.filled(*data) if v is not None))
    state = model.state_of_step()
    places = keras.tree.map_structure(lambda value: value.sharding, state)
    step = devices.jax().jit(model.train_step, donate_argnums=0, out_shardings=(None, places))
    return step.lower(state, batch).compile()


def _bytes(tensor: re.Match[str]) -> int:
    bits = int(tensor[2] or tensor[3] or 8)
    return math.prod(int(n) for n in tensor[4].split(",") if n) * bits // 8
