"""`keras.ops` calls that slice, pick, pad or fill: x[:, ::2, ::2], ops.take, ops.pad, ops.zeros_like."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_qcqp.channels import Axis, Call, Channels, Computed, Frozen, In, Lookup, Out, Rule, Spec, normal_axis
from keras_qcqp.rules.arguments import bound, holds_tensors, refuse_arrays


def get_item(call: Call) -> Spec:
    """x[key] with whole numbers, slices, None and an ellipsis."""
    (x,), rank = call.inputs, len(call.node.inputs[0].shape)
    key = _spread(bound(call)["key"], rank)
    axis, old = 0, 0
    for place, part in enumerate(key):
        if part is None:
            axis += 1
            continue
        if old == 0 and part != slice(None):
            raise Frozen("slice along the batch axis")
        if old == x.axis and old > 0:
            edited, ids = _pick(call, x, part) if isinstance(part, int) else _cut(call, x, part)
            arguments = {} if edited == part else {"key": (*key[:place], edited, *key[place + 1 :])}
            return Spec((call.fixed() if ids is None else Channels(ids, axis),), arguments=arguments)
        axis += isinstance(part, slice)
        old += 1
    raise Frozen("the result has no axis for channels")


def _spread(key: Any, rank: int) -> list[Any]:
    """The key with one entry for each axis of the tensor, and None for each new one."""
    parts = list(key) if isinstance(key, (tuple, list)) else [key]
    if not all(part is None or part is Ellipsis or type(part) is int or _is_static(part) for part in parts):
        raise Frozen("slice by something else than whole numbers")
    missing = rank - sum(part is not None and part is not Ellipsis for part in parts)
    if Ellipsis not in parts:
        parts.append(Ellipsis)
    place = parts.index(Ellipsis)
    return [*parts[:place], *[slice(None)] * missing, *parts[place + 1 :]]


def _is_static(part: Any) -> bool:
    return isinstance(part, slice) and all(b is None or isinstance(b, int) for b in (part.start, part.stop, part.step))


def _pick(call: Call, x: Channels, channel: int) -> tuple[int | Axis, None]:
    """One channel is read on its own: it has to stay, wherever it stands then."""
    if call.is_fixed(x):
        return channel, None
    channel = normal_axis(channel, len(x))
    call.freeze(x.ids[channel : channel + 1], f"x[{channel}] picks this one of the channels")
    return In(stop=channel) if channel else 0, None


def _cut(call: Call, x: Channels, part: slice) -> tuple[slice, np.ndarray]:
    """A slice along the channels; with a stride, the channels live or die in blocks of that length."""
    start, stop, step = part.indices(len(x))
    picked = np.arange(start, stop, step)
    if not len(picked):
        raise Frozen("slice of nothing along the channels")
    ids = x.ids[picked]
    if call.is_fixed(x) or (start, stop, step) == (0, len(x), 1):
        return part, ids
    for k in range(1, abs(step)):
        between = picked + k * (1 if step > 0 else -1)
        inside = (between >= 0) & (between < len(x))
        call.tie(ids[inside], x.ids[between[inside]])
    last = int(picked[-1])
    if step > 0:
        end = min(last + step, len(x))  # blocks are whole, but for the last
        return slice(In(stop=start) if start else 0, In(stop=end), None if step == 1 else step), ids
    before = max(last + step + 1, 0)
    first = Computed((In(stop=start + 1),), lambda kept: kept - 1)
    return slice(first, Computed((In(stop=before),), _below) if before else None, step), ids


def _below(kept: int) -> int | None:
    """Where a slice that runs backwards ends, when so many channels lie beyond it."""
    return kept - 1 if kept else None


def take(call: Call) -> Spec:
    """ops.take with a fixed list of positions, or, along other axes than the channels, any tensor of them."""
    axis, indices = call.node.config.get("axis"), bound(call)["indices"]
    if axis is None or (holds_tensors(indices) and len(call.inputs) < 2):
        raise Frozen("ops.take without an axis, or out of a constant array; use keras.layers.Embedding")
    x, rank = call.inputs[0], len(call.node.inputs[0].shape)
    axis = normal_axis(axis, rank)
    if holds_tensors(indices):
        call.freeze(call.inputs[1].ids, "ops.take reads these as positions")
        if axis == x.axis:
            raise Frozen("ops.take of channels that the network computes")
        return _taken_elsewhere(x, axis, len(call.node.inputs[1].shape))
    indices = np.asarray(indices)
    if axis != x.axis:
        return _taken_elsewhere(x, axis, indices.ndim)
    if axis == 0 or indices.ndim > 1:
        raise Frozen("ops.take along the batch axis, or of a table of channels")
    if indices.ndim == 0:
        place, _ = _pick(call, x, int(indices))
        return Spec((call.fixed(),), arguments={} if call.is_fixed(x) else {"indices": place})
    index = tuple(normal_axis(int(i), len(x)) for i in indices)
    return Spec((Channels(x.ids[list(index)], axis),), arguments={"indices": Lookup(index)})


def _taken_elsewhere(x: Channels, axis: int, new: int) -> Spec:
    return Spec((Channels(x.ids, x.axis + (new - 1 if axis < x.axis else 0)),))


def pad(call: Call) -> Spec:
    """ops.pad; along the channels it adds constant ones, which downstream layers may drop."""
    (x,), config, rank = call.inputs[:1], call.node.config, len(call.node.inputs[0].shape)
    width = np.broadcast_to(np.asarray(config["pad_width"]), (rank, 2)).tolist()
    if width[0] != [0, 0] or len(call.inputs) > 1:
        raise Frozen("padding of the batch axis, or with a tensor")
    before, after = width[x.axis]
    if before == after == 0:
        return Spec((x,))
    if config.get("mode", "constant") != "constant":
        raise Frozen(f"padding of the channels by mode {config['mode']!r}")
    out, end = call.fresh(axis=x.axis), before + len(x)
    call.tie(out.ids[before:end], x.ids)
    if not bound(call)["constant_values"]:
        call.zeros(np.concatenate([out.ids[:before], out.ids[end:]]))
    edited = [tuple(w) for w in width]
    edited[x.axis] = (Out(stop=before), Out(start=end, stop=end + after))
    return Spec((out,), config={"pad_width": tuple(edited)})


def zeros_like(call: Call) -> Spec:
    """ops.zeros_like: as many channels as its argument has, all of them zero."""
    (x,) = call.inputs
    out = call.fresh(axis=x.axis)
    call.tie(out.ids, x.ids)
    call.zeros(out.ids)
    return Spec((out,))


def filled_like(call: Call) -> Spec:
    """ops.ones_like and ops.full_like with one number: as many channels as the argument has."""
    refuse_arrays(call)
    if len(call.inputs) > 1:
        raise Frozen("ops.full_like with a value that the network computes")
    return Spec(call.inputs)


def slice_of(call: Call) -> Spec:
    """ops.slice from a fixed place."""
    x, rank = call.inputs[0], len(call.node.inputs[0].shape)
    begin, shape = bound(call)["start_indices"], list(call.node.config["shape"])
    if holds_tensors(begin):
        raise Frozen("ops.slice from a place that the network computes")
    start, size = int(begin[x.axis]), call.node.outputs[0].shape[x.axis]
    if not len(x) or size is None:
        raise Frozen("ops.slice of unknown size")
    out = Channels(x.ids[start : start + size], x.axis)
    if call.is_fixed(x):
        return Spec((out,))
    starts: list[int | Axis] = [int(b) for b in begin]
    starts[x.axis] = In(stop=start) if start else 0
    edited = [Out() if axis == x.axis else shape[axis] for axis in range(rank)]
    return Spec((out,), config={"shape": tuple(edited)}, arguments={"start_indices": tuple(starts)})


def slice_update(call: Call) -> Spec:
    """ops.slice_update that spans the channels."""
    begin = bound(call)["start_indices"]
    if len(call.inputs) != 2 or holds_tensors(begin):
        raise Frozen("ops.slice_update with constants, or at a place that the network computes")
    x, updates = call.inputs
    if x.axis != updates.axis or len(x) != len(updates) or int(begin[x.axis]) != 0:
        raise Frozen("ops.slice_update of some of the channels")
    call.tie(x.ids, updates.ids)
    return Spec((x,))


RULES: dict[str, Rule] = {
    **dict.fromkeys(["EmptyLike", "FullLike", "OnesLike"], filled_like),
    "GetItem": get_item,
    "Pad": pad,
    "Slice": slice_of,
    "SliceUpdate": slice_update,
    "Take": take,
    "ZerosLike": zeros_like,
}
