import os

import pytest

from mtl.data.files import atomic_path


def test_replaces_on_success(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert temporary.parent == tmp_path
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_leaves_nothing_on_failure(error, tmp_path):
    path = tmp_path / "file"

    def write_half() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        write_half()
    assert os.listdir(tmp_path) == []


def test_absent_folder(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "no" / "file") as temporary:
        temporary.write_text("new")
