"""The solver process: reads problems from standard input, answers on standard output, ends when its parent does."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
from typing import Any

from keras_qcqp import problem_io
from keras_qcqp.solvers.cpsat import find_conflict, solve_exactly
from keras_qcqp.solvers.exact import Limits, hint_of, receive, send


def main() -> None:
    """Serves until standard input closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent to handle
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not mix with the answers
    while True:
        try:
            header = json.loads(receive(sys.stdin.buffer))
            problem = problem_io.from_bytes(receive(sys.stdin.buffer))
        except EOFError:
            return
        limits = Limits(**header["limits"])
        reply: dict[str, Any]
        if header["task"] == "conflict":
            reply = dataclasses.asdict(find_conflict(problem, limits))
        else:
            outcome = solve_exactly(problem, hint_of(header), limits)
            keep = None if outcome.keep is None else [k.astype(int).tolist() for k in outcome.keep]
            reply = {"keep": keep, "proven": outcome.proven, "bound": outcome.bound}
        send(answers, json.dumps(reply).encode())


if __name__ == "__main__":
    main()
