"""The table of rules: layer class -> how it treats channels. Exact classes only; a subclass may do anything.

Operations of `keras.ops` have a table of their own, by class name: `operations.RULES`, and `operations.FROZEN` for
those that are not followed, each with the reason.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import keras

from keras_qcqp.channels import Call, Frozen, Macs, Rule, Spec, Values
from keras_qcqp.graph import Node
from keras_qcqp.layer_plan import LayerPlan
from keras_qcqp.rules import (
    applications,
    attention,
    convolution,
    einsum,
    elementwise,
    embedding,
    encoding,
    images,
    masks,
    merging,
    norms,
    operations,
    recurrent,
    shaping,
    wrappers,
)

RULES: dict[type, Rule] = {
    **attention.RULES,
    **convolution.RULES,
    **einsum.RULES,
    **elementwise.RULES,
    **embedding.RULES,
    **masks.RULES,
    **encoding.RULES,
    **images.RULES,
    **merging.RULES,
    **norms.RULES,
    **recurrent.RULES,
    **shaping.RULES,
    **applications.RULES,
}


def register_rule(
    layer_class: type,
    rule: Rule | None = None,
    *,
    slicer: Callable[[Values, LayerPlan], Values] | None = None,
    cost: Callable[[Call], Macs] | None = None,
) -> Any:
    """Teaches the package a layer class (or `keras.Operation`) of yours, or replaces what it knows of a built-in one.

    Returns the rule. Without one it returns a decorator for it: `@register_rule(MyLayer)` above `def rule(call): ...`.

    Args:
        layer_class: the exact class; subclasses need their own registration.
        rule: `rule(call) -> Spec`, see `keras_qcqp.channels`. Rules of built-in layers can be reused:
            `register_rule(MyConv2D, keras_qcqp.rules.find(keras.layers.Conv2D))`.
        slicer: `slicer(values, plan) -> values`, the weights of the smaller layer (same names) of those of the layer as
            it is, where taking positions along their axes is not all there is to it. Where to start:
            `keras_qcqp.slicing.take`.
        cost: `cost(call) -> ((coefficient, (In(), Out())), ...)`, multiply-accumulates as a sum of products of widths;
            counts instead of what the rule says.

    Raises:
        TypeError: `layer_class` is no class, or `rule`, `slicer` or `cost` cannot be called.
    """
    if not isinstance(layer_class, type):
        raise TypeError(f"register_rule expects a layer class, got {layer_class!r}. Pass the class, not an instance.")
    if rule is None:
        return functools.partial(register_rule, layer_class, slicer=slicer, cost=cost)
    if not callable(rule):
        raise TypeError(f"The rule for {layer_class.__name__} must be a function call -> Spec, got {rule!r}.")
    for name, function in (("slicer", slicer), ("cost", cost)):
        if function is not None and not callable(function):
            raise TypeError(f"The {name} for {layer_class.__name__} must be a function, got {function!r}.")
    RULES[layer_class] = _completed(rule, slicer, cost) if slicer or cost else rule
    return rule


def _completed(rule: Rule, slicer: Callable[[Values, LayerPlan], Values] | None, cost: Any) -> Rule:
    def complete(call: Call) -> Spec:
        spec = rule(call)
        spec = dataclasses.replace(spec, slicer=slicer) if slicer else spec
        return dataclasses.replace(spec, macs=tuple(cost(call))) if cost else spec

    return complete


def is_operation(layer_class: type) -> bool:
    """Whether a class is an operation of Keras' own, and no layer."""
    own = layer_class.__module__.startswith("keras.src.") and issubclass(layer_class, keras.Operation)
    return own and not issubclass(layer_class, keras.layers.Layer)


def find(layer_class: type) -> Rule | None:
    """The rule of a layer class or `keras.ops` operation; None when there is none."""
    rule = RULES.get(layer_class)
    if rule is None and is_operation(layer_class):
        rule = operations.RULES.get(layer_class.__name__)
    return rule


def missing_reason(node: Node) -> str:
    """Why a node without a rule is frozen, and the way out."""
    cls: Any = node.cls
    if is_operation(cls):
        why = operations.FROZEN.get(node.kind, "it is newer than this package")
        return f"operation {node.kind} of keras.ops is not followed: {why}"
    what = "layer" if issubclass(cls, keras.layers.Layer) else "operation"
    return f"no rule for {what} class {node.kind}; add one with keras_qcqp.register_rule({node.kind}, rule)"


def _required(node: Node) -> Rule:
    rule = find(node.cls)
    if rule is None:
        raise Frozen(missing_reason(node))
    return rule


RULES.update(wrappers.rules(_required))
