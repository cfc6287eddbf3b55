"""Android's debug bridge: the only caller of the program `adb`.

The program is driven by argument lists, rather than a library that speaks its protocol: it knows USB, Wi-Fi and keys,
each call can be given a time limit, and it tells failure by its exit status. Its texts are never trusted for that: they
differ between versions and between its two output streams. `pip install adbutils` brings a copy of it along.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import util
from pathlib import Path

from tflite_tools.devices.bounded import Finished, TooMuchError, TooSlowError, run_bounded
from tflite_tools.errors import DeviceError

_SECONDS, _LIMIT = 20.0, 4_000_000
_CONTROL = re.compile(r"[^\x20-\x7e]+")
# States of `adb devices` in which nothing can be done, and what helps.
_STATES = {
    "unauthorized": "Unlock its screen and accept 'Allow USB debugging'; if no question appears, plug it in again.",
    "authorizing": "Unlock its screen and accept 'Allow USB debugging'.",
    "connecting": "Wait a moment.",
    "offline": "Unplug it and plug it in again, or run: adb reconnect.",
    "no permissions": "This user may not use USB devices: see https://developer.android.com/studio/run/device (udev).",
    "recovery": "Start it normally.",
    "sideload": "Start it normally.",
    "bootloader": "Start it normally.",
}


@dataclass(frozen=True)
class AttachedDevice:
    """A line of `adb devices`; `state` is "device" where it can be used."""

    serial: str
    state: str
    model: str

    @property
    def help(self) -> str:
        """ "" where it can be used, or what to do."""
        return "" if self.state == "device" else _STATES.get(self.state, "Reconnect it.")


@dataclass(frozen=True)
class RemoteResult:
    """A command that ran on the device to its end."""

    status: int
    text: str


def find_adb() -> str:
    """The program: $ADB, the PATH, the Android SDK, or the copy inside `adbutils`.

    Raises:
        DeviceError: it is nowhere.
    """
    if found := os.environ.get("ADB") or shutil.which("adb"):
        return found
    places = [
        Path(os.environ.get(variable, "")) / "platform-tools" for variable in ("ANDROID_HOME", "ANDROID_SDK_ROOT")
    ]
    spec = util.find_spec("adbutils")
    places += [Path(folder) / "binaries" for folder in (spec.submodule_search_locations or ())] if spec else []
    for path in (place / name for place in places for name in ("adb", "adb.exe")):
        if path.is_absolute() and path.is_file():
            return str(path)
    raise DeviceError(
        "Android devices need the program 'adb'. Install Android's platform-tools, or "
        "pip install 'keras-qcqp[android]', or set ADB to its path."
    )


def adb(arguments: Sequence[str], seconds: float = _SECONDS, limit: int = _LIMIT) -> Finished:
    """One call of the program.

    Raises:
        DeviceError: it cannot be started, takes too long or says too much.
    """
    program = find_adb()
    try:
        return run_bounded([program, *arguments], seconds, limit)
    except (TooSlowError, TooMuchError) as error:
        raise DeviceError(f"adb {' '.join(arguments[:4])}: {error}. Is the device still attached?") from error
    except OSError as error:
        raise DeviceError(f"Cannot start adb '{program}': {error.strerror or error}.") from error


def attached_devices() -> tuple[AttachedDevice, ...]:
    """All that adb knows, whatever their state.

    Raises:
        DeviceError: adb fails.
    """
    answer = adb(["devices", "-l"])
    if answer.status:
        raise DeviceError(f"adb devices failed: {printable(answer.text)}")
    return parse_devices(answer.stdout.decode("utf-8", "replace"))


def parse_devices(text: str) -> tuple[AttachedDevice, ...]:
    """Reads `adb devices` with or without `-l`."""
    found = []
    for line in text.splitlines():
        match = re.match(r"(\S+)\s+(no permissions|[a-z]+)\b(.*)", line.strip())
        if match and not line.startswith(("List of devices", "*", "adb")):
            model = re.search(r"\bmodel:(\S+)", match[3])
            found.append(AttachedDevice(match[1], match[2], printable(model[1]) if model else ""))
    return tuple(found)


def connect(address: str) -> None:
    """Connects over Wi-Fi to "host:port"; whether that worked is in `attached_devices`."""
    adb(["connect", address], seconds=30)


class Connection:
    """One usable device.

    Args:
        serial: as `adb devices` prints it; "host:port" is connected to if need be; "" for the only one attached.

    Raises:
        DeviceError: none, several, or one that cannot be used; the message says what to do.
    """

    def __init__(self, serial: str = "") -> None:
        self.device = _choose(serial)

    @property
    def serial(self) -> str:
        return self.device.serial

    def run(self, command: Sequence[str], seconds: float = _SECONDS, limit: int = _LIMIT) -> RemoteResult:
        """Runs a program on the device with these arguments, quoted for its shell."""
        return self.shell(shlex.join(command), seconds, limit)

    def shell(self, script: str, seconds: float = _SECONDS, limit: int = _LIMIT) -> RemoteResult:
        """Runs a script of ours; parts from elsewhere must have been quoted.

        The script's status is printed behind a random word, since Android before 7 does not hand it on; and if the
        word is missing, the connection was lost on the way.

        Raises:
            DeviceError: lost, too slow, or too much output.
        """
        mark = f"status-{secrets.token_hex(8)}-"
        answer = adb(["-s", self.serial, "shell", f"({script}); echo {mark}$?"], seconds, limit)
        text, found, status = answer.stdout.decode("utf-8", "replace").replace("\r\n", "\n").rpartition(mark)
        if not found or not status.strip().isdigit():
            raise self._lost(answer)
        return RemoteResult(int(status), text + answer.stderr.decode("utf-8", "replace"))

    def push(self, source: Path, target: str, seconds: float = 300.0) -> None:
        """Copies a file to the device.

        Raises:
            DeviceError: the disk is full, the connection is lost, or it cannot be written.
        """
        answer = adb(["-s", self.serial, "push", str(source), target], seconds)
        if answer.status:
            size = source.stat().st_size
            if "No space left" in answer.text:
                folder = target.rpartition("/")[0]
                raise DeviceError(f"Device {self.serial} has no space for {size:,} bytes in {folder}. Free some.")
            raise self._lost(answer)

    def read(self, path: str, limit: int) -> bytes:
        """The content of a file on the device, "" if there is none; never more than `limit` bytes.

        Raises:
            DeviceError: it is larger, or the connection is lost.
        """
        if self.run(["test", "-s", path]).status:
            return b""
        size = self.run(["stat", "-c", "%s", path]).text.strip()
        answer = adb(["-s", self.serial, "exec-out", shlex.join(["cat", path])], 60, limit)
        if size.isdigit() and len(answer.stdout) != int(size):  # a table that is cut at a line's end looks whole
            raise self._lost(answer)
        return answer.stdout

    def _lost(self, answer: Finished) -> DeviceError:
        state = next((d.state for d in attached_devices() if d.serial == self.serial), "not attached any more")
        said = printable(answer.text) or f"status {answer.status}"
        return DeviceError(f"The connection to device {self.serial} failed ({said}); it is {state}. {_again(state)}")


def _again(state: str) -> str:
    return "Try again." if state == "device" else f"{_STATES.get(state, 'Attach it again')} Then try again."


def _choose(serial: str) -> AttachedDevice:
    devices = attached_devices()
    if serial and ":" in serial and serial not in [d.serial for d in devices if d.state == "device"]:
        connect(serial)
        devices = attached_devices()
    listed = ", ".join(f"{d.serial} ({d.state})" for d in devices) or "none"
    matching = [d for d in devices if d.serial == serial] if serial else list(devices)
    if not matching:
        wanted = f"No Android device '{serial}' is attached" if serial else "No Android device is attached"
        raise DeviceError(
            f"{wanted}. Attached: {listed}. Switch on USB debugging in its developer options, and plug it in."
        )
    usable = [d for d in matching if d.state == "device"]
    if not usable:
        raise DeviceError(f"Android device {matching[0].serial} is {matching[0].state}. {matching[0].help}")
    if len(usable) > 1:
        raise DeviceError(f"Several Android devices are attached: {listed}. Name one: android:{usable[0].serial}.")
    return usable[0]


def printable(text: str, limit: int = 300) -> str:
    """What a device said, fit for a message: one line of plain characters."""
    line = _CONTROL.sub(" ", " ".join(text.split()))
    return line if len(line) <= limit else line[: limit - 3] + "..."
