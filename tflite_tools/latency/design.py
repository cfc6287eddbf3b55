"""At which widths an operator is measured: a grid, scattered points between, and points that no fit sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tflite_tools.latency.geometry import Geometry, Widths

_ANCHORS, _SCATTERED, _HELD_OUT = (6, 10), (14, 4), (10, 6)  # with two widths, and with one
_LEAST = 1 / 8  # of the greatest width: below lies nothing that anybody keeps


@dataclass(frozen=True)
class Design:
    """Widths to measure: a full grid, further ones to fit, and those to judge the fit by."""

    grid: tuple[Widths, ...]
    scattered: tuple[Widths, ...]
    held_out: tuple[Widths, ...]

    def all(self) -> list[Widths]:
        """Each once."""
        return list(dict.fromkeys([*self.grid, *self.scattered, *self.held_out]))


def plan_points(geometry: Geometry, seed: int, multiple: int | None = None) -> Design:
    """The points of one geometry.

    Args:
        multiple: measure every multiple of this, and the full widths, instead of a few; then the table is complete,
            and what lies between costs as much as the next multiple.
    """
    random = np.random.default_rng([seed, len(geometry.key), *geometry.key.encode()[:64]])
    sides = [side for side in (0, 1) if geometry.spans[side] is not None]
    if not sides:
        return Design(((None, None),), (), ())
    anchors = _ANCHORS[0] if len(sides) == 2 else _ANCHORS[1]
    axes: list[Sequence[int | None]] = [[None], [None]]
    for side in sides:
        full = [int(w) for widths in geometry.full if (w := widths[side]) is not None]
        axes[side] = _axis(geometry, side, full, anchors, random, multiple)
    grid = tuple((a, b) for a in axes[0] for b in axes[1])
    if multiple is not None:
        return Design(grid, (), _scatter(geometry, axes, set(), 8, random, on=axes))
    taken = set(grid)
    kind = 0 if len(sides) == 2 else 1
    scattered = _scatter(geometry, axes, taken, _SCATTERED[kind], random)
    held_out = _scatter(geometry, axes, taken | set(scattered), _HELD_OUT[kind], random)
    return Design(grid, scattered, held_out)


def _axis(
    geometry: Geometry, side: int, full: list[int], anchors: int, random: np.random.Generator, multiple: int | None
) -> list[int]:
    span = geometry.spans[side]
    assert span is not None
    low, high = max(span[0], round(span[1] * _LEAST), geometry.multiple), span[1]
    step = geometry.multiple
    if low >= high:
        return sorted({*full, high})
    if multiple is not None:
        step = int(np.lcm(step, multiple))
        return sorted({*range(step, high + 1, step), *full})
    places = np.linspace(low, high, min(anchors, (high - low) // step + 1))
    # Not evenly spaced: steps of kernels would hide between even points.
    shifts = random.uniform(-0.3, 0.3, len(places)) * (places[1] - places[0])
    shifts[0] = shifts[-1] = 0
    values = np.clip(np.round((places + shifts) / step) * step, -(-low // step) * step, high).astype(int)
    return sorted({*values.tolist(), high, *(width for width in full if width >= high * 0.9)})


def _scatter(
    geometry: Geometry,
    axes: Sequence[Sequence[int | None]],
    taken: set[Widths],
    number: int,
    random: np.random.Generator,
    on: Sequence[Sequence[int | None]] | None = None,
) -> tuple[Widths, ...]:
    """Random points within the grid; `on` takes them from given values."""
    found: dict[Widths, None] = {}
    for _ in range(8 * number):
        point = [_pick(geometry, axes[side], random, on[side] if on else None) for side in (0, 1)]
        widths = (point[0], point[1])
        if widths not in taken:
            found[widths] = None
        if len(found) == number:
            break
    return tuple(found)


def _pick(
    geometry: Geometry,
    axis: Sequence[int | None],
    random: np.random.Generator,
    values: Sequence[int | None] | None,
) -> int | None:
    known = [value for value in axis if value is not None]
    if not known:
        return None
    if values is not None:
        return known[int(random.integers(len(known)))]
    step = geometry.multiple
    return int(random.integers(-(-known[0] // step), known[-1] // step + 1)) * step
