"""Data files: found on disk or downloaded, and never used unverified."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import lzma
import os
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mtl.data.files import atomic_path

T = TypeVar("T")

_ROOT = Path(__file__).resolve().parents[2]
# Installed, that is site-packages, where nobody should put data.
_REPOSITORY = _ROOT / "data" if (_ROOT / "pyproject.toml").is_file() else None
_OPENERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".xz": lzma.decompress,
    ".gz": gzip.decompress,
}
_TIMEOUT = 30  # seconds without a byte
_CHUNK = 1 << 16  # bytes


@dataclass(frozen=True)
class DataFile:
    """A file of a public data set.

    Attributes:
        dataset: str. Name of the data set, and of the folder that its files lie in.
        name: str. Name of the uncompressed file.
        sha256: str. Checksum of the uncompressed bytes, in lower-case hexadecimal.
        url: str. Where to download it, plain or as .gz or .xz.
    """

    dataset: str
    name: str
    sha256: str
    url: str


def load_files(files: Sequence[DataFile], parse: Callable[[bytes], T]) -> list[T]:
    """Find or download files and parse their verified bytes, one thread per file.

    Unpacking, hashing and much of pandas' reader run outside Python's lock, so that a training
    and a test file are read side by side. Downloads run one after the other.

    Args:
        files: list of `DataFile`.
        parse: function from a file's uncompressed bytes to what is returned for it.

    Returns:
        A list with what `parse` returned for each file.

    Raises:
        OSError: a file could not be downloaded.
        ValueError: a file's checksum is wrong.
    """
    found = [find(file) for file in files]
    absent = [file for file, path in zip(files, found, strict=True) if path is None]
    paths = [path or download(file, absent) for file, path in zip(files, found, strict=True)]
    with ThreadPoolExecutor(len(files)) as pool:
        return list(pool.map(lambda file, path: parse(read_verified(file, path)), files, paths))


def find(file: DataFile) -> Path | None:
    """Return where a file lies on disk, plain or as .xz or .gz, or None.

    Looked at in this order: the repository's own `data/<dataset>/` (in a clone),
    `$MTL_DATA_HOME/<dataset>/`, and `<dataset>/` in the cache folder (see `cache_home`).
    """
    for folder in _folders(file):
        for suffix in _OPENERS:
            path = folder / (file.name + suffix)
            if path.is_file():
                return path
    return None


def download(file: DataFile, absent: Sequence[DataFile] = ()) -> Path:
    """Download a file to the cache folder, verify it, and return where it lies.

    Args:
        file: DataFile.
        absent: list of `DataFile`. Every file that is needed and isn't there, which an error
            names, so that one journey to a machine with a network is enough. Defaults to `file`.

    Raises:
        OSError: the server can't be reached, answers with an error or stops early, or the cache
            folder can't be written. Nothing is left behind, after an interrupt neither.
        ValueError: the downloaded file's checksum is wrong. Nothing is left behind.
    """
    target = cache_home() / file.dataset / file.url.rsplit("/", 1)[-1]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"The cache folder {cache_home()} can't be written: {error}. "
            "Set MTL_CACHE_HOME to a folder that can."
        ) from None
    try:
        with atomic_path(target) as temporary:
            _fetch(file.url, temporary)
            read_verified(file, temporary, suffix=target.suffix, origin=file.url)
    except (OSError, http.client.HTTPException) as error:
        urls = " and ".join(one.url for one in absent or [file])
        # Not from the error: what a socket said is in the message, and no more to be learnt.
        raise OSError(
            f"Could not download {file.name!r} of {file.dataset!r} from {file.url} to "
            f"{target.parent}: {_reason(error)}. Without a network, get {urls} elsewhere, and put "
            f"what you got into {home_of(file.dataset)}."
        ) from None
    return target


def read_verified(
    file: DataFile, path: Path, suffix: str | None = None, origin: str | None = None
) -> bytes:
    """Read a file, unpack it, and compare its checksum.

    Args:
        file: DataFile. What the file should be.
        path: Path. Where it lies.
        suffix: str or None. ".xz", ".gz" or "" (plain); None takes the path's own.
        origin: str or None. Where it came from, for the error message. Defaults to the path.

    Returns:
        The uncompressed bytes.

    Raises:
        ValueError: the file is damaged or another one.
    """
    opener = _OPENERS.get(path.suffix if suffix is None else suffix, bytes)
    try:
        content = opener(path.read_bytes())
        received = hashlib.sha256(content).hexdigest()
    except (lzma.LZMAError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        received = f"a file that can't be unpacked ({error})"
    if received != file.sha256:
        remedy = (
            f"Delete it: the file is then looked for in MTL_DATA_HOME and {cache_home()}, "
            "or downloaded"
            if origin is None
            else "Try again later, or get the file elsewhere and set MTL_DATA_HOME to its folder"
        )
        raise ValueError(
            f"{file.name!r} of {file.dataset!r} from {origin or path} should have the SHA-256 "
            f"checksum {file.sha256} (uncompressed). Received: {received}. {remedy}."
        )
    return content


def cache_home() -> Path:
    """Return the folder that downloads go to.

    `$MTL_CACHE_HOME` if it is set; else the subfolder "mtl" of `$XDG_CACHE_HOME` or `~/.cache`
    (Linux), `~/Library/Caches` (macOS) or `%LOCALAPPDATA%` (Windows).
    """
    if os.environ.get("MTL_CACHE_HOME"):
        return Path(os.environ["MTL_CACHE_HOME"]).expanduser()
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "mtl"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "mtl"
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG convention: a relative path counts as unset.
    return (base if base.is_absolute() else Path.home() / ".cache") / "mtl"


def _folders(file: DataFile) -> list[Path]:
    homes = [*([_REPOSITORY] if _REPOSITORY else []), _own_home(), cache_home()]
    return [home / file.dataset for home in homes if home]


def _own_home() -> Path | None:
    home = os.environ.get("MTL_DATA_HOME")
    return Path(home).expanduser() if home else None


def fetch_archive(url: str, target: Path) -> None:
    """Download a .tar.gz and unpack it as a folder, which is there whole or not at all.

    Args:
        url: str.
        target: Path. The folder to make, in one that may not exist yet; the archive's only folder
            has its name.

    Raises:
        OSError: the server can't be reached, answers with an error or stops early, what it sends
            is no such archive, or the folder can't be written. Nothing is left behind.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
            archive = Path(temporary) / "archive"
            _fetch(url, archive)
            with tarfile.open(archive, "r:gz") as content:
                content.extractall(temporary, filter="data")
            os.replace(Path(temporary) / target.name, target)
    except (OSError, EOFError, http.client.HTTPException, tarfile.TarError, zlib.error) as error:
        raise OSError(
            f"Could not download {url} to {target}: {_reason(error)}. Without a network, get it "
            f"elsewhere, and unpack it into {target.parent}."
        ) from None


def home_of(dataset: str) -> Path:
    """Return where a user should put a data set: where the environment says, or where we would."""
    return (_own_home() or cache_home()) / dataset


def _reason(error: Exception) -> Any:
    """Return why a download failed; the answer of a server is closed."""
    if isinstance(error, urllib.error.HTTPError):
        error.close()
    return getattr(error, "reason", None) or error or type(error).__name__


def _fetch(url: str, path: Path) -> None:
    with urllib.request.urlopen(url, timeout=_TIMEOUT) as response, path.open("xb") as out:
        size = int(response.headers.get("Content-Length") or 0)
        received = 0
        while chunk := response.read(_CHUNK):
            out.write(chunk)
            received += len(chunk)
            _show_progress(url.rsplit("/", 1)[-1], received, size)
    # read(n) doesn't raise when a connection closes early.
    if received < size:
        raise OSError(f"the connection closed after {received} of {size} bytes")


def _show_progress(name: str, received: int, size: int) -> None:
    if not sys.stderr.isatty():
        return
    done = f"{100 * received // size:3d} %" if size else "     "
    end = "\n" if received == size else ""
    sys.stderr.write(f"\rDownloading {name}: {done} {received / 1e6:8.1f} MB{end}")
    sys.stderr.flush()
