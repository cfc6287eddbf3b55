"""The device's end of adb on a loopback port, so that a real adb client and server work without a phone.

Knows what the package needs of the protocol: packets of 24 bytes and a payload; `shell` in both versions, `exec`; of
`sync` STAT, SEND and RECV. Commands run in this computer's /bin/sh with /data/local/tmp below a directory, and with
programs such as `getprop` from <directory>/bin first in the PATH. It can be told to fail as real devices do.

Source: `protocol.txt`, `SYNC.TXT` and `SERVICES.TXT` of Android's packages/modules/adb.
"""

from __future__ import annotations

import os
import queue
import socket
import struct
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path

TMP = "/data/local/tmp"
_VERSION, _LARGEST = 0x01000001, 1 << 16
_SHELL_STDOUT, _SHELL_STDERR, _SHELL_EXIT = 1, 2, 3


@dataclass
class Phone:
    """What the peer pretends to be.

    Attributes:
        authorised: whether somebody has accepted the computer's key.
        free_bytes: files larger than this do not fit.
        lost_after_bytes: the cable is pulled when so much has arrived; None for never.
        lost_at: the same when a command contains this text.
        is_old: Android 6 or older: a command's status is not handed on.
        damages: pushed files arrive with another first byte.
    """

    root: Path
    authorised: bool = True
    free_bytes: int | None = None
    lost_after_bytes: int | None = None
    lost_at: str = ""
    is_old: bool = False
    damages: bool = False
    commands: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.root / TMP[1:]).mkdir(parents=True)
        (self.root / "bin").mkdir()

    def program(self, name: str, script: str) -> None:
        path = self.root / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def local(self, path: str) -> Path:
        return Path(os.path.normpath(f"{self.root}/{path}"))

    def left_behind(self) -> list[str]:
        return sorted(os.listdir(self.root / TMP[1:]))


class PulledError(Exception):
    """The connection is gone."""


class AdbPeer:
    """Listens from `start` to `close`; adb connects to `serial`."""

    def __init__(self, phone: Phone) -> None:
        self._phone = phone
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.serial = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def start(self) -> AdbPeer:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=_Link(connection, self._phone).serve, daemon=True).start()


class _Link:
    """One connection; packets go to the streams they name."""

    def __init__(self, connection: socket.socket, phone: Phone) -> None:
        self._socket, self.phone = connection, phone
        self._file = connection.makefile("rb")
        self._sending, self._streams, self._arrived = threading.Lock(), {}, 0

    def send(self, command: bytes, first: int, second: int, data: bytes = b"") -> None:
        word = int.from_bytes(command, "little")
        head = struct.pack("<6I", word, first, second, len(data), sum(data) & 0xFFFFFFFF, word ^ 0xFFFFFFFF)
        with self._sending:
            try:
                self._socket.sendall(head + data)
            except OSError as error:
                raise PulledError from error

    def pull_the_cable(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        raise PulledError

    def serve(self) -> None:
        try:
            while len(head := self._file.read(24)) == 24:
                command, first, second, length = head[:4], *struct.unpack("<3I", head[4:16])
                data = self._file.read(length)
                self._arrived += length
                limit = self.phone.lost_after_bytes
                if limit is not None and self._arrived > limit:
                    self.pull_the_cable()
                self._handle(command, first, second, data)
        except (OSError, PulledError, ValueError):
            pass
        finally:
            for stream in list(self._streams.values()):
                stream.arrived.put(None)
                stream.acknowledged.release()
            self._socket.close()

    def _handle(self, command: bytes, first: int, second: int, data: bytes) -> None:
        if command in (b"CNXN", b"AUTH"):
            if not self.phone.authorised:
                self.send(b"AUTH", 1, 0, bytes(20))  # whatever is signed, it is not enough
                return
            features = "cmd" if self.phone.is_old else "shell_v2,cmd"
            banner = f"device::ro.product.name=peer;ro.product.model=Peer;ro.product.device=peer;features={features}"
            self.send(b"CNXN", _VERSION, _LARGEST, banner.encode())
        elif command == b"OPEN":
            number = len(self._streams) + 1
            stream = self._streams[number] = _Stream(self, number, first, data.rstrip(b"\0").decode())
            self.send(b"OKAY", number, first)
            threading.Thread(target=stream.serve, daemon=True).start()
        elif second in self._streams:
            stream = self._streams[second]
            if command == b"WRTE":
                stream.arrived.put(data)
                self.send(b"OKAY", second, first)
            elif command == b"OKAY":
                stream.acknowledged.release()
            elif command == b"CLSE":
                stream.arrived.put(None)


class _Stream:
    """One service, in a thread of its own; one packet at a time is under way."""

    def __init__(self, link: _Link, local: int, remote: int, service: str) -> None:
        self._link, self._local, self._remote, self._service = link, local, remote, service
        self.arrived: queue.Queue[bytes | None] = queue.Queue()
        self.acknowledged = threading.Semaphore(1)
        self._rest = b""

    def serve(self) -> None:
        kind, _, text = self._service.partition(":")
        try:
            if kind == "sync":
                while self._sync():
                    pass
            else:
                self._shell(text, framed="v2" in kind.split(","))
            self.acknowledged.acquire(timeout=5)
            self._link.send(b"CLSE", self._local, self._remote)
        except PulledError:
            pass

    def _read(self, size: int) -> bytes:
        while len(self._rest) < size:
            part = self.arrived.get()
            if part is None:
                raise PulledError
            self._rest += part
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def _write(self, data: bytes) -> None:
        for start in range(0, len(data), _LARGEST):
            self.acknowledged.acquire(timeout=60)
            self._link.send(b"WRTE", self._local, self._remote, data[start : start + _LARGEST])

    def _shell(self, text: str, framed: bool) -> None:
        phone = self._link.phone
        phone.commands.append(text)
        if phone.lost_at and phone.lost_at in text:
            self._link.pull_the_cable()
        command = text.replace(TMP, str(phone.local(TMP)))
        path = f"{phone.root}/bin:/usr/bin:/bin"
        process = subprocess.run(
            ["/bin/sh", "-c", command],
            env={"PATH": path},
            cwd=phone.root,
            stdin=subprocess.DEVNULL,
            capture_output=True,
        )
        if not framed:
            self._write(process.stdout + process.stderr)
            return
        for kind, data in ((_SHELL_STDOUT, process.stdout), (_SHELL_STDERR, process.stderr)):
            for start in range(0, len(data), 30_000):
                part = data[start : start + 30_000]
                self._write(struct.pack("<BI", kind, len(part)) + part)
        self._write(struct.pack("<BIB", _SHELL_EXIT, 1, process.returncode & 255))

    def _sync(self) -> bool:
        request, length = self._read(4), struct.unpack("<I", self._read(4))[0]
        if request == b"QUIT":
            return False
        path = self._read(length).decode()
        if request == b"STAT":
            local = self._link.phone.local(path)
            stat = local.stat() if local.exists() else None
            fields = (stat.st_mode, stat.st_size, int(stat.st_mtime)) if stat else (0, 0, 0)
            self._write(b"STAT" + struct.pack("<3I", *fields))
        elif request == b"SEND":
            self._take(path.rpartition(",")[0])
        elif request == b"RECV":
            data = self._link.phone.local(path).read_bytes()
            parts = [data[start : start + 60_000] for start in range(0, len(data), 60_000)]
            self._write(b"".join(b"DATA" + struct.pack("<I", len(part)) + part for part in parts) + b"DONE" + bytes(4))
        return True

    def _take(self, path: str) -> None:
        phone, data = self._link.phone, b""
        while self._read(4) == b"DATA":
            data += self._read(struct.unpack("<I", self._read(4))[0])
        self._read(4)  # the time of the file
        if phone.free_bytes is not None and len(data) > phone.free_bytes:
            message = b"couldn't write to device: No space left on device"
            self._write(b"FAIL" + struct.pack("<I", len(message)) + message)
            return
        phone.local(path).write_bytes(b"?" + data[1:] if phone.damages else data)
        self._write(b"OKAY" + bytes(4))
