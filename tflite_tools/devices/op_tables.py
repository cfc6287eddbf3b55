"""Tables of operators that `benchmark_model --enable_op_profiling=true` prints or writes as CSV, of all years.

The columns come from the header. Types and names may hold ", " and the CSV is not quoted, so a row is found by its run
of numbers in the middle, never split at commas. The first table describes initialisation; the one that counts follows
the line "Operator-wise Profiling Info for Regular Benchmark Runs".
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tflite_tools.devices.base import OpTiming
from tflite_tools.errors import DeviceError

PREFIX = re.compile(r"^(?:(?:INFO|VERBOSE|WARNING|ERROR): |\d\d-\d\d [\d:.]+ +\d+ +\d+ [VDIWEF] [^:]*: )")
_REGULAR = "Operator-wise Profiling Info for Regular Benchmark Runs"
_RUN_ORDER = re.compile(r"^=+ Run Order =+$")
_NUMBER = r"[-+]?(?:\d[\d.]*(?:e[-+]?\d+)?|nan|inf)%?"
_ALIASES = {"avg ms": "avg", "avg_ms": "avg"}
_MOST_ROWS = 100_000


def read_op_table(text: str) -> tuple[OpTiming, ...]:
    """Rows of one inference in the order of execution; a row with several calls counts all of them.

    Raises:
        DeviceError: there is no such table, or it has other columns.
    """
    lines = [PREFIX.sub("", line).rstrip() for line in text.splitlines()]
    starts = [number for number, line in enumerate(lines) if _REGULAR in line]
    lines = lines[starts[-1] if starts else 0 :]
    begin = next((number for number, line in enumerate(lines) if _RUN_ORDER.match(line.strip())), None)
    if begin is None or begin + 1 >= len(lines):
        raise DeviceError("benchmark_model printed no table of operators. Its build may lack --enable_op_profiling.")
    columns, row = _layout(lines[begin + 1])
    found = []
    for line in lines[begin + 2 : begin + 2 + _MOST_ROWS]:
        match = row.match(line)
        if not match:
            break
        found.append(_timing(dict(zip(columns, match.groups(), strict=True))))
    return tuple(found)


def _layout(header: str) -> tuple[list[str], re.Pattern[str]]:
    bracketed = re.findall(r"\[([^\]]+)\]", header)
    columns = [name.strip().lower() for name in bracketed or header.split(",")]
    columns = [_ALIASES.get(name, name) for name in columns]
    if len(columns) < 4 or not {"node type", "avg", "times called", "name"} <= set(columns):
        raise DeviceError(f"The table of operators has columns {columns}; 'avg ms' and 'times called' are expected.")
    separator = r"\s+" if bracketed else r"\s*,\s*"
    numbers = separator.join(f"({_NUMBER})" for _ in columns[1:-1])
    return columns, re.compile(rf"^\s*(\S.*?){separator}{numbers}{separator}(\S.*)$")


def _timing(cells: dict[str, str]) -> OpTiming:
    calls = float(cells["times called"])
    name, node = cells["name"].strip(), None
    numbered = re.fullmatch(r"\[(.*)\]:(\d+)", name)
    if numbered:  # a node of the file; a delegate's kernels are numbered by the delegate
        name, node = numbered[1], int(numbered[2])
    return OpTiming(cells["node type"], name, float(cells["avg"]) * calls, calls, node)


def merge(passes: Sequence[tuple[OpTiming, ...]]) -> tuple[OpTiming, ...]:
    """The fastest of each row over several passes of the same model; the first pass where they differ in rows."""
    first = passes[0]
    alike = [p for p in passes if [(op.kind, op.name) for op in p] == [(op.kind, op.name) for op in first]]
    return tuple(min(rows, key=lambda op: op.ms) for rows in zip(*alike, strict=True))
