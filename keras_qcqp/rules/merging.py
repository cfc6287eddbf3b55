"""Layers that join tensors: element by element (with broadcasting) or side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras
import numpy as np

from keras_qcqp.channels import NETWORK_INPUT, Call, Channels, Frozen, In, Out, Rule, Spec, normal_axis
from keras_qcqp.graph import Shape


def merge(call: Call) -> Spec:
    """The element-wise merging layers; lower ranks get axes of size 1 after the batch axis."""
    return Spec((tie_broadcast(call, *_aligned(call)),))


def add(call: Call) -> Spec:
    """Merging layers that are zero in a channel in which all operands are zero: the sum may have a set of its own."""
    return Spec((sum_broadcast(call, *_aligned(call)),))


def _aligned(call: Call) -> tuple[list[Shape], list[Channels]]:
    rank = max(len(t.shape) for t in call.node.inputs)
    shapes, channels = [], []
    for tensor, x in zip(call.node.inputs, call.inputs, strict=True):
        extra = rank - len(tensor.shape)
        shapes.append(tensor.shape[:1] + (1,) * extra + tensor.shape[1:])
        channels.append(Channels(x.ids, x.axis + extra))
    return shapes, channels


def sum_broadcast(call: Call, shapes: Sequence[Shape], channels: Sequence[Channels]) -> Channels:
    """As `tie_broadcast`, but operands that all span the channels of the result are left to `call.add`."""
    size = call.node.outputs[0].shape[channels[0].axis]
    if len(channels) > 1 and all(len(x) == size and x.axis == channels[0].axis for x in channels):
        return call.add(channels)
    return tie_broadcast(call, shapes, channels)


def tie_broadcast(call: Call, shapes: Sequence[Shape], channels: Sequence[Channels]) -> Channels:
    """Ties what meets element by element; an operand of size 1 along the channels is broadcast and stays free.

    Raises:
        Frozen: no operand spans the output's channels.
    """
    out_shape = call.node.outputs[0].shape
    spans = [
        (shape, x)
        for shape, x in zip(shapes, channels, strict=True)
        if len(x) and shape[x.axis] == out_shape[x.axis] and (len(x) > 1 or out_shape[x.axis] == 1)
    ]
    if not spans:
        raise Frozen("no operand spans the channels of the result")
    main = next((x for _, x in spans if not call.is_fixed(x)), spans[0][1])
    for shape, x in zip(shapes, channels, strict=True):
        if x is main:
            continue
        if x.axis == main.axis:
            if len(x) == len(main):
                call.tie(main.ids, x.ids)
            elif shape[main.axis] != 1:
                call.freeze(main.ids, "the channels of an operand are unknown")
            continue  # size 1: broadcast over all channels
        call.freeze(x.ids, f"channels along axis {x.axis} meet channels along axis {main.axis}")
        if shape[main.axis] != 1:
            call.freeze(main.ids, f"channels along axis {main.axis} meet channels along axis {x.axis}")
    return main


def concatenate(call: Call) -> Spec:
    """Concatenate layer."""
    return Spec((join(call, call.node.config["axis"]),))


def join(call: Call, axis: int) -> Channels:
    """Side by side along the channels, or, along another axis, tied element by element.

    Raises:
        Frozen: the operands carry their channels along different axes.
    """
    axis = normal_axis(axis, len(call.node.outputs[0].shape))
    if len({x.axis for x in call.inputs}) != 1 or not all(len(x) for x in call.inputs):
        raise Frozen("operands carry their channels along different axes, or their number is unknown")
    first = call.inputs[0]
    if axis == first.axis:
        return Channels(np.concatenate([x.ids for x in call.inputs]), axis)
    for x in call.inputs[1:]:
        call.tie(first.ids, x.ids)
    return first


def dot(call: Call) -> Spec:
    """Dot: channels that are summed over meet element by element and are read without a kernel; others go on.

    A tensor has channels along one axis only, so where those of both operands would go on (a bilinear form) the first
    operand keeps all of its own.
    """
    a, b = call.inputs
    ranks = [len(t.shape) for t in call.node.inputs]
    axes = call.node.config["axes"]
    axes = [axes] * 2 if isinstance(axes, int) else axes
    over_a, over_b = (normal_axis(axis, rank) for axis, rank in zip(axes, ranks, strict=True))
    area = _spots(call.node.inputs[0].shape, over_a), _spots(call.node.inputs[1].shape, over_b)
    spots = None if None in area else math.prod(area)  # type: ignore[arg-type]
    if (a.axis, b.axis) == (over_a, over_b):
        call.tie(a.ids, b.ids)
        out = call.fresh()
        if len(out) > 1:
            call.freeze(out.ids, NETWORK_INPUT)  # positions: there is nothing to prune, and nothing to say
        return Spec((out,), macs=((spots, (In(),)),), zeroed=(0, 1))
    others = "the other operand brings no channels to the axis that Dot sums over"
    places = [a.axis - (a.axis > over_a), ranks[0] - 2 + b.axis - (b.axis > over_b)]
    if b.axis == over_b:
        call.freeze(b.ids, others)
        out = Channels(a.ids, places[0])
    else:
        call.freeze(a.ids, others if a.axis == over_a else "Dot gives a tensor with channels along two axes")
        out = Channels(b.ids, places[1])
    size = call.node.inputs[0].shape[over_a]
    rest = _spots(call.node.outputs[0].shape, out.axis)
    return Spec((out,), macs=((None if None in (size, rest) else size * rest, (Out(),)),))  # type: ignore[operator]


def _spots(shape: Shape, axis: int) -> int | None:
    sizes = [size for number, size in enumerate(shape) if number not in (0, axis)]
    return None if None in sizes else math.prod(size for size in sizes if size is not None)


_L = keras.layers
RULES: dict[type, Rule] = {
    **dict.fromkeys([_L.Add, _L.Subtract, _L.Average], add),
    **dict.fromkeys([_L.Multiply, _L.Maximum, _L.Minimum], merge),
    _L.Concatenate: concatenate,
    _L.Dot: dot,
}
