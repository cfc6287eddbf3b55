"""Solves one saved problem in this process and tells everything there is to measure of it.

python -m tests.benchmarks.solve_one problem.npz 60 answer.json
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

from keras_qcqp import problem_io
from keras_qcqp.problem import Problem, evaluate, violations
from keras_qcqp.solvers import solve
from keras_qcqp.solvers.ascent import ascend
from keras_qcqp.solvers.state import State, keep_of


def warm_start(problem: Problem) -> float | None:
    """Objective of the selection from which the exact search starts; None if there is none."""
    x, _ = ascend(State(problem))
    return None if x is None else evaluate(problem, keep_of(x))[0]


def peak_mib(who: int) -> float:
    """The most memory that this process, or any of its ended children, has held."""
    status = Path("/proc/self/status")
    if who == resource.RUSAGE_SELF and status.exists():  # the other count remembers who started this process
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(who).ru_maxrss / 1024


def run(problem: Problem, time_limit_s: float) -> dict[str, Any]:
    """Everything about one solve. The memory holds the interpreter, NumPy and the problem itself, and no Keras."""
    history, began = [], time.monotonic()
    solution = solve(problem, time_limit_s, progress=lambda line: history.append((time.monotonic() - began, line)))
    told = {
        "objective": solution.objective,
        "bound": solution.bound,
        "gap": solution.gap,
        "status": solution.status,
        "stopped": solution.stopped,
        "seconds": time.monotonic() - began,
        "violations": violations(problem, solution.keep),
        "used": max(solution.usage[name] / limit for name, limit in problem.limits.items()),
        "peak_mib": peak_mib(resource.RUSAGE_SELF),
        "worker_mib": peak_mib(resource.RUSAGE_CHILDREN),
        "masks": len(problem.masks),
        "channels": sum(m.size for m in problem.masks),
        "pairs": sum(p.values.size for p in problem.pairs),
        "history": history,
    }
    began = time.monotonic()
    return {**told, "warm": warm_start(problem), "warm_seconds": time.monotonic() - began}


if __name__ == "__main__":
    Path(sys.argv[3]).write_text(json.dumps(run(problem_io.load(sys.argv[1]), float(sys.argv[2]))))
