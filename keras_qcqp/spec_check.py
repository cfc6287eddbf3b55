"""Holds what a rule says against the shapes of the layer."""

from __future__ import annotations

import dataclasses

from keras_qcqp.channels import Call, Frozen, Spec, ids_along
from keras_qcqp.errors import ModelError
from keras_qcqp.graph import Node


def checked(node: Node, call: Call, spec: Spec) -> Spec:
    """The spec without weights the layer does not have.

    Raises:
        ModelError: the rule contradicts the shapes of the outputs.
        Frozen: a weight is not described, or has another shape.
    """
    if not isinstance(spec, Spec):
        raise ModelError(f"The rule for {node.kind} returned {type(spec).__name__}, a Spec was expected.")
    if len(spec.outputs) != len(node.outputs):
        raise ModelError(
            f"The rule for {node.kind} gave {len(spec.outputs)} outputs, layer '{node.layer}' has {len(node.outputs)}."
        )
    for tensor, x in zip(node.outputs, spec.outputs, strict=True):
        size = tensor.shape[x.axis] if len(x) else len(x)
        if size != len(x):
            raise ModelError(
                f"The rule for {node.kind} gave {len(x)} channels along axis {x.axis} of '{node.name}', whose output "
                f"has shape {tensor.shape}."
            )
    unknown = sorted(set(node.weights) - set(spec.weights))
    if unknown:
        raise Frozen(f"weights {', '.join(unknown)} are not described by the rule for {node.kind}")
    weights = {name: spec.weights[name] for name in node.weights}
    for name, axes in weights.items():
        sizes = [None if a is None else len(ids_along(spec, call.inputs, a)) for a in axes]
        shape = node.weights[name].shape
        if len(sizes) != len(shape) or any(n not in (None, s) for n, s in zip(sizes, shape, strict=True)):
            raise Frozen(f"weight {name} has shape {shape}, the rule for {node.kind} expects {sizes}")
    return dataclasses.replace(spec, weights=weights)
