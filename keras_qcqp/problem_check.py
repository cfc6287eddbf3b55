"""Whether the parts of a `Problem` fit together; called whenever one is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from keras_qcqp.errors import ProblemError

if TYPE_CHECKING:
    from keras_qcqp.problem import Need, Problem, Resource


def require_valid(problem: Problem) -> None:
    """Raises ProblemError, naming the first part that does not fit."""
    _check_masks(problem)
    _check_importance(problem)
    known = {r.name for r in problem.resources}
    if len(known) < len(problem.resources):
        raise ProblemError(f"Two resources have one name: {[r.name for r in problem.resources]}.")
    unknown = sorted(set(problem.limits) - known)
    if unknown:
        raise ProblemError(f"Limits for unknown resources {unknown}; known: {sorted(known)}.")
    for resource in problem.resources:
        _check_resource(problem, resource)
    for need in problem.needs:
        _check_need(problem, need)


def _check_masks(problem: Problem) -> None:
    for m in problem.masks:
        ascending = all(a < b for a, b in zip(m.allowed, m.allowed[1:], strict=False))
        if not m.allowed or not ascending or not 0 <= m.allowed[0] <= m.allowed[-1] <= m.size:
            raise ProblemError(f"Mask {m.name}: allowed counts must ascend within 0..{m.size}, got {m.allowed}.")
    used = [*problem.linear, *(m for p in problem.pairs for m in (p.a, p.b))]
    for r in problem.resources:
        used += [*r.linear, *(m for key in (*r.quadratic, *r.tables) for m in key)]
        used += [m for step in r.steps for m in step.linear]
    used += [m for need in problem.needs for m in (need.mask, *(source for source, _ in need.sources))]
    outside = sorted({m for m in used if not 0 <= m < len(problem.masks)})
    if outside:
        raise ProblemError(f"Masks {outside} do not exist; the problem has {len(problem.masks)}, numbered from 0.")


def _check_importance(problem: Problem) -> None:
    sizes = [m.size for m in problem.masks]
    shapes: list[tuple[tuple[int, ...], np.ndarray, tuple[int, ...]]]
    shapes = [((p.a, p.b), p.values, (sizes[p.a], sizes[p.b])) for p in problem.pairs]
    shapes += [((m,), w, (sizes[m],)) for m, w in problem.linear.items()]
    for where, values, shape in shapes:
        names = " x ".join(problem.masks[m].name for m in where)
        if values.shape != shape:
            raise ProblemError(f"Importance of {names} has shape {values.shape}, expected {shape}.")
        if values.dtype.kind not in "biuf" or not np.all(np.isfinite(values)) or np.any(values < 0):
            raise ProblemError(f"Importance of {names} has negative or non-finite entries; scores must be >= 0.")


def _check_resource(problem: Problem, r: Resource) -> None:
    steps = [c for step in r.steps for c in (step.constant, *step.linear.values())]
    if min([r.constant, *r.linear.values(), *r.quadratic.values(), *steps]) < 0:
        raise ProblemError(f"Resource {r.name} has a negative coefficient; usage must grow with every channel.")
    if any(a > b for a, b in r.quadratic):
        raise ProblemError(f"Resource {r.name}: write each product (a, b) with a <= b.")
    for key, table in r.tables.items():
        if len(key) not in (1, 2) or list(key) != sorted(set(key)):
            raise ProblemError(f"Resource {r.name}: a table is over one mask (a,) or two (a, b) with a < b, got {key}.")
        names = " x ".join(problem.masks[m].name for m in key)
        shape = tuple(problem.masks[m].size + 1 for m in key)
        if table.shape != shape:
            raise ProblemError(f"Resource {r.name}: the table of {names} has shape {table.shape}, expected {shape}.")
        if table.dtype.kind not in "iu" or np.any(table < 0):
            raise ProblemError(f"Resource {r.name}: the table of {names} must hold whole numbers >= 0.")


def _check_need(problem: Problem, need: Need) -> None:
    name = problem.masks[need.mask].name
    for mask, index in ((need.mask, need.index), *need.sources):
        if index.ndim != 1 or index.dtype.kind not in "iu" or index.shape != need.index.shape:
            raise ProblemError(f"Needs of mask {name}: every index must be one row of whole numbers, all as long.")
        if len(index) and not 0 <= index.min() <= index.max() < problem.masks[mask].size:
            raise ProblemError(
                f"Needs of mask {name}: channels of mask {problem.masks[mask].name} must lie in "
                f"0..{problem.masks[mask].size - 1}, got {index.min()}..{index.max()}."
            )
