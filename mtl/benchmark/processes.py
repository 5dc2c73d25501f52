"""Measurements that each run in a process of their own, in turns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

MARK = "measured: "


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
        The reported dict and `peak_mib`, the peak of the process' resident memory; or
        `{"error": …}` with the last line of the script's messages, e.g. where memory was not
        enough.
    """
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as messages:
        process = subprocess.Popen(
            [python, *command],
            env={**os.environ, **environment},
            stdout=output,
            stderr=messages,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        messages.seek(0)
        for line in reversed(output.read().splitlines()):
            if line.startswith(MARK):
                peak = usage.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
                return {**json.loads(line.removeprefix(MARK)), "peak_mib": round(peak, 1)}
        said = messages.read().strip().splitlines()
        return {"error": said[-1] if said else f"exit status {process.returncode}"}


def report(**values: Any) -> None:
    """Print what this process measured, for `measure` to read."""
    print(MARK + json.dumps(values), flush=True)


def in_turns(cases: Sequence[Any], repeats: int) -> Iterable[tuple[int, Any]]:
    """Yield `(repeat, case)`, A B A B: what slows the machine for a while slows them all."""
    for repeat in range(repeats):
        for case in cases:
            yield repeat, case
