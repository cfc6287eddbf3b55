"""Layer classes that keras.applications keeps to itself: what ConvNeXt is made of beside built-in layers."""

from __future__ import annotations

from keras.src.applications import convnext  # no public name leads there, yet `ConvNeXtTiny()` is made of them

from keras_qcqp.channels import Call, In, Out, Rule, Spec
from keras_qcqp.rules.elementwise import unchanged


def layer_scale(call: Call) -> Spec:
    """LayerScale: one factor for each position of the last axis; its weight has no name of its own."""
    (x,) = call.inputs
    follows = x.axis == len(call.node.inputs[0].shape) - 1
    weights = {name: (In() if follows else None,) for name in call.node.weights}
    return Spec((x,), weights, {"projection_dim": Out()} if follows else {})


RULES: dict[type, Rule] = {
    convnext.LayerScale: layer_scale,
    convnext.StochasticDepth: unchanged,  # drops whole samples while training
}
