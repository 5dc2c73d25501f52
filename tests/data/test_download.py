import gzip
import hashlib
import http.server
import lzma
import os
import shutil
import subprocess
import sys
import threading
import traceback
from pathlib import Path

import pytest

import mtl
from mtl.data import download as module
from mtl.data.download import DataFile, cache_home, download, find, load_files, read_verified

CONTENT = b"1, 2, 3\n" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        packed = gzip.compress(CONTENT)
        body, size, status = {
            "/good.csv": (CONTENT, len(CONTENT), 200),
            "/good.csv.gz": (packed, len(packed), 200),
            "/other.csv": (b"something else", 14, 200),
            "/damaged.csv.gz": (packed[:-20], len(packed) - 20, 200),
            "/truncated.csv": (CONTENT[:100], len(CONTENT), 200),
        }.get(self.path, (b"", 0, 404))
        self.send_response(status)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """Keep the tests off this machine's folders, and off a proxy."""
    monkeypatch.setenv("MTL_DATA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MTL_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "_REPOSITORY", tmp_path / "repository")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def data_file(url="http://127.0.0.1:1/never"):
    return DataFile("toy", "good.csv", SHA256, url)


def files_below(folder):
    return sorted(p.name for p in folder.rglob("*") if p.is_file())


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", ["good.csv", "good.csv.gz"])
def test_download_to_the_cache_once(server, name, tmp_path, monkeypatch):
    file = data_file(f"{server}/{name}")
    assert load_files([file], bytes) == [CONTENT]
    assert files_below(tmp_path) == [name]
    assert find(file) == tmp_path / "cache" / "toy" / name
    monkeypatch.setattr(module, "download", None)  # a second download would fail
    assert load_files([file, file], len) == [len(CONTENT)] * 2


def test_wrong_checksum_of_a_download_leaves_nothing(server, tmp_path):
    received = hashlib.sha256(b"something else").hexdigest()
    with pytest.raises(
        ValueError,
        match=rf"'good.csv' of 'toy' from {server}/other.csv should have the SHA-256 checksum "
        rf"{SHA256} \(uncompressed\)\. Received: {received}\. Try again later",
    ):
        download(data_file(f"{server}/other.csv"))
    assert files_below(tmp_path) == []


def test_damaged_archive_leaves_nothing(server, tmp_path):
    with pytest.raises(ValueError, match="Received: a file that can't be unpacked"):
        download(data_file(f"{server}/damaged.csv.gz"))
    assert files_below(tmp_path) == []


def test_truncated_download_leaves_nothing(server, tmp_path):
    with pytest.raises(OSError, match=r"the connection closed after 100 of 8000 bytes\. Without"):
        download(data_file(f"{server}/truncated.csv"))
    assert files_below(tmp_path) == []


def test_error_of_the_server_says_what_to_do(server, tmp_path, monkeypatch):
    url = f"{server}/absent.csv"
    message = f"Could not download 'good.csv' of 'toy' from {url} to {tmp_path / 'cache' / 'toy'}: "
    advice = f". Without a network, get {url} elsewhere, and put what you got into "
    with pytest.raises(OSError, match="Not Found") as info:
        download(data_file(url))
    assert str(info.value) == f"{message}Not Found{advice}{tmp_path / 'home' / 'toy'}."
    assert files_below(tmp_path) == []
    monkeypatch.delenv("MTL_DATA_HOME")
    with pytest.raises(OSError, match="Not Found") as info:
        download(data_file(url))
    assert str(info.value).endswith(f"put what you got into {tmp_path / 'cache' / 'toy'}.")


def test_what_is_put_where_the_error_says_is_found(tmp_path):
    file = data_file()
    with pytest.raises(OSError, match="Could not download") as info:
        load_files([file], bytes)
    folder = Path(str(info.value).rsplit(" into ", 1)[1].removesuffix("."))
    put(folder / "good.csv.gz", gzip.compress(CONTENT))
    assert load_files([file], bytes) == [CONTENT]


def test_no_server_is_one_error_that_names_every_absent_file(tmp_path):
    files = [data_file(f"http://127.0.0.1:1/{name}") for name in ("a.gz", "b.gz")]
    with pytest.raises(OSError, match=r"Could not download 'good.csv' of 'toy' from http") as info:
        load_files(files, bytes)
    assert f"get {files[0].url} and {files[1].url} elsewhere" in str(info.value)
    shown = "".join(traceback.format_exception(info.value))
    assert shown.count("Traceback") == 1
    assert files_below(tmp_path) == []


OFFLINE = """
import socket
def refuse(*args, **kwargs):
    raise OSError("no network in this test")
socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
from mtl.data import load_census_income
load_census_income()
"""


@pytest.mark.slow
def test_an_installed_package_without_network_has_one_error_and_one_advice(tmp_path):
    site = tmp_path / "site-packages"
    shutil.copytree(Path(mtl.__file__).parent, site / "mtl")
    unset = {name: v for name, v in os.environ.items() if name != "MTL_DATA_HOME"}
    result = subprocess.run(
        [sys.executable, "-c", OFFLINE],
        capture_output=True,
        text=True,
        env={**unset, "PYTHONPATH": str(site), "TF_CPP_MIN_LOG_LEVEL": "3"},
        cwd=tmp_path,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.count("Traceback") == 1
    message = result.stderr.splitlines()[-1]
    assert message.startswith("OSError: Could not download 'census-income.data'")
    assert message.endswith(f"put what you got into {tmp_path / 'cache' / 'census-income'}.")
    assert "census-income.test.gz elsewhere" in message
    assert "site-packages" not in message


def test_interrupt_leaves_nothing(server, tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_show_progress", interrupt)
    with pytest.raises(KeyboardInterrupt):
        download(data_file(f"{server}/good.csv"))
    assert files_below(tmp_path) == []


def test_cache_that_is_no_folder(server, tmp_path):
    put(tmp_path / "cache", b"a file")
    with pytest.raises(OSError, match=r"cache can't be written: .*Set MTL_CACHE_HOME to a folder"):
        download(data_file(f"{server}/good.csv"))


def test_search_order(tmp_path):
    file = data_file()
    assert find(file) is None
    for folder in ("cache", "home", "repository"):
        for suffix, pack in ((".gz", gzip.compress), (".xz", lzma.compress), ("", bytes)):
            path = put(tmp_path / folder / "toy" / f"good.csv{suffix}", pack(CONTENT))
            assert find(file) == path
            assert read_verified(file, path) == CONTENT


def test_unset_data_home(tmp_path, monkeypatch):
    put(tmp_path / "home" / "toy" / "good.csv", CONTENT)
    monkeypatch.setenv("MTL_DATA_HOME", "")
    assert find(data_file()) is None


@pytest.mark.parametrize("suffix", ["", ".xz", ".gz"])
def test_bad_file_on_disk_is_refused(suffix, tmp_path):
    path = put(tmp_path / "home" / "toy" / f"good.csv{suffix}", b"not this")
    received = "can't be unpacked" if suffix else hashlib.sha256(b"not this").hexdigest()
    with pytest.raises(ValueError, match="should have the SHA-256 checksum") as info:
        load_files([data_file()], bytes)
    for expected in (f"from {path} ", SHA256, received, "Delete it", "MTL_DATA_HOME"):
        assert expected in str(info.value)


def test_truncated_file_on_disk_is_refused(tmp_path):
    put(tmp_path / "home" / "toy" / "good.csv.xz", lzma.compress(CONTENT)[:-10])
    with pytest.raises(ValueError, match="can't be unpacked"):
        load_files([data_file()], bytes)


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {"XDG_CACHE_HOME": ""}, "/me/.cache/mtl"),
        ("linux", {"XDG_CACHE_HOME": "/x/cache"}, "/x/cache/mtl"),
        ("linux", {"XDG_CACHE_HOME": "relative"}, "/me/.cache/mtl"),
        ("darwin", {}, "/me/Library/Caches/mtl"),
        ("win32", {"LOCALAPPDATA": "/me/Local"}, "/me/Local/mtl"),
        ("win32", {"LOCALAPPDATA": ""}, "/me/AppData/Local/mtl"),
        ("linux", {"MTL_CACHE_HOME": "/own"}, "/own"),
    ],
)
def test_cache_home(platform, variables, expected, monkeypatch):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: Path("/me"))
    for name, value in ({"MTL_CACHE_HOME": ""} | variables).items():
        monkeypatch.setenv(name, value)
    assert cache_home() == Path(expected)


def test_progress_is_shown_on_a_terminal_only(server, monkeypatch, capsys):
    download(data_file(f"{server}/good.csv"))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    module._show_progress("good.csv", 4_000_000, 8_000_000)
    module._show_progress("good.csv", 8_000_000, 8_000_000)
    shown = capsys.readouterr().err
    assert shown == (
        "\rDownloading good.csv:  50 %      4.0 MB\rDownloading good.csv: 100 %      8.0 MB\n"
    )
