"""A `Problem` as one `.npz`: arrays plus a JSON header, never pickle."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from keras_qcqp.errors import FileError, ProblemError
from keras_qcqp.files import replacing
from keras_qcqp.problem import Mask, Need, Pair, Problem, Resource, Step

_FORMAT, _VERSION = "keras_qcqp.problem", 2


def save(problem: Problem, path: str | os.PathLike[str]) -> None:
    """Writes the problem atomically; the name should end in `.npz`."""
    with replacing(path) as temporary:
        temporary.write_bytes(to_bytes(problem))


def load(path: str | os.PathLike[str]) -> Problem:
    """Reads what `save` wrote.

    Raises:
        FileError: the file cannot be read.
        ProblemError: it is not a problem, or its parts do not fit together.
    """
    try:
        return from_bytes(Path(path).read_bytes())
    except OSError as error:
        raise FileError(f"Cannot read problem '{path}': {error.strerror or error}.") from error


def to_bytes(problem: Problem) -> bytes:
    """The `.npz` as bytes."""
    stream = io.BytesIO()
    _write(problem, stream)
    return stream.getvalue()


def from_bytes(data: bytes) -> Problem:
    """Reads `to_bytes`; raises ProblemError for anything else."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            header = json.loads(bytes(arrays["header"]).decode("utf-8"))
            if header.get("format") != _FORMAT or header.get("version") != _VERSION:
                raise ProblemError(f"'{_FORMAT}' version {_VERSION} expected, got {header.get('format')!r}.")
            return _assemble(header, arrays)
    except ProblemError:
        raise
    except Exception as error:  # damaged bytes make zipfile, NumPy and json raise nearly anything
        raise ProblemError(f"This is not a saved problem: {str(error) or type(error).__name__}.") from error


def _write(problem: Problem, stream: BinaryIO) -> None:
    header = {
        "format": _FORMAT,
        "version": _VERSION,
        "masks": [[m.name, m.size] for m in problem.masks],
        "linear": sorted(problem.linear),
        "pairs": [[p.a, p.b] for p in problem.pairs],
        # Coefficients may exceed 64 bits; JSON integers do not care.
        "resources": [_resource_header(r) for r in problem.resources],
        "needs": [[n.mask, *(mask for mask, _ in n.sources)] for n in problem.needs],
        "limits": dict(problem.limits),
    }
    arrays: dict[str, Any] = {"header": np.frombuffer(json.dumps(header, default=int).encode("utf-8"), np.uint8)}
    arrays |= {f"allowed_{m}": np.array(mask.allowed, np.int64) for m, mask in enumerate(problem.masks)}
    arrays |= {f"linear_{m}": w for m, w in problem.linear.items()}
    arrays |= {f"pair_{k}": pair.values for k, pair in enumerate(problem.pairs)}
    for k, r in enumerate(problem.resources):
        arrays |= {f"table_{k}_{number}": table for number, table in enumerate(r.tables.values())}
    for k, need in enumerate(problem.needs):
        arrays[f"need_{k}"] = np.array([need.index, *(index for _, index in need.sources)], np.int64)
    np.savez(stream, **arrays)


def _assemble(header: dict[str, Any], arrays: Any) -> Problem:
    masks = [
        Mask(str(name), int(size), tuple(int(k) for k in arrays[f"allowed_{m}"]))
        for m, (name, size) in enumerate(header["masks"])
    ]
    resources = [_resource(k, fields, arrays) for k, fields in enumerate(header["resources"])]
    needs = []
    for k, (mask, *sources) in enumerate(header["needs"]):
        index, *others = arrays[f"need_{k}"]
        needs.append(Need(int(mask), index, tuple((int(m), i) for m, i in zip(sources, others, strict=True))))
    return Problem(
        masks=tuple(masks),
        linear={int(m): arrays[f"linear_{m}"] for m in header["linear"]},
        pairs=tuple(Pair(int(a), int(b), arrays[f"pair_{k}"]) for k, (a, b) in enumerate(header["pairs"])),
        resources=tuple(resources),
        limits={str(name): int(limit) for name, limit in header["limits"].items()},
        needs=tuple(needs),
    )


def _resource_header(r: Resource) -> list[Any]:
    polynomial = [r.constant, sorted(r.linear.items()), [[a, b, c] for (a, b), c in r.quadratic.items()]]
    steps = [[step.name, step.constant, sorted(step.linear.items())] for step in r.steps]
    return [r.name, r.unit, *polynomial, [list(key) for key in r.tables], steps]


def _resource(number: int, fields: Sequence[Any], arrays: Any) -> Resource:
    name, unit, constant, linear, quadratic, tables, steps = fields
    return Resource(
        str(name),
        str(unit),
        int(constant),
        {int(m): int(c) for m, c in linear},
        {(int(a), int(b)): int(c) for a, b, c in quadratic},
        {tuple(int(m) for m in key): arrays[f"table_{number}_{k}"] for k, key in enumerate(tables)},
        tuple(Step(str(n), int(first), {int(m): int(c) for m, c in rest}) for n, first, rest in steps),
    )
