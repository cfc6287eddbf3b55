"""A problem in the form in which solvers work: symmetric adjacency, dense cost matrices, marginals."""

from __future__ import annotations

import numpy as np

from keras_qcqp.problem import Keep, Problem, counts_of

Selection = list[np.ndarray]


class State:
    """Precomputed views of a problem. Selections are lists of float64 vectors of zeros and ones.

    Attributes:
        weight: for each mask the linear importance, pairs with always-full masks included; `offset` is constant.
        neighbours: for each mask a, the (b, values float[size_a, size_b]) of its pairs with other masks.
        own: for each mask, `I + I^T` of the pair (a, a), or None.
        cost_linear: int64[resources, masks]; cost_product: int64[resources, masks, masks], symmetric, zero diagonal;
        cost_square: int64[resources, masks]. All for the limited resources only.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        num = len(problem.masks)
        self.sizes = np.array([m.size for m in problem.masks])
        self.allowed = [np.array(m.allowed) for m in problem.masks]
        self.fixed = [m.allowed == (m.size,) for m in problem.masks]
        self.free = [m for m in range(num) if not self.fixed[m]]  # which channels, even where their number is given
        self.weight = [problem.linear.get(m, np.zeros(n)).astype(float) for m, n in enumerate(self.sizes)]
        self.neighbours: list[list[tuple[int, np.ndarray]]] = [[] for _ in range(num)]
        self.own: list[np.ndarray | None] = [None] * num
        self.offset = 0.0
        for pair in problem.pairs:
            self._add_pair(pair.a, pair.b, pair.values)
        limited = problem.limited
        self.limits = np.array([problem.limits[r.name] for r in limited], np.float64)
        self.constant = np.array([r.constant for r in limited], np.float64)
        self.cost_linear = np.zeros((len(limited), num))
        self.cost_product = np.zeros((len(limited), num, num))
        self.cost_square = np.zeros((len(limited), num))
        for k, r in enumerate(limited):
            for m, c in r.linear.items():
                self.cost_linear[k, m] += c
            for (a, b), c in r.quadratic.items():
                if a == b:
                    self.cost_square[k, a] += c
                else:
                    self.cost_product[k, a, b] += c
                    self.cost_product[k, b, a] += c

    def _add_pair(self, a: int, b: int, values: np.ndarray) -> None:
        """Pairs with a mask that is always full are linear, or a constant."""
        if self.fixed[a] and self.fixed[b]:
            self.offset += float(values.sum())
        elif self.fixed[b]:
            self.weight[a] += values.sum(axis=1)
        elif self.fixed[a]:
            self.weight[b] += values.sum(axis=0)
        elif a == b:
            both, previous = values + values.T, self.own[a]
            self.own[a] = both if previous is None else previous + both
        else:
            self.neighbours[a].append((b, np.ascontiguousarray(values)))
            self.neighbours[b].append((a, np.ascontiguousarray(values.T)))

    def full(self) -> Selection:
        return [np.ones(n) for n in self.sizes]

    def gains(self, x: Selection, mask: int) -> np.ndarray:
        """What each channel of a mask adds to the objective, given all others."""
        gain = self.weight[mask].copy()
        for other, values in self.neighbours[mask]:
            gain += values @ x[other]
        return self.with_own(gain, x, mask)

    def with_own(self, gain: np.ndarray, x: Selection, mask: int) -> np.ndarray:
        """Adds what a channel gains with the other channels of its own mask, and with itself."""
        own = self.own[mask]
        return gain if own is None else gain + own @ x[mask] - 0.5 * np.diag(own) * (2 * x[mask] - 1)

    def spread(self, gains: Selection, mask: int, change: np.ndarray) -> None:
        """Updates the gains of the neighbours (own part excluded) after `x[mask]` changed by -1, 0 or 1."""
        touched = np.flatnonzero(change)
        for other, values in self.neighbours[mask]:
            if 4 * len(touched) < len(change):
                gains[other] += change[touched] @ values[touched]
            else:
                gains[other] += change @ values

    def unit_costs(self, counts: np.ndarray, mask: int) -> np.ndarray:
        """float[resources]: cost of one channel of the mask, without the square term."""
        return self.cost_linear[:, mask] + self.cost_product[:, mask] @ counts

    def usage(self, counts: np.ndarray) -> np.ndarray:
        """float[resources]; exact while below 2^53, the oracle's integers have the last word."""
        products = 0.5 * np.einsum("a,rab,b->r", counts, self.cost_product, counts)
        return self.constant + self.cost_linear @ counts + products + self.cost_square @ counts**2

    def objective(self, x: Selection) -> float:
        """Importance kept."""
        total = self.offset
        for m, v in enumerate(x):
            total += float(self.weight[m] @ v)
            own = self.own[m]
            if own is not None:
                total += 0.5 * float(v @ own @ v)
            total += sum(float(v @ (values @ x[other])) for other, values in self.neighbours[m] if other > m)
        return total

    def feasible(self, x: Selection) -> bool:
        """Exact check of every limit (width rules hold by construction)."""
        counts = counts_of(keep_of(x))
        return all(r.usage(counts) <= self.problem.limits[r.name] for r in self.problem.limited)


def keep_of(x: Selection) -> Keep:
    """Floats to read-only booleans."""
    kept = tuple(v > 0.5 for v in x)
    for k in kept:
        k.setflags(write=False)
    return kept


def counts_array(x: Selection) -> np.ndarray:
    return np.array([v.sum() for v in x])
