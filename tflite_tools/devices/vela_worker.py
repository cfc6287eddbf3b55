"""Runs Arm's Vela compiler over many files; a process of its own, because a bad file can end it with a crash.

Started by `ethos_u` as `python -m tflite_tools.devices.vela_worker` with a request on standard input, and the only
importer of `ethosu`. Standard output is Vela's (its native core writes there directly), so the answers go to a file,
one JSON line per model, written before the next one starts: after a crash it is known who caused it.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

_TEXT_COLUMNS = ("Original Operator", "NNG Operator", "Target", "Name")
_CYCLES = "Op Cycles"


def main() -> None:
    """Reads {"folder", "names", "arguments", "answers"} and compiles `folder/name` for each name."""
    request = json.load(sys.stdin)
    folder = Path(request["folder"])
    with open(request["answers"], "w", encoding="utf-8") as answers:
        for name in request["names"]:
            print(json.dumps(_answer(folder, name, request["arguments"])), file=answers, flush=True)


def _answer(folder: Path, name: str, arguments: list[str]) -> dict[str, Any]:
    from ethosu.vela import vela

    output = folder / "out"
    try:
        status = vela.main([str(folder / name), *arguments, "--verbose-performance", "--output-dir", str(output)])
    except SystemExit as error:
        status = error.code
    except Exception as error:  # reported with the name of the model; the others go on
        return {"error": f"{type(error).__name__}: {error}"}
    if status:
        return {"error": f"vela ended with status {status}"}
    stem = Path(name).stem
    (summary,) = output.glob(f"{stem}_summary_*.csv")
    with open(summary, encoding="utf-8", newline="") as stream:
        answer = {"summary": next(csv.DictReader(stream)), "rows": _rows(output / f"{stem}_per-layer.csv")}
    for path in output.glob(f"{stem}_*"):
        path.unlink()
    return answer


def _rows(path: Path) -> list[dict[str, str]]:
    """The table is written without quotes, and names may hold commas; the name is the last column."""
    if not path.is_file():  # nothing to compute
        return []
    header, *lines = path.read_text(encoding="utf-8").splitlines()
    columns = header.split(",")
    rows = (dict(zip(columns, line.split(",", len(columns) - 1), strict=True)) for line in lines if line)
    return [{key: row[key] for key in (*_TEXT_COLUMNS, _CYCLES)} for row in rows]


if __name__ == "__main__":
    main()
