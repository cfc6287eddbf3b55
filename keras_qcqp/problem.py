"""The selection problem as plain data, and the oracle that judges every solver. Knows NumPy and nothing else.

Choose binary vectors `x_m` to maximise `sum_m w_m . x_m + sum_(a,b) x_a^T I_ab x_b`, such that every resource, a
quadratic polynomial with non-negative integer coefficients in the counts `k_m = |x_m|`, stays within its limit.
Source: the program of Jeong et al., "Optimal channel selection with discrete QCQP" (AISTATS 2022), stated over coupled
masks; see `solvers` for how it is solved.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from keras_qcqp.errors import InfeasibleError, ProblemError

Keep = tuple[np.ndarray, ...]


@dataclasses.dataclass(frozen=True)
class Mask:
    """One binary vector.

    Attributes:
        size: number of channels.
        allowed: the numbers of channels that may be kept, ascending; a single number fixes the mask's width.
    """

    name: str
    size: int
    allowed: tuple[int, ...]

    @classmethod
    def of(cls, name: str, size: int, min_keep: int = 1, step: int = 1) -> Mask:
        """A mask that keeps at least `min_keep` channels, in multiples of `step`, or all of them."""
        counts = [k for k in range(min_keep, size + 1) if k % step == 0 or k == size]
        return cls(name, size, tuple(counts))


@dataclasses.dataclass(frozen=True)
class Pair:
    """Importance `values` float[size of mask a, size of mask b] >= 0 of every channel pair; `a == b` is allowed."""

    a: int
    b: int
    values: np.ndarray


@dataclasses.dataclass(frozen=True)
class Resource:
    """A quadratic polynomial with integer coefficients in the counts of kept channels.

    Attributes:
        linear: mask -> coefficient of its count.
        quadratic: (mask a, mask b), a <= b -> coefficient of the product of their counts.
    """

    name: str
    unit: str
    constant: int
    linear: Mapping[int, int]
    quadratic: Mapping[tuple[int, int], int]

    def usage(self, counts: Sequence[int]) -> int:
        """The exact value at the given counts, in Python integers."""
        total = self.constant + sum(c * int(counts[m]) for m, c in self.linear.items())
        return total + sum(c * int(counts[a]) * int(counts[b]) for (a, b), c in self.quadratic.items())


@dataclasses.dataclass(frozen=True)
class Problem:
    """Masks, importance, resources and limits.

    Attributes:
        linear: mask -> importance float[size] >= 0 of each channel on its own.
        limits: resource name -> largest allowed usage; resources without a limit are only reported.
    """

    masks: tuple[Mask, ...]
    linear: Mapping[int, np.ndarray]
    pairs: tuple[Pair, ...]
    resources: tuple[Resource, ...]
    limits: Mapping[str, int]

    def __post_init__(self) -> None:
        _validate(self)

    @property
    def limited(self) -> tuple[Resource, ...]:
        """The resources that have a limit."""
        return tuple(r for r in self.resources if r.name in self.limits)

    def everything(self) -> Keep:
        """The selection that keeps all channels."""
        return tuple(np.ones(m.size, bool) for m in self.masks)

    def __str__(self) -> str:
        pairs = sum(p.values.size for p in self.pairs)
        lines = [f"Problem: {len(self.masks)} masks, {sum(m.size for m in self.masks)} channels, {pairs} channel pairs"]
        full = [m.size for m in self.masks]
        for r in self.resources:
            limit = self.limits.get(r.name)
            wanted = "" if limit is None else f", limit {limit:,} ({_share(limit, r.usage(full))})"
            lines.append(f"  {r.name}: {r.usage(full):,} {r.unit}{wanted}")
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Solution:
    """A selection and what is known of it.

    Attributes:
        keep: one bool[size] for each mask, True keeps.
        status: "OPTIMAL" (proven) or "FEASIBLE".
        objective: importance kept, recomputed by `evaluate`.
        bound: no feasible selection has a higher objective.
        gap: `bound / objective - 1`.
        usage: resource name -> exact value at `keep`.
        seconds: wall time of the search.
        seed: the seed that, with the same number of workers, gives the same selection again.
    """

    keep: Keep
    status: str
    objective: float
    bound: float
    gap: float
    usage: Mapping[str, int]
    seconds: float
    seed: int

    def __str__(self) -> str:
        usage = ", ".join(f"{name} {value:,}" for name, value in self.usage.items())
        return (
            f"{self.status}: objective {self.objective:.6g}, bound {self.bound:.6g}, gap {self.gap:.2%}, {usage}, "
            f"{self.seconds:.1f} s, seed {self.seed}"
        )


def counts_of(keep: Keep) -> tuple[int, ...]:
    """Number of kept channels of each mask."""
    return tuple(int(np.count_nonzero(x)) for x in keep)


def evaluate(problem: Problem, keep: Keep) -> tuple[float, dict[str, int]]:
    """The oracle: importance kept (float64) and the exact usage of every resource."""
    x = [np.asarray(k, bool).astype(np.float64) for k in keep]
    objective = sum(float(w @ x[m]) for m, w in problem.linear.items())
    objective += sum(float(x[p.a] @ p.values @ x[p.b]) for p in problem.pairs)
    counts = counts_of(keep)
    return objective, {r.name: r.usage(counts) for r in problem.resources}


def violations(problem: Problem, keep: Keep) -> list[str]:
    """The oracle: every limit and width rule that a selection breaks, in words; empty when it is feasible."""
    broken = []
    if len(keep) != len(problem.masks):
        return [f"{len(keep)} masks given, the problem has {len(problem.masks)}"]
    for mask, x in zip(problem.masks, keep, strict=True):
        count = int(np.count_nonzero(x))
        if len(x) != mask.size:
            broken.append(f"mask {mask.name}: {len(x)} channels given, it has {mask.size}")
        elif count not in mask.allowed:
            broken.append(f"mask {mask.name}: {count} kept, allowed are {_ranges(mask.allowed)}")
    if not broken:
        usage = evaluate(problem, keep)[1]
        for name, limit in problem.limits.items():
            if usage[name] > limit:
                broken.append(f"{name}: {usage[name]:,} used, limit {limit:,}")
    return broken


def require_feasible(problem: Problem) -> None:
    """Raises InfeasibleError, naming the smallest reachable value of each limit and what holds it up."""
    least = [m.allowed[0] for m in problem.masks]
    sentences = []
    for r in problem.limited:
        smallest, limit = r.usage(least), problem.limits[r.name]
        if smallest > limit:
            held = ", ".join(f"{name} {value:,}" for name, value in _largest_parts(problem, r, least))
            sentences.append(
                f"{r.name}: {limit:,} {r.unit} asked, but the smallest reachable value is {smallest:,} {r.unit} "
                f"({_share(smallest, r.usage([m.size for m in problem.masks]))} of the original), held up by "
                f"{held or 'nothing: every limit must be at least 0'}. "
                f"Raise the limit to at least {smallest:,}, lower min_keep or width_multiple, or free a frozen layer."
            )
    if sentences:
        raise InfeasibleError("No selection meets the budget. " + " ".join(sentences))


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _ranges(allowed: Sequence[int]) -> str:
    few = [str(k) for k in allowed]
    return ", ".join(few if len(few) <= 8 else [*few[:4], "...", few[-1]])


def _largest_parts(problem: Problem, resource: Resource, counts: Sequence[int], num: int = 3) -> list[tuple[str, int]]:
    parts: dict[str, int] = {"what no mask can change": resource.constant}
    names = [m.name for m in problem.masks]
    for m, c in resource.linear.items():
        parts[names[m]] = parts.get(names[m], 0) + c * counts[m]
    for (a, b), c in resource.quadratic.items():
        key = names[a] if a == b else f"{names[a]} x {names[b]}"
        parts[key] = parts.get(key, 0) + c * counts[a] * counts[b]
    largest = sorted(parts.items(), key=lambda item: -item[1])[:num]
    return [(name, value) for name, value in largest if value > 0]


def _validate(problem: Problem) -> None:
    sizes = [m.size for m in problem.masks]
    for m in problem.masks:
        ascending = all(a < b for a, b in zip(m.allowed, m.allowed[1:], strict=False))
        if not m.allowed or not ascending or not 0 <= m.allowed[0] <= m.allowed[-1] <= m.size:
            raise ProblemError(f"Mask {m.name}: allowed counts must ascend within 0..{m.size}, got {m.allowed}.")
    used = [*problem.linear, *(m for p in problem.pairs for m in (p.a, p.b))]
    used += [m for r in problem.resources for m in (*r.linear, *(side for key in r.quadratic for side in key))]
    outside = sorted({m for m in used if not 0 <= m < len(sizes)})
    if outside:
        raise ProblemError(f"Masks {outside} do not exist; the problem has {len(sizes)}, numbered from 0.")
    shapes: list[tuple[tuple[int, ...], np.ndarray, tuple[int, ...]]]
    shapes = [((p.a, p.b), p.values, (sizes[p.a], sizes[p.b])) for p in problem.pairs]
    shapes += [((m,), w, (sizes[m],)) for m, w in problem.linear.items()]
    for where, values, shape in shapes:
        names = " x ".join(problem.masks[m].name for m in where)
        if values.shape != shape:
            raise ProblemError(f"Importance of {names} has shape {values.shape}, expected {shape}.")
        if values.dtype.kind not in "biuf" or not np.all(np.isfinite(values)) or np.any(values < 0):
            raise ProblemError(f"Importance of {names} has negative or non-finite entries; scores must be >= 0.")
    known = {r.name for r in problem.resources}
    if len(known) < len(problem.resources):
        raise ProblemError(f"Two resources have one name: {[r.name for r in problem.resources]}.")
    unknown = sorted(set(problem.limits) - known)
    if unknown:
        raise ProblemError(f"Limits for unknown resources {unknown}; known: {sorted(known)}.")
    for r in problem.resources:
        if min([r.constant, *r.linear.values(), *r.quadratic.values()]) < 0:
            raise ProblemError(f"Resource {r.name} has a negative coefficient; usage must grow with every channel.")
        if any(a > b for a, b in r.quadratic):
            raise ProblemError(f"Resource {r.name}: write each product (a, b) with a <= b.")
