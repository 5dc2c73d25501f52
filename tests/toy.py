"""Small models of every kind, and a batch of data for them."""

from functools import partial
from typing import Any

import keras
import newcomer  # noqa: F401, for it is then one of the models
import numpy as np

from mtl.benchmark.recipes import zoo
from mtl.features import DenseFeat, SparseFeat, VarLenSparseFeat
from mtl.models.options import Widths

BACKEND = keras.backend.backend()
MODELS = list(zoo())
_THREE = ["PLE", "ESMM", "Newcomer"]
# For what a body may break: on JAX each model compiles for seconds.
SOME = _THREE if BACKEND == "jax" else MODELS
# For what `MultiTaskModel` does whatever the body: all where that is fast.
FEW = MODELS if BACKEND == "torch" else _THREE
SIZES: dict[str, dict[str, Any]] = {
    "SharedBottom": {"bottom_dnn_units": (8,)},
    "MoE": {"num_experts": 3, "expert_dnn_units": (8,)},
    "MMoE": {"num_experts": 3, "expert_dnn_units": (8,)},
    "AdaTT": {"num_experts_specific": 2, "num_experts_shared": 1, "expert_dnn_units": (8, 6)},
    "CGC": {"num_experts_specific": 2, "num_experts_shared": 1, "expert_dnn_units": (8,)},
    "HoME": {
        "num_experts_specific": 2,
        "num_experts_group": 1,
        "num_experts_shared": 2,
        "expert_dnn_units": (8,),
        "feature_gate_rank": 3,
    },
    "PLE": {"num_experts_specific": 2, "num_experts_shared": 1, "expert_dnn_units": (8,)},
    "DBMTL": {"bottom_dnn_units": (8,), "relation_dnn_units": (5,)},
    "PEPNet": {"scenario_feature": "user", "prior_features": ["age", "item"]},
    "STAR": {"scenario_feature": "user", "star_dnn_units": (8,), "auxiliary_dnn_units": (4,)},
    "CrossStitch": {"column_dnn_units": (8, 5)},
    "SNR": {"num_experts": 3, "expert_dnn_units": (8,)},
    "STEM": {
        "num_experts_specific": 2,
        "num_experts_shared": 1,
        "expert_dnn_units": (8,),
        "gate_dnn_units": (4,),
    },
    "AITM": {"bottom_dnn_units": (8, 5)},
    "ESCM2": {"num_experts": 3, "expert_dnn_units": (8,)},
}
# XLA takes seconds to compile on TensorFlow; JAX without a compiler takes longer still.
NO_XLA: dict[str, Any] = {"jit_compile": False} if BACKEND == "tensorflow" else {}
QUICK: dict[str, Any] = {"run_eagerly": True} if BACKEND == "tensorflow" else {}


def columns() -> list[Any]:
    """Two single ids, a sequence that shares an embedding with one of them, dense values."""
    return [
        DenseFeat("price", 2),
        SparseFeat("user", 5, embedding_dim=3),
        VarLenSparseFeat(
            SparseFeat("history", 7, embedding_dim=3, embedding_name="item"), 3, combiner="mean"
        ),
        SparseFeat("item", 7, embedding_dim=3),
        DenseFeat("age", 1),
    ]


def features(rows: int = 24, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "user": rng.integers(0, 5, rows).astype("int32"),
        "item": rng.integers(0, 7, rows).astype("int32"),
        "history": rng.integers(0, 7, (rows, 3)).astype("int32"),
        "price": rng.normal(size=(rows, 2)).astype("float32"),
        "age": rng.normal(size=rows).astype("float32"),
    }


def labels(tasks: int = 2, rows: int = 24, seed: int = 1) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [(rng.random(rows) < 0.5).astype("float32") for _ in range(tasks)]


def write_parquet(path: Any, rows: int, group: int, missing: int) -> None:
    """Write rows to a file: sequences as lists, and one in `missing` labels of task_1 as null."""
    import pyarrow as pa
    from pyarrow import parquet

    x, y = features(rows), labels(rows=rows)
    y[0][::missing] = np.nan
    columns = {name: v if v.ndim == 1 else list(v) for name, v in x.items()}
    columns |= {f"task_{k + 1}": pa.array(v, from_pandas=True) for k, v in enumerate(y)}
    parquet.write_table(pa.table(columns), path, row_group_size=group)


def build(name: str, num_tasks: int = 2, **options: Any) -> Any:
    """Build a small model; options replace what is small by default."""
    options = {
        "num_tasks": num_tasks,
        "tower_dnn_units_lists": [[6]] * num_tasks,
        **small(name),
        **options,
    }
    return zoo()[name](columns(), **options)


def small(name: str) -> dict[str, Any]:
    """Small sizes: those above, or the least that a search of the model would try."""
    if name in SIZES:
        return SIZES[name]
    return {
        option: (8,) if isinstance(values, Widths) else values[0]
        for option, values in zoo()[name].search.items()
        if option != "tower_dnn_units_lists"
    }


def needed(name: str) -> dict[str, Any]:
    """Return the arguments that a model can't do without."""
    sizes = small(name)
    return {p: sizes[p] for names in zoo()[name].needs for p in names if p in sizes}


def randomize(model: Any, seed: int = 0) -> Any:
    """Give every weight of a model, biases and unknown rows included, a random value."""
    rng = np.random.default_rng(seed)
    values = [rng.uniform(-0.2, 0.6, weight.shape) for weight in model.weights]
    variances = [weight.path.endswith("variance") for weight in model.weights]
    model.set_weights(
        [abs(v) if positive else v for v, positive in zip(values, variances, strict=True)]
    )
    return model


def state(model: Any) -> list[np.ndarray]:
    """Return the values of all variables: weights, and where random draws are."""
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in model.variables]


def restore(model: Any, values: list[np.ndarray]) -> None:
    """Give all variables the values of `state`."""
    for variable, value in zip(model.variables, values, strict=True):
        variable.assign(value)


def outputs(model: Any, x: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Call a model as a function; a list of arrays, one per task."""
    y = called(model)({name: keras.ops.convert_to_tensor(value) for name, value in x.items()})
    return [keras.ops.convert_to_numpy(v) for v in (y if isinstance(y, list) else [y])]


def called(model: Any) -> Any:
    """Return a model's call. JAX compiles one program faster than its hundreds of operations."""
    if BACKEND != "jax":
        return model
    import jax

    def call(weights: Any, fixed: Any, x: Any) -> Any:
        return model.stateless_call(weights, fixed, x)[0]

    parts = model.trainable_variables, model.non_trainable_variables
    return partial(jax.jit(call), *([v.value for v in part] for part in parts))


def same(a: Any, b: Any, **options: Any) -> None:
    """Assert that two lists of arrays agree."""
    assert len(a) == len(b)
    for left, right in zip(a, b, strict=True):
        np.testing.assert_allclose(left, right, **{"rtol": 1e-6, "atol": 1e-6, **options})
