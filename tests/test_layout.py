"""The order of channels: PQ-trees against all permutations, orders of chains of additions against all orders."""

from __future__ import annotations

import itertools
import random

import pytest

from keras_qcqp.residual import pq_tree
from keras_qcqp.residual.layout import Pair, cost, ordered
from keras_qcqp.residual.moves import Move, move, source_of
from keras_qcqp.residual.pq_tree import Tree


def orders(tree: Tree) -> set[tuple[int, ...]]:
    """Every order a tree allows, by its definition."""
    if not tree.children:
        return {tuple(tree.leaves)}
    count = len(tree.children)
    places = itertools.permutations(range(count)) if tree.kind == "P" else [range(count), range(count)[::-1]]
    below = [orders(child) for child in tree.children]
    return {sum(parts, ()) for row in places for parts in itertools.product(*(below[k] for k in row))}


def contiguous(row: tuple[int, ...], part: frozenset[int]) -> bool:
    places = [row.index(n) for n in part]
    return max(places) - min(places) + 1 == len(part)


@pytest.mark.parametrize("seed", range(8))
def test_pq_trees_allow_exactly_the_orders_in_which_all_sets_are_contiguous(seed):
    draw = random.Random(seed)
    refused = 0
    for _ in range(100):
        size = draw.randint(2, 6)
        tree, allowed = pq_tree.any_order(range(size)), set(itertools.permutations(range(size)))
        for _ in range(draw.randint(1, 5)):
            part = frozenset(draw.sample(range(size), draw.randint(1, size)))
            allowed = {row for row in allowed if contiguous(row, part)}
            reduced = pq_tree.reduce(tree, part)
            if reduced is None:
                assert not allowed
                refused += 1
                break
            tree = reduced
            assert orders(tree) == allowed
            assert orders(pq_tree.intersect(pq_tree.any_order(range(size)), tree)) == allowed
            inner = orders(pq_tree.restrict(tree, part))
            assert inner == {tuple(n for n in row if n in part) for row in allowed}
            row = draw.choice(sorted(inner))
            whole = tuple(pq_tree.frontier_with(tree, row))
            assert whole in allowed
            assert tuple(n for n in whole if n in part) == row
    assert refused > 0


class Chain:
    """A stem and residual blocks on `size` streams: what the stem, each branch (u) and each sum (v) keep."""

    def __init__(self, draw: random.Random, size: int, blocks: int) -> None:
        share = draw.uniform(0.3, 0.9)
        self.sums = [{c for c in range(size) if draw.random() < share} or {0}]
        self.branches: list[set[int]] = [set()]
        for _ in range(blocks):
            branch = {c for c in range(size) if draw.random() < share} or {draw.randrange(size)}
            carried = {c for c in self.sums[-1] if draw.random() < draw.choice([0.5, 0.8, 1.0])}
            self.branches.append(branch)
            self.sums.append(branch | carried)

    def pairs(self) -> tuple[list[Pair], dict[int, tuple[int, ...]]]:
        """Mask 2t is the sum of block t, mask 2t - 1 its branch; channel c of mask m has number 10000 m + c."""
        number = lambda mask, c: 10_000 * mask + c  # noqa: E731
        rows = {2 * t: tuple(number(2 * t, c) for c in sorted(v)) for t, v in enumerate(self.sums)}
        rows |= {2 * t - 1: tuple(number(2 * t - 1, c) for c in sorted(u)) for t, u in enumerate(self.branches) if t}
        pairs = []
        for t in range(1, len(self.sums)):
            for mask, held in ((2 * t - 2, self.sums[t - 1]), (2 * t - 1, self.branches[t])):
                links = tuple((number(mask, c), number(2 * t, c)) for c in sorted(held & self.sums[t]))
                pairs.append(Pair(mask, 2 * t, links, 1))
        return pairs, rows

    def fewest_gathers(self) -> int:
        """By trying every order of every sum, one block after the other; a branch follows its sum."""
        best = dict.fromkeys(itertools.permutations(sorted(self.sums[0])), 0)
        for t in range(1, len(self.sums)):
            shared = frozenset(self.sums[t - 1] & self.sums[t])
            following = {}
            for row in itertools.permutations(sorted(self.sums[t])):
                branch = not contiguous(row, frozenset(self.branches[t]))
                carried = min(known + (not self._runs(old, row, shared)) for old, known in best.items())
                following[row] = branch + carried
            best = following
        return min(best.values())

    @staticmethod
    def _runs(old: tuple[int, ...], new: tuple[int, ...], shared: frozenset[int]) -> bool:
        """An operand that shares nothing with its sum still needs a gather, of zeros."""
        if not shared:
            return False
        same = [n for n in old if n in shared] == [n for n in new if n in shared]
        return same and contiguous(old, shared) and contiguous(new, shared)


@pytest.mark.parametrize("seed", range(8))
def test_orders_of_chains_need_the_fewest_gathers(seed):
    """Proven for gather-free chains; for the others it is what is found on all of these."""
    draw = random.Random(seed)
    found = ascending = 0
    for _ in range(12):
        chain = Chain(draw, size=5, blocks=draw.randint(1, 3))
        pairs, rows = chain.pairs()
        best = ordered(pairs, rows)
        assert {m: sorted(row) for m, row in best.items()} == {m: list(row) for m, row in rows.items()}
        assert cost(pairs, best)[0] == chain.fewest_gathers()
        found += cost(pairs, best)[0]
        ascending += cost(pairs, rows)[0]
    assert found < ascending / 3


def test_nested_sets_need_no_gather():
    """v1 < v2 < ... of 100 channels: every shortcut is padded, nothing is gathered."""
    draw = random.Random(0)
    chain = Chain(draw, size=1, blocks=0)
    streams = draw.sample(range(100), 100)
    chain.sums = [set(streams[: 20 + 10 * t]) for t in range(8)]
    chain.branches = [set(), *(set(streams[10 + 10 * t : 30 + 10 * t]) for t in range(7))]
    pairs, rows = chain.pairs()
    assert cost(pairs, rows)[0] > 0
    assert cost(pairs, ordered(pairs, rows))[0] == 0


def test_the_same_selection_gives_the_same_order():
    pairs, rows = Chain(random.Random(3), size=40, blocks=6).pairs()
    assert ordered(pairs, rows) == ordered(list(pairs), dict(reversed(rows.items())))


@pytest.mark.parametrize(
    ("source", "width", "kind", "written"),
    [
        ([0, 1, 2], 3, "none", 0),
        ([1, 2], 4, "slice", 2),
        ([-1, 0, 1, 2, -1, -1], 3, "pad", 6),
        ([1, 2, -1], 4, "slice+pad", 2 + 3),
        ([1, 0], 2, "gather", 2),
        ([0, -1, 1], 2, "gather", 3 + 3),  # one channel of zeros is put behind the others first
        ([0, 2], 3, "gather", 2),
        ([-1, -1], 3, "gather", 4 + 2),
    ],
)
def test_the_cheapest_move(source, width, kind, written):
    step = move(source, width)
    assert (step.kind, step.written) == (kind, written)
    sliced = list(range(width))[step.start : step.stop]
    padded = [-1] * step.before + sliced + [-1] * step.after
    assert ([padded[i] for i in step.index] if step.index else padded) == source


def test_where_a_sum_finds_its_channels():
    assert source_of((0, 3, 5), (5, 1, 3)) == [2, -1, 1]
    assert move(source_of((2, 4), (2, 4)), 2) == Move(2, 0, 2)
