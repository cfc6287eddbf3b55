"""Layers whose kernel can be fitted anew: what it multiplies, as rows, and the kernel, as matrices."""

from __future__ import annotations

import dataclasses
import math

import keras
import numpy as np

from keras_qcqp.graph import Node
from keras_qcqp.recovery.windows import Window

MAX_INPUTS = 6144
"""Kernels with more inputs (kernel size x channels) stay as they are: their Gram matrix would need over 300 MB."""

_L = keras.layers
_CONVOLUTIONS = (_L.Conv1D, _L.Conv2D, _L.Conv3D)
_DEPTHWISE = (_L.DepthwiseConv1D, _L.DepthwiseConv2D)


@dataclasses.dataclass(frozen=True)
class Reader:
    """A Dense layer or convolution: its output is rows times matrices, group by group, plus a bias.

    Attributes:
        groups: of a depthwise convolution its number of channels.
    """

    node: Node
    window: Window
    groups: int

    def rows(self, x: np.ndarray, places: np.ndarray) -> np.ndarray:
        """float[groups, samples x places, taps x channels of a group] of an input in the layout of the layer."""
        found = self.window.rows(self.window.channels_last(x), places)
        samples, num, taps, channels = found.shape
        split = found.reshape(samples * num, taps, self.groups, channels // self.groups)
        return split.transpose(2, 0, 1, 3).reshape(self.groups, samples * num, -1)

    def matrices(self, kernel: np.ndarray) -> np.ndarray:
        """float[groups, taps x channels of a group, outputs of a group]."""
        if self.depthwise:  # [taps..., channels, multiplier]
            return kernel.reshape(-1, *kernel.shape[-2:]).transpose(1, 0, 2)
        split = kernel.reshape(-1, self.groups, kernel.shape[-1] // self.groups)
        return split.transpose(1, 0, 2)

    def kernel(self, matrices: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The inverse of `matrices`."""
        return matrices.transpose(1, 0, 2).reshape(shape)

    def output_shape(self, x: np.ndarray) -> tuple[int, ...]:
        """(samples, positions...) of the output for an input."""
        last = self.window.channels_last(x)
        return (len(x), *self.window.output_sizes(last.shape[1:-1]))

    @property
    def too_large(self) -> bool:
        """Whether the sums of products of its rows would take more memory than they are worth."""
        return math.prod(self.node.weights["kernel"].shape[:-1]) > MAX_INPUTS * (self.groups if self.depthwise else 1)

    @property
    def depthwise(self) -> bool:
        """Whether the kernel has an axis for channels and one for the multiplier."""
        return self.node.cls in _DEPTHWISE


def reader_of(node: Node) -> Reader | None:
    """How to fit a call anew, if that is known: subclasses may compute anything, and other layers have no kernel."""
    if node.cls is _L.Dense:
        return Reader(node, Window.pointwise(len(node.inputs[0].shape) - 2), 1)
    if node.cls in _CONVOLUTIONS:
        return Reader(node, Window.of(node.config), node.config["groups"])
    if node.cls in _DEPTHWISE:
        return Reader(node, Window.of(node.config), node.weights["kernel"].shape[-2])
    return None
