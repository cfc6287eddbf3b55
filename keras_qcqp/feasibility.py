"""Whether a budget can be met at all, and if not, what stands in the way."""

from __future__ import annotations

from collections.abc import Sequence

from keras_qcqp.errors import InfeasibleError
from keras_qcqp.problem import Problem, Resource, share


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
                f"({share(smallest, r.usage([m.size for m in problem.masks]))} of the original), held up by "
                f"{held or 'nothing: every limit must be at least 0'}. "
                f"Raise the limit to at least {smallest:,}, lower min_keep or width_multiple, or free a frozen layer."
            )
    if sentences:
        raise InfeasibleError("No selection meets the budget. " + " ".join(sentences))


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
