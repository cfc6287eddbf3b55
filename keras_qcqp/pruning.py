"""The main job: read, couple, weigh, solve, plan, rebuild, report."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_qcqp.coupling import RESIDUALS, couple
from keras_qcqp.errors import BudgetError, DataError, ModelError, QcqpError, did_you_mean
from keras_qcqp.execution import Network
from keras_qcqp.graph import read
from keras_qcqp.importance import Importance, criterion
from keras_qcqp.importance.evidence import WeightValues
from keras_qcqp.keras_graph import weight_values
from keras_qcqp.legacy import modern
from keras_qcqp.limits.budget import Budget
from keras_qcqp.limits.costs import CostModel
from keras_qcqp.limits.latency_limit import LatencyLimit
from keras_qcqp.limits.meter import Meter
from keras_qcqp.limits.widths import Widths
from keras_qcqp.plan import Plan, plan_from
from keras_qcqp.problem import Problem, Solution
from keras_qcqp.rebuilder import rebuild
from keras_qcqp.recovery import DEFAULT as DEFAULT_STEPS
from keras_qcqp.recovery import Recovered, mend, require_steps
from keras_qcqp.recovery.pair import Pair, Settings
from keras_qcqp.report import Report, make_report
from keras_qcqp.samples import NUM_SAMPLES, collect
from keras_qcqp.selecting import Found, Job, Known, Search, Tell, best_of
from keras_qcqp.transfer import transfer
from keras_qcqp.verifying import Measure, Verified, find_measure, until_met

_DEPLOYED = ("peak_bytes", "tflite_bytes")
_BOUNDS = ("activation_bytes", "peak_bytes", "tflite_bytes")  # where the network aligns or corrects tensors


@dataclasses.dataclass(frozen=True)
class PruneResult:
    """What `prune` returns.

    Attributes:
        model: the smaller Keras model, same input and output names, shapes and dtypes as the original; after recovery,
            if there was any.
        plan: which channels each layer keeps; `rebuild(original, plan)` gives the model before recovery again.
        solution: keep masks, objective, bound, gap, usage of each budget, status, seconds, seed.
        report: before and after, per layer and in total; print it.
        problem: the program that was solved, as plain data.
        recovery: what was done to make up for dropped channels, None if nothing was.
        latencies: what was measured, one for each latency limit; empty without `verify`.
    """

    model: keras.Model
    plan: Plan
    solution: Solution
    report: Report
    problem: Problem
    recovery: Recovered | None = None
    latencies: tuple[Verified, ...] = ()


def prune(
    model: keras.Model,
    budget: Budget | Mapping[str, Any] | str,
    *,
    data: Any = None,
    loss: Any = None,
    importance: Importance | None = None,
    recovery: Collection[str] | None = None,
    num_samples: int = NUM_SAMPLES,
    widths: Widths | Mapping[str, Any] | None = None,
    residual: str = "tied",
    group_conv: str = "channels",
    recipe: str = "float32",
    costs: Sequence[CostModel] = (),
    strict: bool = False,
    verify: bool | Measure = False,
    time_limit_s: float = 60.0,
    seed: int = 0,
    num_workers: int = 2,
    progress: Tell | None = None,
) -> PruneResult:
    """Makes a smaller model that meets every budget; the given model is not changed.

    Args:
        model: a Functional or built Sequential model. One of Keras 2 (`tf_keras`) is converted by `from_tf_keras`, and
            the result is a Keras 3 model.
        budget: `{"macs": 0.5}`, `Budget(macs=0.5, params=100_000)` or `"macs=0.5,stage3/*:params=0.6"`; a value in
            (0, 1] is a fraction of the original, above 1 absolute. Every limit is hard.
        data: examples, which cost minutes and save most of the accuracy: inputs, `(inputs, labels)`, or batches of
            either, see `keras_qcqp.samples.collect`. With the model's preprocessing, and none of the test set.
        loss: what the network was trained for, where it is not compiled and is no classifier; see
            `keras_qcqp.losses.loss_of`.
        importance: name of a criterion, see `keras_qcqp.importance.CRITERIA`, a function like those, or arrays by layer
            path. By default "reconstruction" with examples, "magnitude" without.
        recovery: what to do without training, see `keras_qcqp.recover`: by default ("least_squares",) with examples.
        num_samples: how many examples to look at.
        widths: how many channels stay, and which: `{"min_keep": 0.1, "width_multiple": 8, "frozen": ["stem*"]}` or
            `Widths(...)`. At least a quarter stays unless it says otherwise: of a single channel, which magnitude
            importance leaves in some early layers, no training recovers.
        residual: "tied", "union" (see `keras_qcqp.couple`) or "auto": solves both, each in half of the time, and keeps
            the one with the higher objective (tied if they are equal).
        group_conv: "channels" (every group of a grouped convolution keeps the same of its channels) or "groups" (a
            group stays whole or goes).
        recipe: number format in which the model will be deployed, for the budgets `peak_bytes` and `tflite_bytes`:
            "float32" or "int8".
        costs: resources of your own, to be limited by their names like the built-in ones.
        strict: refuse the model if anything in it would have to be frozen.
        verify: convert the result, measure it on the device of each latency limit, and prune again with another scale
            until what is measured meets the limit, in six rounds at most. A function measures in place of what is
            installed, see `keras_qcqp.verifying`.
        time_limit_s: wall seconds after which the search starts nothing new.
        seed, num_workers: the same values give the same masks again.
        progress: called with a line of text as the work goes on.

    Raises:
        ModelError: the model cannot be read or rebuilt (FrozenLayerError: `strict` and something is frozen).
        DataError: the examples do not fit the model, or are needed and missing.
        BudgetError: the budget makes no sense (InfeasibleError: no selection meets it; says what is reachable; or the
            measured latency does not meet its limit).
    """
    meter, measure = Meter(recipe, tuple(costs)), find_measure(verify)
    asked = Budget.of(budget, meter.names)
    if measure and not asked.latencies:
        raise BudgetError("verify measures latency budgets, and there is none. Give a LatencyLimit, or leave it out.")
    weigh, steps = criterion(importance, data is not None), _steps(recovery, data)
    job = Job(asked, Widths.of(widths or {}), meter, weigh, strict, group_conv)
    search = Search(time_limit_s, seed, num_workers, progress or (lambda line: None))
    if residual not in (*RESIDUALS, "auto"):
        raise ModelError(f"residual={residual!r} is unknown. {did_you_mean(str(residual), (*RESIDUALS, 'auto'))}")
    model = modern(model)
    graph, weights = read(model), weight_values(model)
    _require_finite(weights)
    samples = None if data is None else collect(data, model, num_samples, seed)
    known = Known(graph, weights, model, samples, loss)
    result = _verified(job, known, search, residual, measure) if measure else _solved(job, known, search, residual)
    if not steps or samples is None:
        return result
    pair = Pair(Network(model), Network(result.model), result.plan)
    return dataclasses.replace(result, recovery=mend(pair, samples, steps, Settings(seed=seed), search.tell))


def _solved(job: Job, known: Known, search: Search, residual: str) -> PruneResult:
    """The best selection, rebuilt."""
    found = best_of(job, known, search) if residual == "auto" else job.solve(known, residual, search)
    search.tell("rebuilding")
    return _rebuilt(job, known, found)


def _verified(job: Job, known: Known, search: Search, residual: str, measure: Measure) -> PruneResult:
    """The same, again and again until the measured latencies meet their limits."""
    once = job.weighed_once()

    def solve(limits: Sequence[LatencyLimit]) -> PruneResult:
        asked = dataclasses.replace(once.asked, latency_ms=tuple(limits))
        return _solved(dataclasses.replace(once, asked=asked), known, search, residual)

    result, found = until_met(job.asked.latencies, solve, measure, known.model, search.tell)
    report = dataclasses.replace(result.report, latencies=tuple(map(str, found)))
    return dataclasses.replace(result, report=report, latencies=found)


def _rebuilt(job: Job, known: Known, found: Found) -> PruneResult:
    """The smaller model before recovery, counted again."""
    base = found.coupling
    if job.widths.together:
        base = couple(known.graph, residual=base.residual, group_conv=base.group_conv)
    plan = plan_from(base, transfer(found.solution.keep, found.coupling, base))
    smaller = rebuild(known.model, plan)
    counted = _recounted(job, found, smaller)
    report = make_report(found.coupling, found.problem, found.original, found.solution, job.asked, plan)
    rows = tuple(dataclasses.replace(row, after=counted[row.resource]) for row in report.budgets)
    report = dataclasses.replace(report, budgets=rows, solution=f"{report.solution}{found.note}")
    return PruneResult(smaller, plan, found.solution, report, found.problem)


def _steps(recovery: Collection[str] | None, data: Any) -> tuple[str, ...]:
    """What recovery is to do.

    Raises:
        DataError: a step is unknown, or some are asked for and there are no examples.
    """
    if recovery is None:
        return DEFAULT_STEPS if data is not None else ()
    steps = require_steps(recovery)
    if steps and data is None:
        raise DataError(f"recovery={', '.join(steps)} looks at examples: give data=inputs, or recovery=().")
    return steps


def _recounted(job: Job, found: Found, smaller: keras.Model) -> dict[str, int]:
    """What the rebuilt model costs by its own shapes: what was promised, or less where that is a bound.

    Batch norms and biases of branches that went are promised, and folded away. Of a deployed file the limit counts:
    narrow tensors may make an operator superfluous, and around operators of which nothing is known the order of
    execution may be foretold differently for the rebuilt model.
    """
    promised = found.solution.usage
    counted = job.meter.usage(couple(read(smaller)).unpruned, job.asked, timed=not found.gone)
    if found.gone:  # which of the measured operators are left is not told by the rebuilt model
        counted |= {limit.key: promised[limit.key] for limit in job.asked.latencies}
    bounded = tuple(promised) if found.gone else _BOUNDS if found.coupling.bounded else ()
    for name, value in promised.items():
        plain = name.partition("[")[0]
        least = 0 if plain in (*bounded, *_DEPLOYED) else value
        most = found.problem.limits.get(name, math.inf) if plain in _DEPLOYED else value
        if not least <= counted.get(name, -1) <= most:
            raise QcqpError(
                f"Internal error: the rebuilt model costs {counted}, the solver promised {dict(promised)}. "
                "Please report this model."
            )
    return counted


def _require_finite(weights: WeightValues) -> None:
    for layer, named in weights.items():
        for values in named.values():
            # NumPy does not count bfloat16 among its own floating types.
            if keras.backend.is_float_dtype(values.dtype.name) and not np.all(np.isfinite(values)):
                raise ModelError(f"Layer '{layer}' has NaN or infinite weights; importance is undefined.")
