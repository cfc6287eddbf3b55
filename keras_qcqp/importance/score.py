"""What every criterion returns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from keras_qcqp.channels import Axis
from keras_qcqp.coupling import Coupling
from keras_qcqp.graph import Node

WeightValues = Mapping[str, Mapping[str, np.ndarray]]
"""Layer path -> weight name -> values."""


@dataclasses.dataclass(frozen=True)
class Score:
    """Importance >= 0 along one or two channel axes of a layer: float[width] or float[width, width]."""

    node: Node
    axes: tuple[Axis, ...]
    values: np.ndarray


Criterion = Callable[[Coupling, WeightValues], list[Score]]


def scored(coupling: Coupling, node: Node, axes: Sequence[Axis | None]) -> tuple[Axis | None, ...]:
    """The axes of a weight that a score speaks of: of more than two followed ones, those that are not frozen."""
    if sum(axis is not None for axis in axes) <= 2:
        return tuple(axes)
    frozen = coupling.is_frozen
    return tuple(None if a is None or frozen[coupling.ids(node, a)].all() else a for a in axes)
