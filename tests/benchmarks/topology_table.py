"""What `tests.benchmarks.topologies` is made of: rows from processes of their own, and the table they end up in."""

from __future__ import annotations

import collections
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

Row = dict[str, Any]
_ROW = "tests.benchmarks.topology_row"


def names(zoo: str, patterns: Sequence[str] = ("*",)) -> list[str]:
    """The models of a zoo, chosen among those whose names match a pattern."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "names.json"
        subprocess.run([sys.executable, "-m", _ROW, "names", zoo, str(path), *patterns], check=True)
        return json.loads(path.read_text())


def row_of(zoo: str, model: str, fraction: float, time_limit_s: float, timeout_s: float) -> Row:
    """The row of one model, from a process of its own; `time_limit_s` is the solver's."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "row.json"
        command = [sys.executable, "-m", _ROW, "row", zoo, str(path), model, str(fraction), str(time_limit_s)]
        try:
            log = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s).stderr
        except subprocess.TimeoutExpired:
            log = f"took longer than {timeout_s:.0f} s"
        row = {"zoo": zoo, "model": model, "failures": {"process": log[-400:]}, "theirs": {}}
        if path.is_file():
            row = json.loads(path.read_text())
    return {**row, "total_s": time.perf_counter() - began}


HEADS = "model|layers|prunable %|lowest %|kept %|couple s|solve s|rebuild s|total s|law|trip|tflite kB|failed"


def table(rows: list[Row]) -> Table:
    """One line for each model."""
    made = Table(box=box.MARKDOWN)
    for number, head in enumerate(HEADS.split("|")):
        made.add_column(head, no_wrap=True, justify="right" if number else "left")
    for row in rows:
        made.add_row(*_cells(row))
    return made


def _cells(row: Row) -> list[str]:
    def text(key: str, form: str, factor: float = 1) -> str:
        return "-" if row.get(key) is None else format(row[key] * factor, form)

    shares = [text(key, ".1f", 100) for key in ("prunable", "lowest", "kept")]
    seconds = [text("couple_s", ".2f"), text("solve_s", ".1f"), text("rebuild_s", ".1f"), text("total_s", ".0f")]
    trip = {None: "-", True: "equal", False: "differs"}[row.get("round_trip")]
    failed = [*row["failures"], *(f"({stage})" for stage in row.get("theirs", {}))]
    ends = [text("law", ".0e"), trip, text("tflite_bytes", ",.0f", 1e-3), ", ".join(failed) or "-"]
    return [row["model"], text("num_layers", "d"), *shares, *seconds, *ends]


def gaps(rows: list[Row]) -> list[str]:
    """What went wrong or stayed frozen, by the number of models that it concerns."""
    found = collections.defaultdict(set)
    for row in rows:
        for stage, why in row["failures"].items():
            found[f"failed {stage}: {why[:110]}"].add(row["model"])
        for stage, why in row.get("theirs", {}).items():
            found[f"fails unpruned too, {stage}: {why[:110]}"].add(row["model"])
        for reason in row.get("reasons", {}):
            found[f"frozen {reason[:110]}"].add(row["model"])
        for kind in row.get("uncounted", {}):
            found[f"MACs not counted: {kind}"].add(row["model"])
    ordered = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    return [f"{len(models)} models: {what} ({', '.join(sorted(models)[:4])})" for what, models in ordered]
