"""What a lowering sees of one call, and how it writes operators."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_qcqp.channels import Channels
from keras_qcqp.coupling import Coupling
from keras_qcqp.deployed.activations import FUNCTIONS, name_of
from keras_qcqp.deployed.naming import Scopes
from keras_qcqp.deployed.program import Constant, Op, Value
from keras_qcqp.graph import Node, Tensor
from keras_qcqp.terms import Term, item_bytes


class Site:
    """One call of a layer, the tensors it is given, and the operators written for it so far."""

    def __init__(
        self, coupling: Coupling, node: Node, scopes: Scopes, ops: dict[int, Op], inputs: tuple[int, ...]
    ) -> None:
        self.node, self.inputs = node, inputs
        self._coupling, self._scopes, self._ops = coupling, scopes, ops
        self._joins = {join.node for join in coupling.joins}
        self._is_layer = issubclass(node.cls, keras.layers.Layer)
        self.scope = scopes.of_layer(node) if self._is_layer else scopes.of_operation(node)

    @property
    def config(self) -> Mapping[str, Any]:
        return self.node.config

    def value(self, number: int) -> Value:
        """The tensor of that number."""
        return self._ops[number].value

    def kind(self, number: int) -> str:
        """The operator that makes the tensor of that number."""
        return self._ops[number].kind

    def result(self, port: int = 0) -> Value:
        """The tensor that the call returns."""
        return as_value(self.node.outputs[port], self._coupling.specs[self.node.name].outputs[port])

    def emit(
        self,
        kind: str,
        label: str,
        reads: tuple[int, ...],
        value: Value | None = None,
        *,
        constants: tuple[Constant, ...] = (),
        variables: tuple[str, ...] = (),
        labels: tuple[str, ...] | None = None,
        early: bool = False,
    ) -> int:
        """Writes one operator and returns its number.

        Args:
            value: the tensor it makes; what the call returns if left out.
            variables: operators of the traced graph that read a variable for this one.
            labels: further parts of its tensor's name; its own label comes first.
        """
        number = len(self._ops)
        name = self.scope + label if self._is_layer else self._scopes.unique(self.scope + label)
        self._ops[number] = Op(
            kind=kind,
            label=name,
            node=self.node,
            reads=reads,
            value=value or self.result(),
            constants=constants,
            roots=tuple(self._scopes.variable(self.node.layer, self.scope, label) for label in variables),
            labels=(name, *(self.scope + text for text in labels or ())),
            early=early,
        )
        return number

    def activate(self, x: int, function: str | None) -> int:
        """Writes the operators of an activation function behind tensor `x`."""
        if function is None:
            return self.opaque((x,))
        results: list[int] = []
        for step in FUNCTIONS[function]:
            reads = tuple(x if read == "x" else results[int(read)] for read in step.reads)
            scalars = tuple(self.scalar(f"{step.label}/{k}") for k in range(step.scalars))
            results.append(self.emit(step.kind, step.label, reads, self.value(x), constants=scalars))
        return results[-1] if results else x

    def configured_activation(self, x: int) -> int:
        """Writes the activation in the layer's configuration."""
        return self.activate(x, name_of(self.config.get("activation")))

    def opaque(self, reads: tuple[int, ...], port: int = 0) -> int:
        """A call of which nothing is known: two more tensors of the size of each that it touches live with it.

        Not of the largest only, since after pruning it may be another one.
        """
        result = self.result(port)
        constants = tuple(
            self.weight(name, "plain", f"opaque/{name}", self.count(1)) for name in self.node.weights if port == 0
        )
        made: tuple[int, ...] = ()
        for size in _distinct([*(self.value(r) for r in reads), result]):
            for _ in range(2):
                label = f"opaque_{len(made)}" if made else "opaque"
                made += (self.emit("UNKNOWN", label, (*reads, *made), size, constants=() if made else constants),)
        return self.emit("UNKNOWN", "opaque_0", (*reads, *made), result)

    def aligned(self, x: int, k: int) -> int:
        """The `k`-th operand of an addition, brought to the channels of the sum.

        That takes a channel of zeros and a gather, or a slice and a pad, at most; how much of it is needed is known
        after the selection, and when it runs is up to the converter. Counted is the sum of what either could take.
        """
        if self.node.name not in self._joins:
            return x
        value, total = self.value(x), self.result()
        rank = len(value.shape)
        padding = self.index(f"align_{k}/paddings", 2 * rank)
        order = dataclasses.replace(self.index(f"align_{k}/order", 1), elements=self.channels(total))
        cut = tuple(self.index(f"align_{k}/{label}", rank) for label in ("begin", "end", "strides", "axis"))
        padded = dataclasses.replace(value, extra=1)
        first = self.emit("PAD", f"align_{k}/Pad", (x,), padded, constants=(padding, *cut), early=True)
        return self.emit("GATHER", f"align_{k}/GatherV2", (first,), total, constants=(order,), early=True)

    def weight(self, weight: str, kind: str, label: str, scales: Term) -> Constant:
        """A variable of the layer as it is stored."""
        node = self.node
        followed = self._coupling.specs[node.name].weights[weight]
        shape = node.weights[weight].shape
        fixed = [size for size, axis in zip(shape, followed, strict=True) if axis is None]
        factors = tuple(self._coupling.ids(node, axis) for axis in followed if axis is not None)
        elements = Term(node, math.prod(fixed), factors)
        return Constant(kind, self.scope + label, max(len(shape), 1), elements, scales, f"{node.layer}/{weight}")

    def vector(self, value: Value, kind: str, label: str) -> Constant:
        """One number for each channel of a tensor."""
        elements = self.channels(value)
        return Constant(kind, self.scope + label, 1, elements, elements, f"{self.node.layer}/{label}")

    def channels(self, value: Value) -> Term:
        """How many channels a tensor has."""
        return self.count(value.shape[-1]) if value.axis is None else Term(self.node, 1, (value.ids,))

    def scalar(self, label: str) -> Constant:
        """One number."""
        return Constant("plain", self.scope + label, 0, self.count(1), self.count(1), f"{self.node.name}/{label}")

    def index(self, label: str, length: int, shared: str | None = None) -> Constant:
        """Whole numbers: a shape, axes, a padding; `length` of them, the same wherever `shared` is."""
        name = self.scope + label
        return Constant("index", name, 1, self.count(length), self.count(0), shared or f"{self.node.name}/{label}")

    def count(self, number: int) -> Term:
        """A constant number."""
        return Term(self.node, number, ())


def _distinct(values: Sequence[Value]) -> list[Value]:
    """Without those that another one is never smaller than, whatever is pruned."""
    found: list[Value] = []
    for value in sorted(values, key=lambda value: -math.prod(value.shape)):
        entries = _entries(value)
        if not any(all(other.get(c, 0) >= n for c, n in entries.items()) for other in map(_entries, found)):
            found.append(value)
    return found


def _entries(value: Value) -> dict[int, int]:
    """Channel -> its number of entries; those that are never pruned are counted under -1."""
    if value.axis is None:
        return {-1: math.prod(value.shape)}
    places = math.prod(value.shape) // value.shape[value.axis]
    channels, times = np.unique(value.ids, return_counts=True)
    return {**dict(zip(channels.tolist(), (times * places).tolist(), strict=True)), -1: value.extra * places}


def as_value(tensor: Tensor, channels: Channels) -> Value:
    """A tensor of the Keras graph as it is deployed, for a batch of one; all its sizes are known."""
    sizes = tuple(size for size in tensor.shape[1:] if size is not None)
    axis = channels.axis if len(channels) else None
    return Value((1, *sizes), axis, channels.ids if axis is not None else np.zeros(0, int), tensor.dtype)


def together(values: Sequence[Value]) -> Value:
    """A tensor with as many entries as all of these."""
    times = [math.prod(size for axis, size in enumerate(v.shape) if axis != v.axis) for v in values]
    unit = math.gcd(*times)  # keeps the list of channels short
    pairs = list(zip(values, times, strict=True))
    ids = [np.repeat(v.ids, t // unit) for v, t in pairs if v.axis is not None]
    fixed = sum(t // unit if v.axis is None else v.extra * t // unit for v, t in pairs)
    channels = np.concatenate([np.zeros(0, int), *ids])
    return Value((unit, len(channels)), 1, channels, max((v.dtype for v in values), key=item_bytes), fixed)
