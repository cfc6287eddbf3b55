"""Prune, measure, and prune again until what is measured meets the limit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from typing import Any

import keras

from keras_qcqp.errors import InfeasibleError, QcqpError
from keras_qcqp.limits.latency_limit import LatencyLimit

METERS = "keras_qcqp.meters"
"""Entry points that measure; `tflite_tools` brings one."""

Measure = Callable[[Sequence[keras.Model], str], Sequence[float]]
"""(models, path of a latency file) -> milliseconds of each on the device of the file, all in one session."""

_ROUNDS = 6
_AIM, _ENOUGH = 0.97, 0.985  # of the limit: a measurement varies by a per cent or two, and the promise is to hold again


@dataclasses.dataclass(frozen=True)
class Verified:
    """A latency that was measured after rebuilding.

    Attributes:
        before_ms: the given model, measured in the same session.
        limit_ms: what was allowed; of a fraction, that share of `before_ms`.
        rounds: how often it was solved.
    """

    file: str
    before_ms: float
    predicted_ms: float
    measured_ms: float
    limit_ms: float
    rounds: int

    def __str__(self) -> str:
        return (
            f"latency, {self.file}: {self.before_ms:.4g} ms before, {self.predicted_ms:.4g} ms predicted, "
            f"{self.measured_ms:.4g} ms measured, limit {self.limit_ms:.4g} ms, {self.rounds} round(s)"
        )


def find_measure(verify: bool | Measure) -> Measure | None:
    """What measures: nothing for False, what is installed for True, else the function itself.

    Raises:
        QcqpError: True, and nothing that measures is installed.
    """
    if not isinstance(verify, bool):
        return verify
    if not verify:
        return None
    found = sorted(metadata.entry_points(group=METERS), key=lambda entry: entry.name)
    if not found:
        raise QcqpError(
            f"verify=True needs something that measures (entry point group '{METERS}'), and none is installed. Install "
            "keras-qcqp again, or give a function (models, path of a latency file) -> milliseconds."
        )
    measure: Measure = found[0].load()
    return measure


def until_met(
    limits: Sequence[LatencyLimit],
    solve: Callable[[Sequence[LatencyLimit]], Any],
    measure: Measure,
    model: keras.Model,
    tell: Callable[[str], None],
) -> tuple[Any, tuple[Verified, ...]]:
    """Solves, measures and corrects the scales of the limits, a few rounds at most.

    Args:
        solve: makes a result, with a model and the usage of the limits, for other scales.

    Raises:
        InfeasibleError: the limits are still not met.
    """
    found: list[Verified] = []
    current = [dataclasses.replace(limit, scale=limit.scale / _AIM) for limit in limits]
    for number in range(1, _ROUNDS + 1):
        result = _solved(solve, current, found)
        found = [_measured(limit, result, measure, model, number) for limit in current]
        for one in found:
            tell(str(one))
        if all(one.measured_ms <= _ENOUGH * one.limit_ms for one in found):
            return result, tuple(found)
        current = [_corrected(limit, one) for limit, one in zip(current, found, strict=True)]
    raise InfeasibleError(
        f"Measured latencies do not meet their limits after {_ROUNDS} rounds. {_listed(found)}. Is the device busy, or "
        "was the latency file made in another state of it? Fit again, or raise the limit."
    )


def _solved(solve: Callable[[Sequence[LatencyLimit]], Any], limits: list[LatencyLimit], found: list[Verified]) -> Any:
    """What was measured so far belongs to the message: the solver speaks of limits that nobody asked for."""
    try:
        return solve(limits)
    except InfeasibleError as error:
        if not found:
            raise
        raise InfeasibleError(f"{error} Limits were lowered since more was measured: {_listed(found)}.") from None


def _measured(limit: LatencyLimit, result: Any, measure: Measure, model: keras.Model, number: int) -> Verified:
    before, after = measure([model, result.model], limit.path)
    allowed = limit.ms if limit.ms is not None else (limit.fraction or 1.0) * before
    predicted = result.solution.usage[limit.key] / 1e6
    return Verified(limit.path, float(before), predicted, float(after), float(allowed), number)


def _corrected(limit: LatencyLimit, found: Verified) -> LatencyLimit:
    """With a scale at which the same prediction would have said what was measured; never a looser one if it failed."""
    if found.measured_ms <= _ENOUGH * found.limit_ms:
        return limit
    return dataclasses.replace(limit, scale=limit.scale * max(found.measured_ms / (_AIM * found.limit_ms), 1.005))


def _listed(found: Iterable[Verified]) -> str:
    return "; ".join(map(str, found))
