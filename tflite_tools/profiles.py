"""Results of a measurement as values: readable as text, exact as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType, NoneType
from typing import Any

from tflite_tools.devices.base import DEFAULT_DELEGATE, OpTiming
from tflite_tools.errors import ProfileError

_FORMAT = "tflite_tools.profile/2"
_OLD_FORMAT = "tflite_tools.profile/1"  # without the fields that have defaults now


@dataclass(frozen=True)
class Profile:
    """One model on one device.

    Attributes:
        latency_ms: the fastest run, the figure that repeats; compare it only within one measurement.
        median_ms: over all runs, as are `p10_ms` and `p90_ms`: how busy the machine was.
        num_runs: timed runs, warm-up not counted; 1 where a compiler estimates.
        size_bytes: the file; `weight_bytes`: its constants.
        op_counts: operators of the file, before any delegate fuses them.
        environment: hardware and versions the times depend on.
        notes: what to know before believing them.
        delegate: who computed.
        init_ms: loading the model until it could run; None where not measured, as in the next two.
        first_ms: the first run.
        peak_memory_bytes: what the model adds to the memory of the process that runs it; on-chip memory on Ethos-U.
        ops: one row for each operator, in the order of execution, if asked for; `ops_source` says who measured them.
        counters: further figures of the device, the unit at the end of each name.
    """

    name: str
    device: str
    latency_ms: float
    median_ms: float
    p10_ms: float
    p90_ms: float
    num_runs: int
    num_threads: int
    size_bytes: int
    weight_bytes: int
    op_counts: Mapping[str, int]
    environment: Mapping[str, str]
    notes: tuple[str, ...] = field(default=())
    delegate: str = DEFAULT_DELEGATE
    init_ms: float | None = None
    first_ms: float | None = None
    peak_memory_bytes: int | None = None
    ops: tuple[OpTiming, ...] = field(default=())
    ops_source: str = ""
    counters: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("op_counts", "environment", "counters"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))
        object.__setattr__(self, "notes", tuple(self.notes))
        object.__setattr__(self, "ops", tuple(self.ops))

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, ready for JSON."""
        plain = {item.name: getattr(self, item.name) for item in fields(self)}
        plain.update(op_counts=dict(self.op_counts), environment=dict(self.environment), notes=list(self.notes))
        plain.update(ops=[vars(op) for op in self.ops], counters=dict(self.counters))
        return {"format": _FORMAT, **plain}

    def to_json(self) -> str:
        """The inverse of `from_json`; floats keep every digit."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Profile:
        """Reads what `to_json` wrote, today or in the format before.

        Raises:
            ProfileError: no JSON, another format, or missing, unknown or wrongly typed fields.
        """
        try:
            stored = json.loads(text)
        except ValueError as error:
            raise ProfileError(f"The profile is no JSON: {error}. Write it with Profile.to_json().") from error
        found = stored.pop("format", None) if isinstance(stored, dict) else None
        if found not in (_FORMAT, _OLD_FORMAT):
            raise ProfileError(f"The profile has format {found!r}, expected '{_FORMAT}'. Measure again.")
        known = {item.name for item in fields(cls)}
        if found == _OLD_FORMAT:
            known -= _SINCE_2
        if set(stored) != known:
            missing, unknown = sorted(known - set(stored)), sorted(set(stored) - known)
            raise ProfileError(f"The profile lacks fields {missing} and has unknown fields {unknown}. Measure again.")
        for name, value in stored.items():
            if not isinstance(value, _JSON_TYPES[name]) or isinstance(value, bool):
                raise ProfileError(f"Field '{name}' of the profile is {value!r}, which has the wrong type.")
        return cls(**{**stored, "ops": tuple(_op(row) for row in stored.get("ops", ()))})

    def __str__(self) -> str:
        ops = ", ".join(f"{name} x{count}" for name, count in self.op_counts.items())
        threads = f"{self.num_threads} thread{'s' if self.num_threads > 1 else ''}"
        lines = [
            f"{self.name} on {self.device} ({threads}, {self.environment.get('cpu', 'unknown CPU')})",
            f"  latency   {self.latency_ms:.4f} ms, the fastest of {self.num_runs} runs",
            f"            median {self.median_ms:.4f}, p10 {self.p10_ms:.4f}, p90 {self.p90_ms:.4f} ms",
            *self._start_and_memory(),
            f"  size      {self.size_bytes:,} bytes, {self.weight_bytes:,} of them constants",
            f"  operators {sum(self.op_counts.values())}: {ops}",
        ]
        lines += (
            [f"  counters  {', '.join(f'{k} {v:,.0f}' for k, v in self.counters.items())}"] if self.counters else []
        )
        return "\n".join(lines + [f"  note      {note}" for note in self.notes])

    def _start_and_memory(self) -> list[str]:
        start = [
            f"{what} {value:.4f} ms" for what, value in (("load", self.init_ms), ("first run", self.first_ms)) if value
        ]
        memory = self.peak_memory_bytes
        return ([f"  start     {', '.join(start)}"] if start else []) + (
            [f"  memory    {memory:,} bytes at the peak"] if memory is not None else []
        )


_JSON_TYPES: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "device": (str,),
    "latency_ms": (float, int),
    "median_ms": (float, int),
    "p10_ms": (float, int),
    "p90_ms": (float, int),
    "num_runs": (int,),
    "num_threads": (int,),
    "size_bytes": (int,),
    "weight_bytes": (int,),
    "op_counts": (dict,),
    "environment": (dict,),
    "notes": (list,),
    "delegate": (str,),
    "init_ms": (float, int, NoneType),
    "first_ms": (float, int, NoneType),
    "peak_memory_bytes": (int, NoneType),
    "ops": (list,),
    "ops_source": (str,),
    "counters": (dict,),
}
_SINCE_2 = {"delegate", "init_ms", "first_ms", "peak_memory_bytes", "ops", "ops_source", "counters"}


def _op(row: Any) -> OpTiming:
    try:
        return OpTiming(**row)
    except TypeError as error:
        raise ProfileError(f"A row of 'ops' of the profile is {row!r}, which is no operator. Measure again.") from error


@dataclass(frozen=True)
class Comparison:
    """Two models measured in one interleaved session; ratios are before / after: above 1 is better."""

    before: Profile
    after: Profile

    @property
    def latency_ratio(self) -> float:
        """How many times faster `after` is."""
        return self.before.latency_ms / self.after.latency_ms

    @property
    def size_ratio(self) -> float:
        """How many times smaller the file of `after` is."""
        return self.before.size_bytes / self.after.size_bytes

    def __str__(self) -> str:
        from tflite_tools.profile_tables import render_table

        return render_table((self.before, self.after))
