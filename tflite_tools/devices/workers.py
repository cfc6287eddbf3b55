"""Modules of this package run as processes of their own, so that native code may crash there."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ROOT = str(Path(__file__).resolve().parents[2])  # found as this process found it, installed or not
_LAST_BYTES = 4000


@dataclass(frozen=True)
class Outcome:
    """How a worker ended.

    Attributes:
        answers: the JSON values it wrote, one for each line; fewer than asked for if it died.
        fault: "" or how it failed, ready for a sentence: "was ended by SIGSEGV".
        last_words: the end of what it printed.
    """

    answers: tuple[Any, ...]
    fault: str
    last_words: str


def run_worker(module: str, request: Mapping[str, Any], seconds: float) -> Outcome:
    """Runs `python -m module` with a JSON request on standard input; it writes JSON lines to request["answers"].

    Both output streams are caught at the level of the system, since native code writes there directly.
    """
    with tempfile.TemporaryDirectory(prefix="tflite_tools_") as place:
        answers, log_path = Path(place, "answers"), Path(place, "log")
        text = json.dumps({**request, "answers": str(answers)})
        with open(log_path, "wb") as log:
            fault = _run([sys.executable, "-m", module], text, log, seconds)
        with open(log_path, "rb") as log:
            log.seek(max(0, log_path.stat().st_size - _LAST_BYTES))
            said = log.read().decode("utf-8", "replace").strip().splitlines()
        lines = answers.read_text(encoding="utf-8").splitlines() if answers.exists() else []
    fault = fault or ("" if lines else "gave no answer")
    complete = lines if not fault else lines[:-1] if lines and not _is_json(lines[-1]) else lines
    return Outcome(tuple(json.loads(line) for line in complete), fault, " ".join(said[-2:]))


def _run(command: list[str], text: str, log: Any, seconds: float) -> str:
    try:
        status = subprocess.run(
            command, input=text.encode(), stdout=log, stderr=log, timeout=seconds, cwd=_ROOT, check=False
        ).returncode
    except subprocess.TimeoutExpired:
        return f"took more than {seconds:.0f} s"
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with status {status}" if status else ""


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
