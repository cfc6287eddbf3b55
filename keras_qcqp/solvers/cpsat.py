"""Solves a small problem exactly, on OR-Tools CP-SAT (the only importer of ortools; runs in the worker process).

The product of two channels is an AND literal, counts are integers, products of counts are CP-SAT multiplications, and
every resource is an exact integer inequality.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from ortools.sat.python import cp_model

from keras_qcqp.problem import Keep, Problem, counts_of
from keras_qcqp.solvers.exact import Limits, Outcome

_OBJECTIVE_SCALE = 10**9


def solve_exactly(problem: Problem, hint: Keep, limits: Limits) -> Outcome:
    """Maximises importance, starting from a feasible selection."""
    model = _Model(problem, hint)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = limits.num_workers
    solver.parameters.random_seed = limits.seed % 2**31
    solver.parameters.max_deterministic_time = limits.deterministic_s
    solver.parameters.max_time_in_seconds = max(limits.wall_s, 0.1)
    # Several workers, yet the same answer every time.
    solver.parameters.interleave_search = limits.num_workers > 1
    status = solver.Solve(model.model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return Outcome(hint, False, math.inf)
    keep = model.selection(solver)
    return Outcome(keep, status == cp_model.OPTIMAL, solver.BestObjectiveBound() / _OBJECTIVE_SCALE * model.total)


@dataclasses.dataclass
class _Model:
    """The CP-SAT twin of a problem."""

    problem: Problem
    hint: Keep

    def __post_init__(self) -> None:
        self.model = cp_model.CpModel()
        self.channels = [self._mask(m) for m in range(len(self.problem.masks))]
        self.hint_counts = counts_of(self.hint)
        self.counts = [self._count(m) for m in range(len(self.problem.masks))]
        self.products: dict[tuple[int, int], Any] = {}
        for resource in self.problem.limited:
            terms = [c * self.counts[m] for m, c in resource.linear.items()]
            terms += [c * self._product(a, b) for (a, b), c in resource.quadratic.items()]
            if terms:
                self.model.Add(sum(terms) <= self.problem.limits[resource.name] - resource.constant)
        self._maximise()

    def selection(self, solver: Any) -> Keep:
        return tuple(np.array([bool(solver.Value(v)) for v in row], bool) for row in self.channels)

    def _mask(self, mask: int) -> list[Any]:
        variables = [self.model.NewBoolVar("") for _ in range(self.problem.masks[mask].size)]
        for variable, kept in zip(variables, self.hint[mask], strict=True):
            self.model.AddHint(variable, int(kept))
        return variables

    def _count(self, mask: int) -> Any:
        domain = cp_model.Domain.FromValues(list(self.problem.masks[mask].allowed))
        count = self.model.NewIntVarFromDomain(domain, "")
        self.model.Add(count == sum(self.channels[mask]))
        self.model.AddHint(count, self.hint_counts[mask])
        return count

    def _product(self, a: int, b: int) -> Any:
        """`k_a * k_b`, one variable for each pair however many resources use it."""
        if (a, b) not in self.products:
            masks = self.problem.masks
            product = self.model.NewIntVar(0, masks[a].size * masks[b].size, "")
            self.model.AddMultiplicationEquality(product, [self.counts[a], self.counts[b]])
            self.model.AddHint(product, self.hint_counts[a] * self.hint_counts[b])
            self.products[a, b] = product
        return self.products[a, b]

    def _maximise(self) -> None:
        literals: list[Any] = []
        values: list[float] = []
        for mask, weights in self.problem.linear.items():
            literals += self.channels[mask]
            values += weights.tolist()
        for pair in self.problem.pairs:
            for i, j in zip(*np.nonzero(pair.values), strict=True):
                hinted = bool(self.hint[pair.a][i] and self.hint[pair.b][j])
                literals.append(self._both(self.channels[pair.a][i], self.channels[pair.b][j], hinted))
                values.append(float(pair.values[i, j]))
        total = sum(values)
        self.total = total if total > 0 else 1.0
        # Rounded up, so that the bound is valid for the true objective.
        scaled = [math.ceil(value / self.total * _OBJECTIVE_SCALE) for value in values]
        self.model.Maximize(sum(c * literal for c, literal in zip(scaled, literals, strict=True)))

    def _both(self, u: Any, v: Any, hinted: bool) -> Any:
        """A literal that is at most `u AND v`; maximising makes it equal, since importance is not negative."""
        if u is v:
            return u
        z = self.model.NewBoolVar("")
        self.model.AddHint(z, int(hinted))
        self.model.AddImplication(z, u)
        self.model.AddImplication(z, v)
        return z
