"""What `host` asks of a process of its own: times of operators, and the memory a model needs.

`python -m tflite_tools.devices.host_worker` with {"task", "path", "threads", "delegate", ...} on standard input.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np

from tflite_tools.devices.inputs import random_inputs
from tflite_tools.devices.interpreters import load
from tflite_tools.devices.litert_profiler import LitertProfiler, ProfilerMissingError
from tflite_tools.flatbuffer import read_facts


def main() -> None:
    """Writes {"rows": [...]}, {"bytes": n} or {"unavailable": why} to the file request["answers"]."""
    request = json.load(sys.stdin)
    answer = {"ops": _ops, "memory": _memory}[request["task"]](request)
    with open(request["answers"], "w", encoding="utf-8") as answers:
        print(json.dumps(answer), file=answers)


def _ops(request: dict[str, Any]) -> dict[str, Any]:
    inputs = random_inputs(read_facts(request["path"]).inputs, request["seed"])
    try:
        profiler = LitertProfiler(request["path"], inputs, request["threads"], request["delegate"])
        for _ in range(request["warmup"]):
            profiler.run()
        return _rows(profiler, request["rounds"], request["repeats"])
    except ProfilerMissingError as error:
        return {"unavailable": str(error)}


def _rows(profiler: LitertProfiler, rounds: int, repeats: int) -> dict[str, Any]:
    """The fewest microseconds of each operator over rounds; of the mean in a round, since times come as whole ones."""
    keys: list[tuple[str, int, str]] = []
    best = np.empty(0)
    for _ in range(rounds):
        events = profiler.record(repeats)
        if not keys:
            keys = [event[:3] for event in events[: len(events) // repeats]]
            best = np.full(len(keys), np.inf)
        if not events or [event[:3] for event in events] != keys * repeats:
            return {"unavailable": "its events do not repeat from run to run"}
        times = np.array([event[3] for event in events], float).reshape(repeats, -1)
        best = np.minimum(best, times.mean(axis=0))
    return {"rows": [[*key, us] for key, us in zip(keys, best.tolist(), strict=True)]}


def _memory(request: dict[str, Any]) -> dict[str, Any]:
    import ai_edge_litert.interpreter  # noqa: F401 - loading the library is not the model's

    inputs = random_inputs(read_facts(request["path"]).inputs, request["seed"])
    before = _status("VmRSS")
    interpreter = load(request["path"], request["threads"], request["delegate"])
    for detail, values in zip(interpreter.get_input_details(), inputs, strict=False):
        if tuple(detail["shape"]) == values.shape:
            interpreter.set_tensor(detail["index"], values)
    for _ in range(3):
        interpreter.invoke()
    after = _status("VmHWM")
    return {"bytes": max(0, after - before)} if before and after else {"unavailable": "/proc/self/status has no VmHWM"}


def _status(key: str) -> int:
    """Bytes from Linux's account of this process; 0 elsewhere."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as lines:
            return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), 0)
    except OSError:
        return 0


if __name__ == "__main__":
    main()
