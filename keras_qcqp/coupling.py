"""Runs the rules over a graph and finds which channels live or die together."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from keras_qcqp import coupling_text
from keras_qcqp.channels import Axis, Channels, Hidden, Spec, ids_along
from keras_qcqp.errors import FrozenLayerError, ModelError, did_you_mean
from keras_qcqp.graph import Graph, Node
from keras_qcqp.limits.together import Together, ties
from keras_qcqp.partition import CoupledMask, FrozenLayer, group_masks, label_channels
from keras_qcqp.problem import Need
from keras_qcqp.products import hold_back
from keras_qcqp.propagation import Walk, all_ids
from keras_qcqp.residual import union
from keras_qcqp.residual.streams import Streams
from keras_qcqp.residual.union import Join, Sum

RESIDUALS = ("tied", "union")
"""What an addition does: ties its operands, or gives the sum a set of channels of its own."""

GROUP_CONVS = ("channels", "groups")
"""What a grouped convolution loses: the same channels of every group, or whole groups."""


@dataclasses.dataclass(frozen=True)
class Coupling:
    """Which channels of which tensors are one.

    Attributes:
        specs: node name -> what its rule said; ids inside are numbers of coupled channels, 0..num_channels-1.
        masks: coupled sets; channel c is element `position[c]` of mask `mask_of[c]`.
        frozen: calls that could not be followed.
        residual, group_conv: one of `RESIDUALS`, and of `GROUP_CONVS`.
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
    group_conv: str = "channels"
    joins: tuple[Join, ...] = ()
    needs: tuple[Need, ...] = ()

    def ids(self, node: Node, axis: Axis) -> np.ndarray:
        """Coupled channels along a weight axis of this call."""
        return ids_along(self.specs[node.name], self.inputs[node.name], axis)

    @property
    def is_frozen(self) -> np.ndarray:
        """bool[channels]: which are always kept."""
        return np.array([mask.frozen for mask in self.masks], bool)[self.mask_of]

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


def couple(
    graph: Graph,
    strict: bool = False,
    residual: str = "tied",
    together: Sequence[Together] = (),
    group_conv: str = "channels",
) -> Coupling:
    """Finds the coupled channels of a graph.

    Args:
        strict: refuse, instead of freezing, what no rule can follow.
        residual: "tied": the operands of an addition keep the same channels, and so does the sum. "union": each keeps
            its own, and the sum may keep what at least one operand has; a channel that an operand lacks counts as zero.
        together: further channels that live or die as one: `["conv_a", "conv_b"]`, these layers keep the same output
            channels; `{"conv_c": [0, 1, 2, 3]}`, these channels are one, across all layers of the mapping.
        group_conv: "channels": every group of a grouped convolution keeps the same of its channels. "groups": a group
            stays whole or goes altogether.

    Raises:
        FrozenLayerError: `strict` and something would be frozen; lists all of it.
        ModelError: a registered rule contradicts the shapes of its layer, or `residual` or `group_conv` is
            unknown.
        BudgetError: `together` names layers or channels that do not exist, or widths that differ.
    """
    if residual not in RESIDUALS:
        raise ModelError(f"residual={residual!r} is unknown. {did_you_mean(residual, RESIDUALS)}")
    if group_conv not in GROUP_CONVS:
        raise ModelError(f"group_conv={group_conv!r} is unknown. {did_you_mean(group_conv, GROUP_CONVS)}")
    walk = Walk(graph, residual, group_conv)
    walk.ties += ties(together, {n.name: walk.specs[n.name].outputs[0].ids for n in graph.nodes if n.name == n.layer})
    coupling = _settled(walk)
    refused = [f for f in coupling.frozen if not f.tied]
    if strict and refused:
        listed = "; ".join(f"'{f.node}' ({f.kind}): {f.reason}" for f in refused)
        raise FrozenLayerError(f"strict=True and {len(refused)} calls cannot be pruned through: {listed}.")
    return coupling


def _settled(walk: Walk) -> Coupling:
    """Resolves the ties of a walk: ids become numbers of coupled channels."""
    graph, once = walk.graph, _once(walk)
    pinned = [*walk.ends, *(ids for _, _, ids in walk.frozen)]
    root, sums = union.settle(walk.num_ids, walk.ties, once, pinned)
    specs = {name: _numbered(spec, root) for name, spec in walk.specs.items()}
    inputs = {name: tuple(Channels(root[x.ids], x.axis) for x in xs) for name, xs in walk.inputs.items()}
    ends = np.zeros(int(root.max(initial=-1)) + 1, bool)
    for ids in walk.ends:
        ends[root[ids]] = True
    frozen = ends.copy()
    for _, _, ids in walk.frozen:
        frozen[root[ids]] = True
    beyond = hold_back(graph, specs, inputs, frozen)
    told = (*_given_up(walk, root, ends), *_tied_to_ends(walk, root, ends), *beyond)
    streams = Streams(graph, specs, inputs, {s.node for s in sums}, frozen)
    joins, dead = union.join(streams, _zeros_born(walk))
    label = label_channels(graph, specs, frozen, dead)
    masks, mask_of, position = group_masks(graph, specs, label, frozen, dead)
    needs = union.needs(streams, joins, dead, mask_of, position)
    modes = walk.residual, walk.group_conv
    return Coupling(graph, specs, inputs, masks, mask_of, position, told, *modes, joins, needs)


def _numbered(spec: Spec, root: np.ndarray) -> Spec:
    outputs = tuple(Channels(root[x.ids], x.axis) for x in spec.outputs)
    hidden = tuple(Hidden(h.name, root[h.ids]) for h in spec.hidden)
    return dataclasses.replace(spec, outputs=outputs, hidden=hidden)


def _once(walk: Walk) -> list[Sum]:
    """Additions that are called once; the others belong to a shared model and have one set of channels."""
    times = collections.Counter(node.layer for node in walk.graph.nodes)
    layers = {node.name: node.layer for node in walk.graph.nodes}
    shared = [s for s in walk.sums if times[layers[s.node]] > 1]
    for s in shared:
        walk.ties += [(s.out, x) for x in s.operands]
    return [s for s in walk.sums if s not in shared]


def _zeros_born(walk: Walk) -> dict[str, tuple[np.ndarray, ...]]:
    """Node -> for each output bool[channels]: ids that a rule called zeros, where they come into being."""
    zero = np.zeros(walk.num_ids, bool)
    for ids in walk.zeros:
        zero[ids] = True
    born = {}
    for node in walk.graph.nodes:
        outs = [x.ids for x in walk.specs[node.name].outputs]
        born[node.name] = tuple(zero[ids] for ids in outs)
        for ids in outs:
            zero[ids] = False  # further on they may have become something else
    return born


def _given_up(walk: Walk, root: np.ndarray, ends: np.ndarray) -> list[FrozenLayer]:
    """One line for each call and reason; what is an input or output of the network anyway is not worth a word."""
    told: dict[tuple[str, str], FrozenLayer] = {}
    for node, reason, ids in walk.frozen:
        number = len(np.unique(root[ids][~ends[root[ids]]]))
        if number:
            told.setdefault((node.name, reason), FrozenLayer(node.name, node.kind, reason, number))
    return list(told.values())


def _tied_to_ends(walk: Walk, root: np.ndarray, ends: np.ndarray) -> list[FrozenLayer]:
    """Layers whose channels are no input or output of the network, but are joined with one element by element."""
    direct = np.zeros(walk.num_ids, bool)
    for ids in walk.ends:
        direct[ids] = True
    told = []
    for node in walk.graph.nodes:
        ids = all_ids(walk.specs[node.name].outputs)
        number = len(np.unique(root[ids][ends[root[ids]] & ~direct[ids]]))
        if number and node.name == node.layer and walk.specs[node.name].edits and node.weights:
            reason = "its channels are joined element by element with an input or output of the network"
            told.append(FrozenLayer(node.name, node.kind, reason, number, tied=True))
    return told
