"""What the converter makes of the operators: it fuses, drops and merges them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from keras_qcqp.deployed.absorbing import AFFINE, CLAMPS, KERNELS, absorbed, consumed, has_bias
from keras_qcqp.deployed.program import Op, Program

_CLAMPING = KERNELS | AFFINE | {"ADD", "SUB", "MUL", "DIV", "MAX_POOL_2D", "AVERAGE_POOL_2D"}
_BROADCASTING = frozenset({"ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM"})
_RETURNED = -1  # stands for the caller among the readers of a tensor

FINAL = {"ADD_VECTOR": "ADD", "ADD_SCALAR": "ADD", "MUL_VECTOR": "MUL", "MUL_SCALAR": "MUL"}
"""Steps that could not be fused -> the operators they become."""


def fuse(program: Program, order: dict[int, int]) -> Program:
    """The operators that are left, in the order of execution."""
    work, numbers = _Fusion(program), sorted(program.ops, key=order.__getitem__)
    for step in (work.simplify, work.into_producer, work.reshape):
        for number in numbers:
            if number in work.ops:
                step(number)
    for number in reversed(numbers):
        if number in work.ops:
            work.into_consumer(number)
    work.drop_unread()
    # A fused operator stands where the last of its parts stood.
    place = {number: order[work.last.get(number, number)] for number in work.ops}
    ops = {number: work.finished(number) for number in sorted(work.ops, key=place.__getitem__)}
    return Program(program.name, ops, tuple(work.now(number) for number in program.outputs))


class _Fusion:
    """Operators that are rewritten one by one.

    Attributes:
        last: operator -> the last one that was fused into it.
    """

    def __init__(self, program: Program) -> None:
        self.ops = dict(program.ops)
        self.last: dict[int, int] = {}
        self._instead: dict[int, int] = {}
        self._readers = program.readers()
        for number in program.outputs:
            self._readers[number].append(_RETURNED)

    def now(self, number: int) -> int:
        """The tensor that stands for one that may be gone."""
        while number in self._instead:
            number = self._instead[number]
        return number

    def _reads(self, number: int) -> tuple[int, ...]:
        return tuple(self.now(read) for read in self.ops[number].reads)

    def _drop(self, number: int) -> None:
        for read in self._reads(number):
            self._readers[read].remove(number)
        del self.ops[number]

    def _replace(self, number: int, instead: int) -> None:
        self._drop(number)
        self._instead[number] = instead
        self._readers[instead] += self._readers.pop(number)

    def simplify(self, number: int) -> None:
        """What changes nothing goes: placeholders, and a clamp of what is clamped already; constants are computed."""
        op, sources = self.ops[number], [self.ops[read] for read in self._reads(number)]
        if sources and all(source.kind == "CONSTANT" for source in sources):
            known = sources[0].constants[0]
            stored = dataclasses.replace(
                known,
                name=op.label,
                rank=len(op.value.shape),
                elements=op.value.elements(op.node)[0],
                shared=op.label,
            )
            for read in self._reads(number):
                self._readers[read].remove(number)
            self.ops[number] = dataclasses.replace(op, kind="CONSTANT", reads=(), constants=(stored,))
        elif op.kind == "NOTHING" or (op.kind == "RELU" and sources[0].kind in CLAMPS):
            self._replace(number, self._reads(number)[0])

    def into_producer(self, number: int) -> None:
        """Fuses a bias, a batch norm or a clamp into the operator before it, also through a reshape."""
        op = self.ops[number]
        if op.kind not in AFFINE | CLAMPS or len(op.reads) != 1:
            return
        before = target = self._reads(number)[0]
        if self.ops[before].kind == "RESHAPE" and self._alone(before):
            target = self._reads(before)[0]
        base = self.ops[target]
        clamps = op.kind in CLAMPS and base.kind in _CLAMPING and target == before
        if op.kind in CLAMPS and base.kind == "TRANSPOSE_CONV" and not has_bias(base.constants):
            return
        if base.sealed or not (self._alone(before) and self._alone(target)) or not (clamps or base.kind in KERNELS):
            return
        self.ops[target] = absorbed(op, base, None if target == before else self.ops[before])
        self.last[target] = self.last[before] = number
        self._replace(number, before)

    def _alone(self, number: int) -> bool:
        return len(self._readers[number]) == 1

    def reshape(self, number: int) -> None:
        """A reshape of a reshape reads what the first one read; one that changes nothing for its readers goes."""
        op = self.ops[number]
        if op.kind != "RESHAPE":
            return
        source = self._reads(number)[0]
        if self.ops[source].kind == "RESHAPE":
            self._readers[source].remove(number)
            source = self._reads(source)[0]
            self._readers[source].append(number)
            self.ops[number] = dataclasses.replace(op, reads=(source,))
        given, made = self.ops[source].value.shape, op.value.shape
        if given == made or self._needless(number, given, made):
            self._replace(number, source)

    def _needless(self, number: int, given: tuple[int, ...], made: tuple[int, ...]) -> bool:
        """A Dense takes any shape with the right last axis; broadcasting puts axes of size one in front by itself."""
        readers = self._readers[number]
        kinds = {"" if reader == _RETURNED else self.ops[reader].kind for reader in readers}
        if kinds == {"FULLY_CONNECTED"}:
            return len(readers) == 1 and len(made) == 2 and given[-1] == made[-1]
        return kinds <= _BROADCASTING and made[-len(given) :] == given and math.prod(made) == math.prod(given)

    def into_consumer(self, number: int) -> None:
        """Fuses a product or a sum into the kernel that reads it, and padding into a convolution that pads alike."""
        op, readers = self.ops[number], self._readers[number]
        fits = _FORWARD.get(op.kind)
        if fits is None or op.sealed or len(op.reads) != 1 or len(readers) != 1 or readers[0] == _RETURNED:
            return
        reader, source = self.ops[readers[0]], self._reads(number)[0]
        if fits(op, reader, self.ops[source]):
            self.ops[readers[0]] = reader if op.kind == "PAD" else consumed(op, reader)
            self._replace(number, source)

    def drop_unread(self) -> None:
        """What nothing reads is not computed; inputs stay."""
        for number in sorted(self.ops, reverse=True):  # readers have greater numbers
            if self.ops[number].kind != "INPUT" and not self._readers[number]:
                self._drop(number)

    def finished(self, number: int) -> Op:
        """The operator as it is written."""
        op = self.ops[number]
        labels = op.labels if number in self.last or op.kind in KERNELS | {"PRELU"} else op.labels[:1]
        return dataclasses.replace(op, kind=FINAL.get(op.kind, op.kind), reads=self._reads(number), labels=labels)


def _dense_reads(op: Op, reader: Op, before: Op) -> bool:
    return reader.kind == "FULLY_CONNECTED"


def _scaled(op: Op, reader: Op, before: Op) -> bool:
    return reader.kind in ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D")


def _shifted(op: Op, reader: Op, before: Op) -> bool:
    """A convolution that pads would have to pad with the shifted zero."""
    valid = reader.node.config.get("padding") == "valid"
    return reader.kind == "FULLY_CONNECTED" or (reader.kind in ("CONV_2D", "DEPTHWISE_CONV_2D") and valid)


def _padded_alike(op: Op, reader: Op, before: Op) -> bool:
    """Whether padding and the convolution behind it are together what the padding "same" means."""
    config, padding = reader.node.config, op.node.config.get("padding")
    if reader.kind not in ("CONV_2D", "DEPTHWISE_CONV_2D") or config.get("padding") != "valid":
        return False
    if len(op.value.shape) != 4 or op.value.shape[-1] != before.value.shape[-1] or not isinstance(padding, tuple):
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
"""Operator -> whether the one that reads it takes it in; the third is what it reads itself."""
