"""Writing a file so that it is there whole or not at all."""

from __future__ import annotations

import os
import shutil
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


@contextmanager
def atomic_folder(path: Path, sign: str) -> Iterator[Path]:
    """Yield a new, empty folder that becomes `path` if the block succeeds.

    An older folder of its kind gives way at the end: until then, and on every failure, it stays.
    Only between two renames, a kill leaves neither; both then lie beside, under hidden names.

    Args:
        path: Path. The folder to write. Folders that it lies in are made.
        sign: str. The file that tells a folder of this kind, which may be replaced.

    Yields:
        Path. Where to write.

    Raises:
        ValueError: something else is at `path`.
    """
    empty = path.is_dir() and not any(path.iterdir())
    if path.exists() and not empty and not (path / sign).is_file():
        raise ValueError(
            f"{str(path)!r} should be new, or an older folder with {sign}, which is replaced. "
            "Received: something else"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = f".{path.name}.{uuid.uuid4().hex}"
    temporary, older = path.with_name(f"{hidden}.tmp"), path.with_name(f"{hidden}.old")
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            os.replace(path, older)
        try:
            os.replace(temporary, path)
        except BaseException:
            if older.exists():
                os.replace(older, path)
            raise
        shutil.rmtree(older, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
