"""What comes behind a layer: the batch norm that takes its constants, the addition that joins it with others."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np

from keras_qcqp.execution import Network
from keras_qcqp.graph import Node, Tensor
from keras_qcqp.keras_graph import float64
from keras_qcqp.recovery.rectifiers import Rectifier, fused, rectifier

_L = keras.layers
_IDENTITY = (_L.Dropout, _L.SpatialDropout1D, _L.SpatialDropout2D, _L.SpatialDropout3D, _L.ActivityRegularization)


@dataclasses.dataclass(frozen=True)
class Following:
    """The calls behind a layer as long as nobody else reads in between, and what is linear.

    Attributes:
        norm: a batch norm right behind the layer.
        addition: the addition behind that.
        operand: which of its operands comes from here.
        rectifier: what cuts off the result, and the call that does it (None: the layer itself).
    """

    norm: Node | None = None
    addition: Node | None = None
    operand: int = 0
    rectifier: Rectifier | None = None
    rectified_by: Node | None = None

    @property
    def names(self) -> tuple[str | None, ...]:
        """Of the calls, to compare with those of another network."""
        calls = (self.norm, self.addition, self.rectified_by)
        return tuple(None if node is None else node.name for node in calls)

    @property
    def alone(self) -> Following:
        """Without the addition and what comes behind it."""
        return self if self.addition is None else Following(self.norm)


def following(network: Network, node: Node) -> Following:
    """Looks on from the only output of a call."""
    if not linear(node):
        return Following(rectifier=fused(node))
    found, x = Following(), node.outputs[0]
    while True:
        readers = network.consumers.get(x.number, ())
        if len(readers) != 1 or x.number in {y.number for y in network.graph.outputs}:
            return found
        (reader,) = readers
        once = network.called_once(reader)
        if reader.cls is _L.BatchNormalization and found == Following() and once:
            found = Following(reader)
        elif reader.cls is _L.Add and found.addition is None and once and _joins(reader, x):
            operand = [y.number for y in reader.inputs].index(x.number)
            found = dataclasses.replace(found, addition=reader, operand=operand)
        elif reader.cls not in _IDENTITY:
            cut = rectifier(reader) if once else None
            return found if cut is None else dataclasses.replace(found, rectifier=cut, rectified_by=reader)
        x = reader.outputs[0]


def _joins(addition: Node, x: Tensor) -> bool:
    """Whether the tensor is one operand, and all have its shape."""
    same = all(y.shape == x.shape for y in addition.inputs)
    return same and sum(y.number == x.number for y in addition.inputs) == 1


def linear(node: Node) -> bool:
    """Whether a layer ends without an activation function."""
    return node.config.get("activation", "linear") in (None, "linear")


def norm_scale(network: Network, norm: Node | None, size: int) -> np.ndarray:
    """float[channels]: what a batch norm multiplies with; ones without one."""
    if norm is None:
        return np.ones(size)
    layer = network.layers[norm.layer]
    scale = np.ones(size) if layer.gamma is None else float64(layer.gamma)
    return scale / np.sqrt(float64(layer.moving_variance) + layer.epsilon)


def add_constant(network: Network, node: Node, norm: Node | None, constant: np.ndarray) -> None:
    """Adds float[channels] to the output of a layer: to its bias, or to the batch norm behind, if there is either."""
    layer = network.layers[node.layer]
    if getattr(layer, "bias", None) is not None:
        layer.bias.assign_add(constant)
    elif norm is not None:
        network.layers[norm.layer].moving_mean.assign_add(-constant)


def takes_constant(network: Network, node: Node, norm: Node | None) -> bool:
    """Whether `add_constant` finds a place."""
    return norm is not None or getattr(network.layers[node.layer], "bias", None) is not None
