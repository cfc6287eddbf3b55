"""The order in which the converter writes operators.

It runs through the traced graph depth first: the arguments of the graph (inputs and variables) in the order of their
names, and after each node those of its readers that then have all they read, again by name, each with all that follows
from it. So a branch with a smaller name runs first, and an operator waits for the variable with the greatest name.
Learnt from converted files.
"""

from __future__ import annotations

from keras_qcqp.deployed.program import Program


def execution_order(program: Program) -> dict[int, int]:
    """Operator -> its place; smaller comes first."""
    followers: dict[str | int, list[int]] = {number: [] for number in program.ops}
    names: dict[str | int, str] = {number: op.label for number, op in program.ops.items()}
    waits: dict[str | int, int] = {}
    for number, op in program.ops.items():
        sources: set[str | int] = {*op.reads, *op.roots}
        waits[number] = len(sources)
        for source in sources:
            followers.setdefault(source, []).append(number)
            names.setdefault(source, str(source))
    stack: list[str | int] = [source for source in names if not waits.get(source)]
    stack.sort(key=names.__getitem__, reverse=True)
    place: dict[int, int] = {}
    while stack:
        source = stack.pop()
        if isinstance(source, int):
            place[source] = len(place)
        for follower in followers[source]:
            waits[follower] -= 1
        ready = [follower for follower in followers[source] if not waits[follower]]
        stack += sorted(ready, key=names.__getitem__, reverse=True)
    return place
