"""What a lowering sees of one call, and how it writes operators."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_qcqp.channels import Channels, Sliced
from keras_qcqp.coupling import Coupling
from keras_qcqp.deployed.activations import FUNCTIONS, name_of
from keras_qcqp.deployed.naming import Scopes
from keras_qcqp.deployed.program import BALLAST, Constant, Op, Value
from keras_qcqp.graph import Node, Tensor, TensorRef
from keras_qcqp.terms import Term


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
        """A call of which nothing is known: two more tensors of the size of the largest it touches live with it.

        Which one is the largest depends on what is kept, so each that can be has a turn, without bytes in the file.
        """
        result = self.result(port)
        constants = tuple(
            self.weight(name, "plain", f"opaque/{name}", self.count(1)) for name in self.node.weights if port == 0
        ) + (self.arrays() if port == 0 else ())
        before = reads
        for k, value in enumerate(_largest([*(self.value(r) for r in reads), result])):
            first = self.emit(BALLAST, f"opaque/{k}/first", before, value)
            second = self.emit(BALLAST, f"opaque/{k}/second", (*reads, first), value)
            before = (*reads, self.emit(BALLAST, f"opaque/{k}", (*reads, first, second), result))
        first = self.emit("UNKNOWN", "opaque", before, result, constants=constants)
        second = self.emit("UNKNOWN", "opaque_1", (*reads, first), result)
        return self.emit("UNKNOWN", "opaque_2", (*reads, first, second), result)

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

    def corrected(self, x: int) -> int:
        """The result behind the two operations at most that make up for dropped channels; see `Spec.after`."""
        if not self._coupling.specs[self.node.name].after:
            return x
        for label in ("correct", "correct_1"):
            x = self.emit("UNKNOWN", label, (x,), self.value(x), constants=(self.scalar(f"{label}/y"),))
        return x

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

    def arrays(self) -> tuple[Constant, ...]:
        """The constant arrays that an operation is called with, as they are stored."""
        spec = self._coupling.specs[self.node.name]
        sliced = {id(s.values): s.axes for s in spec.arguments.values() if isinstance(s, Sliced)}
        found = []
        for k, value in enumerate(keras.tree.flatten(self.node.arguments)):
            if isinstance(value, TensorRef) or np.ndim(value) == 0:
                continue
            shape = np.shape(value)
            axes = sliced.get(id(value), (None,) * len(shape))
            fixed = math.prod(size for size, axis in zip(shape, axes, strict=True) if axis is None)
            followed = tuple(self._coupling.ids(self.node, axis) for axis in axes if axis is not None)
            elements, label = Term(self.node, fixed, followed), f"Const_{k}"
            found.append(
                Constant("plain", self.scope + label, len(shape), elements, self.count(1), f"{self.node.name}/{label}")
            )
        return tuple(found)

    def index(self, label: str, length: int, shared: str | None = None) -> Constant:
        """Whole numbers: a shape, axes, a padding; `length` of them, the same wherever `shared` is."""
        name = self.scope + label
        return Constant("index", name, 1, self.count(length), self.count(0), shared or f"{self.node.name}/{label}")

    def count(self, number: int) -> Term:
        """A constant number."""
        return Term(self.node, number, ())


def _largest(values: list[Value]) -> list[Value]:
    """The largest value of those with the same channels, the largest of all first."""
    found: dict[bytes, Value] = {}
    for value in sorted(values, key=lambda value: -math.prod(value.shape)):
        found.setdefault(np.sort(value.ids).tobytes(), value)  # in whatever order
    return list(found.values())


def as_value(tensor: Tensor, channels: Channels) -> Value:
    """A tensor of the Keras graph as it is deployed, for a batch of one; all its sizes are known."""
    sizes = tuple(size for size in tensor.shape[1:] if size is not None)
    axis = channels.axis if len(channels) else None
    return Value((1, *sizes), axis, channels.ids if axis is not None else np.zeros(0, int), tensor.dtype)
