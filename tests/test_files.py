"""Files are written whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from keras_qcqp.errors import FileError
from keras_qcqp.files import check_writable, replacing, write_text


def names(folder) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_text_is_written_as_utf8_and_nothing_else_is_left(tmp_path):
    write_text(tmp_path / "a.txt", "größer ✓")
    assert (tmp_path / "a.txt").read_bytes() == "größer ✓".encode()
    assert names(tmp_path) == ["a.txt"]


def test_an_old_file_is_replaced(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    write_text(str(target), "new")
    assert target.read_text() == "new"


@pytest.mark.parametrize("failure", [RuntimeError("stop"), KeyboardInterrupt()])
def test_a_failure_in_the_block_keeps_the_old_file(tmp_path, failure):
    """The failure itself comes through unchanged."""
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(type(failure)), replacing(target) as temporary:
        temporary.write_text("half")
        raise failure
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_failure_without_an_old_file_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert names(tmp_path) == []


def test_a_full_disk_is_a_file_error(tmp_path):
    target = tmp_path / "a.txt"
    with pytest.raises(FileError) as caught, replacing(target):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert str(caught.value) == f"Cannot write '{target}': No space left on device."
    assert names(tmp_path) == []


def test_the_target_is_untouched_until_the_block_ends(tmp_path):
    """Readers see the old file while the new one grows, in the same directory and with the same suffix."""
    target = tmp_path / "a.keras"
    target.write_text("old")
    with replacing(target) as temporary:
        temporary.write_text("new")
        assert (temporary.suffix, temporary.parent) == (".keras", tmp_path)
        assert target.read_text() == "old"
    assert target.read_text() == "new"


def test_permissions_follow_the_umask_not_the_temporary_file(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "x")
        assert os.umask(0o027) == 0o027, "the umask itself is left alone"
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640


def test_a_missing_directory_is_named(tmp_path):
    target = tmp_path / "no" / "a.txt"
    for attempt in (lambda: check_writable(target), lambda: write_text(target, "x")):
        with pytest.raises(FileError) as caught:
            attempt()
        assert str(caught.value) == (
            f"Cannot write '{target}': the directory '{target.parent}' does not exist. Create it first."
        )


def test_a_directory_is_no_target(tmp_path):
    with pytest.raises(FileError) as caught:
        check_writable(tmp_path)
    assert str(caught.value) == f"Cannot write '{tmp_path}': it is a directory. Give a file name."


def test_a_closed_directory_is_no_place(tmp_path):
    """Permission bits where they count; `/proc` refuses even root."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    folder = closed if os.getuid() else Path("/proc")
    if not folder.is_dir():
        pytest.skip("no directory that is closed to this user")
    for attempt in (lambda: check_writable(folder / "a.txt"), lambda: write_text(folder / "a.txt", "x")):
        with pytest.raises(FileError) as caught:
            attempt()
        assert str(caught.value).startswith(
            f"Cannot write '{folder / 'a.txt'}': no file can be created in '{folder}' ("
        )


def test_asking_whether_a_file_can_be_written_leaves_nothing(tmp_path):
    target = tmp_path / "a.txt"
    check_writable(target)
    assert names(tmp_path) == []
    target.write_text("old")
    check_writable(target)
    assert target.read_text() == "old"


def test_file_errors_are_os_errors_too(tmp_path):
    """Code that guards its files with `except OSError` keeps working."""
    with pytest.raises(OSError, match="Create it first"):
        write_text(tmp_path / "no" / "a.txt", "x")


def test_a_name_without_directory_is_written_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_text("a.txt", "x")
    assert names(tmp_path) == ["a.txt"]
