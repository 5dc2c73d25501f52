"""How fast `examples/serve.py` answers, for one row and for batches of 100.

    KERAS_BACKEND=tensorflow python examples/benchmark_serve.py

A PLE over 29 columns of strings and 10 of numbers, as many as Census-income has, is exported with
its encoder, the service is started on the loopback, and clients in processes of their own ask it
over connections that stay open.
"""

# %%
import argparse
import json
import multiprocessing
import socket
import subprocess
import sys
import tempfile
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np

# %%
SERVICE = Path(__file__).with_name("serve.py")


# %%
def export(path: Path, count: int) -> list[dict[str, Any]]:
    """Write the model, and return rows as JSON has them."""
    import pandas as pd

    from mtl.data import TableEncoder
    from mtl.models import PLE
    from mtl.serving import Pipeline

    rng = np.random.default_rng(0)
    strings = [f"string_{i}" for i in range(29)]
    numbers = [f"number_{i}" for i in range(10)]
    frame = pd.DataFrame(
        {name: [f"value {i}" for i in rng.integers(0, 30, 10_000)] for name in strings}
        | {name: rng.normal(size=10_000) for name in numbers}
    )
    encoder = TableEncoder(strings, numbers, encoding="piecewise_linear").fit(frame)
    model = PLE(encoder.feature_columns, task_names=["click", "buy"])
    Pipeline(encoder, model).export(path, format="onnx")
    return json.loads(frame[:count].to_json(orient="records"))


# %%
def ask(port: int, path: str, bodies: list[bytes], seconds: float) -> list[float]:
    """Ask for some seconds, and return how long each answer took."""
    connection = HTTPConnection("127.0.0.1", port)
    headers, times = {"content-type": "application/json"}, []
    end = time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        connection.request("POST", path, bodies[len(times) % len(bodies)], headers)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200
        times.append(time.perf_counter() - start)
    return times


# %%
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--seconds", type=float, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        model = Path(folder) / "model.onnx"
        rows = export(model, 1000)
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        server = subprocess.Popen([sys.executable, SERVICE, model, "--port", str(port)])
        try:
            wait_for(port)
            print("| rows of a request | clients | p50 (ms) | p99 (ms) | rows per second |")
            print("| ---: | ---: | ---: | ---: | ---: |")
            for size, path in ((1, "/score"), (100, "/scores")):
                parts = [rows[i : i + size] for i in range(0, len(rows), size)]
                bodies = [json.dumps(part[0] if size == 1 else part).encode() for part in parts]
                for clients in args.clients:
                    given = [(port, path, bodies, args.seconds)] * clients
                    with multiprocessing.get_context("spawn").Pool(clients) as pool:
                        pool.starmap(ask, [(*one[:3], 0.5) for one in given])
                        times = np.concatenate(pool.starmap(ask, given))
                    p50, p99 = np.quantile(times, [0.5, 0.99]) * 1000
                    rate = size * clients / times.mean()
                    print(f"| {size} | {clients} | {p50:.1f} | {p99:.1f} | {rate:,.0f} |")
        finally:
            server.terminate()
            server.wait()


# %%
def wait_for(port: int) -> None:
    """Return once the service answers."""
    with socket.socket() as client:
        while client.connect_ex(("127.0.0.1", port)):
            time.sleep(0.1)


# %%
if __name__ == "__main__":
    main()
