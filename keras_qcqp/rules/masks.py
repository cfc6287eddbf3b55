"""Masks of time steps: Keras makes them of comparisons and hands them from layer to layer as one more tensor."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from keras_qcqp.channels import Call, Channels, Rule, Spec, normal_axis


def hold_masks(call: Call, ports: Sequence[int] | None = None) -> None:
    """Keeps every element of the masks given to a call (by default: of all inputs but the first)."""
    for port in range(1, len(call.inputs)) if ports is None else ports:
        call.freeze(call.inputs[port].ids, f"a mask given to {call.node.kind} has one element for each time step")


def masking(call: Call) -> Spec:
    """Masking skips the time steps in which every channel has one value."""
    x = call.inputs[0]
    reason = "a time step is masked by all its channels together; put Masking right behind an input of the network"
    call.freeze(x.ids, reason)
    return Spec((x,))


def whether(call: Call) -> Spec:
    """Any and all: over channels they depend on each of them, and what comes out has none."""
    x, rank = call.inputs[0], len(call.node.inputs[0].shape)
    axes = call.node.config.get("axis")
    axes = range(rank) if axes is None else axes if isinstance(axes, (list, tuple)) else [axes]
    gone = sorted(normal_axis(a, rank) for a in axes)
    if not len(x) or x.axis in gone:
        call.freeze(x.ids, f"{call.node.kind} looks at all channels at once")
        return Spec((call.fresh(axis=0),))
    shift = 0 if call.node.config.get("keepdims") else sum(a < x.axis for a in gone)
    return Spec((Channels(x.ids, x.axis - shift),))


RULES: dict[type, Rule] = {keras.layers.Masking: masking}
OPERATIONS: dict[str, Rule] = dict.fromkeys(["Any", "All"], whether)
