"""Leaves nothing affordable over: adds channels, with what they need, until every further one breaks a limit."""

from __future__ import annotations

import numpy as np

from keras_qcqp.solvers.start import Start, net_of, started
from keras_qcqp.solvers.state import Selection, State, Unit, counts_array

_ROUNDS = 6  # of raising one mask after another until all widths are allowed


def fill(state: State, x: Selection, prices: np.ndarray | None = None) -> Selection:
    """Adds the channels of best gain per scarce resource until nothing affordable is left."""
    start = started(state, [v.copy() for v in x])
    x, gains = start.x, start.gains
    counts = counts_array(x)
    unit_of = {m: unit for unit in state.units for m in unit.masks}
    open_masks = set(state.free)
    while open_masks:
        room = np.maximum(state.costs.limits - state.costs.usage(counts), 0.0)
        options = []
        for mask in sorted(open_masks):
            step = _affordable(state, counts, mask, room)
            if step is None:
                open_masks.discard(mask)  # costs only grow and room only shrinks; with tables all are opened again
                continue
            count, cost = step
            gain = np.sort(np.where(x[mask] > 0.5, -np.inf, state.with_own(gains[mask], x, mask)))[::-1]
            scarce = float(np.max(cost / np.maximum(room, 1e-9), initial=0.0))
            value = float(gain[: count - int(counts[mask])].sum())
            options.append((value / max(scarce, 1e-12), mask, count))
        for _, mask, count in sorted(options, key=lambda option: (-option[0], option[1])):
            new = _raised(state, unit_of[mask], Start(x, gains, None), mask, count, prices)
            if new is None:
                open_masks.discard(mask)
                continue
            for changed, kept in new.items():
                state.spread(gains, changed, kept - x[changed])
                x[changed], counts[changed] = kept, kept.sum()
            if not state.costs.monotone:
                open_masks = set(state.free)
            break
        else:
            break
    return x


def _affordable(state: State, counts: np.ndarray, mask: int, room: np.ndarray) -> tuple[int, np.ndarray] | None:
    """The next allowed count that fits on its own, and its cost; a table may make a later one fit."""
    now = int(counts[mask])
    larger = state.allowed[mask][state.allowed[mask] > now]
    if state.costs.monotone:
        larger = larger[:1]
    if not len(larger):
        return None
    cost = state.costs.at(counts, mask, np.concatenate([[now], larger]))
    cost = cost[:, 1:] - cost[:, :1]
    fits = np.flatnonzero(np.all(cost <= room[:, None], axis=0))
    return (int(larger[fits[0]]), cost[:, fits[0]]) if len(fits) else None


def _raised(
    state: State, unit: Unit, start: Start, mask: int, count: int, prices: np.ndarray | None
) -> dict[int, np.ndarray] | None:
    """The unit's masks with `mask` raised to `count` and with what that needs; None if it does not fit."""
    x = start.x
    if not unit.moves:
        gain = np.where(x[mask] > 0.5, -np.inf, state.with_own(start.gains[mask], x, mask))
        new = x[mask].copy()
        new[np.argsort(-gain, kind="stable")[: count - int(new.sum())]] = 1.0
        return {mask: new}
    counts = counts_array(x)
    room = np.maximum(state.costs.limits - state.costs.usage(counts), 1e-9)
    for price in ([] if prices is None else [prices]) + [1e6 / room]:  # the most valuable way, else the cheapest
        found = _raised_linked(state, unit, start, mask, count, price)
        if found is not None:
            return found
    return None


def _raised_linked(
    state: State, unit: Unit, start: Start, mask: int, count: int, prices: np.ndarray
) -> dict[int, np.ndarray] | None:
    x, counts = list(start.x), counts_array(start.x)
    forced = np.where(np.concatenate(x) > 0.5, 1, 0).astype(np.int8)  # nothing that is kept is given up
    outside = np.ones(len(forced), bool)
    for m in unit.masks:
        outside[state.offsets[m] : state.offsets[m + 1]] = False
    forced[outside] = 0
    goal, wanted = mask, count
    for _ in range(_ROUNDS):
        net, flat = net_of(state, unit, x, start.gains, counts, prices, forced), np.concatenate(x)
        margin = np.full(len(flat), -np.inf)
        for move in unit.moves:
            margin[move.channels] = move.margins(net, flat)
        first = int(state.offsets[goal])
        mine = np.where(x[goal] > 0.5, -np.inf, margin[first : first + len(x[goal])])
        chosen = np.argsort(-mine, kind="stable")[: wanted - int(counts[goal])]
        forced[first + chosen] = 1
        net = net_of(state, unit, x, start.gains, counts, prices, forced) - 1e-12
        for move in unit.moves:
            flat[move.channels] = move.best(net, flat)
        x = [v.copy() for v in state.split(flat)]
        counts = counts_array(x)
        forced[(flat > 0.5) & ~outside] = 1
        if np.any(state.costs.usage(counts) > state.costs.limits) or counts[mask] < count:
            return None
        wrong = [m for m in unit.masks if int(counts[m]) not in state.allowed[m]]
        if not wrong:
            return {m: x[m] for m in unit.masks}
        goal = wrong[0]
        larger = state.allowed[goal][state.allowed[goal] > counts[goal]]
        if not len(larger):
            return None
        wanted = int(larger[0])
    return None
