"""How many bytes the file of a program has: its constants, and what a flatbuffer stores around them.

All tables, vectors and names are counted one by one, padding as large as it may become, since the file must never be
larger than promised.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from keras_qcqp.deployed.absorbing import has_bias
from keras_qcqp.deployed.program import Constant, Op, Program
from keras_qcqp.terms import Term

_FILE = 560  # header, version, description, metadata with its buffers, signature, shared tables
_CODE = 24  # one for each kind of operator
_OPERATOR = 26 + 8 + 4 + 4 + 2  # table, outputs, options without fields, place in the list, padding
_OPTIONS = {"CONV_2D": 16, "DEPTHWISE_CONV_2D": 20, "TRANSPOSE_CONV": 20, "FULLY_CONNECTED": 12, "UNKNOWN": 20}
_TENSOR = {"float32": 26 + 4 + 4 + 4 + 4 + 4, "int8": 30 + 4 + 4 + 4 + 14 + 4}
"""Table, place in the list, length of the shape, buffer, quantization, place of the buffer."""
_SCALES = 4 + 4 + 4  # lengths of scales and zero points, padding
_DATA = {"float32": 4 + 4, "int8": 4 + 4 + 3}  # length, place in its table, padding
_ENDS = 48  # name and number of an input or output in the signature
_ENDS_NAMED = ("StatefulPartitionedCall:0", "serving_default_{}:0")
_OPAQUE = 4000  # an operation of which nothing is known may be a dozen operators
_ITEMS = {
    "float32": {"kernel": 4, "bias": 4, "plain": 4, "index": 4},
    "int8": {"kernel": 1, "bias": 4, "plain": 1, "index": 4},
}
_BIASED = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV"})


def file_terms_of(program: Program, recipe: str) -> Iterator[Term]:
    """Terms that add up to the bytes of the file."""
    ops = [op for op in program.ops.values() if op.kind != "CONSTANT"]
    first = ops[0].node
    kinds = len({op.kind for op in ops if op.kind != "INPUT"})
    yield Term(first, _FILE + _CODE * (kinds + 1), ())
    seen: set[str] = set()
    for number, op in program.ops.items():
        ends = program.outputs.count(number) + (op.kind == "INPUT")
        yield Term(op.node, _operator_bytes(op) + ends * (_ENDS + len(op.node.name)), ())
        if op.kind != "CONSTANT":
            name = _ENDS_NAMED[op.kind == "INPUT"].format(op.node.name) if ends else ";".join(op.labels)
            yield from _tensor(op, name, len(op.value.shape), recipe, Term(op.node, 1, ()))
        for constant in _stored(op):
            shared = constant.shared if recipe == "float32" or constant.kind != "bias" else f"{number}"
            if (key := f"{constant.kind}:{shared}") not in seen:
                seen.add(key)
                yield from _constant(op, constant, recipe)


def _operator_bytes(op: Op) -> int:
    if op.kind in ("INPUT", "CONSTANT"):
        return 0
    reads = len(op.reads) + len(_stored(op))
    extra = _OPAQUE if op.label.endswith("opaque_0") else 0
    return _OPERATOR + _OPTIONS.get(op.kind, 8) + 4 + 4 * reads + extra


def _stored(op: Op) -> tuple[Constant, ...]:
    """The constants of an operator; a convolution without a bias gets one of zeros."""
    if op.kind not in _BIASED or has_bias(op.constants):
        return op.constants
    kernel = op.constants[0]
    zeros = dataclasses.replace(kernel, kind="bias", rank=1, elements=kernel.scales, shared=f"{kernel.shared}/zeros")
    return (*op.constants, zeros)


def _constant(op: Op, constant: Constant, recipe: str) -> Iterator[Term]:
    name = constant.name
    if constant.kind == "bias":  # it is called like the result; that of a Dense leaves its product out
        name = ";".join(op.labels[:-1] if op.kind == "FULLY_CONNECTED" else op.labels)
    scales = {"index": Term(op.node, 0, ()), "plain": Term(op.node, 1, ())}.get(constant.kind, constant.scales)
    yield from _tensor(op, name, constant.rank, recipe, scales)
    yield Term(op.node, _DATA[recipe], ())
    yield dataclasses.replace(constant.elements.times(_ITEMS[recipe][constant.kind]), node=op.node)


def _tensor(op: Op, name: str, rank: int, recipe: str, scales: Term) -> Iterator[Term]:
    """Everything about a tensor but its content."""
    named = (4 + len(name) + 2 + 1 + 3) // 4 * 4  # length, a digit or two to make it unique, end, padding
    yield Term(op.node, _TENSOR[recipe] + 4 * rank + named, ())
    if recipe != "float32":
        yield Term(op.node, _SCALES, ())
        yield dataclasses.replace(scales.times(4 + 8), node=op.node)
