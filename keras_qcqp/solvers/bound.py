"""An upper bound on the importance that any feasible selection can keep: the certificate of large programs.

Importance is bounded by tables over counts, `T_ab[k_a, k_b] >= x_a^T I_ab x_b` for every choice of k_a and k_b
channels; prices move the limits into the objective (Lagrangian duality); and what is left, a maximum over counts only,
is bounded by max-sum message passing on the graph of masks. Every step is an inequality in the safe direction, so any
prices and any number of sweeps give a valid bound. Large masks are binned: importance is taken at the upper end of a
bin, cost at the lower.

Source: derivation ours; the edge update is the block-coordinate step of MPLP (Globerson and Jaakkola, NIPS 2007).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from keras_qcqp.solvers.state import State

_BINS, _STEPS, _SWEEPS = 96, 60, 4
_SAFETY = 1e-9  # relative; covers the rounding of float64 sums


@dataclasses.dataclass(frozen=True)
class _Edge:
    """Two masks that meet in importance or in cost; `table` float[bins_a, bins_b], `cost` float[resources]."""

    a: int
    b: int
    table: np.ndarray
    cost: np.ndarray


def upper_bound(state: State, incumbent: float, prices: np.ndarray) -> float:
    """A value that no feasible selection exceeds.

    Args:
        incumbent: objective of a feasible selection, steers the step length.
        prices: float[resources] to start from, as the ascent found them.
    """
    dual = _Dual(state)
    scale = 1.0 / np.maximum(state.limits, 1.0)
    lam = prices / scale  # in units of one whole limit
    best, length = np.inf, 1.0
    for step in range(_STEPS):
        value, excess = dual.value(lam * scale)
        if value < best * (1 - 1e-6):
            best = value
        elif step % 5 == 4:
            length *= 0.6
        slope = excess * scale
        norm = float(slope @ slope)
        if norm < 1e-18:
            break
        lam = np.maximum(lam + length * max(value - incumbent, 0.0) / norm * slope, 0.0)
    return state.offset + best * (1 + _SAFETY) + _SAFETY * abs(state.offset)


class _Dual:
    """The dual function of the prices; messages are kept from one call to the next."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.lower, self.upper = zip(*(_bins(allowed) for allowed in state.allowed), strict=True)
        self.unary = [_top(state.weight[m], self.upper[m]) for m in range(len(self.upper))]
        for mask, own in enumerate(state.own):
            if own is not None:
                self.unary[mask] = self.unary[mask] + _own_table(own / 2, self.upper[mask])
        self.edges = self._edges()
        self._messages = [(np.zeros(len(self.upper[e.a])), np.zeros(len(self.upper[e.b]))) for e in self.edges]

    def _edges(self) -> list[_Edge]:
        state, found = self._state, []
        for a in range(len(self.upper)):
            values = dict(state.neighbours[a])
            priced = np.flatnonzero(state.cost_product[:, a].any(axis=0))
            for b in sorted({*values, *priced.tolist()}):
                if b > a:
                    shape = (len(self.upper[a]), len(self.upper[b]))
                    table = _pair_table(values[b], self.upper[a], self.upper[b]) if b in values else np.zeros(shape)
                    found.append(_Edge(a, b, table, state.cost_product[:, a, b]))
        return found

    def value(self, prices: np.ndarray) -> tuple[float, np.ndarray]:
        """The bound at these prices, and float[resources] by how much its counts exceed the limits."""
        state = self._state
        beliefs = []
        for mask, low in enumerate(self.lower):
            cost = (prices @ state.cost_linear[:, mask]) * low + (prices @ state.cost_square[:, mask]) * low**2
            beliefs.append(self.unary[mask] - cost)
        for edge, (to_a, to_b) in zip(self.edges, self._messages, strict=True):
            beliefs[edge.a] = beliefs[edge.a] + to_a
            beliefs[edge.b] = beliefs[edge.b] + to_b
        tables = [
            e.table - (prices @ e.cost) * np.outer(self.lower[e.a], self.lower[e.b]) if e.cost.any() else e.table
            for e in self.edges
        ]
        for _ in range(_SWEEPS):
            for number, edge in enumerate(self.edges):
                self._update(number, edge, tables[number], beliefs)
        # After its update an edge contributes nothing of its own: all it has went into the beliefs of its masks.
        counts = np.array([low[int(np.argmax(b))] for low, b in zip(self.lower, beliefs, strict=True)], float)
        excess = state.usage(counts) - state.limits
        return sum(float(b.max()) for b in beliefs) + float(prices @ (state.limits - state.constant)), excess

    def _update(self, number: int, edge: _Edge, table: np.ndarray, beliefs: list[np.ndarray]) -> None:
        to_a, to_b = self._messages[number]
        rest_a, rest_b = beliefs[edge.a] - to_a, beliefs[edge.b] - to_b
        total = table + rest_a[:, None] + rest_b[None, :]
        half_a, half_b = 0.5 * total.max(axis=1), 0.5 * total.max(axis=0)
        self._messages[number] = (half_a - rest_a, half_b - rest_b)
        beliefs[edge.a], beliefs[edge.b] = half_a, half_b


def _bins(allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most `_BINS` ranges of allowed counts: their smallest and their largest members."""
    parts = np.array_split(allowed, min(_BINS, len(allowed)))
    return np.array([p[0] for p in parts]), np.array([p[-1] for p in parts])


def _top(weight: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Sum of the k largest entries, for each k in `counts`."""
    return np.concatenate([[0.0], np.cumsum(np.sort(weight)[::-1])])[counts]


def _pair_table(values: np.ndarray, counts_a: np.ndarray, counts_b: np.ndarray) -> np.ndarray:
    """float[counts_a, counts_b] >= the best sum over k_a rows and k_b columns: the least of three bounds."""
    rows = _row_wise(values, counts_a, counts_b)
    columns = _row_wise(values.T, counts_b, counts_a).T
    return np.minimum(np.minimum(rows, columns), _spectral(values, counts_a, counts_b))


def _row_wise(values: np.ndarray, counts_a: np.ndarray, counts_b: np.ndarray) -> np.ndarray:
    """Each row takes its own best k_b entries, then the best k_a rows are taken."""
    zero = np.zeros((len(values), 1))
    best = np.concatenate([zero, np.cumsum(-np.sort(-values, axis=1), axis=1)], axis=1)[:, counts_b]
    best = np.cumsum(-np.sort(-best, axis=0), axis=0)
    return np.concatenate([np.zeros((1, best.shape[1])), best])[counts_a]


def _spectral(values: np.ndarray, counts_a: np.ndarray, counts_b: np.ndarray) -> np.ndarray:
    """Row means, column means and the largest singular value of what they leave (solver derivation, ours)."""
    n_a, n_b = values.shape
    r, c, mean = values.mean(axis=1), values.mean(axis=0), float(values.mean())
    rest = values - r[:, None] - c[None, :] + mean
    k_a, k_b = counts_a[:, None].astype(float), counts_b[None, :].astype(float)
    spread = np.sqrt(k_a * (1 - k_a / n_a) * k_b * (1 - k_b / n_b))
    linear = k_b * _top(r, counts_a)[:, None] + k_a * _top(c, counts_b)[None, :] - mean * k_a * k_b
    return linear + _norm(rest) * spread


def _own_table(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """float[counts] >= the best `x^T values x` of k channels."""
    return np.diagonal(_pair_table(values, counts, counts)).copy()


def _norm(matrix: np.ndarray) -> float:
    """The spectral norm, rounded up; from the smaller Gram matrix, which is far cheaper than singular values."""
    small = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    gram = small @ small.T
    largest = float(np.linalg.eigvalsh(gram)[-1])
    return float(np.sqrt(max(largest, 0.0) + 1e-12 * float(np.trace(gram))))
