"""The deployed form of a network: a list of operators, each of which makes one tensor."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from keras_qcqp.graph import Node
from keras_qcqp.terms import Term

BALLAST = "BALLAST"
"""Kind of an operator that is not in the file: its tensor stands for what may live at that moment."""


@dataclasses.dataclass(frozen=True)
class Value:
    """A tensor for a batch of one.

    Attributes:
        shape: as it is before pruning.
        axis: along it lie the channels `ids` int[channels]; None where nothing is pruned.
        extra: further channels along it that are never pruned.
    """

    shape: tuple[int, ...]
    axis: int | None
    ids: np.ndarray
    dtype: str
    extra: int = 0

    def elements(self, node: Node) -> tuple[Term, ...]:
        """Terms that add up to its number of entries."""
        sizes = math.prod(size for number, size in enumerate(self.shape) if number != self.axis)
        if self.axis is None:
            return (Term(node, sizes, ()),)
        return (Term(node, sizes, (self.ids,)), *([Term(node, sizes * self.extra, ())] if self.extra else []))


@dataclasses.dataclass(frozen=True)
class Constant:
    """A tensor stored in the file.

    Attributes:
        kind: "kernel" (in integer files int8, one scale for each output channel), "bias" (int32, likewise), "plain"
            (int8, one scale) or "index" (int32 in every file, no scale).
        elements: how many entries it has.
        scales: how many output channels it has.
        shared: two constants of the same name here are stored once.
    """

    kind: str
    name: str
    rank: int
    elements: Term
    scales: Term
    shared: str


@dataclasses.dataclass(frozen=True)
class Op:
    """One operator; its number in the program is the number of the tensor it makes.

    Attributes:
        kind: operator of TensorFlow Lite, or a step on the way to one (see `fusion`); "NOTHING" holds the place of one
            that goes.
        label: its name in the traced graph, which decides the order of execution.
        node: the call it comes from.
        reads: numbers of the tensors it reads.
        roots: names of the variables it reads.
        labels: what the name of its tensor is put together from.
        sealed: an activation is fused into it already, so nothing more can be.
        early: it may run as soon as what it reads is there, so its tensor counts from then on.
    """

    kind: str
    label: str
    node: Node
    reads: tuple[int, ...]
    value: Value
    constants: tuple[Constant, ...] = ()
    roots: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    sealed: bool = False
    early: bool = False


@dataclasses.dataclass(frozen=True)
class Program:
    """Operators by number, network inputs among them (kind "INPUT").

    Attributes:
        outputs: tensors that the network returns.
    """

    name: str
    ops: dict[int, Op]
    outputs: tuple[int, ...]

    def readers(self) -> dict[int, list[int]]:
        """Tensor -> the operators that read it, each as often as it does."""
        found: dict[int, list[int]] = {number: [] for number in self.ops}
        for number, op in self.ops.items():
            for read in op.reads:
                found[read].append(number)
        return found
