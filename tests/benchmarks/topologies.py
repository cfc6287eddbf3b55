"""Prunes networks that nobody here drew, all of keras.applications and two other model zoos, and holds each to the law.

    python -m tests.benchmarks.topologies --output=rows.json                                # an hour and a half or so
    python -m tests.benchmarks.topologies --models='MobileNet*,ResNet50' --output=rows.json
    python -m tests.benchmarks.topologies --zoo=kecam --output=kecam.json                   # extra `zoo`
    python -m tests.benchmarks.topologies --output=rows.json --models=                      # only the table

Weights are random, images as small as the constructor allows. Each model has a process of its own, and its row is
written as soon as it is known; rows that are in the file already are not measured again unless `--again`.

Columns: layers: those with MACs; prunable: share of the MACs in kernels with an axis that may shrink; lowest: MACs with
every mask at a single channel; kept: what the solver was asked for, half of the MACs or, where the usual widths (a
quarter) do not reach it, the least that they do; seconds; law: max |rebuilt - masked original| / max |masked original|;
trip: the saved and loaded model predicts bit by bit the same; kB of the float32 .tflite; failures. MACs of layers that
no rule knows (attention) are not counted; their classes are listed. The table is Markdown.
"""

from __future__ import annotations

import collections
import fnmatch
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from absl import app, flags
from rich import box
from rich.console import Console
from rich.table import Table

_ZOO = flags.DEFINE_enum("zoo", "keras", ["keras", "keras_hub", "kecam"], "Where the models come from.")
_MODELS = flags.DEFINE_list("models", ["*"], "Patterns over their names.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the rows, read first if it exists.")
_AGAIN = flags.DEFINE_bool("again", False, "Also measure what the file has already.")
_JOBS = flags.DEFINE_integer("jobs", 1, "Models at a time.", 1)
_FRACTION = flags.DEFINE_float("fraction", 0.5, "MACs to keep.", 0.0, 1.0)
_TIME_LIMIT = flags.DEFINE_float("time_limit_s", 10.0, "As for keras_qcqp.solve.", 0.0)
_TIMEOUT = flags.DEFINE_float("timeout_s", 900.0, "Longest time for one model.", 0.0)

Row = dict[str, Any]
_ROW = "tests.benchmarks.topology_row"


def names(zoo: str) -> list[str]:
    """All models of a zoo."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "names.json"
        subprocess.run([sys.executable, "-m", _ROW, f"--zoo={zoo}", f"--list={path}"], check=True)
        return json.loads(path.read_text())


def row_of(zoo: str, model: str) -> Row:
    """The row of one model, from a process of its own."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "row.json"
        command = [sys.executable, "-m", _ROW, f"--zoo={zoo}", f"--model={model}", f"--output={path}"]
        command += [f"--fraction={_FRACTION.value}", f"--time_limit_s={_TIME_LIMIT.value}"]
        log = ""
        try:
            log = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT.value).stderr
        except subprocess.TimeoutExpired:
            log = f"took longer than {_TIMEOUT.value:.0f} s"
        row = {"zoo": zoo, "model": model, "failures": {"process": log[-400:]}}
        if path.is_file():
            row = json.loads(path.read_text())
    return {**row, "total_s": time.perf_counter() - began}


def measure(known: dict[str, Row]) -> Iterator[dict[str, Row]]:
    """All rows, again after each new one."""
    wanted = [n for n in names(_ZOO.value) if any(fnmatch.fnmatchcase(n, p) for p in _MODELS.value)]
    todo = [n for n in wanted if _AGAIN.value or n not in known]
    with ThreadPoolExecutor(_JOBS.value) as pool:
        for number, row in enumerate(pool.map(lambda name: row_of(_ZOO.value, name), todo), 1):
            known = known | {row["model"]: row}
            said = "; ".join(f"{stage}: {why}" for stage, why in row["failures"].items()) or "passed"
            print(f"{number}/{len(todo)} {row['model']} {row['total_s']:.0f} s {said}", flush=True)
            yield known


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
    ends = [text("law", ".0e"), trip, text("tflite_bytes", ",.0f", 1e-3), ", ".join(row["failures"]) or "-"]
    return [row["model"], text("num_layers", "d"), *shares, *seconds, *ends]


def gaps(rows: list[Row]) -> list[str]:
    """What went wrong or stayed frozen, by the number of models that it concerns."""
    found = collections.defaultdict(set)
    for row in rows:
        for stage, why in row["failures"].items():
            found[f"failed {stage}: {why[:110]}"].add(row["model"])
        for reason in row.get("reasons", {}):
            found[f"frozen {reason[:110]}"].add(row["model"])
        for kind in row.get("uncounted", {}):
            found[f"MACs not counted: {kind}"].add(row["model"])
    ordered = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    return [f"{len(models)} models: {what} ({', '.join(sorted(models)[:4])})" for what, models in ordered]


def main(argv: list[str]) -> None:
    del argv
    path = Path(_OUTPUT.value) if _OUTPUT.value else None
    known: dict[str, Row] = {}
    if path and path.is_file():
        known = {row["model"]: row for row in json.loads(path.read_text())}
    for rows_now in measure(known) if _MODELS.value else ():
        known = rows_now
        if path:
            path.write_text(json.dumps([known[name] for name in sorted(known)], indent=1))
    rows = [known[name] for name in sorted(known)]
    Console(width=250).print(table(rows))
    print(*gaps(rows), sep="\n")


if __name__ == "__main__":
    app.run(main)
