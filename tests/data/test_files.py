import os

import pytest

from mtl.data.files import atomic_folder, atomic_path


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


def write(path, content):
    with atomic_folder(path, "sign") as temporary:
        (temporary / "sign").write_text(content)


def test_a_folder_gives_way_to_a_whole_one_of_its_kind(tmp_path, monkeypatch):
    path = tmp_path / "new" / "folder"
    write(path, "1")
    write(path, "2")
    replace = os.replace

    def fail(source, target):
        if str(source).endswith(".tmp"):
            raise OSError("no space left")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        write(path, "3")
    assert (path / "sign").read_text() == "2"
    assert os.listdir(path.parent) == ["folder"]


def test_another_folder_stays(tmp_path):
    (tmp_path / "mine").mkdir()
    write(tmp_path / "mine", "1")  # it was empty
    (tmp_path / "mine" / "sign").rename(tmp_path / "mine" / "notes")
    with pytest.raises(ValueError, match="should be new, or an older folder with sign"):
        write(tmp_path / "mine", "2")
    assert os.listdir(tmp_path) == ["mine"]
    assert os.listdir(tmp_path / "mine") == ["notes"]
