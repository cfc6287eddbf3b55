"""The maximum over counts: tables on masks and on pairs of masks, prices on the limits, message passing between them.

Source: the edge update is the block-coordinate step of MPLP (Globerson and Jaakkola, NIPS 2007).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from keras_qcqp.solvers.costs import Costs

_SWEEPS = 4
_SINGLE, _FINE = 100, 16  # so many counts get bins of their own; more, only near the centre: bins widen from there


@dataclasses.dataclass(frozen=True)
class Count:
    """Allowed counts of a mask in bins: place of the first, least and greatest count, and importance of each bin."""

    allowed: np.ndarray
    starts: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    table: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def single(self) -> bool:
        """Whether every bin is one count."""
        return len(self.starts) == len(self.allowed)


@dataclasses.dataclass(frozen=True)
class Edge:
    """Importance of two masks: `table` float[bins_a, bins_b] less `mean` times the product of their counts."""

    a: int
    b: int
    table: np.ndarray
    mean: float


def bins(allowed: np.ndarray, centre: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Allowed counts, and where bins of them start: single counts near the centre, wider ones far away."""
    if len(allowed) <= _SINGLE:
        return allowed, np.arange(len(allowed)), allowed, allowed
    middle = int(np.searchsorted(allowed, centre))
    starts = [middle] if middle < len(allowed) else []
    place = middle + 1
    while place < len(allowed):
        starts.append(place)
        place += max(1, (place - middle) // _FINE)
    place = middle
    while place > 0:
        place -= max(1, (middle - place) // _FINE)
        starts.append(max(place, 0))
    begins = np.array(sorted(set(starts) | {0}), np.int64)
    ends = np.append(begins[1:], len(allowed)) - 1
    return allowed, begins, allowed[begins], allowed[ends]


class Dual:
    """The dual function of the prices; messages are kept from one call to the next."""

    def __init__(self, costs: Costs, masks: list[Count], edges: list[Edge]) -> None:
        self._costs, self._masks, self._edges = costs, masks, edges
        products = {(a, b): c for a, b, c in costs.products}
        self._product = [products.get((e.a, e.b), np.zeros(len(costs))) for e in edges]
        self._areas = [np.outer(masks[e.a].lower, masks[e.b].lower).astype(float) for e in edges]
        self._tables = [self._binned(e) for e in edges]
        self._curves = [self._binned_curves(m) for m in range(len(masks))]
        self._messages = [(np.zeros(len(masks[e.a])), np.zeros(len(masks[e.b]))) for e in edges]

    @property
    def limits(self) -> np.ndarray:
        return self._costs.limits

    def excess(self, counts: np.ndarray) -> np.ndarray:
        """float[rows] by how much counts exceed the limits."""
        return self._costs.usage(counts) - self._costs.limits

    def replace(self, edges: list[Edge]) -> None:
        """New tables for the same pairs of masks."""
        self._edges = edges

    def _binned(self, edge: Edge) -> list[tuple[int, np.ndarray]]:
        """Cost tables of the edge, the least entry in each pair of bins."""
        found = []
        for row, key, table in self._costs.tables:
            if key == (edge.a, edge.b):
                a, b = self._masks[edge.a], self._masks[edge.b]
                part = np.minimum.reduceat(table[np.ix_(a.allowed, b.allowed)], a.starts, axis=0)
                found.append((row, np.minimum.reduceat(part, b.starts, axis=1)))
        return found

    def _binned_curves(self, mask: int) -> list[tuple[int, np.ndarray]]:
        count = self._masks[mask]
        return [
            (row, np.minimum.reduceat(table[count.allowed], count.starts))
            for row, key, table in self._costs.tables
            if key == (mask,)
        ]

    def value(self, prices: np.ndarray) -> tuple[float, np.ndarray]:
        """The bound at these prices, and float[masks] counts that go with it."""
        costs = self._costs
        beliefs = []
        for mask, count in enumerate(self._masks):
            low = count.lower.astype(float)
            cost = (prices @ costs.linear[:, mask]) * low + (prices @ costs.square[:, mask]) * low**2
            for row, curve in self._curves[mask]:
                cost = cost + prices[row] * curve
            beliefs.append(count.table - cost)
        for edge, (to_a, to_b) in zip(self._edges, self._messages, strict=True):
            beliefs[edge.a] = beliefs[edge.a] + to_a
            beliefs[edge.b] = beliefs[edge.b] + to_b
        tables = []
        for number, edge in enumerate(self._edges):
            table = edge.table - (edge.mean + float(prices @ self._product[number])) * self._areas[number]
            for row, cost in self._tables[number]:
                table = table - prices[row] * cost
            tables.append(table)
        for _ in range(_SWEEPS):
            for number, edge in enumerate(self._edges):
                self._update(number, edge, tables[number], beliefs)
        # After its update an edge contributes nothing of its own: all it has went into the beliefs of its masks.
        counts = np.array([c.lower[int(np.argmax(b))] for c, b in zip(self._masks, beliefs, strict=True)], float)
        return sum(float(b.max()) for b in beliefs) + float(prices @ costs.limits), counts

    def _update(self, number: int, edge: Edge, table: np.ndarray, beliefs: list[np.ndarray]) -> None:
        to_a, to_b = self._messages[number]
        rest_a, rest_b = beliefs[edge.a] - to_a, beliefs[edge.b] - to_b
        total = table + rest_a[:, None] + rest_b[None, :]
        half_a, half_b = 0.5 * total.max(axis=1), 0.5 * total.max(axis=0)
        self._messages[number] = (half_a - rest_a, half_b - rest_b)
        beliefs[edge.a], beliefs[edge.b] = half_a, half_b
