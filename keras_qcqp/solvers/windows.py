"""Windows: a few channels of every mask are free, the rest is fixed, and what remains is again a `Problem`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from keras_qcqp.problem import Mask, Pair, Problem, Resource
from keras_qcqp.solvers.state import Selection, State, counts_array

Free = Sequence[np.ndarray]


def restrict(state: State, x: Selection, free: Free) -> tuple[Problem, float]:
    """The problem of the free channels (int positions for each mask), and the objective of the fixed ones.

    With `k_m = base_m + f_m` every resource stays a polynomial with non-negative coefficients in the free counts, and
    pairs of a free and a fixed channel become linear importance.
    """
    fixed = [v.copy() for v in x]
    for v, positions in zip(fixed, free, strict=True):
        v[positions] = 0.0
    base = [int(b) for b in counts_array(fixed)]
    masks = []
    for mask, positions, b in zip(state.problem.masks, free, base, strict=True):
        allowed = tuple(k - b for k in mask.allowed if 0 <= k - b <= len(positions))
        masks.append(Mask(mask.name, len(positions), allowed))
    linear = {m: state.gains(fixed, m)[free[m]] for m in range(len(masks)) if len(free[m])}
    pairs = []
    for pair in state.problem.pairs:
        part = pair.values[np.ix_(free[pair.a], free[pair.b])]
        if part.size == 0:
            continue
        if pair.a == pair.b:
            part = np.triu(part + part.T, 1)  # the diagonal is in the linear part
        pairs.append(Pair(pair.a, pair.b, part))
    resources = tuple(_shifted(r, base) for r in state.problem.limited)
    return Problem(tuple(masks), linear, tuple(pairs), resources, state.problem.limits), state.objective(fixed)


def _shifted(resource: Resource, base: Sequence[int]) -> Resource:
    linear = dict(resource.linear)
    for (a, b), c in resource.quadratic.items():
        linear[a] = linear.get(a, 0) + c * base[b]
        linear[b] = linear.get(b, 0) + c * base[a]
    return Resource(resource.name, resource.unit, resource.usage(base), linear, resource.quadratic)


def widen(x: Selection, free: Free, keep: Sequence[np.ndarray]) -> Selection:
    """The full selection in which the free channels are as in `keep`."""
    wide = [v.copy() for v in x]
    for v, positions, kept in zip(wide, free, keep, strict=True):
        v[positions] = kept
    return wide


def everything_free(state: State) -> list[np.ndarray]:
    """All channels of all masks that have a choice."""
    return [np.arange(n) if m in state.free else np.zeros(0, int) for m, n in enumerate(state.sizes)]


def borderline(
    state: State, x: Selection, random: np.random.Generator, noise: float, products: int
) -> list[np.ndarray]:
    """The channels closest to changing sides, as many of each mask as `products` AND literals allow."""
    ranked: list[np.ndarray] = []
    for mask in range(len(x)):
        if mask not in state.free:
            ranked.append(np.zeros(0, int))
            continue
        gain = state.gains(x, mask)
        kept = x[mask] > 0.5
        edge = 0.5 * (gain[kept].min() + gain[~kept].max()) if kept.any() and (~kept).any() else np.median(gain)
        distance = np.abs(gain - edge) / (gain.std() + 1e-12) + noise * random.random(len(gain))
        ranked.append(np.argsort(distance, kind="stable"))
    low, high = 1, int(max(state.sizes))
    while low < high:
        middle = (low + high + 1) // 2
        if num_products(state, [r[:middle] for r in ranked]) <= products:
            low = middle
        else:
            high = middle - 1
    return [np.sort(r[:low]) for r in ranked]


def num_products(state: State, free: Free) -> int:
    """AND literals that a window needs."""
    total = 0
    for pair in state.problem.pairs:
        n, m = len(free[pair.a]), len(free[pair.b])
        total += n * (n - 1) // 2 if pair.a == pair.b else n * m
    return total
