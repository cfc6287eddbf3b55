"""The door to the exact solver: CP-SAT runs in a process of its own.

TensorFlow and OR-Tools each carry their own copy of the same C++ libraries and export the symbols: with TensorFlow 2.21
loaded first, CP-SAT of OR-Tools 9.15 ends the whole process with a segmentation fault. The caller always has
TensorFlow loaded, so the solver gets a clean process, started once for each search and fed through its standard input.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from keras_qcqp import problem_io
from keras_qcqp.errors import QcqpError
from keras_qcqp.feasibility import Conflict
from keras_qcqp.problem import Keep, Problem


@dataclasses.dataclass(frozen=True)
class Limits:
    """How long one call may take; deterministic seconds decide, wall seconds are only a safety net."""

    deterministic_s: float
    wall_s: float
    num_workers: int
    seed: int


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The best selection found, whether it is proven optimal, and a valid upper bound on the objective.

    `keep` is None where none was found; `proven` then means that there is none.
    """

    keep: Keep | None
    proven: bool
    bound: float


class ExactSolver:
    """A context manager that owns the worker process.

    Raises:
        QcqpError: the worker cannot be started or died; its last words are quoted.
    """

    def __enter__(self) -> ExactSolver:
        package_root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "keras_qcqp.solvers.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": path},
            )
        except OSError as error:
            raise QcqpError(f"The solver process could not be started with '{sys.executable}': {error}.") from error
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self._process.kill()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):  # what a dead worker never read
                    stream.close()
        self._process.wait()

    def solve(self, problem: Problem, hint: Keep | None, limits: Limits) -> Outcome:
        """Maximises importance exactly, starting from the feasible selection `hint`; None: any selection will do."""
        listed = None if hint is None else [k.astype(int).tolist() for k in hint]
        reply = self._ask("solve", problem, limits, listed)
        keep = None if reply["keep"] is None else tuple(np.array(k, bool) for k in reply["keep"])
        return Outcome(keep, bool(reply["proven"]), float(reply["bound"]))

    def conflict(self, problem: Problem, limits: Limits) -> Conflict:
        """What keeps an infeasible problem from being feasible."""
        reply = self._ask("conflict", problem, limits, None)
        return Conflict(tuple(reply["limits"]), tuple(reply["masks"]), reply["smallest"])

    def _ask(self, task: str, problem: Problem, limits: Limits, hint: list[list[int]] | None) -> dict[str, Any]:
        header = {"task": task, "limits": dataclasses.asdict(limits), "hint": hint}
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            send(self._process.stdin, json.dumps(header).encode())
            send(self._process.stdin, problem_io.to_bytes(problem))
            return json.loads(receive(self._process.stdout))
        except (OSError, EOFError) as error:
            raise QcqpError(f"The solver process ended unexpectedly: {self._last_words()}") from error

    def _last_words(self) -> str:
        try:
            status = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        assert self._process.stderr is not None
        said = self._process.stderr.read().decode(errors="replace").strip().splitlines()
        return f"status {status}" + (f", {said[-1]}" if said else "")


def send(stream: IO[bytes], message: bytes) -> None:
    """Writes one length-prefixed message."""
    stream.write(struct.pack("<Q", len(message)))
    stream.write(message)
    stream.flush()


def receive(stream: IO[bytes]) -> bytes:
    """Reads one message; raises EOFError when the other side is gone."""
    (size,) = struct.unpack("<Q", _exactly(stream, 8))
    return _exactly(stream, size)


def _exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError("stream closed")
    return data


def hint_of(header: dict[str, Any]) -> Keep | None:
    """The selection inside a request header."""
    return None if header["hint"] is None else tuple(np.array(k, bool) for k in header["hint"])
