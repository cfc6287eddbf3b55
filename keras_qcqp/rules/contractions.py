"""Products that sum over axes: ops.matmul, ops.einsum, ops.tensordot, ops.dot_product_attention.

All are said in letters, one for each axis, as in an einsum. Channels along a letter belong to every operand with it:
those that carry their channels there are tied, constant arrays are sliced, and where an operand has the letter but
carries its channels along another, the channels must stay. A sum over channels ignores those that are zero, so it is
enough that one operand is read as zero there. Of the letters that survive, one carries the channels of the result.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import re
import string
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_qcqp.channels import Axis, Call, Channels, Frozen, In, Rule, Sliced, Spec
from keras_qcqp.graph import TensorRef
from keras_qcqp.rules.arguments import axes_of, bound, holds_tensors, is_array, numbers


@dataclasses.dataclass(frozen=True)
class Operand:
    """A factor of a product.

    Attributes:
        path: its argument, as in `Spec.arguments`.
        value: a constant; None for a tensor of the network.
        port: number of the input, -1 for a constant.
        shape: sizes of its axes.
    """

    path: str
    value: Any
    port: int
    shape: tuple[int | None, ...]


def operand(call: Call, path: str, value: Any) -> Operand:
    """What is given for an argument."""
    if isinstance(value, TensorRef):
        return Operand(path, None, value.position, call.node.inputs[value.position].shape)
    is_array(value)  # refuses variables
    return Operand(path, value, -1, np.shape(value))


def contract(call: Call, operands: Sequence[Operand], letters: Sequence[str], result: str) -> Spec:
    """The spec of a product; `letters[k]` names the axes of operand k, `result` those of the output."""
    if any(max(collections.Counter(x).values(), default=1) > 1 for x in (*letters, result)):
        raise Frozen("a product that takes a diagonal")
    shapes = [o.shape for o in operands]
    wide = {a for x, shape in zip(letters, shapes, strict=True) for a, size in zip(x, shape, strict=True) if size != 1}
    followed: dict[str, tuple[int, np.ndarray]] = {}  # letter -> port and ids of the first operand with channels there
    for o, names in zip(operands, letters, strict=True):
        x = call.inputs[o.port] if o.port >= 0 else None
        if x is None or call.is_fixed(x) or (o.shape[x.axis] == 1 and names[x.axis] in wide):
            continue
        if names[x.axis] in followed:
            call.tie(followed[names[x.axis]][1], x.ids)
        else:
            followed[names[x.axis]] = o.port, x.ids
    for _, ids in list(followed.values())[2:]:
        call.freeze(ids, "more than two widths meet in one product")
    arguments: dict[str, Any] = {}
    for o, names in zip(operands, letters, strict=True):
        axes = _read_whole(call, o, names, followed)
        if any(axes):
            arguments[o.path] = Sliced(o.value, axes)
    zeroed = tuple(port for letter, (port, _) in followed.items() if letter not in result)
    out = _carried(call, followed, result)
    return Spec((out,), macs=(_macs(operands, letters, followed),), arguments=arguments, zeroed=zeroed)


def _read_whole(
    call: Call, o: Operand, names: str, followed: dict[str, tuple[int, np.ndarray]]
) -> tuple[Axis | None, ...]:
    """How a constant is sliced; freezes what an operand with its channels elsewhere has along its other axes."""
    axes: list[Axis | None] = [None] * len(names)
    for axis, name in enumerate(names):
        if name not in followed or o.shape[axis] == 1:
            continue
        port, ids = followed[name]
        if o.port < 0:
            axes[axis] = In(port)
        elif call.inputs[o.port].axis != axis or call.is_fixed(call.inputs[o.port]):
            call.freeze(ids, f"{call.node.kind} multiplies these channels with an axis that carries no channels")
    return tuple(axes)


def _carried(call: Call, followed: dict[str, tuple[int, np.ndarray]], result: str) -> Channels:
    alive = [(result.index(name), ids) for name, (_, ids) in followed.items() if name in result]
    free = [(axis, ids) for axis, ids in alive if not call.is_fixed(Channels(ids, axis))]
    if not free:
        return call.fixed()
    axis, main = max(free, key=lambda entry: entry[0])
    for other, ids in free:
        if other != axis:
            call.freeze(ids, f"the result would carry channels along axes {other} and {axis}; one is followed")
    return Channels(main, axis)


def _macs(
    operands: Sequence[Operand], letters: Sequence[str], followed: dict[str, tuple[int, np.ndarray]]
) -> tuple[int | None, tuple[Axis, ...]]:
    """One for each place that all letters but the batch can name together."""
    sizes: dict[str, int | None] = {}
    for o, names in zip(operands, letters, strict=True):
        for name, size in zip(names, o.shape, strict=True):
            sizes[name] = size if sizes.get(name, 1) == 1 else sizes[name]
    batch = {names[0] for o, names in zip(operands, letters, strict=True) if o.port >= 0}
    others = [size for name, size in sizes.items() if name not in followed and name not in batch]
    known = None if None in others else math.prod(size for size in others if size is not None)
    return known, tuple(In(port) for port, _ in followed.values())


def matmul(call: Call) -> Spec:
    """ops.matmul, NumPy rules: a vector has no rows (first) or no columns (second), axes before the last two match."""
    x, y = (operand(call, name, bound(call)[name]) for name in ("x1", "x2"))
    rank = max(len(x.shape), len(y.shape))
    before = string.ascii_lowercase[: max(rank - 2, 0)]
    row, column = "R" if len(x.shape) > 1 else "", "C" if len(y.shape) > 1 else ""
    first = before[len(before) - max(len(x.shape) - 2, 0) :] + row + "K"
    second = before[len(before) - max(len(y.shape) - 2, 0) :] + "K" + column
    return contract(call, (x, y), (first, second), before + row + column)


def dot(call: Call) -> Spec:
    """ops.dot: the last axis of the first operand with the last but one of the second."""
    x, y = (operand(call, name, bound(call)[name]) for name in ("x1", "x2"))
    if not x.shape or not y.shape:
        return Spec(call.inputs[:1])
    return _of_axes(call, x, y, [len(x.shape) - 1], [max(len(y.shape) - 2, 0)])


def inner(call: Call) -> Spec:
    """ops.inner: the last axes of both."""
    x, y = (operand(call, name, bound(call)[name]) for name in ("x1", "x2"))
    if not x.shape or not y.shape:
        raise Frozen("an inner product with a number")
    return _of_axes(call, x, y, [len(x.shape) - 1], [len(y.shape) - 1])


def tensordot(call: Call) -> Spec:
    """ops.tensordot over a number of axes, or over two lists of them."""
    x, y = (operand(call, name, bound(call)[name]) for name in ("x1", "x2"))
    axes = call.node.config["axes"]
    if isinstance(axes, int):
        return _of_axes(call, x, y, list(range(len(x.shape) - axes, len(x.shape))), list(range(axes)))
    return _of_axes(call, x, y, axes_of(numbers(axes[0]), len(x.shape)), axes_of(numbers(axes[1]), len(y.shape)))


def _of_axes(call: Call, x: Operand, y: Operand, of_x: list[int], of_y: list[int]) -> Spec:
    first = string.ascii_lowercase[: len(x.shape)]
    met = {axis: first[other] for axis, other in zip(of_y, of_x, strict=True)}
    second = "".join(met.get(axis, string.ascii_uppercase[axis]) for axis in range(len(y.shape)))
    result = "".join(a for a in first + second if a not in met.values())
    if x.port < 0 or y.port >= 0 or 0 in of_x:
        raise Frozen(f"{call.node.kind} of two tensors multiplies every sample with every other; use matmul or einsum")
    return contract(call, (x, y), (first, second), result)


def einsum(call: Call) -> Spec:
    """ops.einsum, ellipsis included."""
    operands = [operand(call, f"operands/{k}", value) for k, value in enumerate(bound(call)["operands"])]
    subscripts = re.sub(r"\s", "", call.node.config["subscripts"])
    given, arrow, result = subscripts.partition("->")
    terms = given.split(",")
    if not arrow:
        counted = collections.Counter(given.replace(",", "").replace(".", ""))
        result = "..." * ("..." in given) + "".join(sorted(a for a, times in counted.items() if times == 1))
    spare = [a for a in string.ascii_letters if a not in subscripts]
    hidden = [
        len(o.shape) - len(t.replace("...", "")) if "..." in t else 0 for o, t in zip(operands, terms, strict=True)
    ]
    dots = "".join(spare[: max(hidden)])
    letters = [t.replace("...", dots[len(dots) - n :]) for t, n in zip(terms, hidden, strict=True)]
    return contract(call, operands, letters, result.replace("...", dots))


def attention(call: Call) -> Spec:
    """ops.dot_product_attention on (batch, time, heads, width).

    Keras takes the shape of the query for that of the result, so the widths of query, key and value shrink alike. The
    scale stays that of the original width.
    """
    given, config = bound(call), call.node.config
    letters = {"query": "btnh", "key": "bsnh", "value": "bsnh", "bias": "bnts", "mask": "bnts"}
    named = {name: operand(call, name, given[name]) for name in letters if given[name] is not None}
    q, k, v = (named[name] for name in ("query", "key", "value"))
    if min(q.port, k.port, v.port) < 0 or holds_tensors(given["scale"]) or config.get("attn_logits_soft_cap"):
        raise Frozen("attention on constants, with a scale that the network computes, or with a soft cap")
    if not q.shape[2:] == k.shape[2:] == v.shape[2:]:
        raise Frozen("attention whose query, key and value differ in heads or width")
    carried = {call.inputs[o.port].axis for o in (q, k, v) if not call.is_fixed(call.inputs[o.port])}
    if carried - {2, 3} or len(carried) > 1:
        raise Frozen("attention along an axis that carries channels; they should be heads or widths")
    spec = contract(
        call, list(named.values()), [letters[name][4 - len(o.shape) :] for name, o in named.items()], "btnh"
    )
    # Both products: each of the queries with each of the keys, and that with the values.
    sizes = [2, q.shape[1], k.shape[1], *(q.shape[axis] for axis in {2, 3} - carried)]
    area = None if None in sizes else math.prod(size for size in sizes if size is not None)
    spec = dataclasses.replace(spec, macs=((area, (In(q.port),) * len(carried)),))
    width = q.shape[3]
    if carried != {3} or width is None:
        return spec
    scale = {"scale": 1.0 / math.sqrt(width)} if given["scale"] is None else {}
    return dataclasses.replace(spec, arguments={**spec.arguments, **scale}, zeroed=(q.port,))


RULES: dict[str, Rule] = {
    "DotProductAttention": attention,
    "Dot": dot,
    "Einsum": einsum,
    "Inner": inner,
    "Matmul": matmul,
    "Tensordot": tensordot,
}
