"""The selection problem as plain data, and the oracle that judges every solver. Knows NumPy and nothing else.

Choose binary vectors `x_m` to maximise `sum_m w_m . x_m + sum_(a,b) x_a^T I_ab x_b`, such that every resource, an
integer function of the counts `k_m = |x_m|` (a quadratic polynomial, tables, the greatest of several sums), stays
within its limit, and every kept channel has what it needs. Source: the program of Jeong et al., "Optimal channel
selection with discrete QCQP" (AISTATS 2022), stated over coupled masks; see `solvers` for how it is solved.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from keras_qcqp.problem_check import require_valid

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
class Need:
    """A kept channel needs another: `x_mask[index[i]] <= sum over sources of x_source[source index[i]]`, for each i.

    Two of them state a union residual `u <= v <= u + v_s` (Jeong et al., AISTATS 2022): what a branch produces (u) must
    be consumed (v), what is consumed must be produced by the branch or carried by the shortcut (v_s).

    Attributes:
        index: int[links], channels of `mask`.
        sources: (mask, int[links]) of each alternative; at least one of them must be kept wherever the target is.
    """

    mask: int
    index: np.ndarray
    sources: tuple[tuple[int, np.ndarray], ...]


@dataclasses.dataclass(frozen=True)
class Step:
    """A sum that a resource may not exceed at one moment: `constant + sum of coefficient x count`."""

    name: str
    constant: int
    linear: Mapping[int, int]

    def usage(self, counts: Sequence[int]) -> int:
        """The exact value at the given counts."""
        return self.constant + sum(c * int(counts[m]) for m, c in self.linear.items())


@dataclasses.dataclass(frozen=True)
class Resource:
    """What a selection costs: an integer function of the counts of kept channels, a sum of up to five parts.

    Attributes:
        linear: mask -> coefficient of its count.
        quadratic: (mask a, mask b), a <= b -> coefficient of the product of their counts.
        tables: (mask,) -> int64[size + 1], or (mask a, mask b), a < b -> int64[size_a + 1, size_b + 1]: the cost at
            every count; nothing is assumed of its shape, a wider layer may be cheaper.
        steps: the greatest of these is added (peak memory: one step for each moment of the execution).
    """

    name: str
    unit: str
    constant: int
    linear: Mapping[int, int]
    quadratic: Mapping[tuple[int, int], int]
    tables: Mapping[tuple[int, ...], np.ndarray] = dataclasses.field(default_factory=dict)
    steps: tuple[Step, ...] = ()

    def usage(self, counts: Sequence[int]) -> int:
        """The exact value at the given counts, in Python integers."""
        total = self.constant + sum(c * int(counts[m]) for m, c in self.linear.items())
        total += sum(c * int(counts[a]) * int(counts[b]) for (a, b), c in self.quadratic.items())
        total += sum(int(table[tuple(int(counts[m]) for m in key)]) for key, table in self.tables.items())
        return total + max((step.usage(counts) for step in self.steps), default=0)


@dataclasses.dataclass(frozen=True)
class Problem:
    """Masks, importance, resources and limits.

    Attributes:
        linear: mask -> importance float[size] >= 0 of each channel on its own.
        limits: resource name -> largest allowed usage; resources without a limit are only reported.
        needs: which channels may stay only together with others.
    """

    masks: tuple[Mask, ...]
    linear: Mapping[int, np.ndarray]
    pairs: tuple[Pair, ...]
    resources: tuple[Resource, ...]
    limits: Mapping[str, int]
    needs: tuple[Need, ...] = ()

    def __post_init__(self) -> None:
        require_valid(self)

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
        if self.needs:
            lines[0] += f", {sum(len(n.index) for n in self.needs)} needs"
        full = [m.size for m in self.masks]
        for r in self.resources:
            limit = self.limits.get(r.name)
            wanted = "" if limit is None else f", limit {limit:,} ({share(limit, r.usage(full))})"
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
        stopped: what ended the search: "converged", "time limit" or "interrupted".
    """

    keep: Keep
    status: str
    objective: float
    bound: float
    gap: float
    usage: Mapping[str, int]
    seconds: float
    seed: int
    stopped: str = "converged"

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
        broken = [text for need in problem.needs for text in _unmet(problem, keep, need)]
        usage = evaluate(problem, keep)[1]
        for name, limit in problem.limits.items():
            if usage[name] > limit:
                broken.append(f"{name}: {usage[name]:,} used, limit {limit:,}")
    return broken


def share(part: int, whole: int) -> str:
    """A percentage, for people."""
    return f"{part / whole:.1%}" if whole else "-"


def _unmet(problem: Problem, keep: Keep, need: Need) -> list[str]:
    met = np.zeros(len(need.index), bool)
    for mask, index in need.sources:
        met |= np.asarray(keep[mask], bool)[index]
    alone = need.index[np.asarray(keep[need.mask], bool)[need.index] & ~met]
    sources = " or ".join(problem.masks[mask].name for mask, _ in need.sources) or "something that does not exist"
    return [f"mask {problem.masks[need.mask].name}: channel {i} is kept without its {sources}" for i in alone.tolist()]


def _ranges(allowed: Sequence[int]) -> str:
    few = [str(k) for k in allowed]
    return ", ".join(few if len(few) <= 8 else [*few[:4], "...", few[-1]])
