"""Masks of time steps: Keras makes them of comparisons and hands them from layer to layer as one more tensor."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from keras_qcqp.channels import Call, Rule, Spec


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


RULES: dict[type, Rule] = {keras.layers.Masking: masking}
