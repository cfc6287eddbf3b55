"""Normalisation: by stored statistics, over positions, over groups of channels, over all channels.

What is computed over channels changes when one of them goes. Where a norm of fewer channels with other numbers in it is
exactly the old one with zeros in the places of the dropped, it gets those numbers; else the channels are frozen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras

from keras_qcqp.channels import Axis, Call, Computed, In, Rule, Spec, Values, normal_axis
from keras_qcqp.layer_plan import LayerPlan
from keras_qcqp.rules.masks import hold_masks
from keras_qcqp.slicing import take

_OVER_CHANNELS = (
    "mean and variance over channels change with each that goes; "
    "RMSNormalization or GroupNormalization can do it exactly"
)


def batch_norm(call: Call) -> Spec:
    """BatchNormalization: one scale, shift, mean and variance for each channel of its axis."""
    hold_masks(call)
    names = "gamma beta moving_mean moving_variance moving_stddev renorm_mean renorm_stddev".split()
    (follows,) = _followed(call, _axes(call))
    return Spec(call.inputs[:1], {name: (follows,) for name in names})


def _axes(call: Call) -> list[int]:
    """The axes of the input that the configuration names, in its order."""
    axis = call.node.config["axis"]
    rank = len(call.node.inputs[0].shape)
    return [normal_axis(a, rank) for a in (axis if isinstance(axis, (list, tuple)) else [axis])]


def _followed(call: Call, axes: Sequence[int]) -> tuple[Axis | None, ...]:
    """For a weight with these axes of the input: which of them is the channels'."""
    return tuple(In() if axis == call.inputs[0].axis else None for axis in axes)


def _scaled_and_shifted(call: Call, config: dict[str, Any] | None = None) -> Spec:
    axes = _followed(call, _axes(call))
    return Spec(call.inputs, {"gamma": axes, "beta": axes}, config or {})


def layer_norm(call: Call) -> Spec:
    """LayerNormalization along other axes; along the channels, zeros in the places of the dropped shift the mean."""
    if call.inputs[0].axis in _axes(call):
        call.freeze(call.inputs[0].ids, _OVER_CHANNELS)
    return _scaled_and_shifted(call)


def rms_norm(call: Call) -> Spec:
    """RMSNormalization: the mean of n squares of which n - k are zero is k/n of the mean of k squares.

    So sqrt(k/n * mean + epsilon) = sqrt(k/n) * sqrt(mean + epsilon * n/k): epsilon and scale make up for it exactly.
    """
    (x,), axes = call.inputs, _axes(call)
    weights = {"scale": _followed(call, axes)}
    if x.axis not in axes:
        return Spec((x,), weights)
    size, epsilon = len(x), call.node.config["epsilon"]

    def slicer(values: Values, plan: LayerPlan) -> Values:
        ratio = plan.in_size[0] / len(plan.in_index[0])
        taken = take(values, weights, plan)
        return {name: (value * math.sqrt(ratio)).astype(value.dtype) for name, value in taken.items()}

    config = {"epsilon": Computed((In(),), lambda kept: epsilon * size / kept)}
    return Spec((x,), weights, config, zeroed=(0,), slicer=slicer)


def unit_norm(call: Call) -> Spec:
    """UnitNormalization divides by the root of a sum, to which zeros add nothing."""
    return Spec(call.inputs, zeroed=(0,) if call.inputs[0].axis in _axes(call) else ())


def group_norm(call: Call) -> Spec:
    """GroupNormalization: groups live or die whole, since what is computed over a group depends on all of it."""
    (x,), (axis,) = call.inputs, _axes(call)
    if x.axis != axis:
        reason = f"groups are made along axis {axis}, so mean and variance go over the channels, which lie along axis"
        call.freeze(x.ids, f"{reason} {x.axis}; give the layer axis={x.axis}")
        return _scaled_and_shifted(call)
    width = max(len(x) // call.node.config["groups"], 1)  # Keras writes the number of channels for -1 when it builds
    members = x.ids.reshape(-1, width)
    for others in members.T[1:]:
        call.tie(members[:, 0], others)
    return _scaled_and_shifted(call, {"groups": Computed((In(),), lambda kept: kept // width)})


_L = keras.layers
RULES: dict[type, Rule] = {
    _L.BatchNormalization: batch_norm,
    _L.LayerNormalization: layer_norm,
    _L.RMSNormalization: rms_norm,
    _L.UnitNormalization: unit_norm,
    _L.GroupNormalization: group_norm,
}
