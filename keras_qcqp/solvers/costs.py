"""The limited resources as rows: what a count costs, given the other counts. One row for each step of a peak."""

from __future__ import annotations

import numpy as np

from keras_qcqp.problem import Problem, Resource, Step


class Costs:
    """Float64 views (exact while below 2^53; the oracle's integers have the last word).

    Attributes:
        limits: float[rows], less the constants.
        linear, square: float[rows, masks].
        products: (a, b, float[rows]) with a < b.
        tables: (row, masks, float table with an axis for each of them).
        meets: for each mask, those with which it shares a product or a table.
    """

    def __init__(self, problem: Problem) -> None:
        rows = [row for r in problem.limited for row in _rows(r, problem.limits[r.name])]
        num, masks = len(rows), len(problem.masks)
        self.limits = np.array([limit for _, _, limit in rows], np.float64)
        self.linear, self.square = np.zeros((num, masks)), np.zeros((num, masks))
        products: dict[tuple[int, int], np.ndarray] = {}
        self.tables: list[tuple[int, tuple[int, ...], np.ndarray]] = []
        for k, (r, step, _) in enumerate(rows):
            for linear in (r.linear, step.linear):
                for m, c in linear.items():
                    self.linear[k, m] += c
            for (a, b), c in r.quadratic.items():
                if a == b:
                    self.square[k, a] += c
                else:
                    products.setdefault((a, b), np.zeros(num))[k] += c
            self.tables += [(k, key, table.astype(np.float64)) for key, table in r.tables.items()]
        self.products = [(a, b, c) for (a, b), c in products.items() if c.any()]
        self.meets: list[set[int]] = [set() for _ in range(masks)]
        self._around: list[list[tuple[int, np.ndarray]]] = [[] for _ in range(masks)]
        self._tabled: list[list[tuple[int, tuple[int, ...], np.ndarray]]] = [[] for _ in range(masks)]
        for a, b, cost in self.products:
            self._around[a].append((b, cost))
            self._around[b].append((a, cost))
            self.meets[a].add(b)
            self.meets[b].add(a)
        for entry in self.tables:
            for m in entry[1]:
                self._tabled[m].append(entry)
                self.meets[m] |= set(entry[1]) - {m}

    def __len__(self) -> int:
        return len(self.limits)

    def unit(self, counts: np.ndarray, mask: int) -> np.ndarray:
        """float[rows]: cost of one channel of the mask, square term and tables left out."""
        total = self.linear[:, mask].copy()
        for other, c in self._around[mask]:
            total += c * counts[other]
        return total

    def at(self, counts: np.ndarray, mask: int, ks: np.ndarray) -> np.ndarray:
        """float[rows, ks]: all that depends on the mask's count, at each of the counts `ks`."""
        total = np.outer(self.unit(counts, mask), ks) + np.outer(self.square[:, mask], ks.astype(float) ** 2)
        for row, key, table in self._tabled[mask]:
            index = tuple(ks if m == mask else int(counts[m]) for m in key)
            total[row] += table[index]
        return total

    def priced(self, prices: np.ndarray, counts: np.ndarray, mask: int, ks: np.ndarray) -> np.ndarray:
        """float[ks]: `prices . at(...)`, faster."""
        total = float(prices @ self.unit(counts, mask)) * ks
        if self.square[:, mask].any():
            total = total + float(prices @ self.square[:, mask]) * ks.astype(float) ** 2
        for row, key, table in self._tabled[mask]:
            total = total + prices[row] * table[tuple(ks if m == mask else int(counts[m]) for m in key)]
        return total

    def slope(self, prices: np.ndarray, counts: np.ndarray, mask: int) -> float:
        """The price of one more channel, on average between its neighbouring counts."""
        if not self._tabled[mask] and not self.square[:, mask].any():
            return float(prices @ self.unit(counts, mask))
        size = next((t.shape[key.index(mask)] - 1 for _, key, t in self._tabled[mask]), int(counts[mask]) + 1)
        reach = max(1, size // 16) if self._tabled[mask] else 1
        low, high = max(0, int(counts[mask]) - reach), min(size, int(counts[mask]) + reach)
        ends = self.priced(prices, counts, mask, np.array([low, high]))
        return float(ends[1] - ends[0]) / max(high - low, 1)

    def usage(self, counts: np.ndarray) -> np.ndarray:
        """float[rows], constants left out as in `limits`."""
        total = self.linear @ counts + self.square @ counts**2
        for a, b, c in self.products:
            total = total + c * (counts[a] * counts[b])
        for row, key, table in self.tables:
            total[row] += table[tuple(int(counts[m]) for m in key)]
        return total

    @property
    def monotone(self) -> bool:
        """Whether no channel can ever make anything cheaper."""
        return all(np.all(np.diff(t, axis=a) >= 0) for _, _, t in self.tables for a in range(t.ndim))


def _rows(r: Resource, limit: int) -> list[tuple[Resource, Step, int]]:
    """A resource with steps is within its limit when each of them is; a step below another one says nothing new."""
    steps = [s for s in r.steps if not any(_below(s, t, first) for first, t in _others(r.steps, s))]
    return [(r, s, limit - r.constant - s.constant) for s in steps or [Step("", 0, {})]]


def _others(steps: tuple[Step, ...], step: Step) -> list[tuple[bool, Step]]:
    """The other steps, each with whether it comes first (of two equal steps the first stays)."""
    place = next(k for k, s in enumerate(steps) if s is step)
    return [(k < place, s) for k, s in enumerate(steps) if k != place]


def _below(step: Step, other: Step, first: bool) -> bool:
    less = [step.constant <= other.constant, *(c <= other.linear.get(m, 0) for m, c in step.linear.items())]
    same = step.constant == other.constant and dict(step.linear) == dict(other.linear)
    return all(less) and (first or not same)
