"""Programs whose output is data from elsewhere: limits on time and size, no shell."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO

_CHUNK = 65536


class TooSlowError(Exception):
    """The program took longer than it may."""


class TooMuchError(Exception):
    """The program wrote more than it may."""


@dataclass(frozen=True)
class Finished:
    """How a program ended and what it wrote, each stream up to the limit."""

    status: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Both streams; bytes that are no UTF-8 are replaced."""
        return (self.stdout + b"\n" + self.stderr).decode("utf-8", "replace")


def run_bounded(
    command: Sequence[str], seconds: float, limit: int, env: Mapping[str, str] | None = None, cwd: str | None = None
) -> Finished:
    """Runs a program with an argument list and reads at most `limit` bytes of each stream.

    Raises:
        TooSlowError, TooMuchError: it was killed.
        OSError: it cannot be started.
    """
    process = subprocess.Popen(
        list(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, cwd=cwd
    )
    assert process.stdout and process.stderr
    readers = [_Reader(stream, limit, process) for stream in (process.stdout, process.stderr)]
    try:
        for reader in readers:
            reader.start()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise TooSlowError(f"no answer in {seconds:g} s") from None
        for reader in readers:
            reader.join(5)  # a daemon that was started may hold the pipe open
    finally:
        process.kill()
        process.wait()
    if any(reader.too_much for reader in readers):
        raise TooMuchError(f"more than {limit:,} bytes of output")
    return Finished(process.returncode, *(bytes(reader.data) for reader in readers))


class _Reader(threading.Thread):
    def __init__(self, stream: IO[bytes], limit: int, process: subprocess.Popen[bytes]) -> None:
        super().__init__(daemon=True)
        self._stream, self._limit, self._process = stream, limit, process
        self.data, self.too_much = bytearray(), False

    def run(self) -> None:
        with self._stream:
            while chunk := self._stream.read1(_CHUNK):  # type: ignore[attr-defined]
                if len(self.data) + len(chunk) > self._limit:
                    self.too_much = True
                    self._process.kill()
                    return
                self.data += chunk
