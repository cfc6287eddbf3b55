"""Ctrl-C between two batches instead of anywhere inside a framework."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def asked_to_stop(stop: Callable[[], None]) -> Iterator[None]:
    """Inside the block the first Ctrl-C calls `stop`; a second one raises KeyboardInterrupt wherever it comes.

    An exception in the middle of Keras' thread pool for JAX callbacks was seen to leave a process that never ends.
    Handlers of the user's own, and other threads, which Python does not interrupt, are left alone.
    """
    before = signal.getsignal(signal.SIGINT)
    ours = before is signal.default_int_handler and threading.current_thread() is threading.main_thread()
    if not ours:
        yield
        return

    def ask(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, before)
        stop()

    signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
