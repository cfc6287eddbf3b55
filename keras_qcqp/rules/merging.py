"""Layers that join tensors: element by element (with broadcasting) or side by side."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np

from keras_qcqp.channels import Call, Channels, Frozen, Rule, Spec, normal_axis
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


_L = keras.layers
RULES: dict[type, Rule] = {
    **dict.fromkeys([_L.Add, _L.Subtract, _L.Average], add),
    **dict.fromkeys([_L.Multiply, _L.Maximum, _L.Minimum], merge),
    _L.Concatenate: concatenate,
}
