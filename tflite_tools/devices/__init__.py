"""Where a model can be measured: one module per device, one row per device in `DEVICES`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from tflite_tools.devices.android import AndroidDevice
from tflite_tools.devices.base import Device, OpTiming, Timing, TimingOptions
from tflite_tools.devices.coral import CoralDevice
from tflite_tools.devices.ethos_u import EthosUDevice
from tflite_tools.devices.host import HostDevice
from tflite_tools.errors import DeviceError, did_you_mean

# Kind -> how to make one from what follows the colon ("" where nothing does).
DEVICES: Mapping[str, Callable[[str], Device]] = MappingProxyType(
    {
        "host": HostDevice.parse,
        "android": AndroidDevice.parse,
        "coral": CoralDevice.parse,
        "ethos_u": EthosUDevice.parse,
    }
)

__all__ = [
    "AndroidDevice",
    "DEVICES",
    "Device",
    "EthosUDevice",
    "HostDevice",
    "OpTiming",
    "Timing",
    "TimingOptions",
    "get_device",
]


def get_device(device: str | Device) -> Device:
    """Takes a device object as it is and makes one of a text such as "host" or "ethos_u:ethos-u55-128".

    Raises:
        DeviceError: the name is unknown, or the object lacks what `Device` asks for.
    """
    if isinstance(device, str):
        kind, _, argument = device.partition(":")
        if kind not in DEVICES:
            raise DeviceError(f"There is no device '{kind}'. {did_you_mean(kind, DEVICES)}")
        return DEVICES[kind](argument)
    if not isinstance(device, Device):
        raise DeviceError(f"A device is a name or has name, profile, notes and environment; got {device!r}.")
    return device
