"""Puts coupling, importance, resources and width rules together into a `Problem`."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Mapping, Sequence

import numpy as np

from keras_qcqp import resources
from keras_qcqp.budget import Budget, resource_of
from keras_qcqp.coupling import Coupling
from keras_qcqp.errors import BudgetError
from keras_qcqp.importance.score import Score
from keras_qcqp.partition import CoupledMask
from keras_qcqp.problem import Mask, Pair, Problem, Resource


@dataclasses.dataclass(frozen=True)
class Widths:
    """Rules for how many channels may stay.

    Attributes:
        min_keep: at least so many channels of every coupled mask: a count >= 1, or a fraction in (0, 1).
        multiple: widths are multiples of this, or stay as they are.

    Raises:
        BudgetError: values out of range.
    """

    min_keep: float = 0.25
    multiple: int = 1

    def __post_init__(self) -> None:
        number = isinstance(self.min_keep, numbers.Real) and not isinstance(self.min_keep, bool)
        if not number or not self.min_keep > 0 or (self.min_keep > 1 and self.min_keep % 1):
            raise BudgetError(f"min_keep must be a count >= 1 or a fraction in (0, 1), got {self.min_keep!r}.")
        if isinstance(self.multiple, bool) or not isinstance(self.multiple, numbers.Integral) or self.multiple < 1:
            raise BudgetError(f"width_multiple must be an integer >= 1, got {self.multiple!r}.")

    def mask(self, coupled: CoupledMask) -> Mask:
        """The mask of the program for a coupled set; a frozen one has no freedom."""
        if coupled.frozen:
            return Mask(coupled.name, coupled.size, (coupled.size,))
        width = coupled.size * coupled.multiplicity
        least = self.min_keep if self.min_keep >= 1 else math.ceil(self.min_keep * width)
        least = min(coupled.size, max(1, math.ceil(least / coupled.multiplicity)))
        step = int(self.multiple) // math.gcd(self.multiple, coupled.multiplicity)
        return Mask.of(coupled.name, coupled.size, least, step)


def build_problem(
    coupling: Coupling, scores: Sequence[Score], budget: Budget, widths: Widths = Widths()
) -> tuple[Problem, dict[str, int]]:
    """The program, and the usage of every resource by the unpruned model.

    Raises:
        BudgetError: a budget asks for a resource that cannot be counted, or is met already.
    """
    masks = tuple(widths.mask(m) for m in coupling.masks)
    counted = _resources(coupling, budget)
    original = {r.name: r.usage([m.size for m in masks]) for r in counted}
    linear, pairs = _importance(coupling, scores)
    return Problem(masks, linear, pairs, counted, budget.limits(original)), original


def _resources(coupling: Coupling, budget: Budget) -> tuple[Resource, ...]:
    asked = {resource_of(name) for name in budget.asked()}
    counted = resources.count_all(coupling)
    for name in sorted(asked - {r.name for r in counted}):
        resources.resource(coupling, name)  # raises, naming the layer
    return counted


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
