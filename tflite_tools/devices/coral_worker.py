"""Times compiled models on an Edge TPU; a process of its own, since the vendor's library may crash newer runtimes.

`python -m tflite_tools.devices.coral_worker` with {"library", "models": {name: path}, "rounds", "repeats", "warmup",
"seed"} on standard input; writes {name: [nanoseconds]}, or {"error": why}, to the file request["answers"].
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np

from tflite_tools.devices.inputs import random_input


def main() -> None:
    """See above."""
    request = json.load(sys.stdin)
    with open(request["answers"], "w", encoding="utf-8") as answers:
        try:
            answer: dict[str, Any] = measure(request)
        except (OSError, ValueError, RuntimeError) as error:
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        print(json.dumps(answer), file=answers)


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Durations of single runs, the models taking turns; the first `warmup` of each are the warm-up."""
    from ai_edge_litert.interpreter import Interpreter, load_delegate

    interpreters = {}
    for name, path in request["models"].items():
        delegate = load_delegate(request["library"])
        interpreter = Interpreter(model_path=path, experimental_delegates=[delegate] if delegate else [])
        interpreter.allocate_tensors()
        random = np.random.default_rng(request["seed"])
        for detail in interpreter.get_input_details():
            shape, dtype = tuple(detail["shape"]), np.dtype(detail["dtype"])
            interpreter.set_tensor(detail["index"], random_input(random, shape, dtype, detail["quantization"][0] != 0))
        interpreters[name] = interpreter
    times: dict[str, list[int]] = {name: [] for name in interpreters}
    for name, interpreter in interpreters.items():
        _run(interpreter, times[name], max(1, request["warmup"]))
    for _ in range(request["rounds"]):
        for name, interpreter in interpreters.items():
            _run(interpreter, times[name], request["repeats"])
    return times


def _run(interpreter: Any, times: list[int], count: int) -> None:
    for _ in range(count):
        begin = time.perf_counter_ns()
        interpreter.invoke()
        times.append(time.perf_counter_ns() - begin)


if __name__ == "__main__":
    main()
