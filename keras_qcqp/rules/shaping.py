"""Layers that move, pool, pad or re-arrange: what happens to the axis that carries the channels."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from keras_qcqp.channels import NETWORK_INPUT, Axis, Call, Channels, Frozen, Out, Rule, Spec
from keras_qcqp.graph import Shape
from keras_qcqp.rules.convolution import channel_axis
from keras_qcqp.rules.elementwise import unchanged
from keras_qcqp.rules.masks import hold_masks


def network_input(call: Call) -> Spec:
    """InputLayer: what the user feeds is never pruned."""
    out = call.fresh()
    call.freeze(out.ids, NETWORK_INPUT)
    return Spec((out,))


def spatial(call: Call) -> Spec:
    """Pooling, up-sampling, cropping and resizing pass channels through, unless they work along the channels' axis."""
    _refuse_along_channels(call)
    return Spec(call.inputs)


def _refuse_along_channels(call: Call) -> None:
    if call.inputs[0].axis != channel_axis(call):
        raise Frozen(f"{call.node.kind} works along axis {call.inputs[0].axis}, which carries the channels")


def pooling(call: Call) -> Spec:
    """Pooling with a window; along the channels it passes only if window and stride are 1 there."""
    (x,), config = call.inputs, call.node.config
    if x.axis != channel_axis(call):
        first = 2 if config.get("data_format") == "channels_first" else 1
        window, stride = (_entry(config[key], x.axis - first) for key in ("pool_size", "strides"))
        if (window, stride) != (1, 1):
            raise Frozen(f"{call.node.kind} pools along axis {x.axis}, which carries the channels")
    return Spec((x,))


def _entry(value: Any, position: int) -> Any:
    return value[position] if isinstance(value, (list, tuple)) else value


def global_pooling(call: Call) -> Spec:
    """Global pooling keeps the channels and drops (or keeps as 1) every other axis."""
    _refuse_along_channels(call)
    hold_masks(call)
    axis = call.inputs[0].axis if call.node.config["keepdims"] else 1
    return Spec((Channels(call.inputs[0].ids, axis),))


def zero_padding(call: Call) -> Spec:
    """ZeroPadding1D/2D/3D; along the channels' axis it adds channels of zeros that downstream layers may drop."""
    (x,), config = call.inputs, call.node.config
    if x.axis == channel_axis(call):
        return Spec((x,))
    first = 2 if config.get("data_format") == "channels_first" else 1
    padding = config["padding"]
    if isinstance(padding[0], int):
        padding = (padding,)
    before, after = padding[x.axis - first]
    out = call.fresh(axis=x.axis)
    end = before + len(x)
    call.tie(out.ids[before:end], x.ids)
    call.zeros(np.concatenate([out.ids[:before], out.ids[end:]]))
    edited = [tuple(p) for p in padding]
    edited[x.axis - first] = (Out(stop=before), Out(start=end, stop=end + after))
    return Spec((out,), config={"padding": tuple(edited) if len(edited) > 1 else edited[0]})


def flatten(call: Call) -> Spec:
    """Flatten: every channel appears once for each position."""
    (x,), (tensor,) = call.inputs, call.node.inputs
    shape, axis = tensor.shape, x.axis
    if call.node.config.get("data_format") == "channels_first" and len(shape) > 1:
        # Keras moves axis 1 to the end before it flattens.
        shape = (shape[0], *shape[2:], shape[1])
        axis = len(shape) - 1 if axis == 1 else axis - 1
    return Spec((_rearrange(call, Channels(x.ids, axis), shape, call.node.outputs[0].shape),))


def reshape(call: Call) -> Spec:
    """Reshape that keeps, joins or splits whole channels."""
    return Spec(*reshaped(call, "target_shape", batch=0))


def reshaped(call: Call, key: str, batch: int) -> tuple[tuple[Channels, ...], dict, dict]:
    """Outputs, weights and configuration of a reshape; `key` names the entry that holds the new shape."""
    out_shape = call.node.outputs[0].shape
    out = _rearrange(call, call.inputs[0], call.node.inputs[0].shape, out_shape)
    target: list[int | Axis | None] = list(out_shape[1:])
    target[out.axis - 1] = Out()
    return (out,), {}, {key: tuple([-1] * batch + [-1 if t is None else t for t in target])}


def _rearrange(call: Call, x: Channels, shape: Shape, out_shape: Shape) -> Channels:
    """Follows channels through a row-major reshape.

    The channels' axis has `before` elements left of it and `after` right of it, batch not counted. The new axis either
    swallows some of those (join: ids repeat) or is a part of the old one (split: ids are tied across the other parts).

    Raises:
        Frozen: the new axis mixes channels and positions, or a size is unknown.
    """
    if None in shape[1:] or None in out_shape[1:]:
        if shape[x.axis] == out_shape[-1] and x.axis == len(shape) - 1:
            return Channels(x.ids, len(out_shape) - 1)
        raise Frozen("reshape with unknown sizes; give the Input a full shape")
    if x.axis == 0 or len(out_shape) < 2:
        raise Frozen("the result has no axis for channels")
    old_sizes, new_sizes = [s or 1 for s in shape], [s or 1 for s in out_shape]
    if math.prod(old_sizes[1:]) != math.prod(new_sizes[1:]):
        raise Frozen("reshape joins samples of the batch")
    before, after = math.prod(old_sizes[1 : x.axis]), math.prod(old_sizes[x.axis + 1 :])
    last_first = x.axis == len(shape) - 1
    axes = range(len(out_shape) - 1, 0, -1) if last_first else range(1, len(out_shape))
    for axis in axes:
        left, right = math.prod(new_sizes[1:axis]), math.prod(new_sizes[axis + 1 :])
        if before % left == 0 and after % right == 0:  # keep or join
            tiles, repeats = before // left, after // right
            return Channels(np.tile(np.repeat(x.ids, repeats), tiles), axis)
        if left % before == 0 and right % after == 0 and new_sizes[axis] > 1:  # split
            parts = x.ids.reshape(left // before, new_sizes[axis], right // after)
            kept = parts[0, :, 0]
            for outer in range(parts.shape[0]):
                for inner in range(parts.shape[2]):
                    call.tie(kept, parts[outer, :, inner])
            return Channels(kept, axis)
    raise Frozen(f"reshape {shape} -> {out_shape} mixes channels with positions")


def permute(call: Call) -> Spec:
    """Permute moves the axis that carries the channels."""
    return Spec((move_axis(call.inputs[0], [0, *call.node.config["dims"]]),))


def move_axis(x: Channels, order: list[int]) -> Channels:
    """`order[k]` is the old place of the new axis k."""
    return Channels(x.ids, order.index(x.axis))


def _named(*names: str) -> list[type]:
    """Layer classes by name, for families whose members differ between Keras releases."""
    return [getattr(keras.layers, name) for name in names if hasattr(keras.layers, name)]


_WINDOWED = [f"{kind}Pooling{n}D" for kind in ("Max", "Average") for n in (1, 2, 3)]
_ADAPTIVE = [f"Adaptive{kind}Pooling{n}D" for kind in ("Max", "Average") for n in (1, 2, 3)]
_GLOBAL = [f"Global{kind}Pooling{n}D" for kind in ("Max", "Average") for n in (1, 2, 3)]
_MOVING = [f"{kind}{n}D" for kind in ("Cropping", "UpSampling") for n in (1, 2, 3)]
_AUGMENTING = [f"Random{kind}" for kind in "Flip Rotation Translation Zoom Contrast Brightness".split()]
_PADDING = [f"ZeroPadding{n}D" for n in (1, 2, 3)]

RULES: dict[type, Rule] = {
    keras.layers.InputLayer: network_input,
    **dict.fromkeys(_named(*_WINDOWED), pooling),
    **dict.fromkeys(_named(*_GLOBAL), global_pooling),
    **dict.fromkeys(_named(*_AUGMENTING), unchanged),
    **dict.fromkeys(_named(*_ADAPTIVE, *_MOVING, "Resizing", "CenterCrop"), spatial),
    **dict.fromkeys(_named(*_PADDING), zero_padding),
    keras.layers.Flatten: flatten,
    keras.layers.Reshape: reshape,
    keras.layers.Permute: permute,
}
