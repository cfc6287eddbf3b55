"""One gate for each channel, moved along the surface on which the resources are what they may be.

Source: Kruglov, "Channel-wise pruning of neural networks with tapering resource constraint" (arXiv 1812.07060): the
compute that is available shrinks by a holonomic constraint with Lagrange multipliers, and pruning parameters are
separate from the weights. Its equations are not known to us; the update rule is ours: with s the value of a gate per
unit of the resource and a price P, `p(P) = clip(p - speed s - P presence'(p), floor, 1)` falls in P, and so does every
resource; the price at which all limits are met is found by bisection. So the constraint holds exactly after each step,
whatever the learning rate of the weights. Scaling the weights of a layer and unscaling its readers leaves s, and with
it the order in which channels go, as it was.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from keras_qcqp.tapering.soft import Soft, presence, steepness

_HALVINGS = 60
_SLOW, _SLOWER = 0.9, 0.99  # of the moving averages: of gradients, of their size


@dataclasses.dataclass
class Gates:
    """The state of all gates; arrays have one entry for each channel of a mask.

    Attributes:
        soft: what they cost.
        least: how many channels of each mask stay, whatever happens: the largest gates.
        free: masks that have gates; all others stay whole.
        speed: how far gates of usual value move in one step.
        values: gates in [0, 1]; once 0, always 0.
        slopes: moving averages of the derivative of the loss by each gate.
        size: moving average of the mean square of value per resource; 0 before the first step.
        price: of the last step: marginal loss per share of the resource.
    """

    soft: Soft
    least: tuple[int, ...]
    free: tuple[bool, ...]
    speed: float
    values: list[np.ndarray]
    slopes: list[np.ndarray]
    size: float = 0.0
    price: float = 0.0

    @classmethod
    def open(cls, soft: Soft, least: Sequence[int], free: Sequence[bool], speed: float) -> Gates:
        """All gates at 1."""
        ones = [np.ones(n) for n in soft.sizes]
        return cls(soft, tuple(least), tuple(free), speed, ones, [np.zeros(n) for n in soft.sizes])

    def counts(self) -> tuple[int, ...]:
        """Channels that are left of each mask."""
        return tuple(int(np.count_nonzero(values)) for values in self.values)

    def soft_shares(self) -> np.ndarray:
        """float64[resources]: what the gates are held to."""
        return self.soft.shares(_present(self.values))

    def hard_shares(self) -> np.ndarray:
        """float64[resources]: what the channels that are left cost."""
        return self.soft.shares(self.counts())

    def step(self, slopes: Sequence[np.ndarray], limits: np.ndarray) -> None:
        """Moves all gates, so that no resource exceeds its limit (or what the floors cost).

        Args:
            slopes: derivative of the loss by each gate.
            limits: float[resources], shares of the whole network.
        """
        self.slopes = [_SLOW * old + (1 - _SLOW) * new for old, new in zip(self.slopes, slopes, strict=True)]
        worth = self._worth(limits)
        moved = [w[v > 0] for w, v, free in zip(worth, self.values, self.free, strict=True) if free]
        square = float(np.mean(np.square(np.concatenate(moved)))) if moved else 0.0
        self.size = square if not self.size else _SLOWER * self.size + (1 - _SLOWER) * square
        eta = self.speed / np.sqrt(self.size) if self.size > 0 else 0.0
        floors = self._floors(worth)

        def exceeds(price: float) -> bool:
            shares = self.soft.shares(_present(self._at(price, eta, worth, floors)))
            return bool((shares > limits).any())

        price = _least(exceeds) if exceeds(0.0) else 0.0
        self.values = self._at(price, eta, worth, floors)
        self.price = price / eta if eta else 0.0

    def _worth(self, limits: np.ndarray) -> list[np.ndarray]:
        """Slope per share of the resource that is nearest to its limit; 0 where a channel costs nothing."""
        counts = _present(self.values)
        binding = int(np.argmax(self.soft.shares(counts) / np.maximum(limits, 1e-12)))
        prices = self.soft.prices(counts, binding)
        return [s / price if price > 0 else np.zeros_like(s) for s, price in zip(self.slopes, prices, strict=True)]

    def _floors(self, worth: Sequence[np.ndarray]) -> list[np.ndarray]:
        """1 for the channels that must stay, of equal gates those that are worth most."""
        floors = []
        for values, w, least, free in zip(self.values, worth, self.least, self.free, strict=True):
            floor = np.zeros(len(values)) if free else values.copy()
            if free:
                floor[np.lexsort((w, -values))[:least]] = 1.0
            floors.append(floor)
        return floors

    def _at(
        self, price: float, eta: float, worth: Sequence[np.ndarray], floors: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        moved = []
        for values, w, floor in zip(self.values, worth, floors, strict=True):
            found = np.clip(values - eta * w - price * steepness(values), floor, 1.0)
            moved.append(np.where(values > 0, found, 0.0))
        return moved


def _least(exceeds: Callable[[float], bool]) -> float:
    """The least price that is enough, by doubling and bisection; a very high one where none is."""
    low, high = 0.0, 1e-6
    while exceeds(high) and high < 1e6:
        high *= 4
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if exceeds(middle) else (low, middle)
    return high


def _present(values: Sequence[np.ndarray]) -> list[float]:
    return [float(presence(v).sum()) for v in values]
