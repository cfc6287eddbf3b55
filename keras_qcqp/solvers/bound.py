"""An upper bound on the importance that any feasible selection can keep: the certificate of large programs.

1. Importance of each pair is bounded by a table over counts (`majorants`). Before that the scores of single channels
   are shared out among the pairs of a mask so that all of them rank its channels alike at a reference point: the best
   fractional selection at the incumbent's counts, with multipliers for the needs (`relaxation`).
2. Prices move the limits into the objective (Lagrangian duality), and what is left, a maximum over counts only, is
   bounded by max-sum message passing on the graph of masks (`counting`).
3. Where the bound's own counts lie, the tables are tightened, and 2 is done again.

Every step is an inequality in the safe direction, so any point, any multipliers, any prices and any number of sweeps
give a valid bound. Large masks are binned: importance is taken at its greatest in a bin, cost at its least.
Source: derivation ours.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from keras_qcqp.solvers.counting import Count, Dual, Edge, bins
from keras_qcqp.solvers.majorants import Majorant, best_sums, over_bins, own_table
from keras_qcqp.solvers.relaxation import Relaxation, moved, relax
from keras_qcqp.solvers.state import Selection, State

_STEPS = (30, 15, 15)  # on the prices, before each time the tables are tightened
_LARGE, _WORTH = 300_000, 2e-4  # with so many channel pairs, a round must gain this much to be worth another one
_ENOUGH = 2e-3  # a smaller gap is not worth another round
_NEVER = 1e6  # so many times all importance is out of the question
_SAFETY = 1e-9  # relative; covers the rounding of float64 sums


def upper_bound(
    state: State,
    x: Selection,
    prices: np.ndarray,
    rounds: int = 4,
    time_left_s: Callable[[], float] = lambda: 1.0,
) -> float:
    """A value that no feasible selection exceeds.

    Args:
        x: a feasible selection; the bound is tightest near its counts.
        prices: float[rows] to start from, as the ascent found them.
        rounds: of tables; more of them are tighter and take longer.
        time_left_s: when this falls to zero, the bound is returned as it is.
    """
    points = relax(state, x)
    counts = [Count(*bins(allowed, int(v.sum()))) for allowed, v in zip(state.allowed, x, strict=True)]
    incumbent, best = state.objective(x) - state.offset, np.inf
    large = sum(p.values.size for p in points[0].mixings) > _LARGE
    for number in range(rounds):
        before = best
        unary, majorants = _majorants(state, points, counts)
        dual = Dual(state.costs, unary, _edges(state, majorants, counts))
        for steps in _STEPS:
            value, prices, chosen = _minimise(dual, prices, incumbent, steps)
            best = min(best, value)
            for p in points[number % 2].mixings:
                majorants[p.a, p.b].tighten(chosen[p.a], chosen[p.b], p)
            dual.replace(_edges(state, majorants, counts))
        idle = large and before - best < _WORTH * abs(best)
        if idle or best - incumbent < _ENOUGH * abs(incumbent) or time_left_s() <= 0:
            break
        points.append(moved(state, points[number % 2], chosen))
    return state.offset + best + _SAFETY * (abs(best) + abs(state.offset))


def _minimise(dual: Dual, prices: np.ndarray, incumbent: float, steps: int) -> tuple[float, np.ndarray, np.ndarray]:
    """Subgradient steps on the prices: the best value, its prices and its counts."""
    scale = 1.0 / np.maximum(dual.limits, 1.0)
    lam = prices / scale  # in units of one whole limit
    best, best_lam, best_counts, length = np.inf, lam, np.zeros(0), 1.0
    for step in range(steps):
        value, counts = dual.value(lam * scale)
        if value < best * (1 - 1e-6):
            best, best_lam, best_counts = value, lam, counts
        elif step % 5 == 4:
            length *= 0.6
        slope = dual.excess(counts) * scale
        norm = float(slope @ slope)
        if norm < 1e-18:
            break
        lam = np.maximum(lam + length * max(value - incumbent, 0.0) / norm * slope, 0.0)
    return best, best_lam * scale, best_counts


def _majorants(
    state: State, points: list[Relaxation], counts: list[Count]
) -> tuple[list[Count], dict[tuple[int, int], Majorant]]:
    """The tables on masks and pairs, each mask's score shared out as the points have it on average."""
    first = points[0]
    score = [w + s for w, s in zip(state.weight, first.shift, strict=True)]
    each = [_shares(point, score) for point in points]
    shares = {key: np.mean([found[key] for found in each], axis=0) for key in each[0]}
    alone = {*range(len(counts))} - {a for a, _ in shares}
    unary = []
    for m, (count, own) in enumerate(zip(counts, first.own, strict=True)):
        table = np.zeros(len(count))
        if m in alone:
            table = over_bins(best_sums(score[m], count.allowed), count)
        elif own is not None:
            table = own_table(own, shares[m, m], first.z[m], count)
        unary.append(dataclasses.replace(count, table=table))
    majorants = {
        (p.a, p.b): Majorant(p, shares[p.a, p.b], shares[p.b, p.a], counts[p.a], counts[p.b]) for p in first.mixings
    }
    for point in points:
        for p in point.mixings:
            majorants[p.a, p.b].touch(point.z[p.a], point.z[p.b], p)
    return unary, majorants


def _shares(point: Relaxation, score: Selection) -> dict[tuple[int, int], np.ndarray]:
    """(mask, neighbour) -> each pair's part of the mask's score, so that all rank its channels alike at the point."""
    parts: dict[tuple[int, int], np.ndarray] = {}
    for p in point.mixings:
        za, zb = point.z[p.a], point.z[p.b]
        parts[p.a, p.b] = zb.sum() * p.r + p.forth(zb) + p.curve_a * (0.5 - za)
        parts[p.b, p.a] = za.sum() * p.c + p.back(za) + p.curve_b * (0.5 - zb)
    for m, q in enumerate(point.own):
        if q is not None:
            z = point.z[m]
            parts[m, m] = 2 * (z.sum() * q.r + q.forth(z) + q.norm * (0.5 - z))
    total, degree = [s.copy() for s in score], np.zeros(len(score))
    for (a, _), part in parts.items():
        total[a] += part
        degree[a] += 1
    return {(a, b): total[a] / degree[a] - part for (a, b), part in parts.items()}


def _edges(state: State, majorants: dict[tuple[int, int], Majorant], counts: list[Count]) -> list[Edge]:
    """Pairs of masks that meet in importance, in cost or in a need."""
    meeting = {(a, b) for a, around in enumerate(state.costs.meets) for b in around if a < b}
    never = _NEVER * max(state.objective(state.full()), 1e-290)
    tables = {key: np.zeros((len(counts[key[0]]), len(counts[key[1]]))) for key in meeting}
    tables |= {key: majorant.table for key, majorant in majorants.items()}
    for a, b, forbidden in _count_needs(state, counts):
        table = tables.get((a, b), np.zeros(forbidden.shape))
        tables[a, b] = np.where(forbidden, -never, table)
    return [
        Edge(a, b, t, majorants[a, b].pair.mu if (a, b) in majorants else 0.0) for (a, b), t in sorted(tables.items())
    ]


def _count_needs(state: State, counts: list[Count]) -> Iterator[tuple[int, int, np.ndarray]]:
    """What needs say of counts: where each of n channels needs one of another mask, k of them need k of those."""
    for need in state.problem.needs:
        if len(need.sources) != 1 or need.sources[0][0] == need.mask:
            continue
        source, index = need.sources[0]
        if len(set(index.tolist())) < len(index) or len(set(need.index.tolist())) < len(index):
            continue
        free = state.sizes[need.mask] - len(index)
        forbidden = counts[need.mask].lower[:, None] > counts[source].upper[None, :] + free
        yield (need.mask, source, forbidden) if need.mask < source else (source, need.mask, forbidden.T)
