"""One solve: ascent for the start, the bound, CP-SAT windows for the exact rest; small problems as a whole."""

from __future__ import annotations

import dataclasses
import logging
import math
import numbers
import time
from collections.abc import Callable

import numpy as np
from threadpoolctl import threadpool_limits

from keras_qcqp.errors import QcqpError
from keras_qcqp.feasibility import refuse, require_feasible
from keras_qcqp.problem import Problem, Solution, evaluate, violations
from keras_qcqp.solvers.ascent import ascend, kicked
from keras_qcqp.solvers.bound import upper_bound
from keras_qcqp.solvers.exact import ExactSolver, Limits, Outcome
from keras_qcqp.solvers.filling import fill
from keras_qcqp.solvers.state import Selection, State, keep_of
from keras_qcqp.solvers.windows import Free, borderline, closed, everything_free, nearby, num_products, restrict, widen

Progress = Callable[[str], None]
_FULL_PRODUCTS = 1500  # up to so many AND literals the whole problem goes to CP-SAT at once
_FULL_DETERMINISTIC_S = 2.0
_WINDOW_PRODUCTS = 250
_WINDOW_DETERMINISTIC_S = 0.3
_FIND_DETERMINISTIC_S = 30.0  # to find any selection at all
_RESTART_PAIRS = 10_000_000  # larger problems are not restarted
_PROVEN = 1e-6  # relative: CP-SAT rounds importance up to integers
_PATIENCE_STEPPED = 6  # where widths come in steps
_PATIENCE, _WORTH = 2, 1e-4  # so many windows, or restarts, that gain no more than this share end the search
_LOG = logging.getLogger("keras_qcqp")


def solve(
    problem: Problem,
    time_limit_s: float = 60.0,
    seed: int = 0,
    num_workers: int = 2,
    progress: Progress | None = None,
) -> Solution:
    """Maximises importance under all limits.

    The same problem, seed and number of workers give the same selection, unless `time_limit_s` or Ctrl-C cuts the
    search short: CP-SAT stops by deterministic time. Whatever ends the search, the best selection so far is returned
    (`Solution.stopped` says what it was).

    Args:
        time_limit_s: wall seconds after which no new window is started.
        progress: called with a line of text at each step; the same lines go to the logger "keras_qcqp" at level DEBUG.

    Raises:
        InfeasibleError: no selection meets the limits; names the smallest reachable value of each.
        QcqpError: a setting out of range, or the solver process failed.
        KeyboardInterrupt: Ctrl-C before there was any selection.
    """
    _check_settings(time_limit_s, seed, num_workers)
    require_feasible(problem)
    limits = Limits(0.0, float(time_limit_s), int(num_workers), int(seed))  # NumPy's numbers are no JSON
    search = _Search(problem, limits, progress or (lambda line: None))
    try:
        with threadpool_limits(1, "blas"):  # many small products: a second thread waits more than it works
            search.run()
    except KeyboardInterrupt:
        if search.x is None:
            raise
        search.stopped = "interrupted"
        search.tell("interrupted")
    return search.solution()


def gap_of(bound: float, objective: float) -> float:
    """What may be missing at most, as a share of the objective; infinite where there is none yet."""
    if objective > 0:
        return bound / objective - 1
    return math.inf if bound > 0 else 0.0


def _check_settings(time_limit_s: float, seed: int, num_workers: int) -> None:
    number = isinstance(time_limit_s, numbers.Real) and not isinstance(time_limit_s, bool)
    if not number or not time_limit_s >= 0:
        raise QcqpError(f"time_limit_s must be a number >= 0, got {time_limit_s!r}.")
    for name, value, least in (("seed", seed, 0), ("num_workers", num_workers, 1)):
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
            raise QcqpError(f"{name} must be a whole number >= {least}, got {value!r}.")


class _Search:
    """The incumbent and the bound, and how they come closer."""

    def __init__(self, problem: Problem, limits: Limits, progress: Progress) -> None:
        self._began = time.monotonic()
        self._limits, self._progress = limits, progress
        self.state = State(problem)
        self.x: Selection | None = None
        self.objective = -math.inf
        self.bound = math.inf
        self.stopped = "converged"
        self.proven = False

    def run(self) -> None:
        """Ascent, bound, then CP-SAT: the whole problem where it is small, windows where it is not."""
        full = self.state.full()
        self.bound = self.state.objective(full)  # importance is not negative, so nothing beats keeping everything
        if not violations(self.state.problem, keep_of(full)):
            self._take(full)
            self.proven = True
            return
        x, prices = ascend(self.state)
        with ExactSolver() as solver:
            if x is None:
                x = self._found(solver)
            self._take(x)
            assert self.x is not None
            self.tell("ascent")
            whole = closed(self.state.problem, self.x, everything_free(self.state))
            if num_products(self.state, whole) <= _FULL_PRODUCTS:
                self._improve(solver, whole, _FULL_DETERMINISTIC_S)
                self.tell("exact model of the whole")
            if not self.proven:
                self.bound = min(self.bound, upper_bound(self.state, self.x, prices, time_left_s=self._wall_left_s))
                self.tell("bound")
                random = np.random.default_rng(self._limits.seed)
                self._kicks(prices, random)
                self._windows(solver, prices, random)

    def tell(self, step: str) -> None:
        """One line of progress."""
        gap = gap_of(self.bound, self.objective)
        line = f"{step}: objective {self.objective:.6g}, bound {self.bound:.6g}, gap {gap:.2%}"
        _LOG.debug("%s", line)
        self._progress(line)

    def solution(self) -> Solution:
        """The incumbent, judged by the oracle."""
        assert self.x is not None
        problem, keep = self.state.problem, keep_of(self.x)
        broken = violations(problem, keep)
        if broken:  # the last guard: no solver is trusted
            raise QcqpError(
                f"Internal error: the solver returned an infeasible selection ({broken}). Please report it."
            )
        objective, usage = evaluate(problem, keep)
        bound = max(self.bound, objective)
        return Solution(
            keep=keep,
            status="OPTIMAL" if self.proven else "FEASIBLE",
            objective=objective,
            bound=bound,
            gap=gap_of(bound, objective),
            usage=usage,
            seconds=time.monotonic() - self._began,
            seed=self._limits.seed,
            stopped=self.stopped,
        )

    def _found(self, solver: ExactSolver) -> Selection:
        """A feasible selection from the exact solver, where arithmetic and ascent found none."""
        limits = dataclasses.replace(self._limits, deterministic_s=_FIND_DETERMINISTIC_S, wall_s=self._wall_left_s())
        problem = self.state.problem
        outcome = solver.solve(dataclasses.replace(problem, linear={}, pairs=()), None, limits)
        if outcome.keep is None and outcome.proven:
            refuse(problem, solver.conflict(problem, limits))
        if outcome.keep is None:
            raise QcqpError(
                f"No selection was found within {limits.wall_s:.0f} s, nor a proof that there is none. Raise a limit "
                "or time_limit_s, or relax min_keep or width_multiple."
            )
        return fill(self.state, [k.astype(float) for k in outcome.keep])

    def _kicks(self, prices: np.ndarray, random: np.random.Generator) -> None:
        """Restarts the ascent near the incumbent until several in a row bring nothing."""
        if sum(p.values.size for p in self.state.problem.pairs) > _RESTART_PAIRS:
            return  # seconds each, for next to nothing: the larger the layers, the less a single channel counts
        failures = 0
        while failures < _PATIENCE and self._wall_left_s() > 0:
            assert self.x is not None
            before, x = self.objective, kicked(self.state, self.x, prices, random)
            if x is not None:
                self._take(x)
            failures = 0 if self.objective > before * (1 + _WORTH) else failures + 1
        self.tell("restarts")

    def _windows(self, solver: ExactSolver, prices: np.ndarray, random: np.random.Generator) -> None:
        """Frees the channels around the edge until several windows in a row bring nothing."""
        assert self.x is not None
        stepped = any(len(a) > 1 and np.diff(a).max() > 1 for a in self.state.allowed)
        failures = number = 0
        while failures < (_PATIENCE_STEPPED if stepped else _PATIENCE) and not self.proven:
            if self._wall_left_s() <= 0:
                self.stopped = "time limit"
                break
            number += 1
            if stepped and number % 4:
                free = nearby(self.state, self.x, prices, random, _WINDOW_PRODUCTS * 4)
            else:
                free = borderline(self.state, self.x, prices, random, noise=0.5 * failures, products=_WINDOW_PRODUCTS)
            before = self.objective
            self._improve(solver, free, _WINDOW_DETERMINISTIC_S)
            failures = 0 if self.objective > before * (1 + _WORTH) else failures + 1
            self.tell(f"window {number}")

    def _improve(self, solver: ExactSolver, free: Free, deterministic_s: float) -> None:
        assert self.x is not None
        window, fixed = restrict(self.state, self.x, free)
        hint = tuple(v[positions] > 0.5 for v, positions in zip(self.x, free, strict=True))
        limits = dataclasses.replace(self._limits, deterministic_s=deterministic_s, wall_s=self._wall_left_s())
        outcome: Outcome = solver.solve(window, hint, limits)
        if outcome.keep is not None:
            self._take(fill(self.state, widen(self.x, free, outcome.keep)))
        if all(len(positions) == len(self.x[m]) for m, positions in enumerate(free) if m in self.state.free):
            self.bound = min(self.bound, fixed + outcome.bound)
            self.proven = outcome.proven and self.objective >= (fixed + outcome.bound) * (1 - _PROVEN)

    def _take(self, x: Selection) -> None:
        """Makes it the incumbent if it is feasible and better."""
        value = self.state.objective(x)
        if value > self.objective and self.state.feasible(x):
            self.x, self.objective = x, value

    def _wall_left_s(self) -> float:
        return self._limits.wall_s - (time.monotonic() - self._began)
