"""Other ways to solve the same problem, stated from scratch: what the package is measured against, and never imports.

    python -m tests.benchmarks.peers problem.npz SCIP 10 answer.json

Every peer is a function `(problem, time_limit_s) -> Answer`; building its model counts as time. None is believed: the
selection is to be judged by `evaluate` and `violations`. Run them in a process without TensorFlow, as above: OR-Tools
and TensorFlow export the same C++ symbols. Those that can use several threads get the two that our solver is given.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_qcqp import problem_io
from keras_qcqp.problem import Keep, Mask, Problem, Resource, evaluate
from tests.benchmarks.add_greedy import RefusedError, add_greedy

_SCALE = 10**9
_THREADS = 2
_CONVEX = 10.0  # the paper's code: + 10 sum x - 10 sum x^2 makes the objective concave without changing it
Channel = tuple[int, int]  # (mask, position)


class Answer(NamedTuple):
    """The best selection found, None if there is none, and what no selection exceeds, None if that was not proven."""

    keep: Keep | None
    bound: float | None = None


Peer = Callable[[Problem, float], Answer]


def greedy(problem: Problem, time_limit_s: float) -> Answer:
    """The released greedy solver, one bundle at a time."""
    return Answer(add_greedy(problem, time_limit_s))


def naive_cp_sat(problem: Problem, time_limit_s: float, hinted: bool = False) -> Answer:
    """CP-SAT with a literal `z <= x_i, z <= x_j` for each channel pair and multiplications of counts.

    Args:
        hinted: starts from the answer of `greedy`, whose time counts.
    """
    from ortools.sat.python import cp_model

    ends = time.monotonic() + time_limit_s
    hint = add_greedy(problem, time_limit_s) if hinted else None
    model = cp_model.CpModel()
    x = [[model.NewBoolVar("") for _ in range(m.size)] for m in _masks(problem)]
    counts = []
    for mask, row in zip(problem.masks, x, strict=True):
        counts.append(model.NewIntVarFromDomain(cp_model.Domain.FromValues(mask.allowed), ""))
        model.Add(counts[-1] == sum(row))
    for (mask, channel), sources in _links(problem):
        model.AddBoolOr([x[mask][channel].Not(), *(x[m][j] for m, j in sources)])
    for r in problem.limited:
        terms = [c * counts[m] for m, c in r.linear.items()]
        for (a, b), c in r.quadratic.items():
            product = model.NewIntVar(0, problem.masks[a].size * problem.masks[b].size, "")
            model.AddMultiplicationEquality(product, [counts[a], counts[b]])
            if hint is not None:
                model.AddHint(product, int(hint[a].sum() * hint[b].sum()))
            terms.append(c * product)
        model.Add(sum(terms) <= problem.limits[r.name] - r.constant)
    total, objective = _total(problem), []
    for (a, i), (b, j), value in _terms(problem):
        z = x[a][i]
        if (a, i) != (b, j):
            z = model.NewBoolVar("")
            model.AddImplication(z, x[a][i])
            model.AddImplication(z, x[b][j])
            if hint is not None:
                model.AddHint(z, bool(hint[a][i] and hint[b][j]))
        objective.append(math.ceil(value / total * _SCALE) * z)
    model.Maximize(sum(objective))
    for row, count, kept in zip(x, counts, hint or (), strict=hint is not None):
        for literal, on in zip([*row, count], [*kept.tolist(), int(kept.sum())], strict=True):
            model.AddHint(literal, on)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = _THREADS
    solver.parameters.max_time_in_seconds = max(ends - time.monotonic(), 0.1)
    status = solver.Solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return Answer(hint)
    keep = tuple(np.array([solver.BooleanValue(literal) for literal in row], bool) for row in x)
    return Answer(keep, solver.BestObjectiveBound() / _SCALE * total)


def scip(problem: Problem, time_limit_s: float, hinted: bool = False) -> Answer:
    """SCIP, with importance and limits as written: quadratic in binaries, left to its own reformulation.

    On the ResNet-20 instance 20 s of this gave 303 below a bound of 469. With a continuous `z <= x_i, z <= x_j` for a
    pair it was 152 below 577, with `z >= x_i + x_j - 1` too 212 below 577, with products of integer counts in the
    limit 1 below 496: hence this form. SCIP uses one thread.

    Args:
        hinted: starts from the answer of `greedy`, whose time counts.
    """
    import pyscipopt

    ends = time.monotonic() + time_limit_s
    hint = add_greedy(problem, time_limit_s) if hinted else None
    model, add = pyscipopt.Model(), pyscipopt.quicksum
    model.hideOutput()
    x = [[model.addVar(vtype="B") for _ in range(m.size)] for m in _masks(problem)]
    for mask, row in zip(problem.masks, x, strict=True):
        model.addCons(add(row) >= mask.allowed[0])
        model.addCons(add(row) <= mask.allowed[-1])
        if _has_gaps(mask):
            chosen = [model.addVar(vtype="B") for _ in mask.allowed]
            model.addCons(add(chosen) == 1)
            model.addCons(add(k * c for k, c in zip(mask.allowed, chosen, strict=True)) == add(row))
    for (mask, channel), sources in _links(problem):
        model.addCons(x[mask][channel] <= add(x[m][j] for m, j in sources))
    for r in problem.limited:
        divisor = _divisor(r)
        used = [c // divisor * v for m, c in r.linear.items() for v in x[m]]
        used += [c // divisor * u * v for (a, b), c in r.quadratic.items() for u in x[a] for v in x[b]]
        model.addCons(add(used) <= (problem.limits[r.name] - r.constant) // divisor)
    total, level = _total(problem), model.addVar(ub=1.0)  # SCIP wants a linear objective
    scaled = ((x[a][i], x[b][j], value / total) for (a, i), (b, j), value in _terms(problem))
    model.addCons(level <= add(c * u if u is v else c * u * v for u, v, c in scaled))
    model.setObjective(level, "maximize")
    if hint is not None:
        start = model.createSol()
        for row, kept in zip(x, hint, strict=True):
            for variable, on in zip(row, kept.tolist(), strict=True):
                model.setSolVal(start, variable, float(on))
        model.setSolVal(start, level, (1 - 1e-9) * evaluate(problem, hint)[0] / total)
        model.addSol(start)
    model.setParam("limits/time", max(ends - time.monotonic(), 0.1))
    model.optimize()
    bound = None if model.isInfinity(model.getDualbound()) else model.getDualbound() * total
    if not model.getNSols():
        return Answer(hint, bound)
    best = model.getBestSol()
    return Answer(tuple(np.array([best[v] > 0.5 for v in row], bool) for row in x), bound)


def cplex(problem: Problem, time_limit_s: float, convex: float = _CONVEX) -> Answer:
    """The paper's program as its authors give it to CPLEX: objective and limit quadratic in binaries, made concave.

    Raises:
        RefusedError: the community edition takes no more than 1,000 variables or constraints.
    """
    import cplex as library

    ends = time.monotonic() + time_limit_s
    model = library.Cplex()
    for stream in ("log", "results", "warning", "error"):
        getattr(model, f"set_{stream}_stream")(None)
    first = np.cumsum([0, *(m.size for m in _masks(problem))]).tolist()
    model.variables.add(types="B" * first[-1])
    for number, mask in enumerate(problem.masks):
        row = list(range(first[number], first[number + 1]))
        _cplex_counts(model, mask, row)
    for (mask, channel), sources in _links(problem):
        where = [first[mask] + channel, *(first[m] + j for m, j in sources)]
        _cplex_row(model, where, [1.0] + [-1.0] * len(sources), "L", 0.0)
    for r in problem.limited:
        _cplex_limit(model, problem, r.name, first)
    model.objective.set_sense(model.objective.sense.maximize)
    linear = np.full(first[-1], convex)
    quadratic: dict[tuple[int, int], float] = {(v, v): -2 * convex for v in range(first[-1])}  # CPLEX halves the square
    for (a, i), (b, j), value in _terms(problem):
        u, v = sorted((first[a] + i, first[b] + j))
        if u == v:
            linear[u] += value
        else:
            quadratic[u, v] = quadratic.get((u, v), 0.0) + value
    model.objective.set_linear(list(enumerate(linear.tolist())))
    model.objective.set_quadratic_coefficients([(u, v, value) for (u, v), value in quadratic.items()])
    model.parameters.threads.set(_THREADS)
    model.parameters.emphasis.memory.set(1)
    model.parameters.mip.strategy.nodeselect.set(0)  # depth first, as the paper's code
    model.parameters.timelimit.set(max(ends - time.monotonic(), 0.1))
    try:
        model.solve()
    except library.exceptions.CplexSolverError as error:
        raise RefusedError(f"CPLEX: {error}") from error
    bound = float(model.solution.MIP.get_best_objective())
    if not model.solution.is_primal_feasible():
        return Answer(None, bound)
    values = np.array(model.solution.get_values(0, first[-1] - 1)) > 0.5
    return Answer(tuple(values[a:b] for a, b in itertools.pairwise(first)), bound)


def _cplex_row(model: Any, where: list[int], values: list[float], sense: str, right: float) -> None:
    model.linear_constraints.add(lin_expr=[[where, values]], senses=sense, rhs=[right])


def _cplex_counts(model: Any, mask: Mask, row: list[int]) -> None:
    """Least and most channels of a mask, or where there are gaps one of its allowed numbers."""
    ones = [1.0] * len(row)
    if not _has_gaps(mask):
        _cplex_row(model, row, ones, "G", float(mask.allowed[0]))
        if mask.allowed[-1] < mask.size:
            _cplex_row(model, row, ones, "L", float(mask.allowed[-1]))
        return
    chosen = list(model.variables.add(types="B" * len(mask.allowed)))
    _cplex_row(model, chosen, [1.0] * len(chosen), "E", 1.0)
    _cplex_row(model, row + chosen, ones + [-float(k) for k in mask.allowed], "E", 0.0)


def _cplex_limit(model: Any, problem: Problem, name: str, first: list[int]) -> None:
    (r,) = (r for r in problem.limited if r.name == name)
    divisor = _divisor(r)
    linear = {v: c // divisor for m, c in r.linear.items() for v in range(first[m], first[m + 1])}
    quadratic = [
        (u, v, c // divisor)
        for (a, b), c in r.quadratic.items()
        for u in range(first[a], first[a + 1])
        for v in range(first[b], first[b + 1])
    ]
    right = float((problem.limits[name] - r.constant) // divisor)
    if not quadratic:
        _cplex_row(model, list(linear), [float(c) for c in linear.values()], "L", right)
        return
    ones, twos, values = zip(*quadratic, strict=True)
    model.quadratic_constraints.add(
        lin_expr=[list(linear), [float(c) for c in linear.values()]],
        quad_expr=[list(ones), list(twos), [float(c) for c in values]],
        sense="L",
        rhs=right,
    )


PEERS: Mapping[str, Peer] = {
    "add-greedy": greedy,
    "CP-SAT": naive_cp_sat,
    "CP-SAT from greedy": functools.partial(naive_cp_sat, hinted=True),
    "SCIP": scip,
    "SCIP from greedy": functools.partial(scip, hinted=True),
    "CPLEX": cplex,
}


def _masks(problem: Problem) -> tuple[Mask, ...]:
    """All masks, if the problem is of the form that every peer here knows."""
    if any(r.tables or r.steps for r in problem.limited):
        raise RefusedError("the peers know products of counts, neither tables nor steps")
    return problem.masks


def _divisor(r: Resource) -> int:
    """What all coefficients are multiples of; dividing by it keeps them away from the solvers' tolerances."""
    return math.gcd(*r.linear.values(), *r.quadratic.values()) or 1


def _has_gaps(mask: Mask) -> bool:
    return len(mask.allowed) != mask.allowed[-1] - mask.allowed[0] + 1


def _links(problem: Problem) -> Iterator[tuple[Channel, list[Channel]]]:
    """Every needing channel with those of which it needs one."""
    for need in problem.needs:
        for place, channel in enumerate(need.index.tolist()):
            yield (need.mask, channel), [(m, int(index[place])) for m, index in need.sources]


def _terms(problem: Problem) -> Iterator[tuple[Channel, Channel, float]]:
    """Every importance above zero: of two channels, or of one that is named twice."""
    for m, weights in problem.linear.items():
        yield from (((m, i), (m, i), float(weights[i])) for i in np.flatnonzero(weights).tolist())
    for pair in problem.pairs:
        for i, j in np.argwhere(pair.values).tolist():
            yield (pair.a, i), (pair.b, j), float(pair.values[i, j])


def _total(problem: Problem) -> float:
    """Importance of everything, one if there is none."""
    return sum(value for _, _, value in _terms(problem)) or 1.0


def run(problem: Problem, peer: str, time_limit_s: float) -> dict[str, Any]:
    """What a peer says, as plain data: keep, bound, seconds, and why it refused (None if it did not)."""
    refused, began, answer = None, time.monotonic(), Answer(None)
    try:
        answer = PEERS[peer](problem, time_limit_s)
    except (RefusedError, ImportError) as error:
        refused = str(error)
    return {
        "keep": None if answer.keep is None else [k.astype(int).tolist() for k in answer.keep],
        "bound": answer.bound,
        "seconds": time.monotonic() - began,
        "refused": refused,
    }


def main(path: str, peer: str, time_limit_s: str, output: str) -> None:
    """Runs one peer on a saved problem and writes what it says as JSON."""
    Path(output).write_text(json.dumps(run(problem_io.load(path), peer, float(time_limit_s))))


if __name__ == "__main__":
    main(*sys.argv[1:])
