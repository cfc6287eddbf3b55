"""What every device offers, and the values it takes and returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Protocol, runtime_checkable

from tflite_tools.errors import ProfileError
from tflite_tools.flatbuffer import TfliteFacts


@dataclass(frozen=True)
class TimingOptions:
    """How long and how to measure: `rounds` passes over all models, `repeats` runs of each model per pass.

    Raises:
        ProfileError: a number below 1 (`warmup` and `seed`: below 0) or no integer.
    """

    rounds: int = 30
    repeats: int = 10
    warmup: int = 5
    num_threads: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value, least = getattr(self, field.name), 0 if field.name in ("warmup", "seed") else 1
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ProfileError(f"{field.name} is {value!r}; a whole number of at least {least} is expected.")


@dataclass(frozen=True)
class Timing:
    """Milliseconds of single runs; `latency_ms` is the fastest, the percentiles are over all runs."""

    latency_ms: float
    median_ms: float
    p10_ms: float
    p90_ms: float
    num_runs: int


@runtime_checkable
class Device(Protocol):
    """A place to measure. Implementations are stateless; each call stands for itself."""

    @property
    def name(self) -> str:
        """What users type and what a profile records."""
        ...

    def profile(self, models: Mapping[str, bytes], options: TimingOptions) -> dict[str, Timing]:
        """Measures all models in one session, so that their times may be compared.

        Raises:
            DeviceError: a model does not load or run here.
        """
        ...

    def notes(self, facts: TfliteFacts) -> tuple[str, ...]:
        """What a reader must know before believing the time of such a model on this device."""
        ...

    def environment(self) -> dict[str, str]:
        """Hardware and software versions a result depends on."""
        ...
