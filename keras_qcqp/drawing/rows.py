"""First half of the layout: which row each box stands in, and the order within a row.

After K. Sugiyama, S. Tagawa, M. Toda, *Methods for visual understanding of hierarchical system structures* (1981): rows
by longest path, a bend point in every row that a wire passes, then sweeps that sort each row by the mean place of its
neighbours. Wires of one tensor share their bend points, so a skip connection with five readers is one line that forks.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Sequence

Wire = tuple[int, tuple[int, ...]]
"""The box that makes a tensor, and the boxes that read it; every box comes before its readers."""

_SWEEPS = 12


@dataclasses.dataclass(frozen=True)
class Rows:
    """Points are boxes (0..num_boxes-1) and, behind them, the bends of wires.

    Attributes:
        order: the points of each row from left to right.
        row_of: point -> its row.
        links: for each wire the pairs of points in adjacent rows that it connects.
    """

    num_boxes: int
    order: tuple[tuple[int, ...], ...]
    row_of: tuple[int, ...]
    links: tuple[tuple[tuple[int, int], ...], ...]


def arrange(num_boxes: int, wires: Sequence[Wire]) -> Rows:
    """Rows with few crossings; the same boxes and wires give the same rows."""
    row_of = _depths(num_boxes, wires)
    links = tuple(_route(wire, row_of) for wire in wires)
    below: list[list[int]] = [[] for _ in row_of]
    above: list[list[int]] = [[] for _ in row_of]
    for upper, lower in (link for routed in links for link in routed):
        below[upper].append(lower)
        above[lower].append(upper)
    order: list[list[int]] = [[] for _ in range(max(row_of, default=-1) + 1)]
    for point, row in enumerate(row_of):
        order[row].append(point)
    return Rows(num_boxes, _untangled(order, above, below), tuple(row_of), links)


def _depths(num_boxes: int, wires: Sequence[Wire]) -> list[int]:
    """Longest path from an input; inputs stand right above their first reader."""
    depth, reached = [0] * num_boxes, [False] * num_boxes
    for source, targets in sorted(wires):
        for target in targets:
            depth[target] = max(depth[target], depth[source] + 1)
            reached[target] = True
    first: dict[int, int] = {}
    for source, targets in wires:
        first[source] = min([first.get(source, num_boxes), *(depth[t] for t in targets)])
    for box, row in first.items():
        if not reached[box] and row < num_boxes:
            depth[box] = row - 1
    return depth


def _route(wire: Wire, row_of: list[int]) -> tuple[tuple[int, int], ...]:
    """Adds the bend points of a wire to `row_of`; returns its links."""
    source, targets = wire
    links, last = [], source
    for row in range(row_of[source] + 1, max((row_of[t] for t in targets), default=0) + 1):
        links += [(last, t) for t in dict.fromkeys(targets) if row_of[t] == row]
        if any(row_of[t] > row for t in targets):
            row_of.append(row)
            links.append((last, len(row_of) - 1))
            last = len(row_of) - 1
    return tuple(links)


def _untangled(
    order: list[list[int]], above: Sequence[Sequence[int]], below: Sequence[Sequence[int]]
) -> tuple[tuple[int, ...], ...]:
    place = [0] * len(above)
    for row in order:
        _number(row, place)
    best, fewest = tuple(map(tuple, order)), _crossings(order, below, place)
    for sweep in range(_SWEEPS):
        if fewest == 0:
            break
        rows, neighbours = (order[1:], above) if sweep % 2 == 0 else (order[-2::-1], below)
        for row in rows:
            mean = {p: _mean(neighbours[p], place, place[p]) for p in row}
            row.sort(key=mean.__getitem__)
            _number(row, place)
        crossings = _crossings(order, below, place)
        if crossings < fewest:
            best, fewest = tuple(map(tuple, order)), crossings
    return best


def _number(row: Sequence[int], place: list[int]) -> None:
    for number, point in enumerate(row):
        place[point] = number


def _mean(neighbours: Sequence[int], place: Sequence[int], otherwise: float) -> float:
    return sum(place[n] for n in neighbours) / len(neighbours) if neighbours else otherwise


def _crossings(order: Sequence[Sequence[int]], below: Sequence[Sequence[int]], place: Sequence[int]) -> int:
    """Pairs of links between adjacent rows that cross: inversions of the lower ends, read from left to right."""
    count = 0
    for row in order:
        seen: list[int] = []
        for end in (e for p in row for e in sorted(place[n] for n in below[p])):
            count += len(seen) - bisect.bisect_right(seen, end)
            bisect.insort(seen, end)
    return count
