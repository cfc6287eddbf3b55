"""`keras.ops` calls that move, add, drop, repeat or reverse axes."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from keras_qcqp.channels import Axis, Call, Channels, Computed, Frozen, In, Out, Rule, Spec, normal_axis
from keras_qcqp.graph import Shape
from keras_qcqp.rules.arguments import axes_of, bound, numbers
from keras_qcqp.rules.shaping import move_axis, reshaped


def reshape(call: Call) -> Spec:
    """ops.reshape that keeps, joins or splits whole channels."""
    return Spec(*reshaped(call, "newshape", batch=1))


def expand_dims(call: Call) -> Spec:
    """ops.expand_dims."""
    x, rank = call.inputs[0], len(call.node.outputs[0].shape)
    new = set(axes_of(call.node.config["axis"], rank))
    old = [axis for axis in range(rank) if axis not in new]
    return Spec((Channels(x.ids, old[x.axis]),))


def squeeze(call: Call) -> Spec:
    """ops.squeeze; of the axis that carries the channels only if there is but one."""
    x, shape = call.inputs[0], call.node.inputs[0].shape
    axes = call.node.config.get("axis")
    gone = {axis for axis, size in enumerate(shape) if size == 1} if axes is None else set(axes_of(axes, len(shape)))
    if x.axis in gone:
        call.hold(x.ids)
        return Spec((call.fixed(),))
    return Spec((Channels(x.ids, x.axis - sum(a < x.axis for a in gone)),))


def transpose(call: Call) -> Spec:
    """ops.transpose."""
    rank = len(call.node.inputs[0].shape)
    return _ordered(call, axes_of(call.node.config.get("axes") or range(rank)[::-1], rank))


def swapaxes(call: Call) -> Spec:
    """ops.swapaxes."""
    rank = len(call.node.inputs[0].shape)
    a, b = (normal_axis(call.node.config[key], rank) for key in ("axis1", "axis2"))
    order = list(range(rank))
    order[a], order[b] = b, a
    return _ordered(call, order)


def moveaxis(call: Call) -> Spec:
    """ops.moveaxis."""
    rank = len(call.node.inputs[0].shape)
    source, destination = (axes_of(call.node.config[key], rank) for key in ("source", "destination"))
    order = [axis for axis in range(rank) if axis not in source]
    for place, axis in sorted(zip(destination, source, strict=True)):
        order.insert(place, axis)
    return _ordered(call, order)


def _ordered(call: Call, order: list[int]) -> Spec:
    x = call.inputs[0]
    if order[0] != 0:
        raise Frozen(f"{call.node.kind} moves the batch axis")
    return Spec((move_axis(x, order),)) if len(x) else Spec((call.fixed(),))


def rot90(call: Call) -> Spec:
    """ops.rot90 in a plane without the channels."""
    x, rank = call.inputs[0], len(call.node.inputs[0].shape)
    if {0, x.axis} & set(axes_of(call.node.config["axes"], rank)):
        raise Frozen("ops.rot90 turns the batch or the channels into another axis")
    return Spec((x,))


def diagonal(call: Call) -> Spec:
    """ops.diagonal and ops.trace of two axes without the channels."""
    x, rank = call.inputs[0], len(call.node.inputs[0].shape)
    gone = set(axes_of([call.node.config["axis1"], call.node.config["axis2"]], rank))
    if {0, x.axis} & gone:
        raise Frozen(f"{call.node.kind} over the batch or the channels")
    return Spec((Channels(x.ids, x.axis - sum(a < x.axis for a in gone)),))


def flip(call: Call) -> Spec:
    """ops.flip; along the channels they stand in reverse order."""
    return flipped(call, call.node.config["axis"])


def flipped(call: Call, axes: Any) -> Spec:
    """Reverses axes."""
    x, axes = call.inputs[0], axes_of(axes, len(call.node.inputs[0].shape))
    return Spec((Channels(x.ids[::-1] if x.axis in axes else x.ids, x.axis),))


def roll(call: Call) -> Spec:
    """ops.roll; along the channels by as many as are left of those that come to the front."""
    x, config = call.inputs[0], call.node.config
    if config["axis"] is None:
        raise Frozen("ops.roll without an axis mixes samples of the batch")
    axes = axes_of(config["axis"], len(call.node.inputs[0].shape))
    shifts: list[int | Axis] = [*numbers(config["shift"])] * (len(axes) if len(numbers(config["shift"])) == 1 else 1)
    if x.axis not in axes or call.is_fixed(x):
        return Spec(call.inputs)
    if axes.count(x.axis) > 1:
        raise Frozen("ops.roll along the channels more than once")
    place = axes.index(x.axis)
    shift = shifts[place]
    assert isinstance(shift, int)
    shifts[place] = In(start=(len(x) - shift) % len(x)) if shift % len(x) else 0
    edited = shifts[0] if isinstance(config["shift"], int) and len(axes) == 1 else tuple(shifts)
    return Spec((Channels(np.roll(x.ids, shift), x.axis),), config={"shift": edited})


def tile(call: Call) -> Spec:
    """ops.tile: the channels as often, one after the other."""
    x, rank = call.inputs[0], len(call.node.inputs[0].shape)
    times = numbers(call.node.config["repeats"])
    new = max(len(times) - rank, 0)
    times = [1] * (rank - len(times)) + times
    return Spec((Channels(np.tile(x.ids, times[x.axis + new]), x.axis + new),))


def repeat(call: Call) -> Spec:
    """ops.repeat: each channel as often, side by side."""
    x, config = call.inputs[0], call.node.config
    if config["axis"] is None:
        raise Frozen("ops.repeat without an axis joins samples of the batch")
    if normal_axis(config["axis"], len(call.node.inputs[0].shape)) != x.axis:
        return Spec((x,))
    times = numbers(config["repeats"])
    if len(times) > 1:
        raise Frozen("ops.repeat with another number for each channel; give one number")
    return Spec((Channels(np.repeat(x.ids, times[0]), x.axis),))


def broadcast_to(call: Call) -> Spec:
    """ops.broadcast_to; a single channel becomes so many that are the same."""
    x, (tensor,), shape = call.inputs[0], call.node.inputs, list(call.node.config["shape"])
    axis = x.axis + len(shape) - len(tensor.shape)
    if not len(x):
        return Spec((call.fixed(),))
    if len(x) == 1:
        return Spec((Channels(np.repeat(x.ids, shape[axis]), axis),))
    edited = [Out() if k == axis else size for k, size in enumerate(shape)]
    return Spec((Channels(x.ids, axis),), config={"shape": tuple(edited)})


def space_to_depth(call: Call) -> Spec:
    """ops.space_to_depth: all channels of the first position of a block, then all of the next."""
    x, block = _blocks(call)
    return Spec((Channels(np.tile(x.ids, block), x.axis),))


def depth_to_space(call: Call) -> Spec:
    """ops.depth_to_space: a channel of the result comes from one channel for each position of a block."""
    x, block = _blocks(call)
    first, *others = np.split(x.ids, block)
    for part in others:
        call.tie(first, part)
    return Spec((Channels(first, x.axis),))


def _blocks(call: Call) -> tuple[Channels, int]:
    x, config = call.inputs[0], call.node.config
    if x.axis != 3 or config["data_format"] == "channels_first":
        raise Frozen(f"{call.node.kind} is followed with the channels last only")
    return x, config["block_size"] ** 2


def rearrange(call: Call) -> Spec:
    """ops.rearrange: the axis that carries the channels may become one of several, or several may become it."""
    x, shape, given = call.inputs[0], call.node.inputs[0].shape, bound(call)
    lengths = dict(given["axes_lengths"])
    left, right = (
        [token.strip("()").split() for token in re.findall(r"\w+|\(.*?\)", side)]
        for side in re.split(r"\s*->\s*", given["pattern"])
    )
    sizes = _sizes(left, shape, lengths)
    if not len(x) or left[0] != right[0] or None in [sizes[name] for name in left[x.axis]]:
        raise Frozen("ops.rearrange moves the batch, or an axis of unknown size")
    name = ([a for a in left[x.axis] if sizes[a] != 1] or left[x.axis])[-1]
    parts = x.ids.reshape([sizes[a] or 1 for a in left[x.axis]])
    parts = parts.reshape(-1, sizes[name] or 1)
    for part in parts[1:]:
        call.tie(parts[0], part)
    axis = next(k for k, group in enumerate(right) if name in group)
    place = right[axis].index(name)
    before, after = ([sizes[a] for a in part] for part in (right[axis][:place], right[axis][place + 1 :]))
    if None in before or None in after:
        raise Frozen("ops.rearrange joins the channels with an axis of unknown size")
    ids = np.tile(np.repeat(parts[0], _product(after)), _product(before))
    if name not in lengths:
        return Spec((Channels(ids, axis),))
    times = len(parts)
    lengths[name] = Computed((In(),), lambda kept: kept // times)
    return Spec((Channels(ids, axis),), arguments={"axes_lengths": lengths})


def _sizes(left: list[list[str]], shape: Shape, lengths: dict[str, int]) -> dict[str, int | None]:
    """Name -> size; at most one in a group is not told, and follows."""
    sizes: dict[str, int | None] = dict(lengths)
    for group, size in zip(left, shape, strict=True):
        for name in group:
            if name not in sizes:
                told = _product([sizes[a] for a in group if a != name and a in sizes])
                sizes[name] = None if size is None else size // told
    return sizes


def _product(sizes: list[int | None]) -> int:
    return int(np.prod([size or 1 for size in sizes], dtype=np.int64))


def left_right(call: Call) -> Spec:
    """ops.fliplr turns axis 1 around."""
    return flipped(call, 1)


def up_down(call: Call) -> Spec:
    """ops.flipud turns the batch around."""
    return flipped(call, 0)


RULES: dict[str, Rule] = {
    "BroadcastTo": broadcast_to,
    "DepthToSpace": depth_to_space,
    **dict.fromkeys(["Diagonal", "Trace"], diagonal),
    "ExpandDims": expand_dims,
    "Flip": flip,
    "Fliplr": left_right,
    "Flipud": up_down,
    "Moveaxis": moveaxis,
    "Rearrange": rearrange,
    "Repeat": repeat,
    "Reshape": reshape,
    "Roll": roll,
    "Rot90": rot90,
    "SpaceToDepth": space_to_depth,
    "Squeeze": squeeze,
    "Swapaxes": swapaxes,
    "Tile": tile,
    "Transpose": transpose,
}
