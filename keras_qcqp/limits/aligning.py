"""Widths that a device computes without waste, as the steps of a latency file suggest: `width_multiple="auto"`."""

from __future__ import annotations

import dataclasses

from keras_qcqp.coupling import Coupling
from keras_qcqp.errors import BudgetError
from keras_qcqp.limits.allowed import free_outputs
from keras_qcqp.limits.budget import Budget
from keras_qcqp.limits.latency import mask_steps
from keras_qcqp.limits.latency_file import LatencyFile, load_latency
from keras_qcqp.limits.widths import AUTO, Widths

_LEAST_CHOICE = 2  # a mask has at least so many widths to choose from


def aligned(coupling: Coupling, widths: Widths, budget: Budget) -> Widths:
    """The rules with numbers in place of "auto": for each layer that makes channels the step of its device.

    Kernels write in one step and read in another. A width is a multiple of the larger of the two, or of the smaller one
    where that would leave a layer no choice.

    Raises:
        BudgetError: there is no latency file to take them from, or it belongs to another network.
    """
    if not isinstance(widths.width_multiple, str):
        return widths
    path = widths.width_multiple.partition("@")[2]
    files = [load_latency(path)] if path else [limit.load() for limit in budget.latencies]
    if not files:
        raise BudgetError(
            f"width_multiple='{AUTO}' takes the steps of a latency budget, and there is none. Write "
            f"'{AUTO}@latency.json', or a number."
        )
    chosen = _by_mask(coupling, files)
    rule = {"*": 1}
    for layer, times in free_outputs(coupling):
        rule[layer] = max(rule.get(layer, 1), *(chosen.get(m, 1) * n for m, n in times.items()))
    return dataclasses.replace(widths, width_multiple=rule)


def _by_mask(coupling: Coupling, files: list[LatencyFile]) -> dict[int, int]:
    chosen: dict[int, int] = {}
    for file in files:
        for mask, steps in mask_steps(coupling, file).items():
            size = coupling.masks[mask].size
            fitting = [step for step in steps if size >= _LEAST_CHOICE * step]
            chosen[mask] = max(chosen.get(mask, 1), max(fitting, default=1))
    return chosen
