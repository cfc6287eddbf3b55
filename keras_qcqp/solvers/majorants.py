"""Tables over counts that lie above the importance of a pair of masks: the least of three families of bounds.

For `q(x, y) = x^T I y + u . x + v . y` and every pair of counts: its greatest value over the choices of k_a and k_b
channels is at most
* row-wise: every row takes its own best columns, then the best rows are taken (and the other way round);
* spectral: `I = r 1^T + 1 c^T - mu + E`: the best sums of single scores, and the norm of E;
* tangent: with `0 = d/2 (k - k^2/n - |x~|^2)` added for binary x, the mixing part `x~^T E y~ - d/2 |x~|^2 - d/2 |y~|^2`
  is concave for d >= |E|, hence below its tangent at any point z.
All tables are over bins of counts and lack `-mu k_a k_b`, which is exact at the lower ends of bins.
"""

from __future__ import annotations

import numpy as np

from keras_qcqp.solvers.counting import Count
from keras_qcqp.solvers.relaxation import Mixing, soft_top

_ROW_SIZE = 300_000  # channel pairs up to which row-wise bounds are worth their time: they win where layers are narrow
_ROW_WORK = 300_000  # entries to sort for the row-wise bounds of one pair


class Majorant:
    """The table of one pair; it can be tightened where it matters.

    Attributes:
        table: float[bins a, bins b].
    """

    def __init__(self, pair: Mixing, u: np.ndarray, v: np.ndarray, a: Count, b: Count) -> None:
        self.pair, self._u, self._v, self._a, self._b = pair, u, v, a, b
        spread = pair.norm * np.sqrt(np.outer(_spread(a, len(u)), _spread(b, len(v))))
        self.table = _best(pair.r, u, a, b) + _best(pair.c, v, b, a).T + spread
        if pair.values.size <= _ROW_SIZE:
            product = pair.mu * np.outer(a.lower, b.lower)
            self.table = np.minimum(self.table, product + _row_wise(pair.values, u, v, a, b))
            self.table = np.minimum(self.table, product + _row_wise(pair.values.T, v, u, b, a).T)

    def touch(self, x: np.ndarray, y: np.ndarray, curves: Mixing) -> None:
        """Adds the tangent at the fractional selections x and y, made concave by `curves`.

        For other counts than theirs it is taken at `x + (k_a - |x|) p` with p inversely as the curve, which leaves the
        order of the scores as it is; likewise y. Only where a bin is a single count.
        """
        pair, a, b = self.pair, self._a, self._b
        curve_a, curve_b = curves.curve_a, curves.curve_b
        p_a, p_b = (1 / c / np.sum(1 / c) for c in (curve_a, curve_b))
        off_a, off_b = a.lower - float(x.sum()), b.lower - float(y.sum())
        along_a, along_b = pair.forth(p_b), pair.back(p_a)
        score_a, score_b = self._u + pair.forth(y) + curve_a * (0.5 - x), self._v + pair.back(x) + curve_b * (0.5 - y)
        sums_a = best_sums(score_a + np.outer(b.lower, pair.r) + np.outer(off_b, along_a), a.lower).T
        sums_b = best_sums(score_b + np.outer(a.lower, pair.c) + np.outer(off_a, along_b), b.lower)
        constant = 0.5 * float(curve_a @ x**2 + curve_b @ y**2) - float(x @ pair.forth(y))
        bent_a = 0.5 * off_a**2 / np.sum(1 / curve_a) + off_a * float(along_b @ y)
        bent_b = 0.5 * off_b**2 / np.sum(1 / curve_b) + off_b * float(along_a @ x)
        table = sums_a + sums_b + constant - bent_a[:, None] - bent_b[None, :]
        table -= np.outer(off_a, off_b) * float(p_a @ along_a)
        table[a.lower < a.upper] = np.inf
        table[:, b.lower < b.upper] = np.inf
        self.table = np.minimum(self.table, table)

    def tighten(self, count_a: float, count_b: float, curves: Mixing) -> None:
        """Adds the tangent at the best fractional selection of these counts."""
        pair, d_a, d_b = self.pair, curves.curve_a, curves.curve_b
        x = soft_top(count_b * pair.r + self._u, count_a, d_a)
        y = soft_top(count_a * pair.c + self._v, count_b, d_b)
        for _ in range(6):
            x = soft_top(pair.values @ y + self._u, count_a, d_a)
            y = soft_top(x @ pair.values + self._v, count_b, d_b)
        self.touch(x, y, curves)


def best_sums(score: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """float[..., allowed]: sum of the k largest entries along the last axis, for each allowed k."""
    ordered = -np.sort(-score, axis=-1)
    zero = np.zeros((*score.shape[:-1], 1))
    return np.concatenate([zero, np.cumsum(ordered, axis=-1)], axis=-1)[..., allowed]


def over_bins(values: np.ndarray, count: Count) -> np.ndarray:
    """The greatest value in each bin, along the last axis."""
    return values if count.single else np.maximum.reduceat(values, count.starts, axis=-1)


def _spread(count: Count, size: int) -> np.ndarray:
    """`k - k^2/n`, the greatest in each bin."""
    return over_bins(count.allowed - count.allowed**2 / max(size, 1), count)


def _best(r: np.ndarray, u: np.ndarray, a: Count, b: Count) -> np.ndarray:
    """float[bins a, bins b]: best sums of k_a entries of `k_b r + u`: convex in k_b, so greatest at an end of a bin."""
    ends = (b.upper,) if b.single else (b.lower, b.upper)
    return np.maximum.reduce([over_bins(best_sums(np.outer(end, r) + u, a.allowed), a) for end in ends]).T


def _row_wise(values: np.ndarray, u: np.ndarray, v: np.ndarray, a: Count, b: Count) -> np.ndarray:
    """float[bins a, bins b]: rows take their best columns of `I + rho v`, for several rho; the rest of v is left."""
    n, m = values.shape
    table = np.full((len(a), len(b)), np.inf)
    shares = max(1, min(len(a), _ROW_WORK // max(n * m, 1)))
    centres = a.upper[np.unique(np.geomspace(1, len(a), shares).astype(int) - 1)] if v.any() else np.zeros(1, int)
    up, down = (over_bins(best_sums(w, b.allowed), b) for w in (v, -v))
    for centre in centres.tolist():
        rho = 1.0 / centre if centre > 0 else 0.0
        rows = over_bins(best_sums(values + rho * v, b.allowed), b)  # [n, bins b]
        best = over_bins(best_sums((rows + u[:, None]).T, a.allowed), a).T
        rest = [_rest(1.0 - rho * ends, up, down) for ends in (a.lower, a.upper)]  # convex in k_a
        table = np.minimum(table, best + (rest[0] if a.single else np.maximum(*rest)))
    return table


def _rest(factor: np.ndarray, up: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Best sums of `factor v`, given those of v and of -v."""
    return np.outer(np.maximum(factor, 0.0), up) + np.outer(np.maximum(-factor, 0.0), down)


def own_table(pair: Mixing, u: np.ndarray, z: np.ndarray, count: Count) -> np.ndarray:
    """float[bins] above `x^T I x + u . x` for one mask: tangent at z, spectral and row-wise."""
    k, n = count.allowed, len(u)
    curve = k - k**2 / max(n, 1)
    z_tilde, forth = z - z.mean(), pair.forth(z)
    found = []
    for extra, rest in (
        (np.zeros(n), pair.norm * curve),
        (
            2 * forth - 2 * pair.norm * z_tilde,
            pair.norm * curve + pair.norm * float(z_tilde @ z_tilde) - float(z_tilde @ forth),
        ),
    ):
        score = 2 * k[:, None] * pair.r[None, :] + (u + extra)[None, :]
        found.append(np.diagonal(best_sums(score, k)) - pair.mu * k**2.0 + rest)
    rows = best_sums(pair.values, k) + u[:, None]
    best = np.concatenate([np.zeros((1, len(k))), np.cumsum(-np.sort(-rows, axis=0), axis=0)])[k]
    found.append(np.diagonal(best))
    return over_bins(np.minimum.reduce(found), count)
