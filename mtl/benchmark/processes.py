"""Measurements that each run in a process of their own, in turns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

# Standard library only: the environment of a peer runs this file without mtl.

_MARK = "measured: "
_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONWARNINGS": "ignore"}
# Module: distribution.
_PACKAGES = {
    "mtl": "keras-mtl",
    "keras": "keras",
    "tensorflow": "tensorflow",
    "jax": "jax",
    "torch": "torch",
    "deepctr": "deepctr",
    "torch_rechub": "torch-rechub",
    "lightgbm": "lightgbm",
    "numpy": "numpy",
}


def measure(
    command: Sequence[str], environment: Mapping[str, str], python: str = sys.executable
) -> dict[str, Any]:
    """Run a Python script that calls `report`, and return what it reported.

    Args:
        command: list of str. The script's path and its arguments.
        environment: dict of environment variables to set, such as KERAS_BACKEND.
        python: str. The interpreter, e.g. of an environment that holds a peer. Defaults to this
            one.

    Returns:
        The reported dict; or `{"error": …}` with the last line of the script's messages, e.g.
        where memory was not enough.
    """
    done = subprocess.run(
        [python, *command],
        env={**os.environ, **_QUIET, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    for line in reversed(done.stdout.splitlines()):
        if line.startswith(_MARK):
            return dict(json.loads(line.removeprefix(_MARK)))
    messages = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    return {"error": messages[-1]}


def report(**values: Any) -> None:
    """Print what this process measured, with its peak memory and versions, for `measure`."""
    facts = {"peak_mib": peak_mib(), "versions": versions()}
    print(_MARK + json.dumps({**values, **facts}), flush=True)


def versions() -> dict[str, str]:
    """Return the versions of the packages that this process has imported."""
    return {name: version(name) for module, name in _PACKAGES.items() if module in sys.modules}


def peak_mib() -> float:
    """Return the peak of this process' resident memory, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # rusage would count the process that started this one
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return round(int(lines["VmHWM"].split()[0]) / 1024, 1)
    import resource

    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20), 1)


def in_turns(cases: Sequence[Any], repeats: int) -> Iterable[tuple[int, Any]]:
    """Yield `(repeat, case)`, A B A B: what slows the machine for a while slows them all."""
    for repeat in range(repeats):
        for case in cases:
            yield repeat, case
