"""What every criterion returns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

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
