"""Where channels are read: the slices of kernels that their gates multiply, so that 0 takes a channel out exactly."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from keras_qcqp.coupling import Coupling
from keras_qcqp.importance.mask_readers import zeroed_masks


@dataclasses.dataclass(frozen=True)
class Read:
    """One axis of a kernel along which channels are read.

    Attributes:
        masks, positions: int[width of the axis], which channel each slice reads.
    """

    layer: str
    weight: str
    axis: int
    masks: np.ndarray
    positions: np.ndarray

    def along(self, values: Sequence[np.ndarray], ndim: int) -> np.ndarray:
        """What belongs to the channels, float[masks][size], shaped to multiply the kernel."""
        found = np.ones(len(self.masks))
        for mask in np.unique(self.masks).tolist():
            ours = self.masks == mask
            found[ours] = values[mask][self.positions[ours]]
        shape = [1] * ndim
        shape[self.axis] = -1
        return found.reshape(shape)


def reads_of(coupling: Coupling) -> tuple[tuple[Read, ...], tuple[bool, ...]]:
    """All reads, and for each mask whether gates on them can take its channels out: not if a sum or output reads it."""
    reads = []
    for node in coupling.first_calls():
        spec = coupling.specs[node.name]
        for name in spec.weights:
            for number in spec.reading(name) if name in node.weights else ():
                axis = spec.weights[name][number]
                assert axis is not None
                ids = coupling.ids(node, axis)
                reads.append(Read(node.layer, name, number, coupling.mask_of[ids], coupling.position[ids]))
    read = {mask for r in reads for mask in r.masks.tolist()}
    other = zeroed_masks(coupling)
    free = (k in read and k not in other and not m.frozen and not m.dead for k, m in enumerate(coupling.masks))
    return tuple(reads), tuple(free)


def weights_read(reads: Iterable[Read]) -> list[tuple[str, str]]:
    """(layer path, weight name) of everything that is read along, once."""
    return list(dict.fromkeys((r.layer, r.weight) for r in reads))


Values = Mapping[tuple[str, str], np.ndarray]
"""By layer path and weight name."""


def slopes_of(
    reads: Iterable[Read], gates: Sequence[np.ndarray], weights: Values, gradients: Values
) -> list[np.ndarray]:
    """Derivative of the loss by each gate, from those by the kernels it is multiplied into; 0 at a gate of 0."""
    found = [np.zeros(len(values)) for values in gates]
    for r in reads:
        key = r.layer, r.weight
        product = weights[key].astype(np.float64) * gradients[key]
        along = product.sum(axis=tuple(k for k in range(product.ndim) if k != r.axis))
        for mask in np.unique(r.masks).tolist():
            ours = r.masks == mask
            np.add.at(found[mask], r.positions[ours], along[ours])
    return [np.divide(s, g, out=np.zeros_like(s), where=g > 0) for s, g in zip(found, gates, strict=True)]


def scaled(reads: Iterable[Read], factors: Sequence[np.ndarray], weights: Values) -> dict[tuple[str, str], np.ndarray]:
    """The kernels with every slice multiplied by the factor of the channel that it reads."""
    found = dict(weights)
    for r in reads:
        values = found[r.layer, r.weight]
        found[r.layer, r.weight] = (values * r.along(factors, values.ndim)).astype(values.dtype)
    return found
