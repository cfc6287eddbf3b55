"""A selection with what each of its channels gains."""

from __future__ import annotations

import dataclasses

import numpy as np

from keras_qcqp.solvers.state import Selection, State, Unit


@dataclasses.dataclass(frozen=True)
class Start:
    """A selection with the gains of all its channels (pairs within one mask excluded).

    `forced` int8[channels] are the channels (all masks end to end) that width rules hold up (1) or down (-1); None
    if the rules could not be met.
    """

    x: Selection
    gains: Selection
    forced: np.ndarray | None


def started(state: State, x: Selection) -> Start:
    """A selection with its gains."""
    gains = []
    for mask, weight in enumerate(state.weight):
        gain = weight.copy()
        for other, values in state.neighbours[mask]:
            gain += values @ x[other]
        gains.append(gain)
    return Start(x, gains, None)


def net_of(
    state: State,
    unit: Unit,
    x: Selection,
    gains: Selection,
    counts: np.ndarray,
    prices: np.ndarray,
    forced: np.ndarray,
) -> np.ndarray:
    """float[channels]: gain less price of the unit's channels, with forced ones out of reach of the rest."""
    net = np.zeros(len(forced))
    for mask in unit.masks:
        part = slice(int(state.offsets[mask]), int(state.offsets[mask + 1]))
        net[part] = state.with_own(gains[mask], x, mask) - state.costs.slope(prices, counts, mask)
    if forced.any():
        most = max(move.channels.shape[1] for move in unit.moves)
        net += forced * (4.0 * most * max(float(np.abs(net).max()), 1e-12))
    return net
