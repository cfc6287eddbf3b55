"""Pruning in steps with training in between, each step resumable."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras

from keras_qcqp import keras_graph
from keras_qcqp.coupling import couple
from keras_qcqp.errors import TrainingError
from keras_qcqp.finetuning.step_folder import begin
from keras_qcqp.finetuning.tune import FinetuneResult, finetune
from keras_qcqp.graph import read
from keras_qcqp.legacy import modern
from keras_qcqp.limits.budget import Budget, Limit
from keras_qcqp.limits.latency_limit import LatencyLimit
from keras_qcqp.limits.meter import Meter
from keras_qcqp.plan import Plan
from keras_qcqp.pruning import PruneResult, prune

Tell = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class StepResult:
    """One step of `prune_and_finetune`.

    Attributes:
        limits: what was asked of this step: resource (or resource[layers]) -> limit.
        usage: what the step's model uses of it.
        plan: which channels of the step before stayed.
        finetuned: the training that followed; its model is where the next step begins.
    """

    limits: Mapping[str, int]
    usage: Mapping[str, int]
    plan: Plan
    finetuned: FinetuneResult


@dataclasses.dataclass(frozen=True)
class IterativeResult:
    """What `prune_and_finetune` returns: the last step's model, and all steps."""

    model: keras.Model
    steps: tuple[StepResult, ...]

    def __str__(self) -> str:
        lines = []
        for number, step in enumerate(self.steps, 1):
            used = ", ".join(f"{name} {step.usage[name]:,} of {limit:,}" for name, limit in step.limits.items())
            lines.append(f"step {number}: {used}; {step.finetuned}")
        return "\n".join(lines)


def prune_and_finetune(
    model: keras.Model,
    budget: Budget | Mapping[str, Any] | str,
    train_data: Any,
    *,
    steps: int = 3,
    distill: bool = True,
    prune_options: Mapping[str, Any] | None = None,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    progress: Tell | None = None,
    **finetune_options: Any,
) -> IterativeResult:
    """Approaches a budget in steps, each pruned from and trained after the one before; the given model stays.

    Every limit is tightened by the same factor from step to step, from what the model uses to what is asked: to half of
    the MACs in three steps over 79 and 63 %. The last step meets the budget as `prune` would. Where a side effect of
    one limit meets another beforehand, that one only holds what is reached. The training data also serve as the
    examples of each pruning, which measure importance and recover before the training begins.

    Args:
        model, budget: as for `prune`.
        train_data: as for `finetune`.
        distill: imitate the given model in every step.
        prune_options: more arguments of `prune`, such as `{"importance": "magnitude", "residual": "union"}`; with
            `{"data": None}` it looks at weights only. Fractions in `widths` are of the model of the step before:
            `min_keep`, a quarter by default, bounds each step.
        checkpoint_dir: each step keeps its plan and its training in `step_1`, `step_2`, ... there; the same call goes
            on after the last finished epoch, however the process ended.
        finetune_options: more arguments of `finetune`, the same for every step: validation_data, augment, epochs, ...

    Raises:
        TrainingError, BudgetError, ModelError, FileError: as `prune` and `finetune`; or a step's folder belongs to
            another run.
        KeyboardInterrupt: Ctrl-C, whenever it comes, since the budget is not met; finished epochs are kept.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise TrainingError(f"steps must be a whole number >= 1, got {steps!r}.")
    if "teacher" in finetune_options:
        raise TrainingError("The teacher is the given model; say distill=False to train without it.")
    tell = progress or (lambda line: None)
    options = {"data": train_data, **(prune_options or {})}
    model = modern(model)
    keras_graph.require_functional(model)
    gauge = _Gauge.of(budget, options)
    done: list[StepResult] = []
    current = model
    for number, limits in enumerate(gauge.schedule(model, steps), 1):
        tell(f"step {number} of {steps}")
        folder = Path(checkpoint_dir) / f"step_{number}" if checkpoint_dir is not None else None
        resume = finetune_options.get("resume", True)
        asked = gauge.at(limits, current)

        def prune_now(model: keras.Model = current, asked: Budget = asked) -> PruneResult:
            return prune(model, asked, progress=tell, **options)

        plan, start = begin(current, {**limits, **_told(options)}, prune_now, folder, resume, tell)
        finetuned = finetune(
            start,
            train_data,
            teacher=model if distill else None,
            checkpoint_dir=folder,
            progress=tell,
            **finetune_options,
        )
        current = finetuned.model
        done.append(StepResult(limits, gauge.usage(current), plan, finetuned))
        if finetuned.interrupted:
            raise KeyboardInterrupt
    return IterativeResult(current, tuple(done))


def _told(options: Mapping[str, Any]) -> dict[str, Any]:
    """What of the options can be told apart in another process; of the data only whether there are any."""
    plain = {key: value for key, value in options.items() if key != "data" and not callable(value)}
    return {"options": json.dumps({**plain, "data": options["data"] is not None}, sort_keys=True, default=_kind)}


def _kind(value: Any) -> str:
    return type(value).__name__


@dataclasses.dataclass(frozen=True)
class _Gauge:
    """The whole budget, and how what it limits is counted."""

    budget: Budget
    meter: Meter

    @classmethod
    def of(cls, budget: Budget | Mapping[str, Any] | str, options: Mapping[str, Any]) -> _Gauge:
        meter = Meter(options.get("recipe", "float32"), tuple(options.get("costs", ())))
        return cls(Budget.of(budget, meter.names), meter)

    def usage(self, model: keras.Model) -> dict[str, int]:
        return self.meter.usage(couple(read(model)).unpruned, self.budget)

    def schedule(self, model: keras.Model, steps: int) -> Iterator[dict[str, int]]:
        """The limits of each step: a geometric series from what is used to what is asked."""
        used = self.usage(model)
        final = self.budget.limits(used)
        for number in range(1, steps):
            yield {key: math.floor(used[key] * (limit / used[key]) ** (number / steps)) for key, limit in final.items()}
        yield final

    def at(self, limits: Mapping[str, int], model: keras.Model) -> Budget:
        """A budget for `prune`; what is met already may not grow."""
        used = self.usage(model)
        values = {key: _asked(limit, used[key]) for key, limit in limits.items()}
        scopes: dict[str, dict[str, float]] = {}
        plain, costs = dict[str, float](), dict[str, float]()
        latencies = [limit.tightened(limits[limit.key], used[limit.key]) for limit in self.budget.latencies]
        for limit in self.budget.asked():
            if isinstance(limit, LatencyLimit):
                continue
            place = _place(limit, plain, costs, scopes, self.meter.names)
            place[limit.resource] = values[limit.key]
        return Budget(latency_ms=latencies, **plain, costs=costs, layers=scopes)


def _asked(limit: int, used: int) -> float:
    if limit >= used:
        return 1.0
    return limit if limit > 1 else limit / used


def _place(
    limit: Limit,
    plain: dict[str, float],
    costs: dict[str, float],
    scopes: dict[str, dict[str, float]],
    own: tuple[str, ...],
) -> dict[str, float]:
    if limit.pattern is not None:
        return scopes.setdefault(limit.pattern, {})
    return costs if limit.name in own else plain
