"""Runs the rules over a graph and finds which channels live or die together."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from keras_qcqp import coupling_text, rules
from keras_qcqp.channels import NETWORK_INPUT, Axis, Call, Channels, Frozen, Spec
from keras_qcqp.errors import FrozenLayerError, ModelError, QcqpError, did_you_mean
from keras_qcqp.graph import Graph, Node
from keras_qcqp.limits.together import Together, ties
from keras_qcqp.partition import CoupledMask, FrozenLayer, group_masks, label_channels
from keras_qcqp.problem import Need
from keras_qcqp.residual import union
from keras_qcqp.residual.streams import Streams
from keras_qcqp.residual.union import Join, Sum
from keras_qcqp.spec_check import checked

RESIDUALS = ("tied", "union")
"""What an addition does: ties its operands, or gives the sum a set of channels of its own."""


@dataclasses.dataclass(frozen=True)
class Coupling:
    """Which channels of which tensors are one.

    Attributes:
        specs: node name -> what its rule said; ids inside are numbers of coupled channels, 0..num_channels-1.
        masks: coupled sets; channel c is element `position[c]` of mask `mask_of[c]`.
        frozen: calls that could not be followed.
        residual: one of `RESIDUALS`.
        joins: additions whose sum has channels of its own (union residuals only).
        needs: what a selection owes them: `u <= v <= u + v_s`, by mask and position as in a `Problem`.
    """

    graph: Graph
    specs: Mapping[str, Spec]
    inputs: Mapping[str, tuple[Channels, ...]]
    masks: tuple[CoupledMask, ...]
    mask_of: np.ndarray
    position: np.ndarray
    frozen: tuple[FrozenLayer, ...]
    residual: str = "tied"
    joins: tuple[Join, ...] = ()
    needs: tuple[Need, ...] = ()

    def ids(self, node: Node, axis: Axis) -> np.ndarray:
        """Coupled channels along a weight axis of this call."""
        side = self.inputs[node.name] if axis.side == "in" else self.specs[node.name].outputs
        return axis.follow(side[axis.port].ids)

    def alive(self, keep: Sequence[np.ndarray]) -> np.ndarray:
        """bool[channels]: which coupled channels a selection (one bool[size] for each mask) keeps."""
        alive = np.zeros(len(self.mask_of), bool)
        for mask, kept in enumerate(keep):
            members = np.flatnonzero(self.mask_of == mask)
            alive[members] = np.asarray(kept, bool)[self.position[members]]
        return alive

    def first_calls(self) -> tuple[Node, ...]:
        """One node for each layer object, in topological order."""
        return tuple(n for n in self.graph.nodes if n.name == n.layer)

    def __str__(self) -> str:
        return coupling_text.render(self)


def couple(graph: Graph, strict: bool = False, residual: str = "tied", together: Sequence[Together] = ()) -> Coupling:
    """Finds the coupled channels of a graph.

    Args:
        strict: refuse, instead of freezing, what no rule can follow.
        residual: "tied": the operands of an addition keep the same channels, and so does the sum. "union": each keeps
            its own, and the sum may keep what at least one operand has; a channel that an operand lacks counts as zero.
        together: further channels that live or die as one: `["conv_a", "conv_b"]`, these layers keep the same output
            channels; `{"conv_c": [0, 1, 2, 3]}`, these channels are one, across all layers of the mapping.

    Raises:
        FrozenLayerError: `strict` and something would be frozen; lists all of it.
        ModelError: a registered rule contradicts the shapes of its layer, or `residual` is unknown.
        BudgetError: `together` names layers or channels that do not exist, or widths that differ.
    """
    if residual not in RESIDUALS:
        raise ModelError(f"residual={residual!r} is unknown. {did_you_mean(residual, RESIDUALS)}")
    run = _Run(graph, residual)
    run.ties += ties(together, {n.name: run.specs[n.name].outputs[0].ids for n in graph.nodes if n.name == n.layer})
    coupling = run.finish()
    refused = [f for f in coupling.frozen if not f.tied]
    if strict and refused:
        listed = "; ".join(f"'{f.node}' ({f.kind}): {f.reason}" for f in refused)
        raise FrozenLayerError(f"strict=True and {len(refused)} calls cannot be pruned through: {listed}.")
    return coupling


class _Call:
    """The rule's view of one node (see `channels.Call`)."""

    def __init__(self, run: _Run, node: Node) -> None:
        self._run, self.node = run, node
        self.inputs = tuple(run.channels[t.number] for t in node.inputs)

    def fresh(self, port: int = 0, axis: int | None = None) -> Channels:
        shape = self.node.outputs[port].shape
        axis = len(shape) - 1 if axis is None else axis
        size = shape[axis] if axis > 0 else None  # a tensor without a channel axis has no ids
        return Channels(self._run.new_ids(size or 0), axis)

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


class _Run:
    """One pass over the graph; ids are raw until `finish` resolves the ties."""

    def __init__(self, graph: Graph, residual: str) -> None:
        self.graph, self.residual = graph, residual
        self.channels: dict[int, Channels] = {}
        self.specs: dict[str, Spec] = {}
        self.inputs: dict[str, tuple[Channels, ...]] = {}
        self.ties: list[tuple[np.ndarray, np.ndarray]] = []
        self.ends: list[np.ndarray] = []  # ids of the network's inputs and outputs
        self.frozen: list[tuple[Node, str, np.ndarray]] = []
        self.sums: list[Sum] = []  # additions that may have channels of their own
        self.zeros: list[np.ndarray] = []  # ids that are zero where they come into being
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
        try:
            if rule is None:
                raise Frozen(rules.missing_reason(node))
            if not node.readable:
                raise Frozen(f"operation {node.kind} does not tell its arguments")
            spec = checked(node, call, rule(call))
        except Frozen as verdict:
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
            self.freeze(node, _all_ids(channels), reason)
        return Spec(outputs, {name: (None,) * len(w.shape) for name, w in node.weights.items()})

    def _tie_calls(self, a: Node, b: Node) -> None:
        """A layer called twice has one set of weights, so both calls keep the same channels."""
        if not (self.specs[a.name].edits or self.specs[b.name].edits):
            return
        pairs = zip(
            (*self.inputs[a.name], *self.specs[a.name].outputs),
            (*self.inputs[b.name], *self.specs[b.name].outputs),
            strict=True,
        )
        for x, y in pairs:
            self._tie_or_freeze(x, y, b)

    def _tie_or_freeze(self, x: Channels, y: Channels, node: Node) -> None:
        if len(x) == len(y) and x.axis == y.axis:
            self.ties.append((x.ids, y.ids))
        else:
            reason = "a shared layer or model is called on tensors whose channels differ in number or place"
            self.freeze(node, np.concatenate([x.ids, y.ids]), reason)

    def finish(self) -> Coupling:
        pinned = [*self.ends, *(ids for _, _, ids in self.frozen)]
        once = self._once()
        root, sums = union.settle(self.num_ids, self.ties, once, pinned)
        specs = {
            name: dataclasses.replace(s, outputs=tuple(Channels(root[x.ids], x.axis) for x in s.outputs))
            for name, s in self.specs.items()
        }
        inputs = {name: tuple(Channels(root[x.ids], x.axis) for x in xs) for name, xs in self.inputs.items()}
        num_channels = int(root.max(initial=-1)) + 1
        ends = np.zeros(num_channels, bool)
        for ids in self.ends:
            ends[root[ids]] = True
        frozen = ends.copy()
        for _, _, ids in self.frozen:
            frozen[root[ids]] = True
        told = (*self._given_up(root, ends), *self._tied_to_ends(root, ends))
        streams = Streams(self.graph, specs, inputs, {s.node for s in sums}, frozen)
        joins, dead = union.join(streams, self._zeros_born())
        label = label_channels(self.graph, specs, frozen, dead)
        masks, mask_of, position = group_masks(self.graph, specs, label, frozen, dead)
        needs = union.needs(streams, joins, dead, mask_of, position)
        return Coupling(self.graph, specs, inputs, masks, mask_of, position, told, self.residual, joins, needs)

    def _once(self) -> list[Sum]:
        """Additions that are called once; the others belong to a shared model and have one set of channels."""
        times = collections.Counter(node.layer for node in self.graph.nodes)
        layers = {node.name: node.layer for node in self.graph.nodes}
        shared = [s for s in self.sums if times[layers[s.node]] > 1]
        for s in shared:
            self.ties += [(s.out, x) for x in s.operands]
        return [s for s in self.sums if s not in shared]

    def _zeros_born(self) -> dict[str, tuple[np.ndarray, ...]]:
        """Node -> for each output bool[channels]: ids that a rule called zeros, where they come into being."""
        zero = np.zeros(self.num_ids, bool)
        for ids in self.zeros:
            zero[ids] = True
        born = {}
        for node in self.graph.nodes:
            outs = [x.ids for x in self.specs[node.name].outputs]
            born[node.name] = tuple(zero[ids] for ids in outs)
            for ids in outs:
                zero[ids] = False  # further on they may have become something else
        return born

    def _given_up(self, root: np.ndarray, ends: np.ndarray) -> list[FrozenLayer]:
        """One line for each call and reason; what is an input or output of the network anyway is not worth a word."""
        told: dict[tuple[str, str], FrozenLayer] = {}
        for node, reason, ids in self.frozen:
            number = len(np.unique(root[ids][~ends[root[ids]]]))
            if number:
                told.setdefault((node.name, reason), FrozenLayer(node.name, node.kind, reason, number))
        return list(told.values())

    def _tied_to_ends(self, root: np.ndarray, ends: np.ndarray) -> list[FrozenLayer]:
        """Layers whose channels are no input or output of the network, but are joined with one element by element."""
        direct = np.zeros(self.num_ids, bool)
        for ids in self.ends:
            direct[ids] = True
        told = []
        for node in self.graph.nodes:
            ids = _all_ids(self.specs[node.name].outputs)
            number = len(np.unique(root[ids][ends[root[ids]] & ~direct[ids]]))
            if number and node.name == node.layer and self.specs[node.name].edits and node.weights:
                reason = "its channels are joined element by element with an input or output of the network"
                told.append(FrozenLayer(node.name, node.kind, reason, number, tied=True))
        return told


def _all_ids(channels: Sequence[Channels]) -> np.ndarray:
    return np.concatenate([x.ids for x in channels] or [np.zeros(0, int)])
