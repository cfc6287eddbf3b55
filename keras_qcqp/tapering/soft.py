"""Resources of a network whose channels are partly there: the same terms as everywhere, at fractional counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from keras_qcqp.problem import Resource, Step

_EPSILON = 0.1


def presence(gates: np.ndarray) -> np.ndarray:
    """How much of a channel counts at each gate in [0, 1]: a concave function with `0 -> 0` and `1 -> 1`.

    With a linear count all gates would sink together, and readers would grow their kernels to make up for it. Here a
    gate that is small already pays eleven times as much per unit as one at 1, so ties break up and gates reach 0.
    """
    return np.log1p(gates / _EPSILON) / np.log1p(1 / _EPSILON)


def steepness(gates: np.ndarray) -> np.ndarray:
    """The derivative of `presence`."""
    return 1 / ((_EPSILON + gates) * np.log1p(1 / _EPSILON))


@dataclasses.dataclass(frozen=True)
class Soft:
    """Resources as shares of what the whole network costs.

    Never falling in any count: a table whose cost falls somewhere is replaced by its running greatest value, and is
    interpolated linearly.

    Attributes:
        resources: those that are limited.
        sizes: of the masks.
    """

    resources: tuple[Resource, ...]
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, resources: Sequence[Resource], sizes: Sequence[int]) -> Soft:
        """Prepares the tables."""
        return cls(tuple(dataclasses.replace(r, tables=_rising(r.tables)) for r in resources), tuple(sizes))

    def shares(self, counts: Sequence[float]) -> np.ndarray:
        """float64[resources] at float[masks] counts; 1 for the whole network."""
        whole = [max(_cost(r, self.sizes), 1e-300) for r in self.resources]
        return np.array([_cost(r, counts) for r in self.resources]) / whole

    def prices(self, counts: Sequence[float], resource: int) -> np.ndarray:
        """float64[masks]: the share of a resource that one channel of each mask costs, the others as they are."""
        given = [float(c) for c in counts]
        chosen = self.resources[resource]
        level, whole = _cost(chosen, given), max(_cost(chosen, self.sizes), 1e-300)
        found = []
        for mask, count in enumerate(given):
            less = min(1.0, count)
            fewer = [*given[:mask], count - less, *given[mask + 1 :]]
            found.append((level - _cost(chosen, fewer)) / less / whole if less else 0.0)
        return np.maximum(found, 0.0)


def _rising(tables: Mapping[tuple[int, ...], np.ndarray]) -> dict[tuple[int, ...], np.ndarray]:
    found = {}
    for key, table in tables.items():
        values = table.astype(np.float64)
        for axis in range(values.ndim):
            values = np.maximum.accumulate(values, axis=axis)
        found[key] = values
    return found


def _cost(resource: Resource, counts: Sequence[float]) -> float:
    total = float(resource.constant) + _sum(resource.linear, counts)
    total += sum(c * counts[a] * counts[b] for (a, b), c in resource.quadratic.items())
    total += sum(_between(table, [counts[m] for m in key]) for key, table in resource.tables.items())
    return total + max((_moment(step, counts) for step in resource.steps), default=0.0)


def _moment(step: Step, counts: Sequence[float]) -> float:
    return step.constant + _sum(step.linear, counts)


def _sum(linear: Mapping[int, int], counts: Sequence[float]) -> float:
    return float(sum(c * counts[m] for m, c in linear.items()))


def _between(table: np.ndarray, at: Sequence[float]) -> float:
    """Linear along each axis."""
    for count in at:
        low = min(int(count), len(table) - 1)
        high = min(low + 1, len(table) - 1)
        table = table[low] + (count - low) * (table[high] - table[low])
    return float(table)
