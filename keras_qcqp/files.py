"""Files are written whole or not at all: a temporary file beside the target, then a rename."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from keras_qcqp.errors import FileError


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path with the target's suffix; renames it onto `path` only if the block succeeds.

    Raises:
        FileError: the directory does not exist or cannot be written, or the disk is full.
    """
    target = Path(path)
    check_writable(target)
    temporary = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.stem}-", suffix=target.suffix, dir=target.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
    except OSError as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"Cannot write '{target}': {error.strerror or error}.") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes UTF-8 text to `path` atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_writable(path: str | os.PathLike[str]) -> None:
    """Refuses a target that could not be written later, before any long work is done.

    Raises:
        FileError: names the directory that is missing or closed, or the directory given where a file is wanted.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise FileError(f"Cannot write '{target}': the directory '{target.parent}' does not exist. Create it first.")
    if target.is_dir():
        raise FileError(f"Cannot write '{target}': it is a directory. Give a file name.")
    try:
        with tempfile.NamedTemporaryFile(prefix=f".{target.stem}-", dir=target.parent):
            pass  # permission bits do not tell of read-only disks, and mean nothing to root
    except OSError as error:
        reason = error.strerror or error
        raise FileError(f"Cannot write '{target}': no file can be created in '{target.parent}' ({reason}).") from error


def _umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value
