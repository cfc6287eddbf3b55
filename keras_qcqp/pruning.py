"""The main job: read, couple, weigh, solve, plan, rebuild, report."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import keras
import numpy as np

from keras_qcqp import resources
from keras_qcqp.budget import Budget
from keras_qcqp.build import Widths, build_problem
from keras_qcqp.coupling import Coupling, couple
from keras_qcqp.errors import InfeasibleError, ModelError, QcqpError
from keras_qcqp.graph import read
from keras_qcqp.importance import criterion
from keras_qcqp.importance.score import WeightValues
from keras_qcqp.keras_graph import weight_values
from keras_qcqp.plan import Plan, plan_from
from keras_qcqp.problem import Problem, Solution
from keras_qcqp.rebuilder import rebuild
from keras_qcqp.report import Report, make_report
from keras_qcqp.solvers import solve


@dataclasses.dataclass(frozen=True)
class PruneResult:
    """What `prune` returns.

    Attributes:
        model: the smaller Keras model, same input and output names, shapes and dtypes as the original.
        plan: which channels each layer keeps; `rebuild(original, plan)` gives `model` again.
        solution: keep masks, objective, bound, gap, usage of each budget, status, seconds, seed.
        report: before and after, per layer and in total; print it.
        problem: the program that was solved, as plain data.
    """

    model: keras.Model
    plan: Plan
    solution: Solution
    report: Report
    problem: Problem


def prune(
    model: keras.Model,
    budget: Budget | Mapping[str, float] | str,
    *,
    importance: str = "magnitude",
    min_keep: float = 0.25,
    width_multiple: int = 1,
    strict: bool = False,
    time_limit_s: float = 60.0,
    seed: int = 0,
    num_workers: int = 2,
    progress: Callable[[str], None] | None = None,
) -> PruneResult:
    """Makes a smaller model that meets every budget; the given model is not changed.

    Args:
        model: a Functional or built Sequential model.
        budget: `{"macs": 0.5}`, `Budget(macs=0.5, params=100_000)` or `"macs=0.5,params=0.6"`; a value in (0, 1] is a
            fraction of the original, above 1 absolute. Every limit is hard.
        importance: name of a criterion, see `keras_qcqp.importance.CRITERIA`.
        min_keep: at least so many channels of each coupled mask: a count, or a fraction in (0, 1). With 1, magnitude
            importance leaves some early layers a single channel, from which no training recovers.
        width_multiple: kept widths are multiples of this, or unchanged.
        strict: refuse the model if anything in it would have to be frozen.
        time_limit_s: wall seconds after which the search starts nothing new.
        seed, num_workers: the same values give the same masks again.
        progress: called with a line of text as the work goes on.

    Raises:
        ModelError: the model cannot be read or rebuilt (FrozenLayerError: `strict` and something is frozen).
        BudgetError: the budget makes no sense (InfeasibleError: no selection meets it; says what is reachable).
    """
    tell = progress or (lambda line: None)
    asked, widths, weigh = Budget.of(budget), Widths(min_keep, width_multiple), criterion(importance)
    coupling = couple(read(model), strict=strict)
    tell(f"{len(coupling.masks)} coupled masks, {len(coupling.mask_of)} channels, {len(coupling.frozen)} frozen calls")
    weights = weight_values(model)
    _require_finite(weights)
    problem, original = build_problem(coupling, weigh(coupling, weights), asked, widths)
    try:
        solution = solve(problem, time_limit_s, seed, num_workers, tell)
    except InfeasibleError as error:
        raise InfeasibleError(f"{error} {_largest_layers(coupling, problem)}") from None
    plan = plan_from(coupling, solution.keep)
    tell("rebuilding")
    smaller = rebuild(model, plan)
    recounted = resources.measure(smaller)
    if {name: recounted.get(name) for name in solution.usage} != dict(solution.usage):
        raise QcqpError(
            f"Internal error: the rebuilt model costs {recounted}, the solver promised {dict(solution.usage)}. "
            "Please report this model."
        )
    return PruneResult(smaller, plan, solution, make_report(coupling, problem, original, solution, asked), problem)


def _require_finite(weights: WeightValues) -> None:
    for layer, named in weights.items():
        for values in named.values():
            if np.issubdtype(values.dtype, np.floating) and not np.all(np.isfinite(values)):
                raise ModelError(f"Layer '{layer}' has NaN or infinite weights; importance is undefined.")


def _largest_layers(coupling: Coupling, problem: Problem) -> str:
    """Which layers cost most when every mask is at its smallest."""
    least = [np.arange(mask.size) < mask.allowed[0] for mask in problem.masks]
    sentences = []
    counts = [mask.allowed[0] for mask in problem.masks]
    for limited in problem.limited:
        if limited.usage(counts) <= problem.limits[limited.name]:
            continue
        shares = resources.by_layer(coupling, limited.name, coupling.alive(least))
        largest = sorted(shares.items(), key=lambda item: -item[1])[:3]
        listed = ", ".join(f"{layer} {share:,}" for layer, share in largest)
        sentences.append(f"Largest layers at their smallest, {limited.name}: {listed}.")
    return " ".join(sentences)
