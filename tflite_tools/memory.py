"""How much memory the activations of a model need: the least possible, and with a planner that places them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

ALIGNMENT = 64  # bytes; offsets in the arena of TensorFlow Lite are multiples of it


@dataclass(frozen=True)
class Lifetime:
    """A tensor that holds `size` bytes from operator `first` to operator `last`, both included."""

    first: int
    last: int
    size: int

    def meets(self, other: Lifetime) -> bool:
        """Whether both are alive at some moment."""
        return self.first <= other.last and other.first <= self.last


def peak_bytes(lifetimes: Sequence[Lifetime]) -> int:
    """The most bytes alive at once; no placement can do with less."""
    moments = {tensor.first for tensor in lifetimes}
    return max((sum(t.size for t in lifetimes if t.first <= m <= t.last) for m in moments), default=0)


def arena_bytes(lifetimes: Sequence[Lifetime]) -> int:
    """The arena of a planner that is greedy by size: the largest tensor first, in the tightest gap where it fits."""
    placed: list[tuple[Lifetime, int]] = []
    for tensor in sorted(lifetimes, key=lambda t: (-t.size, t.first)):
        taken = sorted((offset, other.size) for other, offset in placed if tensor.meets(other))
        placed.append((tensor, _offset(tensor.size, taken)))
    return max((offset + tensor.size for tensor, offset in placed), default=0)


def _offset(size: int, taken: Iterable[tuple[int, int]]) -> int:
    """Where `size` bytes go between others, given as (offset, size) in ascending order."""
    best, tightest, end = None, math.inf, 0
    for offset, length in taken:
        if size <= offset - end < tightest:
            best, tightest = end, offset - end
        end = max(end, -(-(offset + length) // ALIGNMENT) * ALIGNMENT)
    return end if best is None else best
