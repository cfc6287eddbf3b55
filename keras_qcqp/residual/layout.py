"""In which order the kept channels of a mask stand, so that the operands of union additions need few gathers.

The order of a mask is free where every tensor holds it in one order (whole, tiled or with each channel repeated): all
tensors are then rewritten alike. An operand that shares the channels W with its sum needs no gather if W is contiguous
in both, in the same order. Over a forest of such pairs (a chain of residual blocks with its branches is one) PQ-trees
decide exactly whether orders without any gather exist, and then find them; so they do for nested sets and for a single
addition. Where none exist, pairs are given up one by one, the cheapest last tried, in several ways, and the best way
is kept: never more gathers than with the channels in their old order.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from keras_qcqp.coupling import Coupling
from keras_qcqp.partition import resolve
from keras_qcqp.residual import pq_tree
from keras_qcqp.residual.moves import Move, bytes_per_channel, move, source_of
from keras_qcqp.residual.pq_tree import Leaves, Tree

Rows = Mapping[int, tuple[int, ...]]
"""Mask -> its kept channels (numbers of coupled channels) in the order in which they stand."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """An operand and its sum, each holding one free mask: the masks, and which of their kept channels meet.

    Attributes:
        weight: bytes of one channel.
    """

    operand: int
    total: int
    links: tuple[tuple[int, int], ...]
    weight: int


def best_order(coupling: Coupling, alive: np.ndarray) -> Rows:
    """The order of each mask whose kept channels should not stand in ascending order.

    Args:
        alive: bool[channels], which coupled channels are kept.
    """
    pairs = _pairs(coupling, alive)
    rows: dict[int, tuple[int, ...]] = {}
    for component in _components(pairs):
        masks = sorted({m for p in component for m in (p.operand, p.total)})
        old = {m: tuple(np.flatnonzero(alive & (coupling.mask_of == m)).tolist()) for m in masks}
        rows.update(ordered(component, old))
    return {m: row for m, row in rows.items() if list(row) != sorted(row)}


def ordered(pairs: Sequence[Pair], old: Rows) -> Rows:
    """The best order found for masks that hang together; the old one where none is better."""
    found: list[Rows] = [old, *_proposals(pairs, old)]
    costs = [cost(pairs, rows) for rows in found]
    return found[costs.index(min(costs))]


def arranged(coupling: Coupling, ids: np.ndarray, alive: np.ndarray, rows: Rows) -> tuple[int, ...]:
    """The kept positions of a tensor with channels `ids`, in their new order.

    A mask keeps the places its channels have in the tensor; only who stands on which of them changes.
    """
    index = np.flatnonzero(alive[ids])
    masks = coupling.mask_of[ids[index]]
    for mask, row in rows.items():
        slots = np.flatnonzero(masks == mask)
        if len(slots):
            held = ids[index[slots]]
            repeat = int(np.argmax(held != held[0])) or len(held) if len(row) > 1 else 1
            order = np.searchsorted(np.sort(row), row)
            index[slots] = index[slots].reshape(-1, len(row), repeat)[:, order].ravel()
    return tuple(index.tolist())


def free_masks(coupling: Coupling) -> np.ndarray:
    """bool[masks]: whose channels stand in one order in every tensor, so that it can be changed in all of them."""
    free = np.array([not (m.frozen or m.dead) for m in coupling.masks], bool)
    for spec in coupling.specs.values():
        for ids in spec.held:
            masks = coupling.mask_of[ids]
            for mask in np.unique(masks).tolist():
                if free[mask] and coupling.masks[mask].size > 1:
                    free[mask] = _in_one_order(coupling.position[ids[masks == mask]], coupling.masks[mask].size)
    return free


def _in_one_order(positions: np.ndarray, size: int) -> bool:
    """Whether these are 0..size-1, each repeated, all tiled."""
    repeat = int(np.argmax(positions != positions[0])) or len(positions)
    times = len(positions) // size
    if times % repeat:
        return False
    return np.array_equal(positions, np.tile(np.repeat(np.arange(size), repeat), times // repeat))


def _pairs(coupling: Coupling, alive: np.ndarray) -> list[Pair]:
    free = free_masks(coupling) if coupling.joins else np.zeros(0, bool)
    nodes = {node.name: node for node in coupling.graph.nodes}
    pairs = []
    for join in coupling.joins:
        node, total = nodes[join.node], coupling.specs[join.node].outputs[0].ids
        for tensor, x, real in zip(node.inputs, coupling.inputs[join.node], join.produced, strict=True):
            masks = [_only_mask(coupling, ids[alive[ids]], free) for ids in (x.ids, total)]
            both = alive[x.ids] & alive[total] & real
            if None not in masks and masks[0] != masks[1]:
                links = tuple(zip(x.ids[both].tolist(), total[both].tolist(), strict=True))
                weight = bytes_per_channel(tensor.shape, x.axis, tensor.dtype) or 1
                pairs.append(Pair(int(masks[0] or 0), int(masks[1] or 0), links, weight))
    return pairs


def _only_mask(coupling: Coupling, kept: np.ndarray, free: np.ndarray) -> int | None:
    """The mask of a tensor whose kept channels are those of one free mask, each once."""
    masks = np.unique(coupling.mask_of[kept])
    whole = len(masks) == 1 and free[masks[0]] and len(np.unique(kept)) == len(kept)
    return int(masks[0]) if whole else None


def _components(pairs: Sequence[Pair]) -> list[list[Pair]]:
    if not pairs:
        return []
    ends = np.array([(p.operand, p.total) for p in pairs])
    root = resolve(int(ends.max()) + 1, [(ends[:, 0], ends[:, 1])])
    groups: dict[int, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(int(root[pair.total]), []).append(pair)
    return list(groups.values())


def cost(pairs: Sequence[Pair], rows: Rows) -> tuple[int, int, int]:
    """Gathers, the bytes they write, and the bytes all alignments write."""
    moves = [(_move(pair, rows), pair.weight) for pair in pairs]
    gathers = [step.written * weight for step, weight in moves if step.kind == "gather"]
    return len(gathers), sum(gathers), sum(step.written * weight for step, weight in moves)


def _move(pair: Pair, rows: Rows) -> Move:
    origin = {total: operand for operand, total in pair.links}
    wanted = [origin.get(channel, -1) for channel in rows[pair.total]]
    return move(source_of(rows[pair.operand], wanted), len(rows[pair.operand]))


def _proposals(pairs: Sequence[Pair], old: Rows) -> list[Rows]:
    """Orders found by going through the pairs in several ways."""
    blocks = _blocks(pairs, old)
    forest = _forest(pairs)
    found: list[Rows] = []
    for root, heavy_first in itertools.product((max(old), min(old)), (True, False)):
        laid = _Layouter(forest, {m: frozenset(held) for m, held in blocks.items()}, heavy_first).lay(root)
        found.append({m: tuple(c for b in laid[m] for c in blocks[m][b]) for m in old})
    return found


def _blocks(pairs: Sequence[Pair], old: Rows) -> dict[int, dict[int, tuple[int, ...]]]:
    """Mask -> block -> its channels there. A block is a set of streams of linked channels that live in the same masks:

    they can stand side by side everywhere, so that only the order of blocks is looked for.
    """
    channels = np.unique(np.concatenate([np.array(row, np.int64) for row in old.values()]))
    number = {c: n for n, c in enumerate(channels.tolist())}
    links = np.array([(number[a], number[b]) for p in pairs for a, b in p.links], np.int64).reshape(-1, 2)
    stream = resolve(len(channels), [(links[:, 0], links[:, 1])])
    lives: dict[int, set[int]] = {}
    for m, row in sorted(old.items()):
        for c in row:
            lives.setdefault(int(stream[number[c]]), set()).add(m)
    block_of: dict[frozenset[int], int] = {}
    found: dict[int, dict[int, tuple[int, ...]]] = {}
    for m, row in sorted(old.items()):
        held: dict[int, list[tuple[int, int]]] = {}
        for c in row:
            s = int(stream[number[c]])
            held.setdefault(block_of.setdefault(frozenset(lives[s]), len(block_of)), []).append((s, c))
        found[m] = {b: tuple(c for _, c in sorted(members)) for b, members in held.items()}
    return found


def _forest(pairs: Sequence[Pair]) -> list[Pair]:
    """The heaviest pairs that close no circle."""
    parent: dict[int, int] = {}

    def find(m: int) -> int:
        while parent.setdefault(m, m) != m:
            m = parent[m]
        return m

    kept = []
    for pair in sorted(pairs, key=lambda p: -p.weight * len(p.links)):
        a, b = find(pair.operand), find(pair.total)
        if a != b and pair.links:
            parent[a] = b
            kept.append(pair)
    return kept


class _Layouter:
    """Orders the blocks of every mask of a forest: trees grow from the leaves to the root, orders go back down."""

    def __init__(self, forest: Sequence[Pair], blocks: Mapping[int, Leaves], heavy_first: bool) -> None:
        self._blocks, self._trees = blocks, dict[int, Tree]()
        self._children: dict[int, list[int]] = {m: [] for m in blocks}
        self._neighbours: dict[int, list[int]] = {m: [] for m in blocks}
        for pair in sorted(forest, key=lambda p: p.weight * len(p.links), reverse=heavy_first):
            self._neighbours[pair.operand].append(pair.total)
            self._neighbours[pair.total].append(pair.operand)

    def lay(self, root: int) -> dict[int, list[int]]:
        """Mask -> its blocks in order."""
        rows: dict[int, list[int]] = {}
        for start in (root, *sorted(self._blocks)):
            if start not in self._trees:
                for mask, above in self._upwards(start):
                    self._trees[mask] = self._grow(mask, above)
        roots = {m for m in self._blocks} - {c for children in self._children.values() for c in children}
        waiting = [(m, pq_tree.frontier(self._trees[m])) for m in sorted(roots)]
        while waiting:
            mask, rows[mask] = waiting.pop()
            for child in self._children[mask]:
                shared = [b for b in rows[mask] if b in self._blocks[child]]
                waiting.append((child, pq_tree.frontier_with(self._trees[child], shared)))
        return rows

    def _upwards(self, start: int) -> list[tuple[int, int | None]]:
        """Every mask of the tree around `start` and the one above it, the lowest first."""
        order: list[tuple[int, int | None]] = [(start, None)]
        for mask, above in order:
            order += [(m, mask) for m in self._neighbours[mask] if m != above]
        return order[::-1]

    def _grow(self, mask: int, above: int | None) -> Tree:
        tree = pq_tree.any_order(self._blocks[mask])
        for child in self._neighbours[mask]:
            if child == above:
                continue
            shared = self._blocks[mask] & self._blocks[child]
            below = pq_tree.reduce(self._trees[child], shared)
            grown = None if below is None else pq_tree.intersect(tree, pq_tree.restrict(below, shared))
            if below is not None and grown is not None:
                self._trees[child], tree = below, grown
                self._children[mask].append(child)
        return tree
