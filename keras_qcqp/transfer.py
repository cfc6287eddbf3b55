"""A selection over one coupling of a network, told over another."""

from __future__ import annotations

import numpy as np

from keras_qcqp.coupling import Coupling
from keras_qcqp.problem import Keep


def transfer(keep: Keep, given: Coupling, wanted: Coupling) -> Keep:
    """The same channels, by the masks of another coupling of the same graph.

    Args:
        given: the coupling of `keep`, with more ties than `wanted` (channels that the user wants together).
    """
    before, after = given.alive(keep), np.zeros(len(wanted.mask_of), bool)
    for node in wanted.graph.nodes:
        for old, new in zip(given.specs[node.name].held, wanted.specs[node.name].held, strict=True):
            after[new] = before[old]
    told = [np.zeros(mask.size, bool) for mask in wanted.masks]
    for number, mask in enumerate(wanted.masks):
        members = np.flatnonzero(wanted.mask_of == number)
        told[number][wanted.position[members]] = after[members] & (not mask.dead)
    return tuple(told)
