"""Profiles as tables: plain text to read, CSV to compute with."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from tflite_tools.devices.base import OpTiming
from tflite_tools.profiles import Profile

_CSV = ("model", "device", "position", "kind", "name", "ms", "share", "calls", "node", "cycles")
_LONGEST_NAME = 60


def render_table(profiles: Sequence[Profile]) -> str:
    """Profiles of one measurement as plain text; the ratios compare the first row with each one."""
    headings = ("bytes", "weight bytes", "latency ms", "median ms", "p10 ms", "p90 ms", "smaller", "faster")
    first, rows = profiles[0], []
    for row in profiles:
        cells = (f"{row.size_bytes:,}", f"{row.weight_bytes:,}", *(f"{value:.4f}" for value in _times(row)))
        ratios = (f"{first.size_bytes / row.size_bytes:.2f}x", f"{first.latency_ms / row.latency_ms:.2f}x")
        rows.append((row.name, *cells, *ratios))
    runs = f"latency: fastest of {first.num_runs} runs, taking turns; {first.num_threads} thread(s)"
    place = f"{first.device}, {first.environment.get('cpu', 'unknown CPU')}"
    notes = dict.fromkeys(f"note: {row.name}: {note}" for row in profiles for note in row.notes)
    return "\n".join([text_table(("model", *headings), rows), f"{runs} on {place}", *notes])


def render_ops(profile: Profile) -> str:
    """The operators of a profile that was made with `per_op`, and their sum against the whole."""
    total = sum(op.ms for op in profile.ops)
    rows = [
        (op.kind, f"{op.ms:.4f}", f"{_share(op, total):.1%}", f"{op.calls:g}", _cycles(op), _short(op.name))
        for op in profile.ops
    ]
    table = text_table(("operator", "ms", "share", "calls", "cycles", "name"), rows, left=(0, 5))
    return (
        f"{profile.name}, operator by operator ({profile.ops_source}):\n{table}\n"
        f"sum {total:.4f} ms; the whole takes {profile.latency_ms:.4f} ms"
    )


def ops_csv(profiles: Iterable[Profile]) -> str:
    """One line for each operator of each profile, or for the whole where operators were not asked for."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_CSV)
    for profile in profiles:
        total = sum(op.ms for op in profile.ops)
        for position, op in enumerate(profile.ops):
            row = (position, op.kind, op.name, op.ms, _share(op, total), op.calls, op.node, op.cycles)
            writer.writerow((profile.name, profile.device, *row))
        if not profile.ops:
            writer.writerow((profile.name, profile.device, "", "whole", "", profile.latency_ms, 1.0, 1, "", ""))
    return text.getvalue()


def text_table(headings: Sequence[str], rows: Iterable[Sequence[str]], left: tuple[int, ...] = (0,)) -> str:
    """A table of ASCII characters that is never wrapped: people copy rows into other tools."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.ASCII)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number in left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    text = io.StringIO()
    Console(file=text, width=10_000, no_color=True).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def _share(op: OpTiming, total: float) -> float:
    return op.ms / total if total else 0.0


def _cycles(op: OpTiming) -> str:
    return "" if op.cycles is None else f"{op.cycles:,}"


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 3] + "..."


def _times(row: Profile) -> tuple[float, ...]:
    return row.latency_ms, row.median_ms, row.p10_ms, row.p90_ms
