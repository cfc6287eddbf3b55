"""Selections that others make by a score for each channel, or greedily: what an exact selection is to be better than.

Scores are one float[size] for each mask, see `channel_scores`. Every selector returns a selection that is feasible, as
`violations` judges, and says so if it finds none. Union residuals are refused: a ranking knows nothing of their needs.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from keras_qcqp.coupling import Coupling
from keras_qcqp.errors import InfeasibleError
from keras_qcqp.importance.evidence import WeightValues
from keras_qcqp.problem import Keep, Mask, Problem, counts_of, violations
from tests.benchmarks.add_greedy import RefusedError, neighbours_of

Scores = Sequence[np.ndarray]
Counts = list[int]


def _geometric_median(filters: np.ndarray) -> np.ndarray:
    squares = (filters**2).sum(1)
    return np.sqrt(np.maximum(squares[:, None] + squares - 2 * filters @ filters.T, 0)).sum(1)


NORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "l1": lambda filters: np.abs(filters).sum(1),
    "l2": lambda filters: np.linalg.norm(filters, axis=1),
    "fpgm": _geometric_median,
}
"""float64[filters, weights] of one layer -> a score for each filter. FPGM (He et al., "Filter pruning via geometric
median", CVPR 2019) is the sum of a filter's distances to all others: what the others can replace goes first."""


def channel_scores(
    coupling: Coupling, weights: WeightValues, norm: str, sides: Sequence[str] = ("out",)
) -> list[np.ndarray]:
    """For each mask the scores of the kernels that make its channels, summed over the layers that are coupled.

    Args:
        norm: a key of `NORMS`.
        sides: ("out", "in") adds the kernels that read the channels, as group criteria do.
    """
    scores = [np.zeros(mask.size) for mask in coupling.masks]
    for node in coupling.first_calls():
        for name, axes in coupling.specs[node.name].weights.items():
            if not name.endswith("kernel") or name not in weights.get(node.layer, {}):
                continue
            kernel = weights[node.layer][name].astype(np.float64)
            for number, axis in enumerate(axes):
                if axis is None or axis.side not in sides:
                    continue
                filters = np.moveaxis(kernel, number, 0).reshape(kernel.shape[number], -1)
                for channel, score in zip(coupling.ids(node, axis), NORMS[norm](filters), strict=True):
                    scores[coupling.mask_of[channel]][coupling.position[channel]] += score
    return scores


def uniform(problem: Problem, scores: Scores) -> Keep:
    """The largest share of channels that fits, the same in every mask that is free; of each the best by score.

    Raises:
        InfeasibleError: not even the smallest widths fit.
        RefusedError: the problem has needs.
    """
    shares = sorted({k / m.size for m in problem.masks for k in m.allowed if m.size}, reverse=True)

    def counts(place: int) -> Counts:
        return [_at_most(m, shares[place] * m.size * (1 + 1e-12)) for m in problem.masks]

    return _best(problem, scores, counts, len(shares))


def global_(problem: Problem, scores: Scores, normalise: bool = True) -> Keep:
    """All channels in one list; the least go until everything fits, except from masks that are at their smallest.

    Args:
        normalise: divides the scores of each mask by their mean, as is usual, so that masks can be compared.

    Raises:
        InfeasibleError, RefusedError: as of `uniform`.
    """
    if normalise:
        scores = [s / s.mean() if s.any() else s for s in scores]
    order = np.argsort(np.concatenate(scores), kind="stable")
    owner = np.repeat(np.arange(len(scores)), [len(s) for s in scores])[order]

    def counts(place: int) -> Counts:
        dropped = np.bincount(owner[:place], minlength=len(scores)).tolist()
        return [_at_least(m, m.size - d) for m, d in zip(problem.masks, dropped, strict=True)]

    return _best(problem, scores, counts, len(owner) + 1)


def random_(problem: Problem, seed: int, random_widths: bool = False) -> Keep:
    """Channels by lot, of the widths of `uniform`, or where each mask draws how much it loses.

    Raises:
        InfeasibleError, RefusedError: as of `uniform`.
    """
    random = np.random.default_rng(seed)
    lots = [random.random(m.size) for m in problem.masks]
    if not random_widths:
        return uniform(problem, lots)
    return global_(problem, [random.random() * lot for lot in lots], normalise=False)


def greedy(problem: Problem) -> Keep:
    """Drops what loses least importance for what it saves, given all that is left; takes back what fits in the end.

    Importance is that of the problem, pairs and all. The saving is of the limits that are exceeded, as a share of each.
    Where widths have gaps, all channels down to the next allowed one go at once.

    Raises:
        InfeasibleError, RefusedError: as of `uniform`.
    """
    _require_no_needs(problem)
    losses = _Losses(problem)
    for m, mask in enumerate(problem.masks):
        losses.drop(m, losses.least(m, mask.size - mask.allowed[-1]))
    drops = []
    while offers := list(_offers(problem, losses)):
        _, m, channels = min(offers, key=lambda offer: offer[0])
        drops.append((m, channels))
        losses.drop(m, channels)
    x = losses.x
    for m, channels in reversed(drops):
        x[m][channels] = True
        if violations(problem, tuple(x)):
            x[m][channels] = False
    return _feasible(problem, tuple(x))


class _Losses:
    """A selection that shrinks, and what each of its channels would take along if it were the next to go."""

    def __init__(self, problem: Problem) -> None:
        self.x = list(problem.everything())
        self.neighbours = neighbours_of(problem)
        self.loss = [problem.linear.get(m, np.zeros(len(x))).astype(float) for m, x in enumerate(self.x)]
        for m, pairs in enumerate(self.neighbours):
            for other, values in pairs:  # of a pair of a mask with itself, `values` has the diagonal twice
                self.loss[m] += values.sum(1) - (np.diag(values) / 2 if other == m else 0)

    def least(self, mask: int, number: int) -> np.ndarray:
        """The channels of a mask that lose least."""
        return np.argsort(np.where(self.x[mask], self.loss[mask], np.inf), kind="stable")[:number]

    def drop(self, mask: int, channels: np.ndarray) -> None:
        self.x[mask][channels] = False
        for other, values in self.neighbours[mask]:
            self.loss[other] -= values[channels].sum(0)


def _offers(problem: Problem, losses: _Losses) -> Iterator[tuple[float, int, np.ndarray]]:
    """(importance lost by saving, mask, channels) for each mask that can be narrower; none when everything fits."""
    counts = list(counts_of(tuple(losses.x)))
    used = [(r, r.usage(counts), problem.limits[r.name]) for r in problem.limited]
    exceeded = [(r, usage, limit) for r, usage, limit in used if usage > limit]
    for m, mask in enumerate(problem.masks) if exceeded else ():
        smaller = bisect.bisect_left(mask.allowed, counts[m]) - 1
        if smaller < 0:
            continue
        fewer = [*counts[:m], mask.allowed[smaller], *counts[m + 1 :]]
        saving = sum((usage - r.usage(fewer)) / max(limit, 1) for r, usage, limit in exceeded)
        if saving > 0:
            channels = losses.least(m, counts[m] - mask.allowed[smaller])
            yield losses.loss[m][channels].sum() / saving, m, channels


def _best(problem: Problem, scores: Scores, counts: Callable[[int], Counts], places: int) -> Keep:
    """The best channels at the first of the `places`, whose widths shrink from one to the next, that fits."""
    _require_no_needs(problem)

    def fits(place: int) -> bool:
        return all(r.usage(counts(place)) <= problem.limits[r.name] for r in problem.limited)

    place = min(bisect.bisect_left(range(places), True, key=fits), places - 1)
    return _feasible(problem, tuple(_top(s, k) for s, k in zip(scores, counts(place), strict=True)))


def _top(scores: np.ndarray, count: int) -> np.ndarray:
    kept = np.zeros(len(scores), bool)
    kept[np.argsort(-scores, kind="stable")[:count]] = True
    return kept


def _at_most(mask: Mask, count: float) -> int:
    """The largest allowed number up to this one; the least where all are larger."""
    return mask.allowed[max(bisect.bisect_right(mask.allowed, count) - 1, 0)]


def _at_least(mask: Mask, count: int) -> int:
    """The least allowed number from this one on; the largest where all are smaller."""
    return mask.allowed[min(bisect.bisect_left(mask.allowed, count), len(mask.allowed) - 1)]


def _require_no_needs(problem: Problem) -> None:
    if problem.needs:
        raise RefusedError("rankings know tied residuals only: the problem has needs")


def _feasible(problem: Problem, keep: Keep) -> Keep:
    broken = violations(problem, keep)
    if broken:
        raise InfeasibleError(
            f"This selector found nothing that fits: {'; '.join(broken)}. Allow more, or fewer channels."
        )
    return keep
