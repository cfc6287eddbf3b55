"""Weights of the pruned layer, and of the masked original, by what a rule says of their axes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from keras_qcqp.channels import Axis, Spec, Values
from keras_qcqp.layer_plan import LayerPlan


def sliced(values: Values, spec: Spec, plan: LayerPlan) -> Values:
    """The weights of the smaller layer."""
    return take(values, spec.weights, plan) if spec.slicer is None else spec.slicer(values, plan)


def take(values: Values, weights: Mapping[str, tuple[Axis | None, ...]], plan: LayerPlan) -> dict[str, np.ndarray]:
    """Takes what a plan keeps along the followed axes of each weight."""
    taken = {}
    for name, value in values.items():
        for number, axis in enumerate(weights[name]):
            if axis is not None:
                value = np.take(value, select(axis, plan), axis=number)
        taken[name] = value
    return taken


def blanked(values: Values, spec: Spec, plan: LayerPlan) -> dict[str, np.ndarray]:
    """The weights of a layer of the old size, zero where they read channels that are dropped."""
    zeroed = {}
    for name, value in values.items():
        for number in spec.reading(name):
            axis = spec.weights[name][number]
            assert axis is not None, f"axis {number} of {name} reads channels"
            kept = np.zeros(value.shape[number], bool)
            kept[select(axis, plan)] = True
            shape = [1] * value.ndim
            shape[number] = -1
            value = np.where(kept.reshape(shape), value, np.zeros((), value.dtype))
        zeroed[name] = value
    return zeroed


def select(axis: Axis, plan: LayerPlan) -> np.ndarray:
    """The ordered positions to take along an axis."""
    return axis.select(*plan.side(axis.side, axis.port))
