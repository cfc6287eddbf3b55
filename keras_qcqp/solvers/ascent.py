"""Lagrangian block-coordinate ascent: a very good selection in a fraction of a second.

For prices `lam` (one for each resource) it maximises `objective - lam . usage` mask by mask: with the neighbours fixed
the best k channels of a mask are a sort, so the mask is solved exactly over all allowed k. The prices are found by
bisection along a direction, and the direction is turned towards the resources that bind. Derivation: ours; the
observation that for fixed counts the constraint is constant is implied by the program of Jeong et al. (AISTATS 2022).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from keras_qcqp.solvers.state import Selection, State, counts_array

_SWEEPS, _BISECTIONS, _TURNS = 40, 36, 8


@dataclasses.dataclass(frozen=True)
class Start:
    """A selection with the gains of all its channels (pairs within one mask excluded)."""

    x: Selection
    gains: Selection


def ascend(state: State) -> tuple[Selection, np.ndarray]:
    """The best feasible selection found, and the prices float[resources] that led to it.

    The caller has checked that a feasible selection exists.
    """
    best = _smallest(state)
    best_value = state.objective(best)
    direction = prices = 1.0 / np.maximum(state.limits, 1.0)
    full = _start(state, state.full())
    for _ in range(_TURNS if len(direction) > 1 else 1):
        for found, level in _bisect(state, full, direction):
            x = fill(state, found)
            value = state.objective(x)
            if value > best_value:
                best, best_value, prices = x, value, level * direction
        if len(direction) > 1:
            # A resource with room left gets cheaper, one at its limit dearer.
            tightness = state.usage(counts_array(best)) / np.maximum(state.limits, 1.0)
            direction = direction * tightness**12
            direction /= max(direction.max(), 1e-300)  # all zero when nothing is used at all
            direction = np.maximum(direction, 1e-6)
    return best, prices


def settle(state: State, start: Start, prices: np.ndarray) -> Start:
    """Block-coordinate ascent at fixed prices until nothing changes."""
    x, gains = list(start.x), [g.copy() for g in start.gains]
    counts = counts_array(x)
    for _ in range(_SWEEPS):
        changed = False
        for mask in state.free:
            new = _best_of_mask(state, state.with_own(gains[mask], x, mask), counts, mask, prices)
            if not np.array_equal(new, x[mask]):
                state.spread(gains, mask, new - x[mask])
                x[mask], counts[mask], changed = new, new.sum(), True
        if not changed:
            break
    return Start(x, gains)


def _best_of_mask(state: State, gain: np.ndarray, counts: np.ndarray, mask: int, prices: np.ndarray) -> np.ndarray:
    order = np.argsort(-gain, kind="stable")
    price = prices @ state.unit_costs(counts, mask)
    square = prices @ state.cost_square[:, mask]
    allowed = state.allowed[mask]
    value = np.concatenate([[0.0], np.cumsum(gain[order])])[allowed] - price * allowed - square * allowed**2
    k = allowed[int(np.argmax(value))]
    new = np.zeros(len(gain))
    new[order[:k]] = 1.0
    return new


def _start(state: State, x: Selection) -> Start:
    gains = []
    for mask, weight in enumerate(state.weight):
        gain = weight.copy()
        for other, values in state.neighbours[mask]:
            gain += values @ x[other]
        gains.append(gain)
    return Start(x, gains)


def _bisect(state: State, full: Start, direction: np.ndarray) -> list[tuple[Selection, float]]:
    """The last feasible selections met while bisecting the price level, each with its level."""
    found = []
    for warm in (False, True):  # from the full network each time, or from the last infeasible selection
        start = full
        low, high = 0.0, _ceiling(state, full, direction)
        for _ in range(_BISECTIONS):
            level = np.sqrt(max(low, high * 1e-12) * high)
            settled = settle(state, start if warm else full, level * direction)
            if state.feasible(settled.x):
                high = level
                found.append((settled.x, float(level)))
            else:
                low = level
                start = settled
            if low > 0 and high / low < 1 + 1e-4:
                break
    return found[-6:]


def _ceiling(state: State, full: Start, direction: np.ndarray) -> float:
    """A price level at which every mask falls to its minimum."""
    level = 1e-30
    least = np.array([a[0] for a in state.allowed], float)
    for mask in state.free:
        cost = direction @ (state.unit_costs(least, mask) + state.cost_square[:, mask])
        if cost > 0:
            best_gain = float(state.with_own(full.gains[mask], full.x, mask).max())
            level = max(level, best_gain / float(cost))
    return 4 * level


def _smallest(state: State) -> Selection:
    """Every mask at its smallest count, the channels that matter most in the full network."""
    full = state.full()
    x = []
    for mask, allowed in enumerate(state.allowed):
        order = np.argsort(-state.gains(full, mask), kind="stable")
        new = np.zeros(state.sizes[mask])
        new[order[: allowed[0]]] = 1.0
        x.append(new)
    return x


def fill(state: State, x: Selection) -> Selection:
    """Adds the channels of best gain per scarce resource until nothing affordable is left."""
    start = _start(state, [v.copy() for v in x])
    x, gains = start.x, start.gains
    counts = counts_array(x)
    open_masks = set(state.free)
    while open_masks:
        room = np.maximum(state.limits - state.usage(counts), 0.0)
        best: tuple[float, int, np.ndarray] | None = None
        for mask in sorted(open_masks):
            step = _next_count(state, mask, int(counts[mask]))
            add = 0 if step is None else step - int(counts[mask])
            cost = state.unit_costs(counts, mask) * add
            cost += state.cost_square[:, mask] * ((counts[mask] + add) ** 2 - counts[mask] ** 2)
            if step is None or np.any(cost > room):
                open_masks.discard(mask)  # costs only grow and room only shrinks
                continue
            gain = np.where(x[mask] > 0.5, -np.inf, state.with_own(gains[mask], x, mask))
            chosen = np.argpartition(-gain, add - 1)[:add]
            scarce = float(np.max(cost / np.maximum(room, 1e-9)))
            ratio = float(gain[chosen].sum()) / max(scarce, 1e-12)
            if best is None or ratio > best[0]:
                best = (ratio, mask, chosen)
        if best is None:
            break
        _, mask, chosen = best
        change = np.zeros(len(x[mask]))
        change[chosen] = 1.0
        x[mask] += change
        counts[mask] += len(chosen)
        state.spread(gains, mask, change)
    return x


def _next_count(state: State, mask: int, count: int) -> int | None:
    larger = state.allowed[mask][state.allowed[mask] > count]
    return int(larger[0]) if len(larger) else None
