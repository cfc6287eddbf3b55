"""The tangent point of the bound: the best fractional selection at given counts, and multipliers for the needs."""

from __future__ import annotations

import dataclasses

import numpy as np

from keras_qcqp.solvers.state import Selection, State, counts_array

_ITERATIONS = (20, 12, 12)  # before each new choice of weights
_HEAVIEST, _SOFT = 30.0, 0.1
_SMALL_GRAM, _POWERS = 128, 60


@dataclasses.dataclass(frozen=True)
class Mixing:
    """A pair's importance `r 1^T + 1 c^T - mu + E` with E doubly centred.

    `norm` is an upper bound on the norm of E, and `curve_a`, `curve_b` float[channels] are such that
    `x^T E y - sum(curve_a x^2) / 2 - sum(curve_b y^2) / 2` is concave: the norm of E with rows and columns divided by
    their square roots is at most 1.
    """

    a: int
    b: int
    values: np.ndarray
    r: np.ndarray
    c: np.ndarray
    mu: float
    norm: float
    curve_a: np.ndarray
    curve_b: np.ndarray

    def forth(self, y: np.ndarray) -> np.ndarray:
        """`E y~` for y with its mean taken away: centring the product takes r and c away, too."""
        out = self.values @ (y - y.mean())
        return out - out.mean()

    def back(self, x: np.ndarray) -> np.ndarray:
        """`E^T x~`."""
        out = (x - x.mean()) @ self.values
        return out - out.mean()


@dataclasses.dataclass(frozen=True)
class Relaxation:
    """The tangent point.

    Attributes:
        z: fractional channels of each mask.
        shift: for each mask what the multipliers of the needs add to the score of each channel.
        mixings: the pairs of different masks; `own` those of a mask with itself.
    """

    z: Selection
    shift: Selection
    mixings: list[Mixing]
    own: list[Mixing | None]


def relax(state: State, x: Selection) -> list[Relaxation]:
    """Maximises the convexified importance at the counts of `x`, needs priced: with even weights, and with chosen ones.

    Both have the same shifts.
    """
    pairs, own = _mixings(state)
    theta = [np.zeros(len(need.index)) for need in state.problem.needs]
    point = Relaxation([v.copy() for v in x], [np.zeros(n) for n in state.sizes], pairs, own)
    counts = counts_array(x)
    for iterations in _ITERATIONS:
        point = _weighted(state, _soft_ascent(state, point, counts, theta, iterations))
    point = _soft_ascent(state, point, counts, theta, _ITERATIONS[-1])
    return [moved(state, dataclasses.replace(point, mixings=pairs), counts), point]


def _mixings(state: State) -> tuple[list[Mixing], list[Mixing | None]]:
    """All pairs, split; kept with the state, since they do not depend on limits."""
    if state.mixings is None:
        pairs = [split(a, b, values) for a, around in enumerate(state.neighbours) for b, values in around if a < b]
        state.mixings = pairs, [None if o is None else split(m, m, o / 2) for m, o in enumerate(state.own)]
    return state.mixings


def moved(state: State, point: Relaxation, counts: np.ndarray) -> Relaxation:
    """The same relaxation at other counts, the multipliers of the needs as they are."""
    return _soft_ascent(state, point, counts, [], _ITERATIONS[-1], fixed=True)


def _curves(state: State, point: Relaxation) -> Selection:
    """For each mask the weight float[channels] of `z - z^2` that makes all its mixing concave."""
    # A mask that mixes with none needs no curve; a little of it makes its channels answer the multipliers smoothly.
    d = [np.full(len(w), 1e-12 + _SOFT * float(np.ptp(w)) if len(w) else 0.0) for w in state.weight]
    for p in point.mixings:
        d[p.a] = d[p.a] + p.curve_a
        d[p.b] = d[p.b] + p.curve_b
    for m, q in enumerate(point.own):
        if q is not None:
            d[m] = d[m] + 2 * q.norm
    return d


def _weighted(state: State, point: Relaxation) -> Relaxation:
    """Puts weight on channels that are decided, where it costs nothing, so that the others need less."""
    d = _curves(state, point)
    weights = []
    for m, curve in enumerate(d):
        gain = state.gains(point.z, m) + point.shift[m]
        edge = _threshold(gain, float(point.z[m].sum()), curve)
        least = float(curve.min())
        weights.append(np.clip(2 * np.abs(gain - edge) / max(least, 1e-300), 1.0, _HEAVIEST))
    pairs = []
    for p in point.mixings:
        w_a, w_b = weights[p.a], weights[p.b]
        rest = p.values - p.r[:, None] - p.c[None, :] + p.mu
        norm = _norm(rest / np.sqrt(w_a)[:, None] / np.sqrt(w_b)[None, :]) + _least_curve(p.values)
        pairs.append(dataclasses.replace(p, curve_a=norm * w_a, curve_b=norm * w_b))
    return dataclasses.replace(point, mixings=pairs)


def split(a: int, b: int, values: np.ndarray) -> Mixing:
    """Takes row means and column means out of a pair; the curves are even."""
    r, c, mu = values.mean(axis=1), values.mean(axis=0), float(values.mean())
    norm = _norm(values - r[:, None] - c[None, :] + mu)
    curve = norm + _least_curve(values)
    return Mixing(a, b, values, r, c, mu, norm, np.full(len(r), curve), np.full(len(c), curve))


def _least_curve(values: np.ndarray) -> float:
    """More curvature than needed is valid, too; none at all would divide by zero."""
    return 1e-9 * float(values.max(initial=0.0)) + 1e-290


def _norm(matrix: np.ndarray) -> float:
    """The spectral norm, rounded up: estimated by power iteration on the smaller Gram matrix, certified by Cholesky."""
    small = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    gram = small @ small.T
    slack = 1e-12 * float(np.trace(gram))
    if len(gram) <= _SMALL_GRAM:
        largest = float(np.linalg.eigvalsh(gram)[-1]) if len(gram) else 0.0
        return float(np.sqrt(max(largest, 0.0) + slack))
    v = np.random.default_rng(0).random(len(gram))
    for _ in range(_POWERS):
        v = gram @ v
        v /= max(float(np.linalg.norm(v)), 1e-300)
    guess = float(v @ gram @ v) * 1.002 + slack
    while True:
        try:
            np.linalg.cholesky(guess * np.eye(len(gram)) - gram)
            return float(np.sqrt(guess + slack))
        except np.linalg.LinAlgError:
            guess *= 1.01


def _soft_ascent(
    state: State,
    point: Relaxation,
    counts: np.ndarray,
    theta: list[np.ndarray],
    iterations: int,
    fixed: bool = False,
) -> Relaxation:
    """Block-coordinate ascent with fractional channels and, unless `fixed`, dual ascent on the needs.

    `theta`, one float[links] for each need, starts and takes up the multipliers.
    """
    z, shift, d = list(point.z), [s.copy() for s in point.shift], _curves(state, point)
    needs = () if fixed else state.problem.needs
    least = [float(v.min()) if len(v) else 0.0 for v in d]
    for _ in range(iterations if needs else iterations // 2):
        for mask in state.free:
            z[mask] = soft_top(state.gains(z, mask) + shift[mask], counts[mask], d[mask])
        for k, need in enumerate(needs):
            # The relaxation answers a shift s with a move of at most s / d.
            movable = [least[m] for m in (need.mask, *(s for s, _ in need.sources)) if not state.fixed[m]]
            rate = 0.5 * min(movable, default=0.0) / (1 + len(need.sources))
            excess = z[need.mask][need.index] - sum(z[m][index] for m, index in need.sources)
            change = np.maximum(theta[k] + rate * excess, 0.0) - theta[k]
            theta[k] += change
            np.subtract.at(shift[need.mask], need.index, change)
            for m, index in need.sources:
                np.add.at(shift[m], index, change)
    return dataclasses.replace(point, z=z, shift=shift)


def soft_top(gain: np.ndarray, count: float, d: np.ndarray) -> np.ndarray:
    """Maximises `gain . z + sum(d (z - z^2)) / 2` over z in [0, 1] with sum `count`."""
    if count <= 0 or count >= len(gain):
        return np.full(len(gain), float(count > 0))
    return np.clip(0.5 + (gain - _threshold(gain, count, d)) / d, 0.0, 1.0)


def _threshold(gain: np.ndarray, count: float, d: np.ndarray) -> float:
    """The tau at which `clip(1/2 + (gain - tau) / d)` sums up to `count`."""
    # The sum falls with tau in straight pieces: by 1/d for each channel between its two ends.
    n = len(gain)
    ends = np.concatenate([gain + 0.5 * d, gain - 0.5 * d])
    order = np.argsort(-ends)
    falling = ends[order]
    active = np.maximum(np.cumsum(np.concatenate([1 / d, -1 / d])[order]), 0.0)
    total = np.concatenate([[0.0], np.cumsum(active[:-1] * (falling[:-1] - falling[1:]))])
    place = min(int(np.searchsorted(total, count, side="left")), 2 * n - 1)
    slope = active[place - 1] if place else 0.0
    return float(falling[place] + ((total[place] - count) / slope if slope > 1e-300 else 0.0))
