"""Which tensors live at the same time."""

from __future__ import annotations

from collections.abc import Iterator

from keras_qcqp.deployed.program import Op, Program

_NO_TENSOR = frozenset({"CONSTANT"})


def live_sets(program: Program) -> Iterator[tuple[Op, list[Op]]]:
    """Each operator in order of execution, with the operators whose tensors are alive while it runs.

    A tensor lives from the operator that makes it to the last that reads it; network inputs live from the start,
    outputs to the end. What may run early is counted from the moment at which it could.
    """
    steps = [number for number, op in program.ops.items() if op.kind != "INPUT" and op.kind not in _NO_TENSOR]
    place = {number: step for step, number in enumerate(steps)}
    begin = dict(place)
    for number in steps:
        if program.ops[number].early:
            begin[number] = max((begin.get(read, -1) for read in program.ops[number].reads), default=-1)
    end = {number: place.get(number, -1) for number in program.ops if program.ops[number].kind not in _NO_TENSOR}
    for number in steps:
        for read in program.ops[number].reads:
            if read in end:
                end[read] = max(end[read], place[number])
    end.update((number, len(steps)) for number in program.outputs if number in end)
    for number in steps:
        step = place[number]
        alive = [n for n, last in end.items() if begin.get(n, -1) <= step <= last]
        yield program.ops[number], [program.ops[n] for n in alive]
    if not steps:
        yield from ((op, list(program.ops.values())) for op in list(program.ops.values())[:1])
