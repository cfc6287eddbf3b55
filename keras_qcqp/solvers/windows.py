"""Windows: a few channels of every mask are free, the rest is fixed, and what remains is again a `Problem`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from keras_qcqp.problem import Mask, Need, Pair, Problem, Resource, Step
from keras_qcqp.solvers.state import Selection, State, counts_array

Free = Sequence[np.ndarray]
_NEARBY = 16  # channels of each mask in a window of few masks


def restrict(state: State, x: Selection, free: Free) -> tuple[Problem, float]:
    """The problem of the free channels (int positions for each mask), and the objective of the fixed ones.

    With `k_m = base_m + f_m` every resource stays of its form in the free counts, pairs of a free and a fixed channel
    become linear importance, and needs that a fixed channel meets go. `free` must be closed, see `closed`.
    """
    fixed = [v.copy() for v in x]
    for v, positions in zip(fixed, free, strict=True):
        v[positions] = 0.0
    base = [int(b) for b in counts_array(fixed)]
    masks = []
    for mask, positions, b in zip(state.problem.masks, free, base, strict=True):
        allowed = tuple(k - b for k in mask.allowed if 0 <= k - b <= len(positions))
        masks.append(Mask(mask.name, len(positions), allowed))
    linear = {m: state.gains(fixed, m)[free[m]] for m in range(len(masks)) if len(free[m])}
    pairs = []
    for pair in state.problem.pairs:
        if state.fixed[pair.a] or state.fixed[pair.b]:
            continue  # in the linear part
        part = pair.values[np.ix_(free[pair.a], free[pair.b])].astype(np.float64)
        if part.size == 0:
            continue
        if pair.a == pair.b:
            part = np.triu(part + part.T, 1)  # the diagonal is in the linear part
        pairs.append(Pair(pair.a, pair.b, part))
    limited = state.problem.limited
    resources = tuple(_shifted(r, base, free) for r in limited)
    limits = {r.name: state.problem.limits[r.name] for r in limited}
    needs = tuple(n for need in state.problem.needs for n in _open_needs(need, fixed, free))
    return Problem(tuple(masks), linear, tuple(pairs), resources, limits, needs), state.objective(fixed)


def _open_needs(need: Need, fixed: Selection, free: Free) -> list[Need]:
    """What is left of a need for the free channels: one for each set of sources that is still open."""
    place = {m: {int(c): k for k, c in enumerate(free[m])} for m in (need.mask, *(s for s, _ in need.sources))}
    left: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for number in np.flatnonzero(np.isin(need.index, free[need.mask])).tolist():
        if any(fixed[m][index[number]] > 0.5 for m, index in need.sources):
            continue
        open_ones = [(m, place[m][int(index[number])]) for m, index in need.sources if int(index[number]) in place[m]]
        row = (place[need.mask][int(need.index[number])], *(k for _, k in open_ones))
        left.setdefault(tuple(m for m, _ in open_ones), []).append(row)
    found = []
    for masks, rows in left.items():
        target, *sources = (np.array(column, np.int64) for column in zip(*rows, strict=True))
        found.append(Need(need.mask, target, tuple(zip(masks, sources, strict=True))))
    return found


def closed(problem: Problem, x: Selection, free: Free) -> list[np.ndarray]:
    """Frees kept channels, too, whose every kept source is free: they may have to follow."""
    marked = [np.isin(np.arange(len(v)), positions) for v, positions in zip(x, free, strict=True)]
    grown = True
    while grown:
        grown = False
        for need in problem.needs:
            held = np.zeros(len(need.index), bool)
            for m, index in need.sources:
                held |= (x[m][index] > 0.5) & ~marked[m][index]
            add = need.index[(x[need.mask][need.index] > 0.5) & ~held & ~marked[need.mask][need.index]]
            if len(add):
                marked[need.mask][add] = grown = True
    return [np.flatnonzero(m) for m in marked]


def _shifted(resource: Resource, base: Sequence[int], free: Free) -> Resource:
    linear = dict(resource.linear)
    for (a, b), c in resource.quadratic.items():
        linear[a] = linear.get(a, 0) + c * base[b]
        linear[b] = linear.get(b, 0) + c * base[a]
    constant = resource.constant + sum(c * base[m] for m, c in resource.linear.items())
    constant += sum(c * base[a] * base[b] for (a, b), c in resource.quadratic.items())
    tables = {
        key: table[tuple(slice(base[m], base[m] + len(free[m]) + 1) for m in key)]
        for key, table in resource.tables.items()
    }
    steps = tuple(Step(step.name, step.usage(base), step.linear) for step in resource.steps)
    return Resource(resource.name, resource.unit, constant, linear, resource.quadratic, tables, steps)


def widen(x: Selection, free: Free, keep: Sequence[np.ndarray]) -> Selection:
    """The full selection in which the free channels are as in `keep`."""
    wide = [v.copy() for v in x]
    for v, positions, kept in zip(wide, free, keep, strict=True):
        v[positions] = kept
    return wide


def everything_free(state: State) -> list[np.ndarray]:
    """All channels of all masks that have a choice."""
    return [np.arange(n) if m in state.free else np.zeros(0, int) for m, n in enumerate(state.sizes)]


def borderline(
    state: State, x: Selection, prices: np.ndarray, random: np.random.Generator, noise: float, products: int
) -> list[np.ndarray]:
    """The channels closest to changing sides, as many of each mask as `products` AND literals allow."""
    counts = counts_array(x)
    distances = _distances(state, x, prices, counts)
    ranked = []
    for distance in distances:
        if distance is None:
            ranked.append(np.zeros(0, int))
            continue
        ranked.append(np.argsort(distance + noise * random.random(len(distance)), kind="stable"))
    low, high = 1, int(max(state.sizes))
    while low < high:
        middle = (low + high + 1) // 2
        if num_products(state, closed(state.problem, x, [r[:middle] for r in ranked])) <= products:
            low = middle
        else:
            high = middle - 1
    return closed(state.problem, x, [np.sort(r[:low]) for r in ranked])


def nearby(
    state: State, x: Selection, prices: np.ndarray, random: np.random.Generator, products: int
) -> list[np.ndarray]:
    """Many channels of a few masks around a random one: widths that come in steps move only so."""
    distances = _distances(state, x, prices, counts_array(x))
    order = _outwards(state, int(random.choice(state.free)))
    free = [np.zeros(0, int) for _ in x]
    for mask in order:
        distance = distances[mask]
        assert distance is not None
        wider = list(free)
        wider[mask] = np.sort(np.argsort(distance, kind="stable")[:_NEARBY])
        if num_products(state, closed(state.problem, x, wider)) > products:
            break
        free = wider
    return closed(state.problem, x, free)


def _outwards(state: State, start: int) -> list[int]:
    """Free masks in the order of their distance from one: by importance, cost and needs."""
    around: list[set[int]] = [{b for b, _ in near} | state.costs.meets[m] for m, near in enumerate(state.neighbours)]
    for need in state.problem.needs:
        for m, _ in need.sources:
            around[need.mask].add(m)
            around[m].add(need.mask)
    order, seen = [start], {start}
    for mask in order:
        more = sorted(m for m in around[mask] - seen if not state.fixed[m])
        order += more
        seen |= set(more)
    return order


def _distances(state: State, x: Selection, prices: np.ndarray, counts: np.ndarray) -> list[np.ndarray | None]:
    """How far each channel of each free mask is from changing sides, in units of the spread of its gains."""
    found: list[np.ndarray | None] = [None] * len(x)
    for unit in state.units:
        gains = {mask: state.gains(x, mask) for mask in unit.masks}
        if unit.moves:
            flat, net = np.concatenate(x), np.zeros(int(state.offsets[-1]))
            for mask, gain in gains.items():
                net[state.offsets[mask] : state.offsets[mask + 1]] = gain - state.costs.slope(prices, counts, mask)
            margin = net.copy()
            for move in unit.moves:
                margin[move.channels] = move.margins(net, flat)
            for mask, gain in gains.items():
                edge = margin[state.offsets[mask] : state.offsets[mask + 1]]
                found[mask] = np.abs(edge) / (gain.std() + 1e-12)
            continue
        ((mask, gain),) = gains.items()
        kept = x[mask] > 0.5
        edge = 0.5 * (gain[kept].min() + gain[~kept].max()) if kept.any() and (~kept).any() else np.median(gain)
        found[mask] = np.abs(gain - edge) / (gain.std() + 1e-12)
    return found


def num_products(state: State, free: Free) -> int:
    """AND literals that a window needs."""
    total = 0
    for pair in state.problem.pairs:
        n, m = len(free[pair.a]), len(free[pair.b])
        total += n * (n - 1) // 2 if pair.a == pair.b else n * m
    return total
