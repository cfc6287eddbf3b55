"""What every criterion returns, and how most of them come to it: one number for each pair of channels of a kernel."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from keras_qcqp.channels import Axis
from keras_qcqp.coupling import Coupling
from keras_qcqp.graph import Node
from keras_qcqp.importance.evidence import Evidence


@dataclasses.dataclass(frozen=True)
class Score:
    """Importance >= 0 along one or two channel axes of a layer: float[width] or float[width, width]."""

    node: Node
    axes: tuple[Axis, ...]
    values: np.ndarray


Criterion = Callable[[Evidence], list[Score]]


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel whose channels can go.

    Attributes:
        axes: for each axis of the weight the `Axis` it follows, None for the others (taps, or frozen channels).
    """

    node: Node
    name: str
    axes: tuple[Axis | None, ...]

    @property
    def taps(self) -> tuple[int, ...]:
        """Numbers of the axes that follow no channel."""
        return tuple(number for number, axis in enumerate(self.axes) if axis is None)

    def score(self, values: np.ndarray) -> Score:
        """A score of the followed axes, in the order in which the kernel has them."""
        return Score(self.node, tuple(axis for axis in self.axes if axis is not None), values)


def kernels(coupling: Coupling) -> Iterator[Kernel]:
    """Every kernel with a followed axis, once for each layer; biases and batch norms are none."""
    for node in coupling.first_calls():
        for name, axes in coupling.specs[node.name].weights.items():
            axes = scored(coupling, node, axes)
            is_kernel = name.rpartition("/")[2].endswith("kernel") and name in node.weights
            if is_kernel and any(axis is not None for axis in axes):
                yield Kernel(node, name, axes)


def scored(coupling: Coupling, node: Node, axes: Sequence[Axis | None]) -> tuple[Axis | None, ...]:
    """The axes of a weight that a score speaks of: of more than two followed ones, those that are not frozen."""
    if sum(axis is not None for axis in axes) <= 2:
        return tuple(axes)
    frozen = coupling.is_frozen
    return tuple(None if a is None or frozen[coupling.ids(node, a)].all() else a for a in axes)
