"""Second half of the layout: where on its row each point stands.

As in U. Brandes, B. Koepf, *Fast and simple horizontal coordinate assignment* (2001), points that follow each other are
aligned into straight vertical blocks, wires with many bends first, then the longest path through the network. We do it
once instead of four times, and then let each block move to the median of its neighbours as far as it has room.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence

from keras_qcqp.drawing.rows import Rows

_ROUNDS = 8


def columns(rows: Rows, widths: Sequence[float], gap: float) -> list[float]:
    """The x of the middle of each point; points of a row keep `gap` between them.

    Args:
        widths: of each point, those of bends included.
    """
    block_of = _blocks(rows)
    apart: dict[tuple[int, int], float] = {}
    for row in rows.order:
        for a, b in itertools.pairwise(row):
            pair = block_of[a], block_of[b]
            apart[pair] = max(apart.get(pair, 0.0), (widths[a] + widths[b]) / 2 + gap)
    return _settled(rows, block_of, apart)


def _blocks(rows: Rows) -> list[int]:
    """Point -> number of its block; blocks never cross, so left-of is an order on them."""
    place = {p: number for row in rows.order for number, p in enumerate(row)}
    height = [0] * len(rows.row_of)
    links = [link for routed in rows.links for link in routed]
    for upper, lower in sorted(links, key=lambda link: -rows.row_of[link[0]]):
        height[upper] = max(height[upper], height[lower] + 1)

    def rank(link: tuple[int, int]) -> tuple[int, ...]:
        upper, lower = link
        bends = (upper >= rows.num_boxes) + (lower >= rows.num_boxes)
        return {2: 0, 0: 1, 1: 2}[bends], -height[lower], *link

    block = list(range(len(rows.row_of)))
    follower: dict[int, int] = {}
    leader: dict[int, int] = {}
    taken: dict[int, list[tuple[int, int]]] = {}
    for upper, lower in sorted(links, key=rank):
        ends = place[upper], place[lower]
        among = taken.setdefault(rows.row_of[upper], [])
        crosses = any((ends[0] - a) * (ends[1] - b) <= 0 for a, b in among)
        if upper not in follower and lower not in leader and not crosses:
            follower[upper], leader[lower] = lower, upper
            among.append(ends)
    for row in rows.order:
        for point in row:
            block[point] = block[leader[point]] if point in leader else point
    return block


def _settled(rows: Rows, block_of: Sequence[int], apart: dict[tuple[int, int], float]) -> list[float]:
    left: dict[int, dict[int, float]] = {b: {} for b in block_of}
    right: dict[int, dict[int, float]] = {b: {} for b in block_of}
    for (a, b), distance in apart.items():
        left[b][a] = right[a][b] = distance
    ordered = _from_left_to_right(left, right)
    low: dict[int, float] = {}
    for b in ordered:
        low[b] = max((low[a] + d for a, d in left[b].items()), default=0.0)
    end = max(low.values(), default=0.0)
    high: dict[int, float] = {}
    for b in reversed(ordered):
        high[b] = min((high[c] - d for c, d in right[b].items()), default=end)
    x = {b: (low[b] + high[b]) / 2 for b in ordered}
    pulls: dict[int, list[int]] = {b: [] for b in ordered}
    for upper, lower in (link for routed in rows.links for link in routed):
        if block_of[upper] != block_of[lower]:
            pulls[block_of[upper]].append(block_of[lower])
            pulls[block_of[lower]].append(block_of[upper])
    for number in range(_ROUNDS):
        for b in ordered if number % 2 else reversed(ordered):
            if pulls[b]:
                wish = statistics.median(x[n] for n in pulls[b])
                wish = min([wish, *(x[c] - d for c, d in right[b].items())])
                x[b] = max([wish, *(x[a] + d for a, d in left[b].items())])
    return [x[b] for b in block_of]


def _from_left_to_right(left: dict[int, dict[int, float]], right: dict[int, dict[int, float]]) -> list[int]:
    waiting = {b: len(found) for b, found in left.items()}
    ready = sorted(b for b, count in waiting.items() if count == 0)
    ordered: list[int] = []
    while ready:
        b = ready.pop()
        ordered.append(b)
        for c in right[b]:
            waiting[c] -= 1
            if waiting[c] == 0:
                ready.append(c)
    return ordered
