"""Where an integer file converts a tensor from one scale to another."""

from __future__ import annotations

import dataclasses

from keras_qcqp.deployed.program import Op, Program

_JOINS = frozenset({"CONCATENATION", "MAXIMUM", "MINIMUM"})
"""Their operands must have one scale, which is that of the result."""

_SAME_SCALE = frozenset(
    """MAX_POOL_2D AVERAGE_POOL_2D RESHAPE PAD STRIDED_SLICE TRANSPOSE RESIZE_BILINEAR GATHER TILE""".split()
)
"""They move values, so the result has the operand's scale."""

_FIXED_SCALE = frozenset({"LOGISTIC", "TANH", "SOFTMAX", "LOG_SOFTMAX"})
"""Their scale is prescribed."""


def requantize(program: Program) -> Program:
    """Inserts a QUANTIZE behind a tensor whose own scale is not the one that a join wants.

    A tensor that several joins read takes one for each join with a scale of its own. Whether two joins have the same
    scale depends on the data, so they are taken to differ, unless one reads the other's result.
    """
    scale_of = _joined(program)
    wanted = _wanted(program, scale_of)
    ops: dict[int, Op] = {}
    instead: dict[tuple[int, int], int] = {}  # (tensor, wanted scale; -1 for any other reader) -> its converted copy
    fresh = max(program.ops, default=0) + 1
    for number, op in program.ops.items():
        scale = scale_of.get(number, wanted_alone(wanted, number, op))
        reads = tuple(instead.get((read, scale), instead.get((read, -1), read)) for read in op.reads)
        ops[number] = dataclasses.replace(op, reads=reads)
        scales = sorted(wanted[number])
        if len(scales) < 2 and not (scales and op.kind in _FIXED_SCALE):
            continue
        for scale in scales:
            ops[fresh] = Op("QUANTIZE", op.label, op.node, (number,), op.value, labels=op.labels)
            instead[number, scale] = fresh
            fresh += 1
        if len(scales) == 1:
            instead[number, -1] = instead[number, scales[0]]
    outputs = tuple(instead.get((number, -1), number) for number in program.outputs)
    return Program(program.name, ops, outputs)


def wanted_alone(wanted: dict[int, set[int]], number: int, op: Op) -> int:
    """The scale that an operator without one of its own hands on to what it reads."""
    scales = wanted[number]
    return next(iter(scales)) if op.kind in _SAME_SCALE and len(scales) == 1 else -1


def _joined(program: Program) -> dict[int, int]:
    """Join -> the scale of its operands, named by the last join that it flows into."""
    readers = program.readers()
    scale_of: dict[int, int] = {}
    for number in reversed(list(program.ops)):
        if program.ops[number].kind not in _JOINS:
            continue
        reached = [scale_of[n] for n in _through(program, readers, number)]
        scale_of[number] = reached[0] if len(set(reached)) == 1 else number
    return scale_of


def _through(program: Program, readers: dict[int, list[int]], number: int) -> list[int]:
    """The joins that a tensor reaches by operators that keep its scale."""
    found = []
    for reader in readers[number]:
        if program.ops[reader].kind in _JOINS:
            found.append(reader)
        elif program.ops[reader].kind in _SAME_SCALE:
            found += _through(program, readers, reader)
    return found


def _wanted(program: Program, scale_of: dict[int, int]) -> dict[int, set[int]]:
    """Tensor -> the scales that its readers want it in."""
    wanted: dict[int, set[int]] = {number: set() for number in program.ops}
    for number in reversed(list(program.ops)):
        op = program.ops[number]
        if number in scale_of:
            # A join that flows into joins of several scales keeps its own, and is converted behind.
            scales = {scale_of[number]}
        else:
            scales = wanted[number] if op.kind in _SAME_SCALE and len(wanted[number]) == 1 else set()
        for read in op.reads:
            wanted[read] |= scales
    for number, scale in scale_of.items():
        if wanted[number] == {scale}:
            wanted[number] = set()
    return wanted
