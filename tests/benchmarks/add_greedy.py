"""The greedy solver that Jeong et al. (AISTATS 2022) released, re-stated from its description; a peer to be measured.

It starts with four channels a node, chooses the best ones at these counts, and then only adds: again and again the
bundle of channels with the most importance for its cost, until nothing fits. Decisions are those of the original for
the paper's instances; NumPy looks at all bundles at once, so it is faster. Not re-stated are its slips for `step > 1`
(stale costs, a last state over the budget).
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator

import numpy as np

from keras_qcqp.problem import Keep, Need, Problem

_START = 4
Bundle = list[tuple[int, int]]  # (mask, channel)


class RefusedError(Exception):
    """A peer cannot state, or will not take, this problem."""


@dataclasses.dataclass(frozen=True)
class Target:
    """The end of an addition: masks u and v, and for each channel of v the one of `source` that lands there, or -1."""

    u: int
    v: int
    source: int
    channel: np.ndarray


@dataclasses.dataclass(frozen=True)
class Offers:
    """For every channel of a mask the ratio value/cost of its best bundle (-inf: none fits), and what is in it."""

    ratio: np.ndarray
    bundle: Callable[[int], Bundle]


def add_greedy(problem: Problem, time_limit_s: float = math.inf, step: int = 1) -> Keep:
    """The selection; the time limit ends the adding early.

    Args:
        step: bundles that are switched on before ratios are looked at again.

    Raises:
        RefusedError: another form than one limit on products of counts, unbroken widths, and the needs of the paper.
    """
    ends = time.monotonic() + time_limit_s
    search = _Greedy(problem)
    search.choose()
    while time.monotonic() < ends and search.add(step):
        pass
    return tuple(search.x)


class _Greedy:
    def __init__(self, problem: Problem) -> None:
        _require_one_limit(problem)
        self.problem = problem
        (self.cost,) = problem.limited
        self.limit = problem.limits[self.cost.name]
        self.targets = {t.v: t for t in _targets(problem)}
        tied = {t.u: t.v for t in self.targets.values()}
        self.nodes = [[m, tied[m]] if m in tied else [m] for m in range(len(problem.masks)) if m not in self.targets]
        self.plain = [m for (m, *more) in self.nodes if not more]
        self.neighbours = neighbours_of(problem)
        self.x = [np.arange(m.size) < k for m, k in zip(problem.masks, self._start(), strict=True)]

    def choose(self) -> None:
        """Steps A and B: the best channels at the starting counts, node by node in three groups, until none changes."""
        order = sorted(range(len(self.nodes)), key=lambda node: (node % 3, node))
        changed = True
        rounds = 0
        while changed and rounds < 100:
            changed, rounds = False, rounds + 1
            for masks in (self.nodes[node] for node in order):
                score = sum(self._gain(m) for m in masks)
                best = np.zeros(len(score), bool)
                best[np.argsort(-score, kind="stable")[: self.x[masks[0]].sum()]] = True
                changed |= not np.array_equal(best, self.x[masks[0]])
                for m in masks:
                    self.x[m] = best.copy()
        self.refresh()

    def refresh(self) -> None:
        """Step C: what all channels bring and cost, from `x`."""
        self.counts = [int(x.sum()) for x in self.x]
        self.gains = [self._gain(m) for m in range(len(self.x))]
        self.room = self.limit - self.cost.usage(self.counts)

    def add(self, step: int) -> bool:
        """Step D once: switches the best bundles on; False when nothing fits."""
        offers = list(self._offers())
        if not offers:  # everything is on
            return False
        ratios = np.concatenate([o.ratio for o in offers])
        first = np.cumsum([0, *(len(o.ratio) for o in offers)])
        added = False
        for place in _largest(ratios, step):
            number = int(np.searchsorted(first, place, side="right")) - 1
            added |= self._switch_on(offers[number].bundle(int(place - first[number])))
        return added

    def _start(self) -> list[int]:
        """Four channels a node; fewer where there are fewer, or where four everywhere cost too much."""
        least = [m.allowed[0] for m in self.problem.masks]
        four = [min(max(k, _START), m.allowed[-1]) for k, m in zip(least, self.problem.masks, strict=True)]
        for counts in (four, least):
            if self.cost.usage(counts) <= self.limit:
                return counts
        raise RefusedError("even the least counts cost too much")

    def _gain(self, mask: int) -> np.ndarray:
        """What each channel adds (or holds), given all others."""
        gain = self.problem.linear.get(mask, np.zeros(len(self.x[mask]))).astype(float)
        for other, values in self.neighbours[mask]:
            if other == mask:
                gain = gain + values @ self.x[mask] + np.diag(values) * (0.5 - self.x[mask])
            else:
                gain = gain + values @ self.x[other]
        return gain

    def _slope(self, mask: int) -> int:
        """What one more channel costs."""
        total = self.cost.linear.get(mask, 0)
        for (a, b), c in self.cost.quadratic.items():
            if a == b == mask:
                total += c * (2 * self.counts[mask] + 1)
            elif mask in (a, b):
                total += c * self.counts[b if mask == a else a]
        return total

    def _offers(self) -> Iterator[Offers]:
        self.slope = [self._slope(m) for m in range(len(self.x))]
        for m in self.plain:
            if self.counts[m] < self.problem.masks[m].allowed[-1]:
                ratio = self._ratio(self.gains[m], np.full(len(self.x[m]), self.slope[m]), ~self.x[m])
                yield Offers(ratio, lambda j, m=m: [(m, j)])
        for target in self.targets.values():
            yield self._produce(target)
            yield self._consume(target)

    def _produce(self, t: Target) -> Offers:
        """Type u: u_t, and v_t where it is off."""
        extra = ~self.x[t.v]
        value = self.gains[t.u] + extra * self.gains[t.v]
        ratio = self._ratio(value, self.slope[t.u] + extra * self.slope[t.v], ~self.x[t.u])
        return Offers(ratio, lambda j: [(t.u, j)] + ([(t.v, j)] if extra[j] else []))

    def _consume(self, t: Target) -> Offers:
        """Type v: back along the shortcuts, to a live channel, or to a node that produces it; the best of all stops."""
        size = len(self.x[t.v])
        best, stop = np.full(size, -np.inf), np.full(size, -1)
        places, channel = np.flatnonzero(~self.x[t.v]), np.flatnonzero(~self.x[t.v])
        value, cost = np.zeros(len(places)), np.zeros(len(places), np.int64)
        for number, mask in enumerate(self._stops(t)):
            produced_by = self.targets.get(mask)
            live = self.x[mask][channel]
            value = value + np.where(live, 0.0, self.gains[mask][channel])
            cost = cost + np.where(live, 0, self.slope[mask])
            here_value, here_cost = value, cost
            if produced_by is not None:  # a live channel ends the walk as it is, any other can be produced here
                here_value = value + np.where(live, 0.0, self.gains[produced_by.u][channel])
                here_cost = cost + np.where(live, 0, self.slope[produced_by.u])
            ratio = self._ratio(here_value, here_cost, np.ones(len(places), bool))
            better = ratio > best[places]
            best[places[better]], stop[places[better]] = ratio[better], number
            if produced_by is None:
                break
            go_on = ~live & (produced_by.channel[channel] >= 0)
            places, value, cost = places[go_on], value[go_on], cost[go_on]
            channel = produced_by.channel[channel[go_on]]
            if not len(places):
                break
        return Offers(best, lambda j: self._walk(t, j, int(stop[j])))

    def _stops(self, t: Target) -> Iterator[int]:
        mask = t.v
        while mask in self.targets:
            yield mask
            mask = self.targets[mask].source
        yield mask

    def _walk(self, t: Target, channel: int, stop: int) -> Bundle:
        """The bundle that `_consume` priced: v's up to the stop, and its u unless the last v is live already."""
        bundle: Bundle = []
        for number, mask in enumerate(self._stops(t)):
            if self.x[mask][channel]:
                return bundle
            bundle.append((mask, channel))
            if mask not in self.targets:
                return bundle
            if number == stop:
                return [*bundle, (self.targets[mask].u, channel)]
            channel = int(self.targets[mask].channel[channel])
        return bundle

    def _ratio(self, value: np.ndarray, cost: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        return np.where(wanted & (cost <= self.room), value / np.maximum(cost, 1e-9), -np.inf)

    def _switch_on(self, bundle: Bundle) -> bool:
        """Unless a channel of it is on by now, a mask is full, or it costs more than is left."""
        counts = list(self.counts)
        for mask, channel in bundle:
            counts[mask] += 1
            if self.x[mask][channel] or counts[mask] > self.problem.masks[mask].allowed[-1]:
                return False
        room = self.limit - self.cost.usage(counts)
        if room < 0:
            return False
        self.counts, self.room = counts, room
        for mask, channel in bundle:
            self.x[mask][channel] = True
            for other, values in self.neighbours[mask]:
                self.gains[other] = self._gain(mask) if other == mask else self.gains[other] + values[channel]
        return True


def _largest(ratios: np.ndarray, number: int) -> list[int]:
    """Places of the largest ratios, best first, the first of equals first; none of -inf."""
    places = [int(np.argmax(ratios))] if number == 1 else np.argsort(-ratios, kind="stable")[:number].tolist()
    return [place for place in places if ratios[place] > -np.inf]


def neighbours_of(problem: Problem) -> list[list[tuple[int, np.ndarray]]]:
    """For each mask the (other, values float[size, size of other]) of its pairs; within one mask, values + values^T."""
    found: list[list[tuple[int, np.ndarray]]] = [[] for _ in problem.masks]
    for pair in problem.pairs:
        if pair.a == pair.b:
            found[pair.a].append((pair.a, pair.values + pair.values.T))
        else:
            found[pair.a].append((pair.b, pair.values))
            found[pair.b].append((pair.a, np.ascontiguousarray(pair.values.T)))
    return found


def _require_one_limit(problem: Problem) -> None:
    if len(problem.limited) != 1 or problem.limited[0].tables or problem.limited[0].steps:
        raise RefusedError("add-greedy knows one limit, on products of counts")
    if any(m.allowed != tuple(range(m.allowed[0], m.allowed[-1] + 1)) for m in problem.masks):
        raise RefusedError("add-greedy knows no widths with gaps")


def _targets(problem: Problem) -> list[Target]:
    """The additions that the needs state: u <= v <= u + v_source, and v <= u where nothing lands."""
    below = {(n.mask, n.sources[0][0]) for n in problem.needs if len(n.sources) == 1 and _is_everywhere(problem, n)}
    found = []
    for need in problem.needs:
        if len(need.sources) == 2:
            produced = [k for k, (u, index) in enumerate(need.sources) if (u, need.mask) in below]
            if len(produced) != 1:
                raise RefusedError("add-greedy knows only the needs of the paper's additions")
            u, (source, landed) = need.sources[produced[0]][0], need.sources[1 - produced[0]]
            channel = np.full(problem.masks[u].size, -1)
            channel[need.index] = landed
            found.append(Target(u, need.mask, source, channel))
    pairs = {(t.u, t.v) for t in found}
    single = [(n.mask, n.sources[0][0]) for n in problem.needs if len(n.sources) == 1]
    strange = [key for key in single if key not in pairs and key[::-1] not in pairs]
    if strange or any(not n.sources or len(n.sources) > 2 for n in problem.needs) or len(found) > len({*pairs}):
        raise RefusedError("add-greedy knows only the needs of the paper's additions")
    return found


def _is_everywhere(problem: Problem, need: Need) -> bool:
    ((_, index),) = need.sources
    everything = np.arange(problem.masks[need.mask].size)
    return np.array_equal(need.index, everything) and np.array_equal(index, everything)
