"""What the user asks for, how to look for it, and what was found: one program, or the better one of two."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

import keras
import numpy as np

from keras_qcqp.branches.removable import emptied, removable_masks
from keras_qcqp.build import build_problem
from keras_qcqp.coupling import RESIDUALS, Coupling, couple
from keras_qcqp.errors import InfeasibleError
from keras_qcqp.graph import Graph
from keras_qcqp.importance.evidence import Evidence, WeightValues
from keras_qcqp.importance.score import Criterion, Score
from keras_qcqp.limits.aligning import aligned
from keras_qcqp.limits.allowed import freeze
from keras_qcqp.limits.budget import Budget
from keras_qcqp.limits.meter import Meter
from keras_qcqp.limits.widths import Widths
from keras_qcqp.problem import Problem, Solution
from keras_qcqp.samples import Samples
from keras_qcqp.solvers import solve
from keras_qcqp.solvers.search import gap_of

Tell = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Known:
    """The network, and what the user knows of it."""

    graph: Graph
    weights: WeightValues
    model: keras.Model
    samples: Samples | None
    loss: Any


@dataclasses.dataclass(frozen=True)
class Search:
    """How to look for a solution."""

    time_limit_s: float
    seed: int
    num_workers: int
    tell: Tell

    def solve(self, problem: Problem) -> Solution:
        return solve(problem, self.time_limit_s, self.seed, self.num_workers, self.tell)


@dataclasses.dataclass(frozen=True)
class Found:
    """A solved program, where it comes from, and what the report should say of it."""

    coupling: Coupling
    problem: Problem
    original: Mapping[str, int]
    solution: Solution
    note: str = ""
    gone: frozenset[int] = frozenset()


@dataclasses.dataclass(frozen=True)
class Job:
    """What the user asks for."""

    asked: Budget
    widths: Widths
    meter: Meter
    weigh: Criterion
    strict: bool
    group_conv: str

    def weighed_once(self) -> Job:
        """The same job, whose criterion looks at each kind of coupling once, for solving several times."""
        known: dict[str, list[Score]] = {}

        def weigh(evidence: Evidence) -> list[Score]:
            kind = evidence.coupling.residual
            if kind not in known:
                known[kind] = list(self.weigh(evidence))
            return known[kind]

        return dataclasses.replace(self, weigh=weigh)

    def couple(self, graph: Graph, residual: str) -> Coupling:
        return freeze(couple(graph, self.strict, residual, self.widths.together, self.group_conv), self.widths)

    def solve(self, known: Known, residual: str, search: Search) -> Found:
        coupling = self.couple(known.graph, residual)
        num_frozen = len(coupling.frozen)
        search.tell(f"{len(coupling.masks)} coupled masks, {len(coupling.mask_of)} channels, {num_frozen} frozen calls")
        evidence = Evidence(coupling, known.weights, known.model, known.samples, known.loss, search.seed, search.tell)
        scores = self.weigh(evidence)
        widths = aligned(coupling, self.widths, self.asked)
        problem, original = build_problem(coupling, scores, self.asked, widths, self.meter)
        try:
            solution = search.solve(problem)
        except InfeasibleError as error:
            raise InfeasibleError(f"{error} {self.largest_layers(coupling, problem)}".rstrip()) from None
        return _settled(Found(coupling, problem, original, solution), search)

    def largest_layers(self, coupling: Coupling, problem: Problem) -> str:
        """Which layers cost most when every mask is at its smallest."""
        least = [np.arange(mask.size) < mask.allowed[0] for mask in problem.masks]
        counts = [mask.allowed[0] for mask in problem.masks]
        sentences = []
        for limited in problem.limited:
            if limited.usage(counts) <= problem.limits[limited.name]:
                continue
            shares = self.meter.by_layer(coupling, self.asked, limited.name, coupling.alive(least))
            largest = sorted(shares.items(), key=lambda item: -item[1])[:3]
            listed = ", ".join(f"{layer} {share:,}" for layer, share in largest)
            sentences.append(f"Largest layers at their smallest, {limited.name}: {listed}.")
        return " ".join(sentences)


def _settled(found: Found, search: Search) -> Found:
    """Where whole branches went: solved again without what only they need, so that the room goes to other channels.

    The bound of the first program stays: it also speaks of selections that keep these branches.
    """
    coupling, problem = found.coupling, found.problem
    removable = removable_masks(coupling) if any(not m.allowed[0] and len(m.allowed) > 1 for m in problem.masks) else ()
    gone = emptied(coupling, found.solution.keep, removable)
    if not gone:
        return found
    names = ", ".join(coupling.masks[m].name for m in sorted(gone))
    search.tell(f"branches taken out: {names}; solving for the rest")
    rest = _without(problem, gone, removable)
    try:
        again = search.solve(rest)
    except InfeasibleError:  # what hangs on these branches is needed by a sum that must stay
        search.tell("the rest cannot do without them; solving with all branches")
        rest, gone, names = _without(problem, frozenset(), removable), frozenset(), "nothing"
        again = search.solve(rest)
    bound = max(found.solution.bound, again.objective)
    again = dataclasses.replace(again, status="FEASIBLE", bound=bound, gap=gap_of(bound, again.objective))
    return Found(coupling, rest, found.original, again, f"; taken out: {names}", gone)


def _without(problem: Problem, gone: frozenset[int], removable: Collection[int]) -> Problem:
    """The program in which these masks are empty, and the other removable ones are not."""
    masks = tuple(
        dataclasses.replace(m, allowed=(0,) if k in gone else tuple(c for c in m.allowed if c or k not in removable))
        for k, m in enumerate(problem.masks)
    )
    return dataclasses.replace(problem, masks=masks)


def best_of(job: Job, known: Known, search: Search) -> Found:
    """Tied or union residuals, whichever keeps more importance."""
    if not job.couple(known.graph, "union").joins:
        tied = job.solve(known, "tied", search)
        return dataclasses.replace(tied, note="; residual auto: tied, no sum can have channels of its own")
    found, failure = dict[str, Found](), None
    for residual in RESIDUALS:
        search.tell(f"residual {residual}")
        try:
            found[residual] = job.solve(
                known, residual, dataclasses.replace(search, time_limit_s=search.time_limit_s / len(RESIDUALS))
            )
        except InfeasibleError as error:
            failure = error
    if not found:
        assert failure is not None
        raise failure
    best = max(found, key=lambda residual: found[residual].solution.objective)  # of equals the first, which is tied
    said = (f"{r} {found[r].solution.objective:.6g}" if r in found else f"{r} infeasible" for r in RESIDUALS)
    note = f"{found[best].note}; residual auto: {best}, objectives {', '.join(said)}"
    return dataclasses.replace(found[best], note=note)
