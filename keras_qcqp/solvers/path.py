"""A budget sweep: the whole front of importance against budget at little more than the cost of one solve."""

from __future__ import annotations

import dataclasses
import math
import numbers
import time
from collections.abc import Callable, Sequence

import numpy as np
from threadpoolctl import threadpool_limits

from keras_qcqp.errors import BudgetError
from keras_qcqp.feasibility import require_feasible
from keras_qcqp.problem import Problem, Solution, evaluate
from keras_qcqp.solvers.ascent import ascend
from keras_qcqp.solvers.bound import upper_bound
from keras_qcqp.solvers.filling import fill
from keras_qcqp.solvers.search import gap_of, solve
from keras_qcqp.solvers.state import Selection, State, keep_of


def solve_path(
    problem: Problem, fractions: Sequence[float], progress: Callable[[str], None] | None = None
) -> tuple[Solution, ...]:
    """One solution for each fraction, in the order of the fractions.

    At fraction f every limited resource has the limit `f x its usage at full width`, whatever the limit in `problem`.
    Work is shared: the norms of the certificate, and prices from one budget to the next. No CP-SAT windows are run
    (`solve` one of the points for those), so every point is `FEASIBLE` with its gap. A larger budget never has a lower
    objective nor a lower bound.

    Raises:
        BudgetError: a fraction outside (0, 1], or nothing is limited.
        InfeasibleError: a fraction cannot be met; names the smallest reachable values.
    """
    if not problem.limits:
        raise BudgetError("solve_path needs a problem with at least one limited resource.")
    problems = [_at(problem, fraction) for fraction in fractions]
    for smaller in problems:
        require_feasible(smaller)
    order = sorted(range(len(problems)), key=lambda k: fractions[k])
    found: dict[int, _Point] = {}
    state, previous, near = State(problem), None, None
    for k in order:
        with threadpool_limits(1, "blas"):
            point, near = _solved(state.with_limits(problems[k].limits), previous, near)
        found[k] = previous = point
        if progress:
            progress(f"{fractions[k]:.0%}: objective {point.objective:.6g}, bound {point.bound:.6g}")
    bound = math.inf
    for k in reversed(order):  # what bounds a larger budget bounds a smaller one
        bound = min(bound, found[k].bound)
        found[k] = dataclasses.replace(found[k], bound=max(bound, found[k].objective))
    return tuple(_solution(problems[k], found[k]) for k in range(len(problems)))


@dataclasses.dataclass(frozen=True)
class _Point:
    x: Selection
    objective: float
    bound: float
    seconds: float


def _at(problem: Problem, fraction: float) -> Problem:
    number = isinstance(fraction, numbers.Real) and not isinstance(fraction, bool)
    if not number or not 0 < fraction <= 1:
        raise BudgetError(f"Fractions must lie in (0, 1], got {fraction!r}.")
    full = [m.size for m in problem.masks]
    limits = {r.name: math.floor(float(fraction) * r.usage(full) * (1 + 1e-12)) for r in problem.limited}
    return dataclasses.replace(problem, limits=limits)


def _solved(state: State, previous: _Point | None, near: np.ndarray | None) -> tuple[_Point, np.ndarray]:
    began = time.monotonic()
    x, prices = ascend(state, near)
    if x is None:  # hard to meet at all: the exact solver finds out
        solution = solve(state.problem)
        x = [k.astype(float) for k in solution.keep]
    if previous is not None:
        again = fill(state, previous.x, prices)  # feasible here, too
        x = max(x, again, key=state.objective)
    top = state.objective(state.full())
    bound = min(top, upper_bound(state, x, prices, rounds=1))
    return _Point(x, state.objective(x), bound, time.monotonic() - began), prices


def _solution(problem: Problem, point: _Point) -> Solution:
    keep = keep_of(point.x)
    objective, usage = evaluate(problem, keep)
    bound = max(point.bound, objective)
    return Solution(keep, "FEASIBLE", objective, bound, gap_of(bound, objective), usage, point.seconds, 0)
