"""Lagrangian block-coordinate ascent: a very good selection in a fraction of a second.

For prices `lam` (one for each row of cost) it maximises `objective - lam . usage` unit by unit. With its neighbours
fixed the best k channels of a mask are a sort, so the mask is solved exactly over all allowed k; masks that need one
another are solved exactly by variable elimination over all their channels at once (`components`), and width rules among
them are met by forcing the channels that regret it least. The prices are found by bisection along a direction, and the
direction is turned towards the rows that bind. Derivation: ours; the observation that for fixed counts the constraint
is constant is implied by the program of Jeong et al. (AISTATS 2022).
"""

from __future__ import annotations

import numpy as np

from keras_qcqp.solvers.filling import fill
from keras_qcqp.solvers.start import Start, net_of, started
from keras_qcqp.solvers.state import Selection, State, Unit, counts_array

_SWEEPS, _BISECTIONS, _TURNS, _ROUNDS = 40, 30, 8, 6
_KICK, _KICK_BISECTIONS = 0.3, 10
_PRECISION = 3e-4  # relative, of the price level


def ascend(state: State, near: np.ndarray | None = None) -> tuple[Selection | None, np.ndarray]:
    """The best feasible selection found, and the prices float[rows] that led to it.

    None where none was found: with needs, tables and width rules at once that may be hard, and is left to CP-SAT.

    Args:
        near: prices at which the selection is known to be feasible and not far from the best; saves half the work.
    """
    direction = prices = 1.0 / np.maximum(state.costs.limits, 1.0)
    full = started(state, state.full())
    least = _smallest(state)
    best: Selection | None = least if state.feasible(least) else None
    best_value = -np.inf if best is None else state.objective(best)
    high = None
    if near is not None and near.any():
        high, direction = 1.0, near
    for _ in range(_TURNS if len(direction) > 1 and near is None else 1):
        for found, level in _bisect(state, full, direction, high):
            value = state.objective(found)
            if value > best_value:
                best, best_value, prices = found, value, level * direction
        if len(direction) > 1 and best is not None:
            # A row with room left gets cheaper, one at its limit dearer.
            tightness = state.costs.usage(counts_array(best)) / np.maximum(state.costs.limits, 1.0)
            direction = direction * tightness**12
            direction /= max(direction.max(), 1e-300)  # all zero when nothing is used at all
            direction = np.maximum(direction, 1e-6)
    return (None if best is None else fill(state, best, prices)), prices


def kicked(state: State, x: Selection, prices: np.ndarray, random: np.random.Generator) -> Selection | None:
    """Another local optimum near the selection: some channels come back, and prices around `prices` are tried."""
    kicked = [v if state.fixed[m] else np.where(random.random(len(v)) < _KICK, 1.0, v) for m, v in enumerate(x)]
    start, best = started(state, kicked), None
    low, high = 0.7, 1.5
    for _ in range(_KICK_BISECTIONS):
        level = np.sqrt(low * high)
        settled = settle(state, start, level * prices)
        if _feasible(state, settled):
            high = level
            if best is None or state.objective(settled.x) > state.objective(best):
                best = settled.x
        else:
            low = level
    return None if best is None else fill(state, best, prices)


def settle(state: State, start: Start, prices: np.ndarray) -> Start:
    """Block-coordinate ascent at fixed prices until nothing changes and every width rule is met."""
    x, gains = list(start.x), [g.copy() for g in start.gains]
    forced = np.zeros(int(state.offsets[-1]), np.int8)
    for _ in range(_ROUNDS):
        _sweep(state, x, gains, prices, forced)
        if not _force(state, x, gains, prices, forced):
            return Start(x, gains, forced)
    return Start(x, gains, None)


def _sweep(state: State, x: Selection, gains: Selection, prices: np.ndarray, forced: np.ndarray) -> None:
    counts = counts_array(x)
    for _ in range(_SWEEPS):
        changed = False
        for unit in state.units:
            new = _best_of(state, unit, x, gains, counts, prices, forced)
            for mask, kept in new.items():
                if not np.array_equal(kept, x[mask]):
                    state.spread(gains, mask, kept - x[mask])
                    x[mask], counts[mask], changed = kept, kept.sum(), True
        if not changed:
            return


def _best_of(
    state: State,
    unit: Unit,
    x: Selection,
    gains: Selection,
    counts: np.ndarray,
    prices: np.ndarray,
    forced: np.ndarray,
) -> dict[int, np.ndarray]:
    """The best channels of a unit, given all others."""
    if not unit.moves:
        (mask,) = unit.masks
        gain, allowed = state.with_own(gains[mask], x, mask), state.allowed[mask]
        order = np.argsort(-gain, kind="stable")
        price = state.costs.priced(prices, counts, mask, allowed)
        value = np.concatenate([[0.0], np.cumsum(gain[order])])[allowed] - price
        new = np.zeros(len(gain))
        new[order[: allowed[int(np.argmax(value))]]] = 1.0
        return {mask: new}
    flat = np.concatenate(x)
    net = net_of(state, unit, x, gains, counts, prices, forced)
    for move in unit.moves:
        flat[move.channels] = move.best(net, flat)
    return {mask: flat[state.offsets[mask] : state.offsets[mask + 1]].copy() for mask in unit.masks}


def _force(state: State, x: Selection, gains: Selection, prices: np.ndarray, forced: np.ndarray) -> bool:
    """Forces channels of linked masks whose count is not allowed; False when all counts are."""
    counts = counts_array(x)
    acted = False
    for unit in state.units:
        wrong = [m for m in unit.masks if unit.moves and int(counts[m]) not in state.allowed[m]]
        if not wrong:
            continue
        acted = True
        net, flat = net_of(state, unit, x, gains, counts, prices, forced), np.concatenate(x)
        margin = np.full(len(flat), np.nan)
        for move in unit.moves:
            margin[move.channels] = move.margins(net, flat)
        for mask in wrong:
            _force_mask(state, mask, x[mask], int(counts[mask]), margin, forced)
    return acted


def _force_mask(state: State, mask: int, kept: np.ndarray, count: int, margin: np.ndarray, forced: np.ndarray) -> None:
    """Up or down to the nearest allowed count, the least regretted channels first."""
    allowed, first = state.allowed[mask], int(state.offsets[mask])
    target = int(allowed[np.argmin(np.abs(allowed - count) - 1e-3 * (allowed > count))])
    mine = margin[first : first + len(kept)]
    mine = np.where(np.isnan(mine), 0.0, mine)  # a channel that needs nothing and is needed by nothing
    if target > count:
        chosen = np.argsort(np.where(kept > 0.5, -np.inf, mine), kind="stable")[::-1][: target - count]
        held = np.flatnonzero(kept > 0.5)
        forced[first + np.concatenate([chosen, held])] = 1
    else:
        chosen = np.argsort(np.where(kept > 0.5, mine, np.inf), kind="stable")[: count - target]
        forced[first + chosen] = -1


def _bisect(state: State, full: Start, direction: np.ndarray, ceiling: float | None) -> list[tuple[Selection, float]]:
    """The last feasible selections met while bisecting the price level, each with its level."""
    found = []
    widest = 1e-12 if ceiling is None else 0.25  # the first step down, squared
    for warm in (False, True):  # from the full network each time, or from the last infeasible selection
        start = full
        low, high = 0.0, ceiling or _ceiling(state, full, direction)
        first = settle(state, full, high * direction)
        if _feasible(state, first):
            found.append((first.x, float(high)))
        for _ in range(_BISECTIONS):
            level = np.sqrt(max(low, high * widest) * high)
            settled = settle(state, start if warm else full, level * direction)
            if _feasible(state, settled):
                high = level
                found.append((settled.x, float(level)))
            else:
                low = level
                start = settled
            if low > 0 and high / low < 1 + _PRECISION:
                break
    return found[-6:]


def _feasible(state: State, start: Start) -> bool:
    return start.forced is not None and state.feasible(start.x)


def _smallest(state: State) -> Selection:
    """Every mask at its smallest count, the channels that matter most in the full network."""
    full = state.full()
    x = []
    for mask, allowed in enumerate(state.allowed):
        new = np.zeros(state.sizes[mask])
        new[np.argsort(-state.gains(full, mask), kind="stable")[: allowed[0]]] = 1.0
        x.append(new)
    return x


def _ceiling(state: State, full: Start, direction: np.ndarray) -> float:
    """A price level at which every mask falls to its minimum."""
    level = 1e-30
    least = np.array([a[0] for a in state.allowed], float)
    for mask in state.free:
        cost = direction @ (state.costs.unit(least, mask) + state.costs.square[:, mask])
        if cost > 0:
            best_gain = float(state.with_own(full.gains[mask], full.x, mask).max(initial=0.0))
            level = max(level, best_gain / float(cost))
    return 4 * level
