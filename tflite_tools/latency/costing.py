"""Where costs of many small models come from: a device that measures, or an estimator that computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from tflite_tools.devices import Device, TimingOptions, get_device
from tflite_tools.devices.base import DEFAULT_DELEGATE

_ROUNDS = (6, 60)
_REPEATS = 4


@runtime_checkable
class CostSource(Protocol):
    """Costs of `.tflite` models in milliseconds; an estimator of cycles gives milliseconds too."""

    @property
    def name(self) -> str:
        """What a latency file records, and `get_device` understands."""
        ...

    @property
    def num_threads(self) -> int:
        """Threads of each run."""
        ...

    @property
    def deterministic(self) -> bool:
        """Whether the same model always costs the same, so that once is enough."""
        ...

    def costs(self, models: Mapping[str, bytes], seconds: float) -> dict[str, float]:
        """Milliseconds of each model of a batch.

        Args:
            seconds: about how long to measure; of no meaning to an estimator.

        Raises:
            DeviceError: a model does not load or run here.
        """
        ...

    def environment(self) -> dict[str, str]:
        """Hardware and software versions the costs depend on."""
        ...


_PLACE = ("cpu", "device", "serial", "build", "ai_edge_litert", "ethos_u_vela")


def place_of(environment: Mapping[str, str]) -> dict[str, str]:
    """What of an environment makes costs those of another place: not heat or clock rates, which come and go."""
    return {name: environment[name] for name in _PLACE if name in environment}


class DeviceCosts:
    """Costs as a `Device` measures them: the minimum over as many interleaved rounds as fit into the time."""

    def __init__(self, device: str | Device = "host", num_threads: int = 1, delegate: str = DEFAULT_DELEGATE) -> None:
        self._device = get_device(device)
        self.num_threads, self._delegate = num_threads, delegate
        self.name = self._device.name
        # An estimator says so itself; everything else is taken to measure.
        self.deterministic = bool(getattr(self._device, "deterministic", False))

    def costs(self, models: Mapping[str, bytes], seconds: float) -> dict[str, float]:
        """Milliseconds of each model of a batch."""
        how: dict[str, Any] = {"num_threads": self.num_threads, "delegate": self._delegate}
        if self.deterministic:
            return {
                name: timing.latency_ms
                for name, timing in self._device.profile(models, TimingOptions(1, 1, 0, **how)).items()
            }
        pilot = self._device.profile(models, TimingOptions(1, 2, 1, **how))
        each = _REPEATS * sum(timing.median_ms for timing in pilot.values()) / 1000
        rounds = int(min(max(seconds / max(each, 1e-6), _ROUNDS[0]), _ROUNDS[1]))
        timings = self._device.profile(models, TimingOptions(rounds, _REPEATS, 1, **how))
        return {name: min(pilot[name].latency_ms, timing.latency_ms) for name, timing in timings.items()}

    def environment(self) -> dict[str, str]:
        """Of the device."""
        return self._device.environment()
