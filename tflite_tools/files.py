"""Output files that are either complete or absent, whatever interrupts the writing."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from tflite_tools.errors import OutputFileError


def check_writable(path: str | os.PathLike[str]) -> Path:
    """Finds out before hours of work whether `path` can be written; symbolic links are followed.

    Raises:
        OutputFileError: the directory is missing or not writable, or `path` is itself a directory.
    """
    target = Path(os.path.realpath(path))
    folder = target.parent
    if not folder.is_dir():
        raise OutputFileError(f"Cannot write '{path}': the directory '{folder}' does not exist. Create it first.")
    if target.is_dir():
        raise OutputFileError(f"Cannot write '{path}': it is a directory. Give a file name inside it.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputFileError(f"Cannot write '{path}': no permission to create files in '{folder}'. Choose another.")
    return target


def write_bytes(path: str | os.PathLike[str], data: bytes) -> Path:
    """Replaces `path` in one step, so that a reader sees the old content or the new one, never a part.

    Raises:
        OutputFileError: the place is not writable or the disk is full; nothing is left behind then.
    """
    target = check_writable(path)
    # Same directory, because only a rename within one file system is atomic.
    partial = target.with_name(f".{target.name}.{secrets.token_hex(6)}.partial")
    try:
        with open(partial, "xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, target)
    except OSError as error:
        raise OutputFileError(f"Cannot write '{path}': {error.strerror or error}. No file was changed.") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()
    return target


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Like `write_bytes`, in UTF-8 and with line ends left as they are."""
    return write_bytes(path, text.encode("utf-8"))
