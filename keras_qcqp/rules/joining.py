"""`keras.ops` calls that put tensors side by side, or take one apart: concatenate, stack, split, unstack."""

from __future__ import annotations

import itertools

import numpy as np

from keras_qcqp.channels import Call, Channels, Frozen, In, Rule, Spec, normal_axis
from keras_qcqp.rules.arguments import constants


def concatenate(call: Call) -> Spec:
    """ops.concatenate."""
    return joined(call, call.node.config.get("axis", 0))


def append(call: Call) -> Spec:
    """ops.append."""
    if call.node.config["axis"] is None:
        raise Frozen("ops.append without an axis joins samples of the batch")
    return joined(call, call.node.config["axis"])


def stacked(axis: int) -> Rule:
    """A rule for ops.hstack and ops.dstack of tensors that have this axis."""

    def rule(call: Call) -> Spec:
        if any(len(tensor.shape) <= axis for tensor in call.node.inputs):
            raise Frozen(f"{call.node.kind} of tensors without an axis {axis}")
        return joined(call, axis)

    rule.__doc__ = f"Side by side along axis {axis}."
    return rule


def joined(call: Call, axis: int) -> Spec:
    """Side by side along the channels, or, along another axis, tied element by element."""
    axis = normal_axis(axis, len(call.node.outputs[0].shape))
    main = _main(call)
    if axis != main.axis:
        _tie_all(call, main)
        return Spec((main,))
    parts = []
    for x, tensor in zip(call.inputs, call.node.inputs, strict=True):
        size = tensor.shape[axis]
        if (x.axis != axis and not call.is_fixed(x)) or size is None:
            raise Frozen("operands carry their channels along different axes, or their number is unknown")
        parts.append(x.ids if x.axis == axis and len(x) else _always(call, size))
    return Spec((Channels(np.concatenate(parts), axis),))


def _main(call: Call) -> Channels:
    """The channels of the first operand that can lose some."""
    if constants(call):
        raise Frozen("a constant array stands beside tensors; make it a layer with a weight")
    free = [x for x in call.inputs if not call.is_fixed(x)]
    if not free:
        raise Frozen("none of the operands can lose a channel")
    return free[0]


def _always(call: Call, size: int) -> np.ndarray:
    """Ids for the positions of an operand that has no channels along this axis."""
    ids = np.concatenate([call.hide("", size).ids])
    call.hold(ids)
    return ids


def _tie_all(call: Call, main: Channels) -> None:
    """All operands have the same size along the channels of the first."""
    for x in call.inputs:
        if x.axis == main.axis and len(x) == len(main):
            call.tie(main.ids, x.ids)
        else:
            call.freeze(np.concatenate([main.ids, x.ids]), "operands carry their channels along different axes")


def stack(call: Call) -> Spec:
    """ops.stack: along a new axis."""
    axis = normal_axis(call.node.config["axis"], len(call.node.outputs[0].shape))
    main = _main(call)
    _tie_all(call, main)
    return Spec((Channels(main.ids, main.axis + (axis <= main.axis)),))


def split(call: Call) -> Spec:
    """ops.split along the axis in the configuration."""
    return parted(call, call.node.config["axis"])


def parting(axis: int) -> Rule:
    """A rule for ops.hsplit and ops.dsplit."""

    def rule(call: Call) -> Spec:
        return parted(call, axis)

    rule.__doc__ = f"Parts along axis {axis}."
    return rule


def parted(call: Call, axis: int) -> Spec:
    """Parts; along the channels, the places at which they begin follow the channels."""
    (x,), axis = call.inputs, normal_axis(axis, len(call.node.inputs[0].shape))
    if axis != x.axis:
        return Spec((x,) * len(call.node.outputs))
    ends = list(itertools.accumulate(tensor.shape[axis] or 0 for tensor in call.node.outputs))
    parts = tuple(Channels(ids, axis) for ids in np.split(x.ids, ends[:-1]))  # one may be empty, and stays so
    if call.is_fixed(x):
        return Spec(parts)
    return Spec(parts, config={"indices_or_sections": tuple(In(stop=end) for end in ends[:-1])})


def array_split(call: Call) -> Spec:
    """ops.array_split can only part evenly, so along the channels it keeps them all."""
    if normal_axis(call.node.config["axis"], len(call.node.inputs[0].shape)) == call.inputs[0].axis:
        raise Frozen("ops.array_split along the channels makes equal parts of what is left; use ops.split")
    return parted(call, call.node.config["axis"])


def unstack(call: Call) -> Spec:
    """ops.unstack."""
    (x,), axis = call.inputs, normal_axis(call.node.config["axis"], len(call.node.inputs[0].shape))
    if axis == x.axis:
        raise Frozen("ops.unstack makes a tensor of each channel")
    return Spec((Channels(x.ids, x.axis - (axis < x.axis)),) * len(call.node.outputs))


RULES: dict[str, Rule] = {
    "Append": append,
    "ArraySplit": array_split,
    "Concatenate": concatenate,
    "Dsplit": parting(2),
    "Dstack": stacked(2),
    "Hsplit": parting(1),
    "Hstack": stacked(1),
    "Split": split,
    "Stack": stack,
    "Unstack": unstack,
}
