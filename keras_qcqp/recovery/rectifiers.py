"""Activations that cut off: beyond their bounds it does not matter how far a value is beyond.

Source: a fit that looks at the output of the nonlinearity, as Zhang et al. (TPAMI 2016, "Accelerating very deep
convolutional networks"); there the relaxed problem is solved by alternation, here the targets beyond the bounds follow
what the last fit gave there.
"""

from __future__ import annotations

import dataclasses
import math

import keras
import numpy as np

from keras_qcqp.graph import Node


@dataclasses.dataclass(frozen=True)
class Rectifier:
    """Passes what lies between two bounds."""

    low: float = 0.0
    high: float = math.inf

    def targets(self, wanted: np.ndarray, given: np.ndarray) -> np.ndarray:
        """Where to aim: at what is wanted, beyond a bound at what is given, as long as that is beyond it too."""
        below = np.where(wanted <= self.low, np.minimum(given, self.low), wanted)
        return np.where(wanted >= self.high, np.maximum(given, self.high), below)


_BY_NAME = {"relu": Rectifier(), "relu6": Rectifier(0.0, 6.0)}


def fused(node: Node) -> Rectifier | None:
    """The rectifier that a layer ends with."""
    activation = node.config.get("activation")
    return _BY_NAME.get(activation) if isinstance(activation, str) else None  # a function of the user's is a dict


def rectifier(node: Node) -> Rectifier | None:
    """What a call is, if it is nothing but a rectifier."""
    if node.cls is keras.layers.ReLU:
        leaky = node.config.get("negative_slope") or node.config.get("threshold")
        top = node.config.get("max_value")
        return None if leaky else Rectifier(0.0, math.inf if top is None else float(top))
    if node.cls is keras.layers.Activation:
        return fused(node)
    if node.cls.__module__.startswith("keras.src.ops.") and len(node.inputs) == 1:
        return _BY_NAME.get(node.kind.lower())
    return None
