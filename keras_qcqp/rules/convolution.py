"""Layers that mix channels: convolutions of every kind and Dense."""

from __future__ import annotations

import math

import keras
import numpy as np

from keras_qcqp.channels import Axis, Call, Channels, Computed, In, Out, Rule, Spec
from keras_qcqp.graph import Shape
from keras_qcqp.rules.elementwise import is_elementwise, mixing_reason


def channel_axis(call: Call) -> int:
    """The axis that the layer itself takes for channels."""
    rank = len(call.node.inputs[0].shape)
    return 1 if call.node.config.get("data_format") == "channels_first" else rank - 1


def positions(shape: Shape, axis: int) -> int | None:
    """Number of positions at which a kernel is applied: all axes but batch and channels; None when unknown."""
    sizes = [size for number, size in enumerate(shape) if number not in (0, axis)]
    return None if None in sizes else math.prod(size for size in sizes if size is not None)


def read_along(call: Call, axis: int, **how: int) -> Axis | None:
    """The weight axis that reads the input's channels; None, and all kept, when they lie along another axis."""
    x = call.inputs[0]
    if x.axis == axis:
        return In(**how)
    call.freeze(x.ids, f"{call.node.kind} mixes along axis {axis}, the channels lie along axis {x.axis}")
    return None


def activate(call: Call, outputs: Channels) -> Channels:
    """Freezes the outputs of a layer whose activation looks at several channels at once."""
    activation = call.node.config.get("activation")
    if not is_elementwise(activation):
        call.freeze(outputs.ids, mixing_reason(activation))
    return outputs


def conv(call: Call) -> Spec:
    """Conv1D/2D/3D, plain, grouped or depthwise-by-groups."""
    axis, config = channel_axis(call), call.node.config
    groups, filters, kernel = config["groups"], config["filters"], config["kernel_size"]
    area = _times(positions(call.node.outputs[0].shape, axis), math.prod(kernel))
    bare = (None,) * len(kernel)
    in_channels = call.node.inputs[0].shape[axis]
    if groups > 1 and groups == in_channels and call.inputs[0].axis == axis:
        x = call.inputs[0]
        out = activate(call, Channels(np.repeat(x.ids, filters // groups), axis))
        weights = {"kernel": (*bare, None, Out()), "bias": (Out(),)}
        return Spec((out,), weights, {"filters": Out(), "groups": In()}, ((area, (Out(),)),))
    if groups > 1 and call.group_conv == "groups" and call.inputs[0].axis == axis:
        return _whole_groups(call, axis, area)
    reads = read_along(call, axis, groups=groups)
    out = activate(call, call.fresh(axis=axis))
    # Every group keeps the same channels: channel j of each group lives or dies with channel j of the first.
    for ids in (out.ids, call.inputs[0].ids) if reads is not None else (out.ids,):
        parts = np.split(ids, groups)
        for part in parts[1:]:
            call.tie(parts[0], part)
    weights = {"kernel": (*bare, reads, Out()), "bias": (Out(),)}
    return Spec((out,), weights, {"filters": Out()}, (_mixing(area, reads, in_channels, groups),))


def _whole_groups(call: Call, axis: int, area: int | None) -> Spec:
    """A grouped convolution of which whole groups go: what a group reads and makes lives or dies together."""
    groups, kernel = call.node.config["groups"], call.node.config["kernel_size"]
    out = activate(call, call.fresh(axis=axis))
    given, made = call.inputs[0].ids.reshape(groups, -1), out.ids.reshape(groups, -1)
    for members in (*given.T[1:], *made.T):
        call.tie(given[:, 0], members)
    width = given.shape[1]
    weights = {"kernel": (*(None,) * len(kernel), None, Out()), "bias": (Out(),)}
    config = {"filters": Out(), "groups": Computed((In(),), lambda kept: kept // width)}
    return Spec((out,), weights, config, ((_times(area, width), (Out(),)),))


def conv_transpose(call: Call) -> Spec:
    """Conv1D/2D/3DTranspose: the kernel is [..., out, in] and is applied at every input position."""
    axis, kernel = channel_axis(call), call.node.config["kernel_size"]
    area = _times(positions(call.node.inputs[0].shape, axis), math.prod(kernel))
    reads = read_along(call, axis)
    out = activate(call, call.fresh(axis=axis))
    weights = {"kernel": (*(None,) * len(kernel), Out(), reads), "bias": (Out(),)}
    macs = (_mixing(area, reads, call.node.inputs[0].shape[axis]),)
    return Spec((out,), weights, {"filters": Out()}, macs)


def depthwise(call: Call) -> Spec:
    """DepthwiseConv1D/2D: output channel c * multiplier + q comes from input channel c alone."""
    axis, config = channel_axis(call), call.node.config
    kernel, multiplier = config["kernel_size"], config["depth_multiplier"]
    x = call.inputs[0]
    area = _times(positions(call.node.outputs[0].shape, axis), math.prod(kernel))
    if x.axis != axis:
        read_along(call, axis)
        out = call.fresh(axis=axis)
        call.freeze(out.ids, "depthwise outputs of kept channels")
        bare: tuple[Axis | None, ...] = (None,) * len(kernel)
        return Spec((out,), {"kernel": (*bare, None, None), "bias": (Out(),)}, {}, ((area, (Out(),)),))
    out = activate(call, Channels(np.repeat(x.ids, multiplier), axis))
    weights = {"kernel": (*(None,) * len(kernel), In(), None), "bias": (Out(),)}
    return Spec((out,), weights, {}, ((area, (Out(),)),))


def separable(call: Call) -> Spec:
    """SeparableConv1D/2D: a depthwise step, then a pointwise one that mixes."""
    axis, config = channel_axis(call), call.node.config
    kernel, multiplier = config["kernel_size"], config["depth_multiplier"]
    bare = (None,) * len(kernel)
    in_channels = call.node.inputs[0].shape[axis]
    spots = positions(call.node.outputs[0].shape, axis)
    reads, middle = read_along(call, axis), read_along(call, axis, repeat=multiplier)
    out = activate(call, call.fresh(axis=axis))
    weights = {
        "depthwise_kernel": (*bare, reads, None),
        "pointwise_kernel": (*bare, middle, Out()),
        "bias": (Out(),),
    }
    spatial = _times(spots, math.prod(kernel))
    depth = (spatial, (middle,)) if middle else (_times(spatial, in_channels, multiplier), ())
    return Spec((out,), weights, {"filters": Out()}, (depth, _mixing(spots, middle, _times(in_channels, multiplier))))


def dense(call: Call) -> Spec:
    """Dense works on the last axis, once for each position of the axes between."""
    axis = len(call.node.inputs[0].shape) - 1
    reads = read_along(call, axis)
    out = activate(call, call.fresh(axis=axis))
    macs = (_mixing(positions(call.node.inputs[0].shape, axis), reads, call.node.inputs[0].shape[axis]),)
    return Spec((out,), {"kernel": (reads, Out()), "bias": (Out(),)}, {"units": Out()}, macs)


def _mixing(
    area: int | None, reads: Axis | None, in_channels: int | None, groups: int = 1
) -> tuple[int | None, tuple[Axis, ...]]:
    if reads is not None:
        return area, (reads, Out())
    return _times(area, in_channels if in_channels is None else in_channels // groups), (Out(),)


def _times(*factors: int | None) -> int | None:
    return None if None in factors else math.prod(f for f in factors if f is not None)


_L = keras.layers
RULES: dict[type, Rule] = {
    **dict.fromkeys([_L.Conv1D, _L.Conv2D, _L.Conv3D], conv),
    **dict.fromkeys([_L.Conv1DTranspose, _L.Conv2DTranspose, _L.Conv3DTranspose], conv_transpose),
    **dict.fromkeys([_L.DepthwiseConv1D, _L.DepthwiseConv2D], depthwise),
    **dict.fromkeys([_L.SeparableConv1D, _L.SeparableConv2D], separable),
    _L.Dense: dense,
}
