"""Solves a `Problem`: ascent for the start, CP-SAT windows for the exact rest, a full CP-SAT model when it is small."""

from __future__ import annotations

import dataclasses
import math
import numbers
import time
from collections.abc import Callable

import numpy as np

from keras_qcqp.errors import QcqpError
from keras_qcqp.feasibility import require_feasible
from keras_qcqp.problem import Problem, Solution, evaluate, violations
from keras_qcqp.solvers.ascent import ascend, fill
from keras_qcqp.solvers.bound import upper_bound
from keras_qcqp.solvers.exact import ExactSolver, Limits, Outcome
from keras_qcqp.solvers.state import Selection, State, keep_of
from keras_qcqp.solvers.windows import Free, borderline, everything_free, num_products, restrict, widen

Progress = Callable[[str], None]
_FULL_PRODUCTS = 1500  # up to so many AND literals the whole problem goes to CP-SAT at once
_FULL_DETERMINISTIC_S = 4.0
_WINDOW_PRODUCTS = 250
_WINDOW_DETERMINISTIC_S = 0.3
_PATIENCE = 2  # windows without improvement before the search stops


def solve(
    problem: Problem,
    time_limit_s: float = 60.0,
    seed: int = 0,
    num_workers: int = 2,
    progress: Progress | None = None,
) -> Solution:
    """Maximises importance under all limits.

    The same problem, seed and number of workers give the same selection, unless `time_limit_s` cuts the search short:
    CP-SAT stops by deterministic time.

    Args:
        time_limit_s: wall seconds after which no new window is started.
        progress: called with a line of text at each step.

    Raises:
        InfeasibleError: no selection meets the limits; names the smallest reachable value of each.
        QcqpError: a setting out of range, or the solver process failed.
    """
    _check_settings(time_limit_s, seed, num_workers)
    require_feasible(problem)
    time_limit_s, seed, num_workers = float(time_limit_s), int(seed), int(num_workers)  # NumPy's are no JSON
    began = time.monotonic()
    state = State(problem)
    full = state.full()
    top = state.objective(full)  # importance is not negative, so nothing beats keeping everything
    if not violations(problem, keep_of(full)):
        return _solution(problem, full, _Certificate(top, True), began, seed)
    x, prices = ascend(state)
    search = _Search(state, Limits(0.0, time_limit_s, num_workers, seed), began, progress or (lambda line: None))
    search.tell(f"ascent: objective {state.objective(x):.6g} of {top:.6g}")
    x, certificate = search.run(x)
    if not certificate.proven:
        bound = min(certificate.bound, top, upper_bound(state, state.objective(x), prices))
        certificate = _Certificate(bound)
    return _solution(problem, x, certificate, began, seed)


def _check_settings(time_limit_s: float, seed: int, num_workers: int) -> None:
    number = isinstance(time_limit_s, numbers.Real) and not isinstance(time_limit_s, bool)
    if not number or not time_limit_s >= 0:
        raise QcqpError(f"time_limit_s must be a number >= 0, got {time_limit_s!r}.")
    for name, value, least in (("seed", seed, 0), ("num_workers", num_workers, 1)):
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
            raise QcqpError(f"{name} must be a whole number >= {least}, got {value!r}.")


@dataclasses.dataclass(frozen=True)
class _Certificate:
    bound: float
    proven: bool = False


@dataclasses.dataclass(frozen=True)
class _Search:
    """CP-SAT around an incumbent."""

    state: State
    limits: Limits
    began: float
    tell: Progress

    def run(self, x: Selection) -> tuple[Selection, _Certificate]:
        certificate = _Certificate(math.inf)
        with ExactSolver() as solver:
            whole = everything_free(self.state)
            if num_products(self.state, whole) <= _FULL_PRODUCTS:
                self.tell("small enough for one exact model")
                x, certificate = self._improve(solver, x, whole, _FULL_DETERMINISTIC_S)
            if not certificate.proven:
                x = self._windows(solver, x)
        return x, certificate

    def _windows(self, solver: ExactSolver, x: Selection) -> Selection:
        """Frees the channels around the edge until several windows in a row bring nothing."""
        random = np.random.default_rng(self.limits.seed)
        failures = number = 0
        while failures < _PATIENCE and self._wall_left_s() > 0:
            number += 1
            free = borderline(self.state, x, random, noise=0.5 * failures, products=_WINDOW_PRODUCTS)
            before = self.state.objective(x)
            x, _ = self._improve(solver, x, free, _WINDOW_DETERMINISTIC_S)
            gained = self.state.objective(x) - before
            failures = 0 if gained > 1e-4 * before else failures + 1
            self.tell(f"window {number}: objective {self.state.objective(x):.6g} (+{gained:.3g})")
        return x

    def _improve(
        self, solver: ExactSolver, x: Selection, free: Free, deterministic_s: float
    ) -> tuple[Selection, _Certificate]:
        window, fixed = restrict(self.state, x, free)
        hint = tuple(v[positions] > 0.5 for v, positions in zip(x, free, strict=True))
        limits = dataclasses.replace(self.limits, deterministic_s=deterministic_s, wall_s=self._wall_left_s())
        outcome: Outcome = solver.solve(window, hint, limits)
        new = fill(self.state, widen(x, free, outcome.keep))
        if self.state.feasible(new) and self.state.objective(new) > self.state.objective(x):
            x = new
        return x, _Certificate(fixed + outcome.bound, outcome.proven)

    def _wall_left_s(self) -> float:
        return self.limits.wall_s - (time.monotonic() - self.began)


def _solution(problem: Problem, x: Selection, certificate: _Certificate, began: float, seed: int) -> Solution:
    keep = keep_of(x)
    broken = violations(problem, keep)
    if broken:  # the last guard: no solver is trusted
        raise QcqpError(f"Internal error: the solver returned an infeasible selection ({broken}). Please report it.")
    objective, usage = evaluate(problem, keep)
    bound = max(certificate.bound, objective)
    return Solution(
        keep=keep,
        status="OPTIMAL" if certificate.proven else "FEASIBLE",
        objective=objective,
        bound=bound,
        gap=bound / objective - 1 if objective > 0 else 0.0,
        usage=usage,
        seconds=time.monotonic() - began,
        seed=seed,
    )
