"""A problem in the form in which solvers work: symmetric adjacency, cost rows, marginals, units that move together."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_qcqp.problem import Keep, Problem, counts_of
from keras_qcqp.solvers.components import Move, Stack, stacks
from keras_qcqp.solvers.costs import Costs

Selection = list[np.ndarray]
_WIDEST = 9  # a table of one component holds at most 2^9 entries


@dataclasses.dataclass(frozen=True)
class Unit:
    """Masks that are chosen together: one that needs nothing, or several that need one another (with their moves)."""

    masks: tuple[int, ...]
    moves: tuple[Move, ...] = ()


class State:
    """Precomputed views of a problem. Selections are lists of float64 vectors of zeros and ones.

    Attributes:
        weight: for each mask the linear importance, pairs with always-full masks included; `offset` is constant.
        neighbours: for each mask a, the (b, values float[size_a, size_b]) of its pairs with other masks.
        own: for each mask, `I + I^T` of the pair (a, a), or None.
        costs: the limited resources as rows.
        offsets: int[masks + 1], number of the first channel of each mask when all are laid end to end.
        units: what the ascent moves at once; `linked` are the masks that occur in needs.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        num = len(problem.masks)
        self.sizes = np.array([m.size for m in problem.masks], np.int64)
        self.offsets = np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int64)
        self.allowed = [np.array(m.allowed) for m in problem.masks]
        self.fixed = [m.allowed in ((m.size,), (0,)) for m in problem.masks]
        self.free = [m for m in range(num) if not self.fixed[m]]  # which channels, even where their number is given
        self.weight = [problem.linear.get(m, np.zeros(n)).astype(float) for m, n in enumerate(self.sizes)]
        self.neighbours: list[list[tuple[int, np.ndarray]]] = [[] for _ in range(num)]
        self.own: list[np.ndarray | None] = [None] * num
        self.offset = 0.0
        for m in range(num):
            if self.fixed[m]:
                self.offset += float(self.weight[m].sum()) if self._whole(m) else 0.0
                self.weight[m] = np.zeros(self.sizes[m])
        merged: dict[tuple[int, int], np.ndarray] = {}  # the bound wants one pair for two masks
        for pair in problem.pairs:
            values = pair.values.astype(np.float64)  # narrow types would overflow
            key, values = ((pair.a, pair.b), values) if pair.a <= pair.b else ((pair.b, pair.a), values.T)
            merged[key] = merged[key] + values if key in merged else values
        for (a, b), values in merged.items():
            self._add_pair(a, b, values)
        self.costs = Costs(problem)
        self.stacks = stacks(problem.needs, self.offsets)
        self.mask_of = np.repeat(np.arange(num), self.sizes)
        self.linked = sorted({int(m) for s in self.stacks for m in self.mask_of[s.channels[0]]} & set(self.free))
        self.units = [Unit((m,)) for m in self.free if m not in self.linked] + self._linked_units()
        self.units.sort(key=lambda unit: unit.masks)
        self.mixings: Any = None  # filled in by the bound

    def with_limits(self, limits: Mapping[str, int]) -> State:
        """The same under other limits of the same resources; all that does not depend on them is shared."""
        other = copy.copy(self)
        other.problem = dataclasses.replace(self.problem, limits=dict(limits))
        other.costs = Costs(other.problem)
        return other

    def _whole(self, mask: int) -> bool:
        """Whether a fixed mask is always full (and not always empty)."""
        return self.problem.masks[mask].allowed[0] > 0

    def _add_pair(self, a: int, b: int, values: np.ndarray) -> None:
        """Pairs with a mask that is always full are linear, or a constant; with an empty one, nothing."""
        if any(self.fixed[m] and not self._whole(m) for m in (a, b)):
            return
        if self.fixed[a] and self.fixed[b]:
            self.offset += float(values.sum())
        elif self.fixed[b]:
            self.weight[a] += values.sum(axis=1)
        elif self.fixed[a]:
            self.weight[b] += values.sum(axis=0)
        elif a == b:
            both, previous = values + values.T, self.own[a]
            self.own[a] = both if previous is None else previous + both
        else:
            self.neighbours[a].append((b, np.ascontiguousarray(values)))
            self.neighbours[b].append((a, np.ascontiguousarray(values.T)))

    def _linked_units(self) -> list[Unit]:
        """Covers the linked masks by sets in which no two masks meet in importance or cost."""
        found: list[Unit] = []
        covered: set[int] = set()
        for first in self.linked:
            if first in covered:
                continue
            together = [first]
            stacked = [s for s in self.stacks if first in self.mask_of[s.channels[0]]]
            reach = self._reach(stacked)
            for mask in reach:
                if mask not in together and not any(self._meet(mask, m) for m in together):
                    together.append(mask)
            moves = self._moves(together)
            while any(move.width > _WIDEST for move in moves):
                together = together[: (len(together) + 1) // 2] if len(together) > 1 else together
                moves = self._moves(together)
                if len(together) == 1:
                    break
            covered |= set(together)
            found.append(Unit(tuple(sorted(together)), moves))
        return found

    def _reach(self, stacked: list[Stack]) -> list[int]:
        """Free masks connected to these stacks through other stacks."""
        masks = {int(m) for s in stacked for m in self.mask_of[s.channels[0]]}
        while True:
            more = {
                int(m)
                for s in self.stacks
                if masks & set(self.mask_of[s.channels[0]].tolist())
                for m in self.mask_of[s.channels[0]]
            }
            if more <= masks:
                return sorted(masks & set(self.free))
            masks |= more

    def _meet(self, a: int, b: int) -> bool:
        return any(other == b for other, _ in self.neighbours[a]) or b in self.costs.meets[a]

    def _moves(self, masks: list[int]) -> tuple[Move, ...]:
        moves = []
        for stack in self.stacks:
            owners = self.mask_of[stack.channels[0]]
            variables = [k for k, m in enumerate(owners.tolist()) if m in masks]
            if variables:
                moves.append(Move(stack, variables))
        return tuple(moves)

    def full(self) -> Selection:
        """Everything that may be kept at all."""
        return [np.full(n, float(not self.fixed[m] or self._whole(m))) for m, n in enumerate(self.sizes)]

    def split(self, flat: np.ndarray) -> Selection:
        """One vector of all channels, cut into masks."""
        return [flat[a:b] for a, b in zip(self.offsets, self.offsets[1:], strict=False)]

    def gains(self, x: Selection, mask: int) -> np.ndarray:
        """What each channel of a mask adds to the objective, given all others."""
        gain = self.weight[mask].copy()
        for other, values in self.neighbours[mask]:
            gain += values @ x[other]
        return self.with_own(gain, x, mask)

    def with_own(self, gain: np.ndarray, x: Selection, mask: int) -> np.ndarray:
        """Adds what a channel gains with the other channels of its own mask, and with itself."""
        own = self.own[mask]
        return gain if own is None else gain + own @ x[mask] - 0.5 * np.diag(own) * (2 * x[mask] - 1)

    def spread(self, gains: Selection, mask: int, change: np.ndarray) -> None:
        """Updates the gains of the neighbours (own part excluded) after `x[mask]` changed by -1, 0 or 1."""
        touched = np.flatnonzero(change)
        for other, values in self.neighbours[mask]:
            if 4 * len(touched) < len(change):
                gains[other] += change[touched] @ values[touched]
            else:
                gains[other] += change @ values

    def objective(self, x: Selection) -> float:
        """Importance kept."""
        total = self.offset
        for m, v in enumerate(x):
            total += float(self.weight[m] @ v)
            own = self.own[m]
            if own is not None:
                total += 0.5 * float(v @ own @ v)
            total += sum(float(v @ (values @ x[other])) for other, values in self.neighbours[m] if other > m)
        return total

    def feasible(self, x: Selection) -> bool:
        """Exact check of every limit and need (width rules hold by construction)."""
        for need in self.problem.needs:
            met = np.zeros(len(need.index))
            for m, index in need.sources:
                met += x[m][index]
            if np.any(x[need.mask][need.index] > met):
                return False
        counts = counts_of(keep_of(x))
        return all(r.usage(counts) <= self.problem.limits[r.name] for r in self.problem.limited)


def keep_of(x: Selection) -> Keep:
    """Floats to read-only booleans."""
    kept = tuple(v > 0.5 for v in x)
    for k in kept:
        k.setflags(write=False)
    return kept


def counts_array(x: Selection) -> np.ndarray:
    return np.array([v.sum() for v in x])
