"""Names that every backend and export format accepts."""

from __future__ import annotations

import re
from collections.abc import Collection


def safe_name(name: str, prefix: str) -> str:
    """Return `name` made safe for layers, outputs, logs and exported files.

    Spaces and punctuation become "_", letters beyond ASCII their code point ("点" is "u70b9").

    Args:
        name: str. Any name.
        prefix: str. What to put before a name that doesn't start with a letter or digit.

    Returns:
        A name of ASCII letters, digits, "_" and "-", for torch refuses "."; `name` itself if it
        is one.
    """
    coded = re.sub(r"[^\x00-\x7f]", lambda match: f"u{ord(match[0]):x}", name)
    safe = re.sub(r"[^A-Za-z0-9_-]", "_", coded)
    return safe if re.match(r"[A-Za-z0-9]", safe) else f"{prefix}{safe}"


def distinct(name: str, taken: Collection[str]) -> str:
    """Return `name`, with as many "_" after it as make it differ from those that are taken."""
    while name in taken:
        name += "_"
    return name
