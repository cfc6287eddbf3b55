"""Output files are complete or absent."""

import os
import stat

import pytest

from tflite_tools import files
from tflite_tools.errors import OutputFileError


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "a.bin"
    assert files.write_bytes(path, b"one") == path
    files.write_bytes(str(path), b"two")
    assert path.read_bytes() == b"two"
    assert [item.name for item in tmp_path.iterdir()] == ["a.bin"]


def test_text_is_utf8_with_its_own_line_ends(tmp_path):
    files.write_text(tmp_path / "a.txt", "µs\r\n")
    assert (tmp_path / "a.txt").read_bytes() == b"\xc2\xb5s\r\n"


def test_new_files_get_the_usual_permissions(tmp_path):
    (tmp_path / "usual").touch()
    files.write_bytes(tmp_path / "ours", b"")
    usual, ours = (stat.S_IMODE(os.stat(tmp_path / name).st_mode) for name in ("usual", "ours"))
    assert ours == usual


def test_links_are_followed(tmp_path):
    target = tmp_path / "target"
    target.write_bytes(b"old")
    (tmp_path / "link").symlink_to(target)
    files.write_bytes(tmp_path / "link", b"new")
    assert target.read_bytes() == b"new"
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, step, full)
    with pytest.raises(OutputFileError, match="a.bin': No space left on device. No file was changed."):
        files.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["a.bin"]


def test_an_interrupt_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write_bytes(tmp_path / "a.bin", b"new")
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written(tmp_path, monkeypatch):
    with pytest.raises(OutputFileError, match="the directory '.*none' does not exist. Create it first."):
        files.check_writable(tmp_path / "none" / "a.bin")
    with pytest.raises(OutputFileError, match="it is a directory. Give a file name inside it."):
        files.check_writable(tmp_path)
    monkeypatch.setattr(files.os, "access", lambda *_: False)  # a superuser may write anywhere
    with pytest.raises(OutputFileError, match="no permission to create files in"):
        files.check_writable(tmp_path / "a.bin")
