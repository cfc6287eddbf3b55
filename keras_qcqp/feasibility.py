"""Whether a budget can be met at all, and if not, what stands in the way: an irreducible conflict, not everything."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

from keras_qcqp.errors import InfeasibleError
from keras_qcqp.problem import Problem, Resource, share


@dataclasses.dataclass(frozen=True)
class Conflict:
    """Limits and width rules that cannot all be met, although without any one of them the others can.

    Attributes:
        limits: names of resources.
        masks: numbers of masks whose width rules take part.
        smallest: resource name -> its smallest reachable value with all width rules and needs but no other limit; None
            where it is not known exactly.
    """

    limits: tuple[str, ...]
    masks: tuple[int, ...]
    smallest: dict[str, int | None]


def require_feasible(problem: Problem) -> None:
    """Refuses what plain arithmetic shows to be out of reach, before any search.

    Raises:
        InfeasibleError: names the smallest reachable value of each limit and the masks that hold it up.
    """
    sentences = []
    for r in problem.limited:
        least = floor(problem, r, range(len(problem.masks)))
        if least > problem.limits[r.name]:
            exact = None if r.tables or problem.needs else least
            sentences.append(_sentence(problem, r, least, exact, _holding(problem, r)))
    if sentences:
        raise InfeasibleError("No selection meets the budget. " + " ".join(sentences))


def refuse(problem: Problem, conflict: Conflict) -> None:
    """Raises InfeasibleError for a conflict that only the exact solver could find."""
    masks = _listed(problem, conflict.masks)
    if not conflict.limits:
        raise InfeasibleError(
            f"No selection meets the width rules of {masks}: their channels need one another. {_ADVICE}"
        )
    by_name = {r.name: r for r in problem.resources}
    asked = []
    for name in conflict.limits:
        least, unit = conflict.smallest.get(name), by_name[name].unit
        reach = "" if least is None else f" (alone, {least:,} can be reached)"
        asked.append(f"{name} <= {problem.limits[name]:,} {unit}{reach}")
    together = f" together with the width rules of {masks}" if conflict.masks else ""
    raise InfeasibleError(f"No selection meets the budget: {' and '.join(asked)} cannot hold{together}. {_ADVICE}")


_ADVICE = "Raise a limit, lower min_keep or width_multiple, or free a frozen layer."


def floor(problem: Problem, r: Resource, ruled: Collection[int]) -> int:
    """A value that the resource cannot fall below while these masks keep their width rules and the others need nothing.

    Exact where there are neither tables nor needs.
    """
    ranges = [m.allowed if k in ruled else (0, *m.allowed) for k, m in enumerate(problem.masks)]
    plain = dataclasses.replace(r, tables={})
    total = plain.usage([allowed[0] for allowed in ranges])
    for key, table in r.tables.items():
        for axis, m in enumerate(key):
            table = table.take(list(ranges[m]), axis=axis)
        total += int(table.min())
    return total


def _holding(problem: Problem, r: Resource) -> tuple[int, ...]:
    """An irreducible set of masks whose width rules keep the resource above its limit; cheap ones are let go first."""
    limit, ruled = problem.limits[r.name], list(range(len(problem.masks)))
    full = floor(problem, r, ruled)
    saved = {m: full - floor(problem, r, [k for k in ruled if k != m]) for m in ruled}
    for m in sorted(ruled, key=lambda m: (saved[m], m)):
        rest = [k for k in ruled if k != m]
        if floor(problem, r, rest) > limit:
            ruled = rest
    return tuple(sorted(ruled, key=lambda m: (-saved[m], m)))


def _sentence(problem: Problem, r: Resource, least: int, exact: int | None, masks: Sequence[int]) -> str:
    asked = f"{r.name}: {problem.limits[r.name]:,} {r.unit} asked, but the smallest reachable value is "
    value = f"{least:,} {r.unit} ({share(least, r.usage([m.size for m in problem.masks]))} of the original)"
    fixed = floor(problem, r, ())
    held = [_listed(problem, masks)] if masks else []
    held += [f"{fixed:,} {r.unit} that no mask can change"] if fixed else []
    return (
        f"{asked}{'' if exact is not None else 'at least '}{value}, held up by "
        f"{' and '.join(held) or 'nothing: every limit must be at least 0'}. "
        f"Raise the limit to at least {least:,}, lower min_keep or width_multiple, or free a frozen layer."
    )


def _listed(problem: Problem, masks: Sequence[int], num: int = 6) -> str:
    named = [f"{problem.masks[m].name} ({_rule(problem, m)})" for m in masks]
    more = f" and {len(named) - num} more masks" if len(named) > num else ""
    return ", ".join(named[:num]) + more


def _rule(problem: Problem, mask: int) -> str:
    m = problem.masks[mask]
    return f"always {m.allowed[0]} of {m.size}" if len(m.allowed) == 1 else f"at least {m.allowed[0]} of {m.size}"
