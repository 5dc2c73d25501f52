"""What command lines share."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtl.data.files import atomic_path


def positive(text: str) -> int:
    """Return a positive integer of a command line, or raise argparse's error."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"should be a positive integer. Received: {text}")
    return value


def check_folder(option: str, path: Path | None) -> None:
    """Raise a FileNotFoundError if a file that is to be written, if any, has no folder."""
    if path and not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"`{option}` should be in an existing folder. Received: {path}")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file of JSON, whole or not at all; what is no JSON, such as a path, as text."""
    with atomic_path(path) as part:
        part.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
