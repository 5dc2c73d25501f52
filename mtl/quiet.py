"""What TensorFlow logs while it is loaded, for those who set TF_CPP_MIN_LOG_LEVEL=3.

TensorFlow logs some lines before it looks at its log level, from constructors of its libraries, and
no environment variable keeps them back: at the level of fatal errors there are still six in 2.21.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
# Lines of absl and of older releases' logs, of any severity but fatal.
_LOGGED = re.compile(
    rb"[IWE]\d{4} |\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [IWE] "
    rb"|WARNING: All log messages before absl::InitializeLog|To enable the following instructions: "
)


def set_level_of_command() -> None:
    """Set TensorFlow's log level, unless the user has, where `python -m mtl.…` begins.

    The package is imported before the command's own file, and TensorFlow with it.
    """
    begun = sys.orig_argv[1:]
    named = begun[begun.index("-m") + 1 :] if "-m" in begun else []
    # While the module is being located, sys.argv[0] is "-m".
    if sys.argv[:1] == ["-m"] and named and named[0].startswith("mtl."):
        os.environ.setdefault(_LEVEL, "3")


def install() -> None:
    """Keep back what TensorFlow logs while it is loaded, if its log level is that of fatal errors.

    On other backends Keras loads it late, where it first needs it: hence a hook of its import.
    """
    if os.environ.get(_LEVEL) == "3" and "tensorflow" not in sys.modules:
        sys.meta_path.insert(0, _Finder())


class _Finder:
    """Finds TensorFlow as Python would, and loads it with its log held back."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != "tensorflow":
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:  # whoever asks only whether it is installed doesn't load it
            sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def quietly(module: Any) -> None:
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                with _held_back():
                    execute(module)

            spec.loader.exec_module = quietly  # type: ignore[method-assign]
        return spec


@contextmanager
def _held_back() -> Iterator[None]:
    """Drop the lines of a log that the block writes; others come after the block."""
    try:
        error = os.dup(2)
    except OSError:  # a process without a standard error
        yield
        return
    with tempfile.TemporaryFile() as held:
        try:
            os.dup2(held.fileno(), 2)
            yield
        finally:
            if sys.stderr is not None:
                sys.stderr.flush()
            os.dup2(error, 2)
            os.close(error)
            held.seek(0)
            for line in held:
                if not _LOGGED.match(line):
                    os.write(2, line)
