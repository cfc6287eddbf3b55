"""Runs the rules over a graph, call by call: which ids each tensor has, what is tied, what is frozen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_qcqp import rules
from keras_qcqp.channels import NETWORK_INPUT, Call, Channels, Frozen, Hidden, Spec
from keras_qcqp.errors import ModelError, QcqpError
from keras_qcqp.graph import Graph, Node
from keras_qcqp.residual.union import Sum
from keras_qcqp.spec_check import checked


class _Call:
    """The rule's view of one node (see `channels.Call`)."""

    def __init__(self, run: Walk, node: Node) -> None:
        self._run, self.node, self.group_conv = run, node, run.group_conv
        self.inputs = tuple(run.channels[t.number] for t in node.inputs)

    def fresh(self, port: int = 0, axis: int | None = None) -> Channels:
        shape = self.node.outputs[port].shape
        axis = len(shape) - 1 if axis is None else axis
        size = shape[axis] if axis > 0 else None  # a tensor without a channel axis has no ids
        return Channels(self._run.new_ids(size or 0), axis)

    def hide(self, name: str, size: int) -> Hidden:
        return Hidden(name, self._run.new_ids(size))

    def tie(self, a: np.ndarray, b: np.ndarray) -> None:
        if len(a) != len(b):
            raise Frozen(f"{len(a)} channels meet {len(b)}")
        self._run.ties.append((a, b))

    def freeze(self, ids: np.ndarray, reason: str) -> None:
        self._run.freeze(self.node, ids, reason)

    def add(self, operands: Sequence[Channels]) -> Channels:
        main = operands[0]
        if self._run.residual == "union":
            out = Channels(self._run.new_ids(len(main)), main.axis)
            self._run.sums.append(Sum(self.node.name, out.ids, tuple(x.ids for x in operands)))
            return out
        for x in operands[1:]:
            self.tie(main.ids, x.ids)
        return main

    def zeros(self, ids: np.ndarray) -> None:
        self._run.zeros.append(ids)


class Walk:
    """One pass over the graph. Ids are raw: what is tied is told in `ties`, and resolved by `coupling.couple`.

    Attributes:
        channels: tensor number -> its channels.
        specs, inputs: node name -> what its rule said, and the channels of its inputs.
        ends: ids of the network's inputs and outputs.
        frozen: calls that gave up, the reason, and the ids that are therefore kept.
        sums: additions that may have channels of their own.
        zeros: ids that are zero where they come into being.
    """

    def __init__(self, graph: Graph, residual: str, group_conv: str) -> None:
        self.graph, self.residual, self.group_conv = graph, residual, group_conv
        self.channels: dict[int, Channels] = {}
        self.specs: dict[str, Spec] = {}
        self.inputs: dict[str, tuple[Channels, ...]] = {}
        self.ties: list[tuple[np.ndarray, np.ndarray]] = []
        self.ends: list[np.ndarray] = []
        self.frozen: list[tuple[Node, str, np.ndarray]] = []
        self.sums: list[Sum] = []
        self.zeros: list[np.ndarray] = []
        self.num_ids = 0
        first: dict[str, Node] = {}
        for node in graph.nodes:
            self._visit(node)
            original = first.setdefault(node.layer, node)
            if original is not node:
                self._tie_calls(original, node)
        producers = {t.number: node for node in graph.nodes for t in node.outputs}
        for a, b in graph.shared:
            self._tie_or_freeze(self.channels[a.number], self.channels[b.number], producers[b.number])
        for tensor in graph.outputs:
            self.ends.append(self.channels[tensor.number].ids)

    def new_ids(self, size: int) -> np.ndarray:
        self.num_ids += size
        return np.arange(self.num_ids - size, self.num_ids)

    def freeze(self, node: Node, ids: np.ndarray, reason: str) -> None:
        if reason == NETWORK_INPUT:
            self.ends.append(ids)
        else:
            self.frozen.append((node, reason, ids))

    def _visit(self, node: Node) -> None:
        call = _Call(self, node)
        rule = rules.find(node.cls)
        told: tuple[list[Any], ...] = (self.ties, self.frozen, self.sums, self.zeros)
        num_ids = self.num_ids
        marks = [len(what) for what in told]
        try:
            if rule is None:
                raise Frozen(rules.missing_reason(node))
            if not node.readable:
                raise Frozen(f"operation {node.kind} does not tell its arguments")
            spec = checked(node, call, rule(call))
        except Frozen as verdict:
            self.num_ids = num_ids  # what the rule said before it gave up is void
            for what, mark in zip(told, marks, strict=True):
                del what[mark:]
            spec = self._give_up(node, call, str(verdict))
        except QcqpError:
            raise
        except Exception as error:
            raise ModelError(
                f"The rule for {node.kind} failed on '{node.name}': {type(error).__name__}: {error}. "
                "A rule returns a Spec, or raises Frozen when it must give up."
            ) from error
        self.specs[node.name], self.inputs[node.name] = spec, call.inputs
        for tensor, channels in zip(node.outputs, spec.outputs, strict=True):
            self.channels[tensor.number] = channels

    def _give_up(self, node: Node, call: Call, reason: str) -> Spec:
        outputs = tuple(call.fresh(port) for port in range(len(node.outputs)))
        for channels in (call.inputs, outputs):
            self.freeze(node, all_ids(channels), reason)
        return Spec(outputs, {name: (None,) * len(w.shape) for name, w in node.weights.items()})

    def _tie_calls(self, a: Node, b: Node) -> None:
        """A layer called twice has one set of weights, so both calls keep the same channels."""
        if not (self.specs[a.name].edits or self.specs[b.name].edits):
            return
        if len(a.inputs) != len(b.inputs) or len(a.outputs) != len(b.outputs):
            for node in (a, b):
                reason = "a shared layer is called with different numbers of tensors"
                self.freeze(node, all_ids((*self.inputs[node.name], *self.specs[node.name].outputs)), reason)
            return
        pairs = zip(
            (*self.inputs[a.name], *self.specs[a.name].outputs),
            (*self.inputs[b.name], *self.specs[b.name].outputs),
            strict=True,
        )
        for x, y in pairs:
            self._tie_or_freeze(x, y, b)
        for h, k in zip(self.specs[a.name].hidden, self.specs[b.name].hidden, strict=True):
            self.ties.append((h.ids, k.ids))

    def _tie_or_freeze(self, x: Channels, y: Channels, node: Node) -> None:
        if len(x) == len(y) and x.axis == y.axis:
            self.ties.append((x.ids, y.ids))
        else:
            reason = "a shared layer or model is called on tensors whose channels differ in number or place"
            self.freeze(node, np.concatenate([x.ids, y.ids]), reason)


def all_ids(channels: Sequence[Channels]) -> np.ndarray:
    """The ids of several tensors, one after the other."""
    return np.concatenate([x.ids for x in channels] or [np.zeros(0, int)])
