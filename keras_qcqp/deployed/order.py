"""The order in which the converter writes operators.

TensorFlow imports the traced graph in reverse post-order of a depth-first walk that starts at the graph's arguments
(inputs and variables) and takes the greatest name first, at every step. So a branch with a smaller name runs first,
and an operator runs late when one of its variables has a great name. Learnt from converted files, where it held for
every operator.
"""

from __future__ import annotations

from keras_qcqp.deployed.program import Program


def execution_order(program: Program) -> dict[int, int]:
    """Operator -> its place; smaller comes first."""
    readers = program.readers()
    entries: dict[str, list[int]] = {}
    for number, op in program.ops.items():
        if op.kind == "INPUT":
            entries[op.label] = readers[number]
        for root in op.roots:
            entries.setdefault(root, []).append(number)
    finished: list[int] = []
    seen: set[int] = set()
    for name in sorted(entries, reverse=True):
        _walk(program, readers, entries[name], seen, finished)
    rest = [number for number in program.ops if number not in seen]  # inputs, and what reads nothing
    return {number: place for place, number in enumerate([*rest, *reversed(finished)])}


def _walk(
    program: Program, readers: dict[int, list[int]], start: list[int], seen: set[int], finished: list[int]
) -> None:
    """Depth first, greatest name first, without recursion: networks may be deep."""
    by_name = lambda number: program.ops[number].label  # noqa: E731
    stack = [(number, False) for number in sorted(start, key=by_name)]
    while stack:
        number, leaving = stack.pop()
        if leaving:
            finished.append(number)
        elif number not in seen:
            seen.add(number)
            stack.append((number, True))
            stack += [(reader, False) for reader in sorted(readers[number], key=by_name) if reader not in seen]
