"""Pure geometry: boxes and wires in, places and curves out. Wires never pass through boxes, only beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from keras_qcqp.drawing.columns import columns
from keras_qcqp.drawing.rows import Rows, Wire, arrange

_GAP = 22.0  # between neighbours of a row
_BEND = 8.0  # width that a passing wire takes
_FALL = 26.0  # between rows, more where wires have far to go
_PORT = 12.0  # between the ends of wires on one box


@dataclasses.dataclass(frozen=True)
class Curve:
    """Straight down from `y0` to `y1`, bent over to x1 at `y2`, straight down to `y3`."""

    x0: float
    y0: float
    y1: float
    x1: float
    y2: float
    y3: float
    arrives: bool


@dataclasses.dataclass(frozen=True)
class Layout:
    """Attributes:
    corners: the upper left corner of each box.
    curves: for each wire the pieces that it consists of.
    """

    corners: tuple[tuple[float, float], ...]
    curves: tuple[tuple[Curve, ...], ...]
    width: float
    height: float


def place(sizes: Sequence[tuple[float, float]], wires: Sequence[Wire]) -> Layout:
    """Lays boxes of these (width, height) out in rows, every box above its readers."""
    rows = arrange(len(sizes), wires)
    widths = [w for w, _ in sizes] + [_BEND] * (len(rows.row_of) - len(sizes))
    heights = [h for _, h in sizes]
    x = columns(rows, widths, _GAP)
    shift = min((a - w / 2 for a, w in zip(x, widths, strict=True)), default=0.0)
    x = [a - shift for a in x]
    tops, bottoms = _bands(rows, heights, x)
    leave, arrive = _ports(rows, x, widths, "leave"), _ports(rows, x, widths, "arrive")
    curves = []
    for number, routed in enumerate(rows.links):
        pieces = []
        for upper, lower in routed:
            r = rows.row_of[upper]
            start = tops[r] + heights[upper] if upper < len(sizes) else tops[r]
            x0 = leave.get((upper, number), x[upper])
            x1 = arrive.get((lower, number), x[lower])
            y = tops[r + 1]
            pieces.append(Curve(x0, start, bottoms[r], x1, y, y, lower < len(sizes)))
        curves.append(tuple(pieces))
    corners = tuple((x[b] - sizes[b][0] / 2, tops[rows.row_of[b]]) for b in range(len(sizes)))
    width = max((a + w / 2 for a, w in zip(x, widths, strict=True)), default=0.0)
    return Layout(corners, tuple(curves), width, bottoms[-1] if bottoms else 0.0)


def _bands(rows: Rows, heights: Sequence[float], x: Sequence[float]) -> tuple[list[float], list[float]]:
    """The top and the bottom of each row."""
    far = [0.0] * len(rows.order)
    for upper, lower in (link for routed in rows.links for link in routed):
        row = rows.row_of[upper]
        far[row] = max(far[row], abs(x[upper] - x[lower]))
    tops, bottoms, y = [], [], 0.0
    for row, points in enumerate(rows.order):
        tops.append(y)
        y += max((heights[p] for p in points if p < rows.num_boxes), default=0.0)
        bottoms.append(y)
        y += _FALL + min(0.1 * far[row], 40.0)
    return tops, bottoms


def _ports(rows: Rows, x: Sequence[float], widths: Sequence[float], which: str) -> dict[tuple[int, int], float]:
    """(box, wire) -> where on its edge the wire ends: towards the other end, but not on top of other wires."""
    ends: dict[int, dict[int, list[float]]] = {}
    for number, routed in enumerate(rows.links):
        for upper, lower in routed:
            box, other = (upper, lower) if which == "leave" else (lower, upper)
            if box < rows.num_boxes:
                ends.setdefault(box, {}).setdefault(number, []).append(x[other])
    found = {}
    for box, wires in ends.items():
        room = max(widths[box] / 2 - _PORT, 0.0)
        wish = sorted((_towards(x[box], xs, room), number) for number, xs in wires.items())
        step = min(_PORT, 2 * room / max(len(wish) - 1, 1))
        spread = _spread([w for w, _ in wish], step, x[box] - room, x[box] + room)
        for (_, number), at in zip(wish, spread, strict=True):
            found[box, number] = at
    return found


def _towards(middle: float, others: Sequence[float], room: float) -> float:
    """A wire that goes straight down anywhere leaves from the middle."""
    nearest = min(others, key=lambda other: (abs(other - middle), other))
    return min(max(nearest, middle - room), middle + room)


def _spread(wishes: Sequence[float], step: float, low: float, high: float) -> list[float]:
    """Sorted wishes, moved apart to `step` at least within [low, high]; the middle one is the last to give way."""
    last = len(wishes) - 1
    at = [min(max(w, low + k * step), high - (last - k) * step) for k, w in enumerate(wishes)]
    for k in range(last // 2 + 1, last + 1):
        at[k] = max(at[k], at[k - 1] + step)
    for k in range(last, 0, -1):
        at[k - 1] = min(at[k - 1], at[k] - step)
    for k in range(1, last + 1):
        at[k] = max(at[k], at[k - 1] + step)
    return [min(a, high) for a in at]
