"""What the converter makes of the operators: it fuses, drops and merges them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from keras_qcqp.deployed.program import Constant, Op, Program

_KERNELS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"})
_CLAMPS = frozenset({"RELU", "RELU6"})
_CLAMPING = _KERNELS | {
    *("ADD", "SUB", "MUL", "DIV", "MAX_POOL_2D", "AVERAGE_POOL_2D"),
    *("ADD_VECTOR", "MUL_VECTOR", "ADD_SCALAR", "MUL_SCALAR"),
}
_BROADCASTING = frozenset({"ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM"})
_AFFINE = frozenset({"ADD_VECTOR", "MUL_VECTOR", "ADD_SCALAR", "MUL_SCALAR"})

FINAL = {"ADD_VECTOR": "ADD", "ADD_SCALAR": "ADD", "MUL_VECTOR": "MUL", "MUL_SCALAR": "MUL"}
"""Steps that could not be fused -> the operators they become."""


def fuse(program: Program, order: dict[int, int]) -> Program:
    """The operators that are left, in the order of execution."""
    work = _Fusion(program)
    for step in (work.nothing, work.into_producers, work.reshapes, work.into_consumers):
        for number in sorted(program.ops, key=order.__getitem__, reverse=step is work.into_consumers):
            if number in work.ops:
                step(number)
    work.drop_unread()
    # A fused operator stands where the last of its parts stood.
    place = {number: order[work.last.get(number, number)] for number in work.ops}
    ops = {number: work.ops[number] for number in sorted(work.ops, key=place.__getitem__)}
    return Program(program.name, ops, work.outputs())


class _Fusion:
    """Rewrites a program in place; a tensor that is gone is looked up in `_instead`."""

    def __init__(self, program: Program) -> None:
        self.ops = {n: dataclasses.replace(op, labels=op.labels) for n, op in program.ops.items()}
        self.last: dict[int, int] = {}
        self._returned = program.outputs
        self._instead: dict[int, int] = {}
        self._own_labels = {n: op.labels for n, op in program.ops.items()}

    def outputs(self) -> tuple[int, ...]:
        return tuple(self._now(number) for number in self._returned)

    def _now(self, number: int) -> int:
        while number in self._instead:
            number = self._instead[number]
        return number

    def _reads(self, number: int) -> tuple[int, ...]:
        return tuple(self._now(read) for read in self.ops[number].reads)

    def _readers(self, number: int) -> list[int]:
        found = [n for n, op in self.ops.items() for read in op.reads if self._now(read) == number]
        return found + [-1 for output in self.outputs() if output == number]

    def _replace(self, number: int, instead: int) -> None:
        del self.ops[number]
        self._instead[number] = instead

    def nothing(self, number: int) -> None:
        """What changes nothing goes: placeholders, and a clamp of what is clamped already."""
        op = self.ops[number]
        if op.kind == "NOTHING" or (op.kind == "RELU" and self.ops[self._reads(number)[0]].kind in _CLAMPS):
            self._replace(number, self._reads(number)[0])

    def into_producers(self, number: int) -> None:
        """Fuses a bias, a batch norm or a clamp into the operator before it, also through a reshape."""
        op = self.ops[number]
        if op.kind not in _AFFINE | _CLAMPS or len(op.reads) != 1:
            return
        (before,) = self._reads(number)
        target = before
        if self.ops[before].kind == "RESHAPE" and self._alone(before):
            target = self._reads(before)[0]
        base = self.ops[target]
        if not (self._alone(before) and self._alone(target)) or base.sealed:
            return
        if (op.kind in _CLAMPS and base.kind in _CLAMPING and target == before) or base.kind in _KERNELS:
            self._absorb(number, target, before)

    def _alone(self, number: int) -> bool:
        return len(self._readers(number)) == 1

    def _absorb(self, number: int, target: int, before: int) -> None:
        op, base = self.ops[number], self.ops[target]
        constants, labels = base.constants, op.labels
        if op.kind in _AFFINE:
            constants = _unshared(constants, op)
        if op.kind.startswith("ADD") and not any(c.kind == "bias" for c in constants):
            constants += tuple(dataclasses.replace(c, kind="bias") for c in op.constants)
        if op.kind == "MUL_VECTOR":
            constants, labels = _scaled_names(op, base, constants, bare=target == before and len(base.labels) == 1)
        self.ops[target] = dataclasses.replace(
            base,
            constants=constants,
            labels=(*(labels[:1] if base.kind == "FULLY_CONNECTED" else labels), *base.labels),
            sealed=op.kind in _CLAMPS,
        )
        self.last[target] = number
        if target != before:
            self.last[before] = number
        self._replace(number, before)

    def reshapes(self, number: int) -> None:
        """A reshape of a reshape reads what the first one read; one that changes nothing for its readers goes."""
        op = self.ops[number]
        if op.kind != "RESHAPE":
            return
        (source,) = self._reads(number)
        if self.ops[source].kind == "RESHAPE":
            source = self._reads(source)[0]
            self.ops[number] = dataclasses.replace(op, reads=(source,))
        given, made = self.ops[source].value, op.value
        if given.shape == made.shape or self._needless(number, given.shape, made.shape):
            self._replace(number, source)

    def _needless(self, number: int, given: tuple[int, ...], made: tuple[int, ...]) -> bool:
        """A Dense takes any shape with the right last axis; broadcasting puts axes of size one in front by itself."""
        readers = self._readers(number)
        kinds = {"" if reader < 0 else self.ops[reader].kind for reader in readers}
        if kinds == {"FULLY_CONNECTED"}:
            return len(readers) == 1 and len(made) == 2 and given[-1] == made[-1]
        return kinds <= _BROADCASTING and made[-len(given) :] == given and math.prod(made) == math.prod(given)

    def into_consumers(self, number: int) -> None:
        """Fuses a product or a sum into the kernel that reads it, and padding into a convolution that pads alike."""
        op, readers = self.ops[number], self._readers(number)
        if len(readers) != 1 or readers[0] < 0 or op.sealed or len(op.reads) != 1:
            return
        fits = _FORWARD.get(op.kind)
        reader = self.ops[readers[0]]
        if fits is None or not fits(op, reader, self.ops[self._reads(number)[0]]):
            return
        constants = _unshared(reader.constants, op)
        if op.kind.startswith("ADD") and not any(c.kind == "bias" for c in constants):
            width = constants[0].scales
            constants += (dataclasses.replace(op.constants[0], kind="bias", elements=width, scales=width),)
        self.ops[readers[0]] = dataclasses.replace(reader, constants=constants)
        self._replace(number, self._reads(number)[0])

    def drop_unread(self) -> None:
        """What nothing reads is not computed; inputs stay."""
        unread = [n for n, op in self.ops.items() if op.kind != "INPUT" and not self._readers(n)]
        while unread:
            for number in unread:
                del self.ops[number]
            unread = [n for n, op in self.ops.items() if op.kind != "INPUT" and not self._readers(n)]
        for number, op in self.ops.items():
            labels = op.labels if number in self.last or op.kind in _KERNELS | {"PRELU"} else op.labels[:1]
            kind = FINAL.get(op.kind, op.kind)
            self.ops[number] = dataclasses.replace(op, kind=kind, reads=self._reads(number), labels=labels)


def _unshared(constants: tuple[Constant, ...], op: Op) -> tuple[Constant, ...]:
    """What was one constant for several calls is now one for each way of fusing."""
    return tuple(dataclasses.replace(c, shared=f"{c.shared}+{op.node.layer}") for c in constants)


def _scaled_names(
    op: Op, base: Op, constants: tuple[Constant, ...], bare: bool
) -> tuple[tuple[Constant, ...], tuple[str, ...]]:
    """What a batch norm does to the names: of a kernel it is folded into, and of the result.

    `bare`: it stands right behind a kernel without a bias.
    """
    kernel, *rest = constants
    dense = base.kind == "FULLY_CONNECTED"
    if dense:
        name, labels = op.label, op.labels[:1]
    elif bare:
        name, labels = kernel.name, ()
    else:
        conv = base.kind == "CONV_2D" and base.value.shape[1] > 1
        name, labels = kernel.name if conv else ";".join((*op.labels, *base.labels)), op.labels
    return (dataclasses.replace(kernel, name=name), *rest), labels


def _dense_reads(op: Op, reader: Op, before: Op) -> bool:
    return reader.kind == "FULLY_CONNECTED"


def _scaled(op: Op, reader: Op, before: Op) -> bool:
    return reader.kind in ("FULLY_CONNECTED", "CONV_2D")


def _shifted(op: Op, reader: Op, before: Op) -> bool:
    """A convolution that pads would have to pad with the shifted zero."""
    valid = reader.node.config.get("padding") == "valid"
    return reader.kind == "FULLY_CONNECTED" or (reader.kind == "CONV_2D" and valid)


def _padded_alike(op: Op, reader: Op, before: Op) -> bool:
    """Whether padding and the convolution behind it are together what the padding "same" means."""
    config = reader.node.config
    if reader.kind not in ("CONV_2D", "DEPTHWISE_CONV_2D") or config.get("padding") != "valid":
        return False
    padding = op.node.config.get("padding")
    if len(op.value.shape) != 4 or not isinstance(padding, (tuple, list)) or isinstance(padding[0], int):
        return False
    if op.value.shape[-1] != before.value.shape[-1]:
        return False
    sides = zip(before.value.shape[1:3], config["kernel_size"], config["strides"], config["dilation_rate"], strict=True)
    for (size, kernel, stride, dilation), given in zip(sides, padding, strict=True):
        reach = (kernel - 1) * dilation + 1
        total = max((math.ceil(size / stride) - 1) * stride + reach - size, 0)
        if tuple(given) != (total // 2, total - total // 2):
            return False
    return True


_FORWARD: dict[str, Callable[[Op, Op, Op], bool]] = {
    "MUL_VECTOR": _dense_reads,
    "ADD_VECTOR": _dense_reads,
    "MUL_SCALAR": _scaled,
    "ADD_SCALAR": _shifted,
    "PAD": _padded_alike,
}
"""Operator -> whether the one that reads it (with what it reads itself) takes it in."""
