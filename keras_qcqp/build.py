"""Puts coupling, importance, resources and width rules together into a `Problem`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from keras_qcqp.coupling import Coupling, couple
from keras_qcqp.importance.score import Score
from keras_qcqp.limits.allowed import allowed_masks
from keras_qcqp.limits.budget import Budget
from keras_qcqp.limits.meter import Meter
from keras_qcqp.limits.widths import Widths
from keras_qcqp.problem import Pair, Problem

_WIDTHS, _METER = Widths(), Meter()


def build_problem(
    coupling: Coupling,
    scores: Sequence[Score],
    budget: Budget,
    widths: Widths = _WIDTHS,
    meter: Meter = _METER,
) -> tuple[Problem, dict[str, int]]:
    """The program, and the usage of every resource by the unpruned model.

    Raises:
        BudgetError: a budget asks for a resource that cannot be counted, or is met already; width rules that speak of
            no layer or contradict each other.
    """
    masks = allowed_masks(coupling, widths)
    counted = meter.resources(coupling, budget)
    # Alignments and corrections are counted, but the original has none: a share of it is one of what it really uses.
    used = meter.usage(couple(coupling.graph).unpruned, budget) if coupling.bounded else {}
    original = {r.name: used.get(r.name, r.usage([m.size for m in masks])) for r in counted}
    linear, pairs = _importance(coupling, scores)
    return Problem(masks, linear, pairs, counted, budget.limits(original), coupling.needs), original


def _importance(coupling: Coupling, scores: Sequence[Score]) -> tuple[Mapping[int, np.ndarray], tuple[Pair, ...]]:
    sizes = [m.size for m in coupling.masks]
    linear: dict[int, np.ndarray] = {}
    pairs: dict[tuple[int, int], np.ndarray] = {}
    for score in scores:
        sides = [_by_mask(coupling, coupling.ids(score.node, axis)) for axis in score.axes]
        if len(sides) == 1:
            for mask, where, position in sides[0]:
                np.add.at(linear.setdefault(mask, np.zeros(sizes[mask])), position, score.values[where])
            continue
        for a, where_a, position_a in sides[0]:
            for b, where_b, position_b in sides[1]:
                part = np.zeros((sizes[a], sizes[b]))
                np.add.at(part, np.ix_(position_a, position_b), score.values[np.ix_(where_a, where_b)])
                key, part = ((a, b), part) if a <= b else ((b, a), part.T)
                pairs[key] = pairs[key] + part if key in pairs else part
    return linear, tuple(Pair(a, b, np.ascontiguousarray(v)) for (a, b), v in sorted(pairs.items(), key=lambda p: p[0]))


def _by_mask(coupling: Coupling, ids: np.ndarray) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """(mask, where its channels stand on this axis, which of its channels they are) for each mask on the axis."""
    masks = coupling.mask_of[ids]
    found = []
    for mask in np.unique(masks).tolist():
        where = np.flatnonzero(masks == mask)
        found.append((mask, where, coupling.position[ids[where]]))
    return found
