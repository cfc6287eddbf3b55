"""Which axes of an operator's tensors follow its widths: a table, operator -> small function.

An operator has an input width and an output width (convolutions, fully connected), an output width alone (depthwise,
element by element, pooling, concatenation, padding), or none that can be changed (re-arranging, or not known here).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tflite_tools.latency.flat_graph import FlatGraph, FlatOp, FlatTensor, Sizes


@dataclass(frozen=True)
class Follow:
    """An axis of a tensor whose size is `size(width)`, of the operator's input (`side` "in") or output ("out")."""

    tensor: int
    axis: int
    side: str
    size: Callable[[int], int] = int


@dataclass(frozen=True)
class Axes:
    """The widths of one operator.

    Attributes:
        given, made: number of its input and of its output channels; None where it does not depend on them.
        follow: what changes with them.
        multiple: both are multiples of this (groups, depth multipliers).
    """

    given: int | None
    made: int | None
    follow: tuple[Follow, ...]
    multiple: int = 1

    def sizes(self, given: int | None, made: int | None) -> Sizes:
        """All axes for other widths."""
        found: dict[int, dict[int, int]] = {}
        for f in self.follow:
            width = given if f.side == "in" else made
            assert width is not None, "an operator follows only widths that it has"
            found.setdefault(f.tensor, {})[f.axis] = f.size(width)
        return found


Rule = Callable[[FlatGraph, FlatOp], Axes | None]
FIXED = Axes(None, None, ())


def axes_of(graph: FlatGraph, op: FlatOp) -> Axes:
    """The widths of an operator; `FIXED` where its size cannot be changed."""
    rule = RULES.get(op.kind)
    plain = all(graph.tensors[t].dtype for t in (*op.inputs, *op.outputs) if t >= 0)  # no packed numbers
    found = rule(graph, op) if rule is not None and plain and len(op.outputs) == 1 else None
    return found or FIXED


def _last(graph: FlatGraph, tensor: int) -> int:
    shape = graph.tensors[tensor].shape
    return shape[-1] if shape else 1


def _at_end(graph: FlatGraph, tensor: int, side: str, size: Callable[[int], int] = int) -> Follow:
    return Follow(tensor, len(graph.tensors[tensor].shape) - 1, side, size)


def _bias(op: FlatOp, position: int) -> tuple[Follow, ...]:
    return (Follow(op.inputs[position], 0, "out"),) if len(op.inputs) > position and op.inputs[position] >= 0 else ()


def _kernel(weights: int, data: int, bias: int) -> Rule:
    """A kernel [out, ..., in]; `weights`, `data` and `bias` are places among the inputs."""

    def rule(graph: FlatGraph, op: FlatOp) -> Axes | None:
        x, kernel, y = op.inputs[data], op.inputs[weights], op.outputs[0]
        given, made, inner = _last(graph, x), _last(graph, y), _last(graph, kernel)
        groups = given // inner if inner and given % inner == 0 else 0
        if graph.tensors[kernel].data is None or not groups or made % groups:
            return None
        follow = (
            _at_end(graph, x, "in"),
            _at_end(graph, kernel, "in", lambda width: width // groups),
            Follow(kernel, 0, "out"),
            _at_end(graph, y, "out"),
            *_bias(op, bias),
        )
        return Axes(given, made, follow, groups)

    return rule


def _transposed(graph: FlatGraph, op: FlatOp) -> Axes | None:
    """Its first input is the output shape, whose last entry is the output width; see `indices`."""
    return _kernel(1, 2, 3)(graph, op)


def _depthwise(graph: FlatGraph, op: FlatOp) -> Axes | None:
    x, kernel, y = op.inputs[0], op.inputs[1], op.outputs[0]
    given, made = _last(graph, x), _last(graph, y)
    if graph.tensors[kernel].data is None or made % given:
        return None
    times = made // given
    follow = (_at_end(graph, x, "out", lambda width: width // times), _at_end(graph, kernel, "out"))
    return Axes(None, made, (*follow, _at_end(graph, y, "out"), *_bias(op, 2)), times)


def _alike(graph: FlatGraph, op: FlatOp) -> Axes | None:
    """Element by element along the last axis; operands of one channel stay so."""
    made = _last(graph, op.outputs[0])
    operands = [t for t in dict.fromkeys(op.inputs) if t >= 0 and graph.tensors[t].shape]
    if any(_last(graph, t) not in (1, made) for t in operands):
        return None
    wide = [t for t in operands if _last(graph, t) == made]
    return Axes(None, made, tuple(_at_end(graph, t, "out") for t in (*wide, op.outputs[0])))


def _moving(graph: FlatGraph, op: FlatOp) -> Axes | None:
    """One operand, whose channels stay where they are; further inputs are indices."""
    x, y = op.inputs[0], op.outputs[0]
    if _last(graph, x) != _last(graph, y):
        return None
    return Axes(None, _last(graph, y), (_at_end(graph, x, "out"), _at_end(graph, y, "out")))


def _reducing(graph: FlatGraph, op: FlatOp) -> Axes | None:
    axes, rank = graph.tensors[op.inputs[1]].data, len(graph.tensors[op.inputs[0]].shape)
    if axes is None or (rank - 1) in np.asarray(axes).ravel() % rank:
        return None
    return _moving(graph, op)


def _padding(graph: FlatGraph, op: FlatOp) -> Axes | None:
    """Channels that are padded keep their share."""
    x, y = op.inputs[0], op.outputs[0]
    given, made = _last(graph, x), _last(graph, y)
    return Axes(None, made, (_at_end(graph, x, "out", lambda w: _scaled(w, given, made)), _at_end(graph, y, "out")))


def _scaled(width: int, part: int, whole: int) -> int:
    return min(width, max(1, round(width * part / whole)))


def _concatenation(graph: FlatGraph, op: FlatOp) -> Axes | None:
    y, operands = op.outputs[0], list(op.inputs)
    made, widths = _last(graph, y), [_last(graph, t) for t in operands]
    if len(set(operands)) < len(operands) or any(graph.tensors[t].data is not None for t in operands):
        return None
    if sum(widths) != made:
        return _alike(graph, op) if set(widths) == {made} else None
    ends = np.cumsum([0, *widths])

    def part(number: int) -> Callable[[int], int]:
        first, last = int(ends[number]), int(ends[number + 1])
        return lambda width: width * last // made - width * first // made

    parts = [_at_end(graph, t, "out", part(number)) for number, t in enumerate(operands)]
    # No operand may become empty.
    return Axes(None, made, (*parts, _at_end(graph, y, "out")), multiple=made // int(np.gcd.reduce(widths)))


def indices(graph: FlatGraph, op: FlatOp, made: int) -> dict[int, np.ndarray]:
    """Constants whose values say how wide the output is: the shape of a reshape, of a transposed convolution; paddings.

    Args:
        made: the new output width.
    """
    y = graph.tensors[op.outputs[0]]
    if op.kind == "TRANSPOSE_CONV":
        return {op.inputs[0]: _with_last(graph.tensors[op.inputs[0]], made)}
    if op.kind == "RESHAPE" and len(op.inputs) > 1:
        return {op.inputs[1]: np.array([*y.shape[:-1], made], np.int32)}
    return {}


def paddings(graph: FlatGraph, op: FlatOp, given: int, made: int) -> dict[int, np.ndarray]:
    """The paddings of channels that bring `given` of them to `made`."""
    table = graph.tensors[op.inputs[1]].data
    if table is None or not table[-1].any():
        return {}
    first, last = table[-1].tolist()
    before = (made - given) * first // (first + last)
    changed = table.copy()
    changed[-1] = before, made - given - before
    return {op.inputs[1]: changed}


def _with_last(tensor: FlatTensor, size: int) -> np.ndarray:
    assert tensor.data is not None
    changed = tensor.data.copy()
    changed[-1] = size
    return changed


_ALIKE = """ADD SUB MUL DIV MAXIMUM MINIMUM SQUARED_DIFFERENCE POW PRELU RELU RELU6 RELU_N1_TO_1 LEAKY_RELU ELU GELU
    HARD_SWISH LOGISTIC TANH EXP LOG ABS NEG SQRT RSQRT SQUARE FLOOR CEIL ROUND SIN COS SIGN QUANTIZE DEQUANTIZE CAST
    SOFTMAX LOG_SOFTMAX L2_NORMALIZATION SELECT SELECT_V2 GREATER LESS""".split()
_MOVING = "MAX_POOL_2D AVERAGE_POOL_2D L2_POOL_2D RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR".split()

RULES: dict[str, Rule] = {
    "CONV_2D": _kernel(1, 0, 2),
    "FULLY_CONNECTED": _kernel(1, 0, 2),
    "TRANSPOSE_CONV": _transposed,
    "DEPTHWISE_CONV_2D": _depthwise,
    **dict.fromkeys(_ALIKE, _alike),
    **dict.fromkeys(_MOVING, _moving),
    **dict.fromkeys(["MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"], _reducing),
    **dict.fromkeys(["PAD", "PADV2", "MIRROR_PAD"], _padding),
    "CONCATENATION": _concatenation,
}
