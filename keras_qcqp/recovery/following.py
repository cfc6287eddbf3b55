"""What comes behind a layer: the batch norm that takes its constants, the addition that joins it with others."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np

from keras_qcqp.execution import Network
from keras_qcqp.graph import Node

_L = keras.layers
_IDENTITY = (_L.Dropout, _L.SpatialDropout1D, _L.SpatialDropout2D, _L.SpatialDropout3D, _L.ActivityRegularization)


@dataclasses.dataclass(frozen=True)
class Following:
    """The calls behind a layer as long as nobody else reads in between, and what is linear.

    Attributes:
        norm: a batch norm right behind the layer.
        addition: the addition behind that.
        operand: which of its operands comes from here.
    """

    norm: Node | None = None
    addition: Node | None = None
    operand: int = 0


def following(network: Network, node: Node) -> Following:
    """Looks on from the only output of a call."""
    norm: Node | None = None
    if not linear(node):
        return Following()
    x = node.outputs[0]
    while True:
        readers = network.consumers.get(x.number, ())
        if len(readers) != 1 or x.number in {y.number for y in network.graph.outputs}:
            return Following(norm)
        (reader,) = readers
        if reader.cls is _L.BatchNormalization and norm is None and _alone(network, reader):
            norm = reader
        elif reader.cls is _L.Add and _alone(network, reader):
            places = [k for k, y in enumerate(reader.inputs) if y.number == x.number]
            same = all(y.shape == x.shape for y in reader.inputs)
            return Following(norm, reader, places[0]) if same and len(places) == 1 else Following(norm)
        elif reader.cls not in _IDENTITY:
            return Following(norm)
        x = reader.outputs[0]


def linear(node: Node) -> bool:
    """Whether a layer ends without an activation function."""
    return node.config.get("activation", "linear") in (None, "linear")


def norm_scale(network: Network, norm: Node | None, size: int) -> np.ndarray:
    """float[channels]: what a batch norm multiplies with; ones without one."""
    if norm is None:
        return np.ones(size)
    layer = network.layers[norm.layer]
    scale = np.ones(size) if layer.gamma is None else np.asarray(keras.ops.convert_to_numpy(layer.gamma), np.float64)
    variance = np.asarray(keras.ops.convert_to_numpy(layer.moving_variance), np.float64)
    return scale / np.sqrt(variance + layer.epsilon)


def add_constant(network: Network, node: Node, norm: Node | None, constant: np.ndarray) -> bool:
    """Adds float[channels] to the output of a layer: to its bias, or to the batch norm behind; False if neither is."""
    layer = network.layers[node.layer]
    if getattr(layer, "bias", None) is not None:
        layer.bias.assign_add(constant)
    elif norm is not None:
        network.layers[norm.layer].moving_mean.assign_add(-constant)
    else:
        return False
    return True


def takes_constant(network: Network, node: Node, norm: Node | None) -> bool:
    """Whether `add_constant` will do it."""
    return norm is not None or getattr(network.layers[node.layer], "bias", None) is not None


def _alone(network: Network, node: Node) -> bool:
    """Whether the layer is called once."""
    return sum(other.layer == node.layer for other in network.graph.nodes) == 1
