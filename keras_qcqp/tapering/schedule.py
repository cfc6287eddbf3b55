"""How fast the resources shrink: as fast as the loss allows, and fast enough to arrive in time."""

from __future__ import annotations

import dataclasses

import numpy as np

_FASTER, _SLOWER, _RANGE = 1.05, 0.8, 4.0
_SMOOTH = 0.97


@dataclasses.dataclass
class Taper:
    """Limits that fall from everything to the targets, along a straight line in their logarithms.

    Source of an adaptive rate: Kruglov, arXiv 1812.07060; the rule is ours. While the smoothed loss stays below what is
    allowed, the rate grows by 5 % a step, otherwise it falls by 20 %, within a factor of 4 of the even rate. What is
    allowed grows from the loss at the start by `tolerance` on the way. The rate is never less than what the steps that
    are left need.

    Attributes:
        targets: float[resources], shares of the whole network.
        steps: in which to arrive.
        tolerance: how much the loss may grow on the way, as a share of the loss at the start.
        level: 0 at the start, 1 at the targets; it goes on beyond, since what the gates cost is less than what the
            channels that are left cost.
        done: steps so far.
        rate: levels per step.
        loss: smoothed; None before the first step.
        start: what the loss was at first.
    """

    targets: np.ndarray
    steps: int
    tolerance: float = 0.5
    level: float = 0.0
    done: int = 0
    rate: float = 0.0
    loss: float | None = None
    start: float = 0.0

    def advance(self, loss: float) -> np.ndarray:
        """One step further; the new limits float64[resources]."""
        if self.loss is None:
            self.loss = self.start = loss
            self.rate = 1.0 / self.steps
        self.loss = _SMOOTH * self.loss + (1 - _SMOOTH) * loss
        allowed = self.start * (1 + self.tolerance * self.level)
        even = 1.0 / self.steps
        wanted = self.rate * (_FASTER if self.loss <= allowed else _SLOWER)
        self.rate = float(np.clip(wanted, even / _RANGE, even * _RANGE))
        left = max(self.steps - self.done, 1)
        needed = (1.0 - self.level) / left if left < self.steps / 2 and self.level < 1 else 0.0
        self.level += max(self.rate, needed)
        self.done += 1
        return self.limits()

    def limits(self) -> np.ndarray:
        """float64[resources] at the present level."""
        return np.exp(self.level * np.log(np.maximum(self.targets, 1e-9)))
