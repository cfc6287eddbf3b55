"""Results of a measurement as values: readable as text, exact as JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from tflite_tools.errors import ProfileError

_FORMAT = "tflite_tools.profile/1"


@dataclass(frozen=True)
class Profile:
    """One model on one device.

    Attributes:
        latency_ms: the fastest run, the figure that repeats; compare it only within one measurement.
        median_ms: over all runs, as are `p10_ms` and `p90_ms`: how busy the machine was.
        num_runs: timed runs, warm-up not counted.
        size_bytes: the file; `weight_bytes`: its constants.
        op_counts: operators of the file, before any delegate fuses them.
        environment: hardware and versions the times depend on.
        notes: what to know before believing them.
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

    def __post_init__(self) -> None:
        for name in ("op_counts", "environment"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))
        object.__setattr__(self, "notes", tuple(self.notes))

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, ready for JSON."""
        plain = {item.name: getattr(self, item.name) for item in fields(self)}
        plain.update(op_counts=dict(self.op_counts), environment=dict(self.environment), notes=list(self.notes))
        return {"format": _FORMAT, **plain}

    def to_json(self) -> str:
        """The inverse of `from_json`; floats keep every digit."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Profile:
        """Reads what `to_json` wrote.

        Raises:
            ProfileError: no JSON, another format, or missing, unknown or wrongly typed fields.
        """
        try:
            stored = json.loads(text)
        except ValueError as error:
            raise ProfileError(f"The profile is no JSON: {error}. Write it with Profile.to_json().") from error
        found = stored.pop("format", None) if isinstance(stored, dict) else None
        if found != _FORMAT:
            raise ProfileError(f"The profile has format {found!r}, expected '{_FORMAT}'. Measure again.")
        known = {item.name for item in fields(cls)}
        if set(stored) != known:
            missing, unknown = sorted(known - set(stored)), sorted(set(stored) - known)
            raise ProfileError(f"The profile lacks fields {missing} and has unknown fields {unknown}. Measure again.")
        for name, value in stored.items():
            if not isinstance(value, _JSON_TYPES[name]) or isinstance(value, bool):
                raise ProfileError(f"Field '{name}' of the profile is {value!r}, which has the wrong type.")
        return cls(**stored)

    def __str__(self) -> str:
        ops = ", ".join(f"{name} x{count}" for name, count in self.op_counts.items())
        threads = f"{self.num_threads} thread{'s' if self.num_threads > 1 else ''}"
        lines = [
            f"{self.name} on {self.device} ({threads}, {self.environment.get('cpu', 'unknown CPU')})",
            f"  latency   {self.latency_ms:.4f} ms, the fastest of {self.num_runs} runs",
            f"            median {self.median_ms:.4f}, p10 {self.p10_ms:.4f}, p90 {self.p90_ms:.4f} ms",
            f"  size      {self.size_bytes:,} bytes, {self.weight_bytes:,} of them constants",
            f"  operators {sum(self.op_counts.values())}: {ops}",
        ]
        return "\n".join(lines + [f"  note      {note}" for note in self.notes])


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
}


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
        return render_table((self.before, self.after))


def render_table(profiles: Sequence[Profile]) -> str:
    """Profiles of one measurement as plain text; the ratios compare the first row with each one."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.ASCII, title_justify="left")
    table.add_column("model")
    for heading in (
        "bytes",
        "weight bytes",
        "latency ms",
        "median ms",
        "p10 ms",
        "p90 ms",
        "smaller",
        "faster",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    first = profiles[0]
    for row in profiles:
        cells = (f"{row.size_bytes:,}", f"{row.weight_bytes:,}", *(f"{value:.4f}" for value in _times(row)))
        ratios = (f"{first.size_bytes / row.size_bytes:.2f}x", f"{first.latency_ms / row.latency_ms:.2f}x")
        table.add_row(Text(row.name), *cells, *ratios)
    text = io.StringIO()
    width = 110 + max(len(row.name) for row in profiles)  # never wrap: people copy rows into other tools
    Console(file=text, width=width, no_color=True).print(table)
    runs = f"latency: fastest of {first.num_runs} runs, taking turns; {first.num_threads} thread(s)"
    place = f"{first.device}, {first.environment.get('cpu', 'unknown CPU')}"
    notes = dict.fromkeys(f"note: {row.name}: {note}" for row in profiles for note in row.notes)
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    return "\n".join([*lines, f"{runs} on {place}", *notes])


def _times(row: Profile) -> tuple[float, ...]:
    return row.latency_ms, row.median_ms, row.p10_ms, row.p90_ms
