"""Solves a small problem exactly, on OR-Tools CP-SAT (the only importer of ortools; runs in the worker process).

The product of two channels is an AND literal, counts are integers, products of counts are CP-SAT multiplications, and
every resource is an exact integer inequality.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from typing import Any

import numpy as np
from ortools.sat.python import cp_model

from keras_qcqp.feasibility import Conflict
from keras_qcqp.problem import Keep, Need, Problem, Resource, counts_of
from keras_qcqp.solvers.exact import Limits, Outcome

_OBJECTIVE_SCALE = 10**9


def solve_exactly(problem: Problem, hint: Keep | None, limits: Limits) -> Outcome:
    """Maximises importance, starting from a selection; without one, any feasible selection will do."""
    model = _Model(problem, hint)
    if hint is None:
        model.model.ClearObjective()
    solver = _solver(limits)
    status = solver.Solve(model.model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return Outcome(hint, status == cp_model.INFEASIBLE, math.inf)
    bound = math.inf if hint is None else solver.BestObjectiveBound() / _OBJECTIVE_SCALE * model.total
    return Outcome(model.selection(solver), status == cp_model.OPTIMAL, bound)


def find_conflict(problem: Problem, limits: Limits) -> Conflict:
    """Why a problem without a feasible selection has none: a deletion filter over its limits and width rules."""
    rules = [*problem.limits, *range(len(problem.masks))]
    for rule in tuple(rules):
        rest = [other for other in rules if other != rule]
        model = _Model(_relaxed(problem, rest), None)
        model.model.ClearObjective()
        if _solver(limits).Solve(model.model) == cp_model.INFEASIBLE:
            rules = rest
    names = tuple(r for r in rules if isinstance(r, str))
    smallest = {r.name: _smallest(problem, r, limits) for r in problem.limited if r.name in names}
    return Conflict(names, tuple(r for r in rules if isinstance(r, int)), smallest)


def _relaxed(problem: Problem, rules: Collection[str | int]) -> Problem:
    """The problem with these limits and width rules only."""
    masks = tuple(
        m if k in rules else dataclasses.replace(m, allowed=tuple(range(m.size + 1)))
        for k, m in enumerate(problem.masks)
    )
    limits = {name: limit for name, limit in problem.limits.items() if name in rules}
    return dataclasses.replace(problem, masks=masks, limits=limits, linear={}, pairs=())


def _smallest(problem: Problem, resource: Resource, limits: Limits) -> int | None:
    """The least that a resource can cost when it alone is limited; None when that is not proven in time."""
    sizes = [m.size for m in problem.masks]
    most = resource.usage(sizes) + sum(int(table.max()) for table in resource.tables.values())
    model = _Model(dataclasses.replace(problem, limits={resource.name: most}, linear={}, pairs=()), None)
    model.model.Minimize(model.cost[resource.name])
    solver = _solver(limits)
    proven = solver.Solve(model.model) == cp_model.OPTIMAL
    return resource.constant + round(solver.ObjectiveValue()) if proven else None


def _solver(limits: Limits) -> Any:
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = limits.num_workers
    solver.parameters.random_seed = limits.seed % 2**31
    solver.parameters.max_deterministic_time = limits.deterministic_s
    solver.parameters.max_time_in_seconds = max(limits.wall_s, 0.1)
    # Several workers, yet the same answer every time.
    solver.parameters.interleave_search = limits.num_workers > 1
    return solver


@dataclasses.dataclass
class _Model:
    """The CP-SAT twin of a problem."""

    problem: Problem
    hint: Keep | None

    def __post_init__(self) -> None:
        self.model = cp_model.CpModel()
        self.hint_counts = None if self.hint is None else counts_of(self.hint)
        self.channels = [self._mask(m) for m in range(len(self.problem.masks))]
        self.counts = [self._count(m) for m in range(len(self.problem.masks))]
        self.products: dict[tuple[int, int], Any] = {}
        self.cost = {r.name: self._cost(r) for r in self.problem.limited}
        for need in self.problem.needs:
            self._need(need)
        self._maximise()

    def _cost(self, resource: Resource) -> Any:
        """The cost without its constant, held below the limit."""
        terms = [c * self.counts[m] for m, c in resource.linear.items()]
        terms += [c * self._product(a, b) for (a, b), c in resource.quadratic.items()]
        terms += [self._looked_up(key, table) for key, table in resource.tables.items()]
        room = self.problem.limits[resource.name] - resource.constant
        sizes = [m.size for m in self.problem.masks]
        if resource.steps:
            peak = self.model.NewIntVar(0, max(step.usage(sizes) for step in resource.steps), "")
            for step in resource.steps:
                self.model.Add(sum(c * self.counts[m] for m, c in step.linear.items()) + step.constant <= peak)
            terms.append(peak)
        self.model.Add(sum(terms) <= room)
        return sum(terms)

    def selection(self, solver: Any) -> Keep:
        return tuple(np.array([bool(solver.Value(v)) for v in row], bool) for row in self.channels)

    def _hint(self, variable: Any, counted: Any) -> None:
        """`counted` gives the hinted value from the counts of the hint."""
        if self.hint_counts is not None:
            self.model.AddHint(variable, int(counted(self.hint_counts)))

    def _mask(self, mask: int) -> list[Any]:
        variables = [self.model.NewBoolVar("") for _ in range(self.problem.masks[mask].size)]
        if self.hint is not None:
            for variable, kept in zip(variables, self.hint[mask], strict=True):
                self.model.AddHint(variable, int(kept))
        return variables

    def _count(self, mask: int) -> Any:
        domain = cp_model.Domain.FromValues(list(self.problem.masks[mask].allowed))
        count = self.model.NewIntVarFromDomain(domain, "")
        self.model.Add(count == sum(self.channels[mask]))
        self._hint(count, lambda counts: counts[mask])
        return count

    def _product(self, a: int, b: int) -> Any:
        """`k_a * k_b`, one variable for each pair however many resources use it."""
        if (a, b) not in self.products:
            masks = self.problem.masks
            product = self.model.NewIntVar(0, masks[a].size * masks[b].size, "")
            self.model.AddMultiplicationEquality(product, [self.counts[a], self.counts[b]])
            self._hint(product, lambda counts: counts[a] * counts[b])
            self.products[a, b] = product
        return self.products[a, b]

    def _looked_up(self, key: tuple[int, ...], table: np.ndarray) -> Any:
        """The entry of a cost table at the counts."""
        cost = self.model.NewIntVar(int(table.min()), int(table.max()), "")
        place = self.counts[key[0]] if len(key) == 1 else self.counts[key[0]] * table.shape[1] + self.counts[key[1]]
        self.model.AddElement(place, [int(v) for v in table.ravel()], cost)
        self._hint(cost, lambda counts: table[tuple(counts[m] for m in key)])
        return cost

    def _need(self, need: Need) -> None:
        for number, channel in enumerate(need.index.tolist()):
            sources = [self.channels[m][int(index[number])] for m, index in need.sources]
            self.model.AddBoolOr([self.channels[need.mask][channel].Not(), *sources])

    def _maximise(self) -> None:
        literals: list[Any] = []
        values: list[float] = []
        for mask, weights in self.problem.linear.items():
            literals += self.channels[mask]
            values += weights.tolist()
        for pair in self.problem.pairs:
            for i, j in zip(*np.nonzero(pair.values), strict=True):
                literals.append(self._both((pair.a, i), (pair.b, j)))
                values.append(float(pair.values[i, j]))
        total = sum(values)
        self.total = total if total > 0 else 1.0
        # Rounded up, so that the bound is valid for the true objective.
        scaled = [math.ceil(value / self.total * _OBJECTIVE_SCALE) for value in values]
        self.model.Maximize(sum(c * literal for c, literal in zip(scaled, literals, strict=True)))

    def _both(self, first: tuple[int, int], second: tuple[int, int]) -> Any:
        """A literal that is at most `u AND v`; maximising makes it equal, since importance is not negative."""
        u, v = (self.channels[mask][channel] for mask, channel in (first, second))
        if u is v:
            return u
        z = self.model.NewBoolVar("")
        if self.hint is not None:
            self.model.AddHint(z, int(self.hint[first[0]][first[1]] and self.hint[second[0]][second[1]]))
        self.model.AddImplication(z, u)
        self.model.AddImplication(z, v)
        return z
