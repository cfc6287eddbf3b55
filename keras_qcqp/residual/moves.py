"""How an operand of a union addition gets from its channels to those of the sum: nothing to do, slice, pad, gather."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from keras_qcqp.resources import item_bytes

KINDS = ("none", "slice", "pad", "slice+pad", "gather")


@dataclasses.dataclass(frozen=True)
class Move:
    """The operations on a tensor of `width` channels, in this order; those that would do nothing are left out.

    Attributes:
        start, stop: the channels that are sliced out.
        before, after: channels of zeros put at either side.
        index: channels to gather of what is there then; empty when nothing is gathered.
    """

    width: int
    start: int
    stop: int
    before: int = 0
    after: int = 0
    index: tuple[int, ...] = ()

    @property
    def slices(self) -> bool:
        return (self.start, self.stop) != (0, self.width)

    @property
    def pads(self) -> bool:
        return bool(self.before or self.after)

    @property
    def kind(self) -> str:
        """One of `KINDS`."""
        if self.index:
            return "gather"
        return "+".join(["slice"] * self.slices + ["pad"] * self.pads) or "none"

    @property
    def written(self) -> int:
        """Channels that the operations write, all together."""
        sliced = self.stop - self.start
        padded = self.before + sliced + self.after
        return sliced * self.slices + padded * self.pads + len(self.index)


def move(source: Sequence[int], width: int) -> Move:
    """The cheapest way to a tensor whose channel i is channel `source[i]` of one of `width` channels, or zero if -1."""
    wanted = np.asarray(source, np.int64)
    real = np.flatnonzero(wanted >= 0)
    if len(real):
        first, last = int(real[0]), int(real[-1])
        start, stop = int(wanted[first]), int(wanted[last]) + 1
        if last - first + 1 == len(real) == stop - start and np.array_equal(wanted[real], np.arange(start, stop)):
            return Move(width, start, stop, first, len(wanted) - last - 1)
    missing = len(real) < len(wanted)
    index = np.where(wanted < 0, width, wanted)  # behind the others one channel of zeros
    return Move(width, 0, width, 0, int(missing), tuple(index.tolist()))


def source_of(in_index: Sequence[int], out_index: Sequence[int]) -> list[int]:
    """For each kept channel of the sum its place among the kept ones of an operand, or -1."""
    place = {channel: number for number, channel in enumerate(in_index)}
    return [place.get(channel, -1) for channel in out_index]


def bytes_per_channel(shape: Sequence[int | None], axis: int, dtype: str) -> int | None:
    """Bytes of one channel of a tensor for one sample; None when a size is unknown."""
    sizes = [size for number, size in enumerate(shape) if number not in (0, axis)]
    return None if None in sizes else math.prod(s for s in sizes if s is not None) * item_bytes(dtype)
