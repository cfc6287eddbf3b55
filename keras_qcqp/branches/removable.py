"""Which masks may lose all their channels: those whose branch then goes, and leaves a network that can be built."""

from __future__ import annotations

import collections
from collections.abc import Collection, Iterable

import numpy as np

from keras_qcqp.branches.fates import MERGES, fates, hands_on, mixes
from keras_qcqp.coupling import Coupling
from keras_qcqp.graph import Node


def spare_masks(coupling: Coupling) -> frozenset[int]:
    """Masks that may go altogether: each tensor that holds one also holds one that may not. The smallest come first."""
    tensors = [
        {m for m in np.unique(coupling.mask_of[ids]).tolist() if not coupling.masks[m].dead}
        for node in coupling.graph.nodes
        for ids in coupling.specs[node.name].held
    ]
    spare = set[int]()
    alone = {next(iter(held)) for held in tensors if len(held) == 1}
    free = [m for m, mask in enumerate(coupling.masks) if not (mask.frozen or mask.dead) and m not in alone]
    for mask in sorted(free, key=lambda m: (coupling.masks[m].size, -m)):
        if all(held - spare - {mask} for held in tensors if mask in held):
            spare.add(mask)
    return frozenset(spare)


def removable_masks(coupling: Coupling) -> frozenset[int]:
    """Masks any of which may be emptied, alone or together, because their branches can be taken out of the network.

    What nested models and layers that are called several times make is left alone, and so is what something other than
    a kernel, a concatenation or an addition reads.
    """
    return frozenset(_Analysis(coupling).run())


class _Analysis:
    """Starts from all free masks and gives up those that could leave a call nothing it can work with."""

    def __init__(self, coupling: Coupling) -> None:
        self._coupling, self._nodes = coupling, coupling.graph.nodes
        free = {m for m, mask in enumerate(coupling.masks) if not (mask.frozen or mask.dead)}
        hidden = {m for s in coupling.specs.values() for h in s.hidden for m in self._masks(h.ids)}
        self._spare = spare_masks(coupling)
        self._candidates = free - hidden - self._spare
        self._dead = {m for m, mask in enumerate(coupling.masks) if mask.dead}
        self._calls = collections.Counter(node.layer for node in self._nodes)
        self._joins = {join.node for join in coupling.joins}
        self._readers: dict[int, list[Node]] = {}
        for node in self._nodes:
            for tensor in node.inputs:
                self._readers.setdefault(tensor.number, []).append(node)
        self._ends = {t.number for t in coupling.graph.outputs}

    def run(self) -> set[int]:
        while offending := self._first_offence():
            self._candidates.discard(max(offending, key=lambda m: (self._coupling.masks[m].size, m)))
        return self._candidates

    def _masks(self, ids: np.ndarray) -> set[int]:
        return set(np.unique(self._coupling.mask_of[ids]).tolist())

    def _may_go(self, ids: np.ndarray) -> bool:
        return len(ids) > 0 and self._masks(ids) <= self._candidates | self._spare | self._dead

    def _first_offence(self) -> set[int]:
        """Candidates of which one must stay."""
        fixed: dict[int, set[int]] = {}  # tensor that may be constant -> candidates that make it so
        for node in self._nodes:
            for masks in self._offences(node, fixed):
                if offending := masks & self._candidates:
                    return offending
        return set()

    def _offences(self, node: Node, fixed: dict[int, set[int]]) -> Iterable[set[int]]:
        spec, inputs = self._coupling.specs[node.name], self._coupling.inputs[node.name]
        made = set[int]().union(*(self._masks(ids) for ids in spec.held)) if spec.held else set()
        if len(spec.outputs) > 1:
            yield made
        if "/" in node.layer or self._calls[node.layer] > 1:
            yield made.union(*(self._masks(x.ids) for x in inputs))
        for tensor, x in zip(node.inputs, inputs, strict=True):
            masks = self._masks(x.ids)
            if tensor.number in fixed:
                if hands_on(node, spec, self._coupling) and not self._ends & {node.outputs[0].number}:
                    fixed[node.outputs[0].number] = fixed[tensor.number]
                elif not self._takes_in(node, tensor.number, fixed):
                    yield fixed[tensor.number]
            elif self._may_go(x.ids) and not (made and made <= masks):
                if len(node.inputs) == 1 and mixes(spec):
                    if not self._may_go(spec.outputs[0].ids):
                        fixed[node.outputs[0].number] = masks
                        if node.outputs[0].number in self._ends:
                            yield masks
                elif not self._goes_on(node):
                    yield masks

    def _goes_on(self, node: Node) -> bool:
        """Whether a call with several operands can do without some of them; an addition keeps one in any case."""
        if node.kind == "Concatenate":
            return True
        inputs = self._coupling.inputs[node.name]
        return node.name in self._joins and node.kind == "Add" and not all(self._may_go(x.ids) for x in inputs)

    def _takes_in(self, node: Node, number: int, fixed: Collection[int]) -> bool:
        """Whether a constant operand can be folded in: some other operand is always there."""
        if node.kind not in MERGES or len(node.inputs) < 2:
            return False
        inputs = self._coupling.inputs[node.name]
        width = len(self._coupling.specs[node.name].outputs[0])
        others = [x for t, x in zip(node.inputs, inputs, strict=True) if t.number != number and t.number not in fixed]
        return any(len(x) == width and not self._may_go(x.ids) for x in others)


def emptied(coupling: Coupling, keep: Iterable[np.ndarray], removable: Collection[int]) -> frozenset[int]:
    """The removable masks that have no channel left, or whose channels nothing needs or feeds any more."""
    kept = [np.asarray(k, bool).copy() for k in keep]
    while True:
        fate = fates(coupling, coupling.alive(kept))
        needed, fed = set[int](), set(removable)
        for node in coupling.graph.nodes:
            masks = {m for ids in coupling.specs[node.name].held for m in np.unique(coupling.mask_of[ids]).tolist()}
            if node.name in fate.constant and masks <= set(removable):
                fed -= masks
            elif node.name not in fate.gone:
                needed |= masks
        idle = [m for m in removable if kept[m].any() and (m not in needed or m not in fed)]
        if not idle:
            return frozenset(m for m in removable if not kept[m].any())
        for mask in idle:
            kept[mask][:] = False
