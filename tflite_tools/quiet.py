"""Silence for native code that prints to the process's own output and cannot be told otherwise."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator

# File descriptors belong to the whole process: two threads must not save and restore them crosswise.
_LOCK = threading.RLock()


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Drops what is written to standard output and standard error, by Python or by C++, inside the block.

    The converter and the interpreter write notes with `fprintf`, before any logging option is read.
    Exceptions pass through unchanged. Output of other threads is dropped as well while the block runs.
    """
    with _LOCK, open(os.devnull, "w") as sink, contextlib.ExitStack() as stack:
        for descriptor, stream in ((1, sys.stdout), (2, sys.stderr)):
            with contextlib.suppress(AttributeError, OSError, ValueError):
                stream.flush()
            with contextlib.suppress(OSError):  # a daemon may run with its descriptors closed
                saved = os.dup(descriptor)
                stack.callback(_restore, saved, descriptor)
                os.dup2(sink.fileno(), descriptor)
        stack.enter_context(contextlib.redirect_stdout(sink))
        stack.enter_context(contextlib.redirect_stderr(sink))
        yield


def _restore(saved: int, descriptor: int) -> None:
    os.dup2(saved, descriptor)
    os.close(saved)
