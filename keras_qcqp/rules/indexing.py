"""`keras.ops` calls that slice, pick, pad or blank: x[:, ::2, ::2], ops.take, ops.pad, ops.zeros_like."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_qcqp.channels import Call, Channels, Frozen, In, Lookup, Out, Rule, Spec, normal_axis
from keras_qcqp.graph import TensorRef


def get_item(call: Call) -> Spec:
    """x[key] with whole numbers, slices, None and an ellipsis; along the channels, slices without a stride."""
    (x,), rank = call.inputs, len(call.node.inputs[0].shape)
    key = _spread(_argument(call, "key", 1), rank)
    axis, old = 0, 0
    for place, part in enumerate(key):
        if part is None:
            axis += 1
            continue
        if old == 0 and part != slice(None):
            raise Frozen("slice along the batch axis")
        if old == x.axis:
            if not isinstance(part, slice):
                raise Frozen(f"x[{part!r}] picks along axis {x.axis}, which carries the channels")
            return _slice_channels(x, axis, part, key, place)
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


def _slice_channels(x: Channels, axis: int, part: slice, key: list[Any], place: int) -> Spec:
    start, stop, step = part.indices(len(x))
    if (start, stop, step) == (0, len(x), 1):
        return Spec((Channels(x.ids, axis),))
    if step != 1 or start >= stop:
        raise Frozen("slice with a stride (or of nothing) along the channels")
    kept = slice(In(stop=start), In(stop=stop))
    return Spec((Channels(x.ids[start:stop], axis),), arguments={"key": (*key[:place], kept, *key[place + 1 :])})


def take(call: Call) -> Spec:
    """ops.take with a fixed list of positions."""
    (x,), rank = call.inputs[:1], len(call.node.inputs[0].shape)
    axis, indices = call.node.config.get("axis"), _argument(call, "indices", 1)
    if axis is None or isinstance(indices, TensorRef):
        raise Frozen("ops.take without an axis, or by a tensor of positions")
    axis, indices = normal_axis(axis, rank), np.asarray(indices)
    if axis == 0 or (axis == x.axis and indices.ndim != 1):
        raise Frozen("ops.take along the batch axis, or of a single channel")
    if axis != x.axis:
        return Spec((Channels(x.ids, x.axis + (indices.ndim - 1 if axis < x.axis else 0)),))
    index = tuple(normal_axis(int(i), len(x)) for i in indices)
    return Spec((Channels(x.ids[list(index)], axis),), arguments={"indices": Lookup(index)})


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
    if not _argument(call, "constant_values", 1, default=0):
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


def _argument(call: Call, name: str, position: int, default: Any = None) -> Any:
    args, kwargs = call.node.arguments
    return kwargs.get(name, default) if len(args) <= position else args[position]


RULES: dict[str, Rule] = {"GetItem": get_item, "Take": take, "Pad": pad, "ZerosLike": zeros_like}
