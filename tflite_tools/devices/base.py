"""What every device offers, and the values it takes and returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Protocol, runtime_checkable

from tflite_tools.errors import DeviceError, ProfileError
from tflite_tools.flatbuffer import TfliteFacts

DEFAULT_DELEGATE = "default"  # whatever the device would take by itself


@dataclass(frozen=True)
class TimingOptions:
    """How long and how to measure: `rounds` passes over all models, `repeats` runs of each model per pass.

    Attributes:
        delegate: who computes, by a name of the device; "default" leaves it to the device.
        per_op: also ask for the time of every operator.
        memory: also ask for the peak of memory, where that costs extra runs.

    Raises:
        ProfileError: a number below 1 (`warmup` and `seed`: below 0) or no integer; a switch that is no bool.
    """

    rounds: int = 30
    repeats: int = 10
    warmup: int = 5
    num_threads: int = 1
    seed: int = 0
    delegate: str = DEFAULT_DELEGATE
    per_op: bool = False
    memory: bool = False

    def __post_init__(self) -> None:
        for item in fields(self):
            value, least = getattr(self, item.name), 0 if item.name in ("warmup", "seed") else 1
            if item.type == "str":
                if not isinstance(value, str) or not value:
                    raise ProfileError(f"{item.name} is {value!r}; a name is expected.")
            elif item.type == "bool":
                if not isinstance(value, bool):
                    raise ProfileError(f"{item.name} is {value!r}; True or False is expected.")
            elif isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ProfileError(f"{item.name} is {value!r}; a whole number of at least {least} is expected.")

    def delegate_among(self, known: tuple[str, ...], device: str) -> str:
        """The delegate asked for; the first of `known` for "default".

        Raises:
            DeviceError: the device has no such delegate.
        """
        if self.delegate == DEFAULT_DELEGATE:
            return known[0]
        if self.delegate not in known:
            raise DeviceError(f"Device '{device}' has no delegate '{self.delegate}'. Known: {', '.join(known)}.")
        return self.delegate


@dataclass(frozen=True)
class OpTiming:
    """One row of a per-operator profile, in the order of execution.

    Attributes:
        kind: the operator as the device calls it; a delegate's kernels have names of their own.
        name: the tensor or layer, as far as the device tells.
        ms: per inference, all calls of the row together.
        calls: per inference; more than one where the device merges rows of one name.
        node: index of the operator in the main graph of the file, where known.
        cycles: where the device counts them.
    """

    kind: str
    name: str
    ms: float
    calls: float = 1.0
    node: int | None = None
    cycles: int | None = None


@dataclass(frozen=True)
class Timing:
    """Milliseconds of single runs; `latency_ms` is the fastest, the percentiles are over all runs.

    Attributes:
        init_ms: loading the model until it could run; None where not measured, as in the next two.
        first_ms: the first run, with cold caches and buffers yet to be made.
        peak_memory_bytes: what the model adds to the memory of the process that runs it.
        delegate: who computed.
        ops: a row for each operator, if asked for.
        ops_source: where the rows come from, in words.
        counters: further figures of the device, the unit at the end of each name.
        notes: what went differently from what was asked for.
    """

    latency_ms: float
    median_ms: float
    p10_ms: float
    p90_ms: float
    num_runs: int
    init_ms: float | None = None
    first_ms: float | None = None
    peak_memory_bytes: int | None = None
    delegate: str = DEFAULT_DELEGATE
    ops: tuple[OpTiming, ...] = ()
    ops_source: str = ""
    counters: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "counters", MappingProxyType(dict(self.counters)))


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
            DeviceError: a model does not load or run here, or the device lacks what `options` ask for.
        """
        ...

    def notes(self, facts: TfliteFacts) -> tuple[str, ...]:
        """What a reader must know before believing the time of such a model on this device."""
        ...

    def environment(self) -> dict[str, str]:
        """Hardware and software versions a result depends on."""
        ...
