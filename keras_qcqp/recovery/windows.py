"""What a kernel sees: rows of a design matrix for convolutions, cut out of an input at chosen output positions."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Window:
    """Geometry of a convolution, one number for each spatial axis; a Dense layer has a kernel of size one everywhere.

    Attributes:
        padding: "valid", "same" or "causal".
        channels_first: where the channels of the input are.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: str
    channels_first: bool = False

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Window:
        """The geometry in the configuration of a Keras convolution."""
        kernel, strides, dilation = (tuple(config[key]) for key in ("kernel_size", "strides", "dilation_rate"))
        return cls(kernel, strides, dilation, config["padding"], config["data_format"] == "channels_first")

    @classmethod
    def pointwise(cls, num_axes: int) -> Window:
        """One position at a time, channels last."""
        ones = (1,) * num_axes
        return cls(ones, ones, ones, "valid")

    def channels_last(self, x: np.ndarray) -> np.ndarray:
        """A view of an input or output float[samples, positions..., channels]."""
        return np.moveaxis(x, 1, -1) if self.channels_first else x

    def output_sizes(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """Positions of the output along each axis, given those of the input."""
        return tuple(
            (size - span) // stride + 1 if self.padding == "valid" else -(-size // stride)
            for size, stride, span in zip(sizes, self.strides, self._spans, strict=True)
        )

    def rows(self, x: np.ndarray, places: np.ndarray) -> np.ndarray:
        """float[samples, places, taps, channels]: what lies under the kernel at output positions.

        Args:
            x: float[samples, positions..., channels].
            places: int[samples, places, axes], output positions.
        """
        padded = np.pad(x, [(0, 0), *map(self._padding, range(len(self.kernel)), x.shape[1:-1]), (0, 0)])
        taps = np.indices(self.kernel).reshape(len(self.kernel), math.prod(self.kernel))
        index = [
            places[:, :, axis, None] * self.strides[axis] + taps[axis] * self.dilation[axis]
            for axis in range(len(self.kernel))
        ]
        return padded[(np.arange(len(x))[:, None, None], *index)]

    @property
    def _spans(self) -> tuple[int, ...]:
        return tuple((size - 1) * step + 1 for size, step in zip(self.kernel, self.dilation, strict=True))

    def _padding(self, axis: int, size: int) -> tuple[int, int]:
        span, stride = self._spans[axis], self.strides[axis]
        if self.padding == "valid":
            return 0, 0
        if self.padding == "causal":
            return span - 1, 0
        total = max((-(-size // stride) - 1) * stride + span - size, 0)
        return total // 2, total - total // 2


def random_places(shape: Sequence[int], num: int, random: np.random.Generator) -> np.ndarray:
    """int[samples, places, axes]: all positions of an output [samples, positions...], or `num` random ones of each."""
    samples, sizes = shape[0], shape[1:]
    total = int(np.prod(sizes))  # one where there are no axes
    if num >= total:
        chosen = np.broadcast_to(np.arange(total), (samples, total))
    else:
        chosen = np.argsort(random.random((samples, total)), axis=1)[:, :num]
    axes = np.unravel_index(chosen, sizes) if sizes else ()
    return np.stack(axes, axis=-1) if sizes else np.zeros((samples, 1, 0), np.int64)
