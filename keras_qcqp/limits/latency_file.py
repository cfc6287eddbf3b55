"""A latency file as `tflite_tools` writes it: what the operators of one network cost on a device, at every width."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_qcqp.errors import BudgetError

_FORMAT = "tflite_tools.latency/1"
_NS = 1e6  # in a millisecond


@dataclasses.dataclass(frozen=True, eq=False)
class FileOp:
    """One operator: its row, its input and output width when it was fitted (None: does not depend on it)."""

    kind: str
    row: int
    given: int | None
    made: int | None
    positions: int


@dataclasses.dataclass(frozen=True, eq=False)
class LatencyFile:
    """What a network costs: a constant, and for each operator a function of its widths.

    Attributes:
        forms: of each row the form that was chosen, and its factor.
        steps: of each row the steps in which its cost grows with input and output width.
        device, num_threads: where it was measured; `recipe`: number format of the file that was measured.
    """

    path: str
    name: str
    device: str
    num_threads: int
    recipe: str
    constant_ms: float
    overhead_ms: float
    ops: tuple[FileOp, ...]
    forms: tuple[tuple[Mapping[str, Any], float], ...]
    steps: tuple[tuple[int, int], ...]

    @property
    def constant(self) -> int:
        """Nanoseconds that no width changes."""
        return round(self.constant_ms * _NS)

    def cost(self, op: FileOp, given: np.ndarray | int, made: np.ndarray | int) -> np.ndarray:
        """int64 nanoseconds of an operator, rounded up, at widths that broadcast; it is gone where one of them is 0."""
        form, scale = self.forms[op.row]
        given = np.asarray(0 if op.given is None else given)
        made = np.asarray(0 if op.made is None else made)
        ms = np.maximum(scale * _at(form, given, made) - self.overhead_ms, 0.0)
        ns = np.ceil(np.round(ms * _NS, 3)).astype(np.int64)
        gone = ((given == 0) & (op.given is not None)) | ((made == 0) & (op.made is not None))
        return np.where(gone, 0, ns)


def load_latency(path: str | os.PathLike[str]) -> LatencyFile:
    """Reads a latency file; one that did not change is read once.

    Raises:
        BudgetError: it is missing, damaged, or no latency file.
    """
    try:
        changed = os.stat(path).st_mtime_ns
    except OSError as error:
        raise BudgetError(
            f"Cannot read the latency file '{path}': {error.strerror}. Make one with tflite_fit_latency."
        ) from error
    return _load(os.fspath(path), changed)


@functools.lru_cache(maxsize=16)
def _load(path: str, changed: int) -> LatencyFile:
    del changed  # part of the key
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    try:
        stored = json.loads(text)
        if stored.get("format") != _FORMAT:
            raise BudgetError(
                f"'{path}' has format {stored.get('format')!r}, expected '{_FORMAT}'. Make it with tflite_fit_latency."
            )
        rows, every = stored["rows"], stored["settings"].get("multiple")
        return LatencyFile(
            path,
            stored["name"],
            stored["device"],
            int(stored["num_threads"]),
            stored["recipe"],
            float(stored["constant_ms"]),
            float(stored["overhead_ms"]),
            tuple(FileOp(*entry) for entry in stored["ops"]),
            tuple((_checked(row["forms"][row["chosen"]]), float(row["scale"])) for row in rows),
            tuple((every, every) if every else _steps(row["forms"][row["chosen"]]) for row in rows),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, BudgetError):
            raise
        raise BudgetError(
            f"The latency file '{path}' is damaged: {error!r}. Make it with tflite_fit_latency."
        ) from error


def _steps(form: Mapping[str, Any]) -> tuple[int, int]:
    return int(form["steps"][0]), int(form["steps"][1])


def _checked(form: Mapping[str, Any]) -> Mapping[str, Any]:
    """With arrays, once and for all."""
    found = {"steps": tuple(int(s) for s in form["steps"])}
    if "values" in form:
        grid = tuple(np.asarray(axis, np.int64) for axis in form["grid"])
        return {**found, "grid": grid, "values": np.asarray(form["values"], np.float64)}
    return {**found, "coefficients": tuple(float(c) for c in form["coefficients"])}


def _at(form: Mapping[str, Any], given: np.ndarray, made: np.ndarray) -> np.ndarray:
    """A form at input and output widths: in steps, then bilinear, or linear between the points of a table."""
    u, v = (-(-k // step) for k, step in zip((given, made), form["steps"], strict=True))
    if "values" not in form:
        alpha, beta, gamma, delta = form["coefficients"]
        return np.asarray(alpha + beta * u + gamma * v + delta * (u * v), np.float64)
    values = form["values"]
    (i, s), (j, t) = (_place(axis, k) for axis, k in zip(form["grid"], np.broadcast_arrays(u, v), strict=True))
    i1, j1 = np.minimum(i + 1, values.shape[0] - 1), np.minimum(j + 1, values.shape[1] - 1)
    low = values[i, j] * (1 - t) + values[i, j1] * t
    return np.asarray(low * (1 - s) + (values[i1, j] * (1 - t) + values[i1, j1] * t) * s)


def _place(axis: np.ndarray, k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The grid point below, and how far towards the next one; constant outside."""
    below = np.clip(np.searchsorted(axis, k, side="right") - 1, 0, len(axis) - 1)
    above = np.minimum(below + 1, len(axis) - 1)
    return below, np.clip((k - axis[below]) / np.maximum(axis[above] - axis[below], 1), 0.0, 1.0)
