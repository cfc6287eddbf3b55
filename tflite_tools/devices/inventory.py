"""What is attached or installed here, what each can do, and what is missing."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata, util

from tflite_tools.devices.adb import attached_devices, find_adb
from tflite_tools.devices.android import AndroidDevice
from tflite_tools.devices.android_binary import find_binary
from tflite_tools.devices.coral import CoralDevice, edgetpu_library, find_compiler
from tflite_tools.devices.ethos_u import ACCELERATORS
from tflite_tools.devices.host import HostDevice
from tflite_tools.devices.interpreters import DELEGATES
from tflite_tools.errors import DeviceError


@dataclass(frozen=True)
class Found:
    """One device, or the place of one.

    Attributes:
        device: for `get_device` and `--device`.
        can: what it can do now; "" for nothing.
        missing: what to do so that it can do more; "" if there is nothing more.
        facts: as in the environment of a profile.
    """

    device: str
    can: str
    missing: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        facts = ", ".join(f"{key} {value}" for key, value in self.facts.items() if value not in ("", "unknown"))
        lines = [f"{self.device}: {self.can or 'not usable'}", f"  {facts}" if facts else ""]
        lines += [f"  missing: {self.missing}" if self.missing else ""]
        return "\n".join(line for line in lines if line)


def find_devices() -> tuple[Found, ...]:
    """Looks at everything; a kind that fails is an entry that says why."""
    found: list[Found] = []
    for kind, look in _KINDS.items():
        try:
            found += look()
        except DeviceError as error:
            found.append(Found(kind, "", str(error)))
    return tuple(found)


def _host() -> Iterator[Found]:
    yield Found("host", f"latency, operators, memory; delegates {', '.join(DELEGATES)}", "", HostDevice().environment())


def _ethos_u() -> Iterator[Found]:
    names = [f"{family}-{'/'.join(sizes)}" for family, sizes in ACCELERATORS.items()]
    if util.find_spec("ethosu") is None:
        yield Found("ethos_u", "", "Arm's compiler Vela: pip install 'keras-qcqp[ethos_u]'")
        return
    facts = {"ethos_u_vela": metadata.version("ethos-u-vela"), "accelerators": ", ".join(names)}
    yield Found("ethos_u:ethos-u55-128", "cycles, latency, SRAM, flash and operators, estimated", "", facts)


def _android() -> Iterator[Found]:
    program = find_adb()
    devices = attached_devices()
    if not devices:
        yield Found("android", "", "a device with USB debugging, or --connect=HOST:PORT", {"adb": program})
    for device in devices:
        if device.help:
            yield Found(f"android:{device.serial}", "", f"it is {device.state}. {device.help}", {"model": device.model})
            continue
        facts = AndroidDevice(device.serial).environment()
        can, missing = "latency, operators, memory; delegates xnnpack, builtin, gpu, nnapi", ""
        try:
            find_binary(facts["abi"])
        except DeviceError as error:
            can, missing = "", str(error)
        yield Found(f"android:{device.serial}", can, missing, facts)


def _coral() -> Iterator[Found]:
    library, compiler = edgetpu_library(), find_compiler()
    missing = []
    if not compiler:
        missing.append("edgetpu_compiler (https://coral.ai/docs/edgetpu/compiler)")
    try:
        ctypes.CDLL(library)
    except OSError:
        missing.append(f"{library} (https://coral.ai/docs/accelerator/get-started)")
    can = [] if not compiler else ["compiling, bytes on and off the chip"]
    can += ["latency of a plugged stick"] if not any(text.startswith(library) for text in missing) else []
    yield Found("coral", ", ".join(can), ", ".join(missing), CoralDevice().environment())


_KINDS: Mapping[str, Callable[[], Iterator[Found]]] = {
    "host": _host,
    "ethos_u": _ethos_u,
    "android": _android,
    "coral": _coral,
}
