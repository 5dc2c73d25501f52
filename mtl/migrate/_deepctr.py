"""The import of deepctr."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


def import_columns() -> Any:
    """Import `deepctr.feature_column` without the request that `import deepctr` sends.

    deepctr asks the package index for its latest version from a thread without a time-out,
    which prints when it fails and can hold up the exit of a process. The module with that
    request is replaced while deepctr is imported, and restored for whoever wants it later.
    """
    if "deepctr" in sys.modules:
        return importlib.import_module("deepctr.feature_column")
    silent = ModuleType("deepctr.utils")
    silent.check_version = lambda version: None  # type: ignore[attr-defined]
    sys.modules["deepctr.utils"] = silent
    try:
        return importlib.import_module("deepctr.feature_column")
    finally:
        del sys.modules["deepctr.utils"]
