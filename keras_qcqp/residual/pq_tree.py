"""All orders in which given sets are contiguous, as a PQ-tree (Booth and Lueker, JCSS 1976), for sets of a few hundred.

The children of a P node may stand in any order, those of a Q node only as they are or reversed. Every function returns
a new tree. The reduction is the plain recursive one, not the linear-time one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

Leaves = frozenset[int]


@dataclasses.dataclass(frozen=True)
class Tree:
    """A leaf (`kind` "leaf", no children), or a P or Q node."""

    kind: str
    children: tuple[Tree, ...]
    leaves: Leaves


def leaf(number: int) -> Tree:
    """A tree of one."""
    return Tree("leaf", (), frozenset([number]))


def any_order(leaves: Iterable[int]) -> Tree:
    """No set needs to be contiguous."""
    return _node("P", [leaf(n) for n in sorted(leaves)])


def fixed_order(leaves: Sequence[int]) -> Tree:
    """This order and its reverse."""
    return _node("Q", [leaf(n) for n in leaves])


def reduce(tree: Tree, together: Leaves) -> Tree | None:
    """The orders of the tree in which `together` (a part of its leaves) is contiguous; None when there are none."""
    if len(together) < 2 or together == tree.leaves:
        return tree
    for place, child in enumerate(tree.children):
        if together <= child.leaves:
            smaller = reduce(child, together)
            if smaller is None:
                return None
            return _node(tree.kind, [*tree.children[:place], smaller, *tree.children[place + 1 :]])
    return _root_p(tree, together) if tree.kind == "P" else _root_q(tree, together)


def _root_p(tree: Tree, together: Leaves) -> Tree | None:
    empty, full, partial = _sorted_children(tree, together)
    if len(partial) > 2:
        return None
    ends = [_empty_to_full(child, together) for child in partial]
    if any(end is None for end in ends):
        return None
    left, right = ([*ends, [], []])[:2]
    middle = [*(left or []), *_grouped(full), *reversed(right or [])]
    return _node("P", [*empty, _node("Q", middle) if partial else middle[0]])


def _root_q(tree: Tree, together: Leaves) -> Tree | None:
    touched = [place for place, child in enumerate(tree.children) if not child.leaves.isdisjoint(together)]
    first, last = touched[0], touched[-1]
    if any(not tree.children[place].leaves <= together for place in range(first + 1, last)):
        return None
    left, right = (_empty_to_full(tree.children[place], together) for place in (first, last))
    if left is None or right is None:
        return None
    inside = tree.children[first + 1 : last]
    return _node("Q", [*tree.children[:first], *left, *inside, *reversed(right), *tree.children[last + 1 :]])


def _empty_to_full(tree: Tree, together: Leaves) -> list[Tree] | None:
    """The tree as a row with all of `together` at its right end; None when that cannot be."""
    if tree.leaves <= together or tree.leaves.isdisjoint(together):
        return [tree]
    if tree.kind == "P":
        empty, full, partial = _sorted_children(tree, together)
        if len(partial) > 1:
            return None
        middle = _empty_to_full(partial[0], together) if partial else []
        return None if middle is None else [*_grouped(empty), *middle, *_grouped(full)]
    for children in (tree.children, tree.children[::-1]):
        touched = next(place for place, child in enumerate(children) if not child.leaves.isdisjoint(together))
        if all(child.leaves <= together for child in children[touched + 1 :]):
            turning = _empty_to_full(children[touched], together)
            return None if turning is None else [*children[:touched], *turning, *children[touched + 1 :]]
    return None


def _sorted_children(tree: Tree, together: Leaves) -> tuple[list[Tree], list[Tree], list[Tree]]:
    empty: list[Tree] = []
    full: list[Tree] = []
    partial: list[Tree] = []
    for child in tree.children:
        if child.leaves <= together:
            full.append(child)
        else:
            (empty if child.leaves.isdisjoint(together) else partial).append(child)
    return empty, full, partial


def _grouped(trees: Sequence[Tree]) -> list[Tree]:
    return [_node("P", trees)] if trees else []


def _node(kind: str, children: Sequence[Tree]) -> Tree:
    if len(children) == 1:
        return children[0]
    kind = "P" if len(children) == 2 else kind
    return Tree(kind, tuple(children), frozenset().union(*(c.leaves for c in children)))


def restrict(tree: Tree, part: Leaves) -> Tree:
    """The orders that the tree allows for `part`, a non-empty part of its leaves."""
    if tree.leaves <= part:
        return tree
    return _node(tree.kind, [restrict(c, part) for c in tree.children if not c.leaves.isdisjoint(part)])


def sets(tree: Tree) -> Iterator[Leaves]:
    """Sets which, all contiguous, allow exactly the orders of this tree."""
    if tree.kind == "Q":
        yield from (a.leaves | b.leaves for a, b in zip(tree.children, tree.children[1:], strict=False))
    if tree.children:
        yield tree.leaves
    for child in tree.children:
        yield from sets(child)


def intersect(tree: Tree, other: Tree) -> Tree | None:
    """The orders of `tree` in which the leaves of `other` are contiguous and in an order of `other`."""
    found: Tree | None = tree
    for together in sets(other):
        found = None if found is None else reduce(found, together)
    return found


def frontier(tree: Tree) -> list[int]:
    """One order, as near to ascending as is cheap."""
    if not tree.children:
        return list(tree.leaves)
    children = list(tree.children)
    if tree.kind == "P":
        children.sort(key=lambda c: min(c.leaves))
    elif min(children[-1].leaves) < min(children[0].leaves):
        children.reverse()
    return [n for child in children for n in frontier(child)]


def frontier_with(tree: Tree, row: Sequence[int]) -> list[int]:
    """An order of the tree in which `row`, contiguous in all of them and in an order the tree allows, is as given."""
    if len(row) < 2:
        return frontier(tree)
    found = frontier(_with_row(tree, row, frozenset(row)))
    return found if found.index(row[0]) < found.index(row[-1]) else found[::-1]


def _with_row(tree: Tree, row: Sequence[int], part: Leaves) -> Tree:
    """The tree with the subtree, or the neighbouring children of a Q node, that hold `part` replaced by the row."""
    if tree.leaves == part:
        return fixed_order(row)
    held = [place for place, child in enumerate(tree.children) if not child.leaves.isdisjoint(part)]
    first, last = held[0], held[-1]
    if first == last:
        inside = [_with_row(tree.children[first], row, part)]
    else:
        inside = [leaf(n) for n in (row if row[0] in tree.children[first].leaves else row[::-1])]
    return _node(tree.kind, [*tree.children[:first], *inside, *tree.children[last + 1 :]])
