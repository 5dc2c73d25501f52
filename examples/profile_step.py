"""Where the time of a training step goes, and how far it is from the arithmetic.

PLE on Census-income, batches of 1,024. On each backend, in a process of its own: the time of the
forward pass, of the forward and backward pass, of the whole step with optimizer and metrics, and
of a batch in `fit`, which adds the data and Keras' loop. Below them the floor: the step's
multiply-adds (forward, and twice as many backward) at the rate of a large matrix product.
"""

# %%
import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before mtl, which loads TensorFlow

import mtl  # noqa: F401

# isort: split
import keras
import numpy as np

from mtl.benchmark import CENSUS_INCOME
from mtl.benchmark.processes import in_turns, measure, report
from mtl.data import load_census_income
from mtl.models import PLE
from mtl.training.pace import dense_parameters

# %%
BACKENDS = ("jax", "tensorflow", "torch")
BATCH = 1024
ROWS = ["forward", "forward and backward", "step", "a batch in fit", "floor"]


# %%
def functions(model, x: dict, y: list) -> dict:
    """Return what runs each part of a step once; each waits for its result."""
    backend = keras.backend.backend()
    if backend == "jax":
        return jax_functions(model, x, y)
    if backend == "torch":

        def gradients():
            model.zero_grad()
            model.compute_loss(x, y, model(x, training=True)).backward()

        return {
            "forward": lambda: model(x, training=True),
            "forward and backward": gradients,
            "step": lambda: model.train_on_batch(x, y),
        }
    import tensorflow as tf

    x = {name: tf.constant(value) for name, value in x.items()}
    y = [tf.constant(value) for value in y]

    def forward():
        return model(x, training=True)

    def gradients():
        with tf.GradientTape() as tape:
            loss = model.compute_loss(x, y, model(x, training=True))
        return tape.gradient(loss, [v.value for v in model.trainable_variables])

    def whole():
        return keras.Model.train_step(model, (x, tuple(y), None))

    compiled = [
        tf.function(f, jit_compile=True, autograph=False) for f in (forward, gradients, whole)
    ]
    waiting = [lambda f=f: keras.tree.flatten(f())[-1].numpy() for f in compiled]
    return dict(zip(ROWS, waiting, strict=False))


# %%
def jax_functions(model, x: dict, y: list) -> dict:
    """Return the same on JAX, whose functions take and return the model's state."""
    import jax

    x, y = jax.tree.map(jax.numpy.asarray, (x, y))
    values = [
        [v.value for v in variables]
        for variables in (
            model.trainable_variables,
            model.non_trainable_variables,
            model.optimizer.variables,
            model.metrics_variables,
        )
    ]
    trained, fixed, optimizer, metrics = values

    def loss(trained):
        return model.compute_loss_and_updates(
            trained, fixed, metrics, x, y, None, training=True, optimizer_variables=optimizer
        )[0]

    forward = jax.jit(lambda trained: model.stateless_call(trained, fixed, x, training=True)[0])
    gradients = jax.jit(jax.grad(loss))
    whole = jax.jit(lambda state: model.train_step(state, (x, y)))
    return {
        "forward": lambda: jax.block_until_ready(forward(trained)),
        "forward and backward": lambda: jax.block_until_ready(gradients(trained)),
        "step": lambda: jax.block_until_ready(whole(values)),
    }


# %%
def milliseconds(run, times: int = 50) -> float:
    """Return the median time of a call."""
    run()
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return 1000 * float(np.median(taken))


# %%
def measure_here(rows: int | None) -> None:
    """Measure on this process' backend, and print the result."""
    data = load_census_income(group=1, encoder={"encoding": None})  # as benchmark_speed.py
    x = {name: value[:rows] for name, value in data.train[0].items()}
    y = [label[:rows] for label in data.train[1]]
    model = PLE(data.feature_columns, task_names=data.task_names, **CENSUS_INCOME.sizes["PLE"])
    model.compile("adam")
    model.fit(x, y, batch_size=BATCH, verbose=0)
    start = time.perf_counter()
    model.fit(x, y, batch_size=BATCH, verbose=0)
    in_fit = 1000 * (time.perf_counter() - start) / np.ceil(len(y[0]) / BATCH)

    operations = 2 * 3 * BATCH * dense_parameters(model)
    large = keras.ops.ones((2048, 2048))
    product = milliseconds(lambda: keras.ops.convert_to_numpy(keras.ops.matmul(large, large)), 10)
    rate = 2 * 2048**3 / product  # per millisecond

    batch = {name: np.reshape(value[:BATCH], (BATCH, -1)) for name, value in x.items()}
    labels = [np.reshape(label[:BATCH], (BATCH, 1)).astype("float32") for label in y]
    parts = {name: milliseconds(run) for name, run in functions(model, batch, labels).items()}
    report(**parts, **{"a batch in fit": in_fit, "floor": operations / rate, "gflops": rate / 1e6})


# %%
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backends", nargs="+", default=list(BACKENDS), choices=BACKENDS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rows", type=int, help="the first rows only (default: all)")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here:
        measure_here(args.rows)
        return
    results = {backend: [] for backend in args.backends}
    rows = ["--rows", str(args.rows)] if args.rows else []
    for _, backend in in_turns(args.backends, args.repeats):
        result = measure([__file__, "--here", *rows], {"KERAS_BACKEND": backend})
        if "error" in result:
            print(f"{backend} is left out: {result['error']}")
        results[backend].append(result)
    print(f"milliseconds, medians of {args.repeats} runs, {os.cpu_count()} cores\n")
    print("".ljust(22) + "".join(backend.rjust(12) for backend in args.backends))
    for row in [*ROWS, "gflops"]:
        cells = [
            f"{np.median([r[row] for r in runs if row in r] or [np.nan]):12.2f}"
            for runs in results.values()
        ]
        print(row.ljust(22) + "".join(cells))


# %%
if __name__ == "__main__":
    main()
