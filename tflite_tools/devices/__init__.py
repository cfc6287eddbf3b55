"""Where a model can be measured: one module per device, one row per device in `DEVICES`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from tflite_tools.devices.base import Device, Timing, TimingOptions
from tflite_tools.devices.host import HostDevice
from tflite_tools.errors import DeviceError, did_you_mean

DEVICES: Mapping[str, type[Device]] = MappingProxyType({"host": HostDevice})

__all__ = ["DEVICES", "Device", "HostDevice", "Timing", "TimingOptions", "get_device"]


def get_device(device: str | Device) -> Device:
    """Takes a device object as it is and looks a name up in `DEVICES`.

    Raises:
        DeviceError: the name is unknown, or the object lacks what `Device` asks for.
    """
    if isinstance(device, str):
        if device not in DEVICES:
            raise DeviceError(f"There is no device '{device}'. {did_you_mean(device, DEVICES)}")
        return DEVICES[device]()
    if not isinstance(device, Device):
        raise DeviceError(f"A device is a name or has name, profile, notes and environment; got {device!r}.")
    return device
