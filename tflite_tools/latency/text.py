"""A latency model for people: one table of geometries, and how well whole networks are predicted."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tflite_tools.latency.model import LatencyModel, Row


def render(model: LatencyModel) -> str:
    """What was fitted, in words."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.ASCII)
    table.add_column("operator", no_wrap=True)
    heads = "uses|in|out|form|steps|quadratic %|stepped %|table %|R2|rank|ms now"
    for head in heads.split("|"):
        table.add_column(head, justify="right", no_wrap=True)
    for number, row in enumerate(model.rows):
        uses = [op for op in model.ops if op.row == number]
        now = sum(row.at(op.widths) for op in uses)
        errors = [f"{row.errors[n]:.1f}" if n in row.errors else "-" for n in ("quadratic", "stepped", "table")]
        steps = "x".join(map(str, row.forms[row.chosen].steps))
        fit = (f"{row.quality.r2:.3f}", f"{row.quality.spearman:.3f}", f"{now:.4f}")
        table.add_row(_label(row), str(len(uses)), *map(_span, row.spans), row.chosen, steps, *errors, *fit)
    stream = io.StringIO()
    Console(file=stream, width=160, no_color=True).print(table)
    lines = [f"{model.name}, {model.recipe}, on {model.device} ({model.num_threads} thread(s))", *_lines(stream)]
    seen = "that no fit saw" if model.settings.get("multiple") is None else "that were fitted, all multiples"
    lines.append(f"errors: mean over widths {seen}; the fit took {model.seconds:.0f} s")
    lines.append(f"whole network {model.measured_ms:.4f} ms measured, {model.predict():.4f} ms predicted")
    for name, found in model.whole.items():
        lines.append(
            f"{found.num} held-out networks of random widths, {name}: mean error {found.mean_percent:.1f} %, worst "
            f"{found.worst_percent:.1f} %, R2 {found.r2:.3f}, rank correlation {found.spearman:.3f}"
        )
    return "\n".join(lines)


def _lines(stream: io.StringIO) -> list[str]:
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def _label(row: Row) -> str:
    """The kind and the spatial size that it works on."""
    shape = row.key[row.key.find("[") + 1 : row.key.find("]")] if "[" in row.key else ""
    return f"{row.kind} {shape}"[:34]


def _span(span: tuple[int, int] | None) -> str:
    return "-" if span is None else f"{span[0]}-{span[1]}" if span[0] < span[1] else f"{span[1]}"
