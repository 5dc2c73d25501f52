"""Writing a file so that it is there whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path that becomes `path` if the block succeeds.

    The temporary file lies in the same folder, because `os.replace` is atomic within one file
    system only. It is removed on every failure, an interrupt included; `path` then stays as it
    was. Two processes that write the same path don't meet: the last one to finish wins.

    Args:
        path: Path. The file to write, in a folder that exists.

    Yields:
        Path. Where to write.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
