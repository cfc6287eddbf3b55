"""A copy of the network, on which interventions are tried and measured."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np

from keras_qcqp.coupling import Coupling
from keras_qcqp.execution import Network
from keras_qcqp.importance.mask_readers import Gathered, MaskReaders
from keras_qcqp.importance.probing import Divergence
from keras_qcqp.plan import plan_from
from keras_qcqp.rebuilder import masked
from keras_qcqp.recovery.copies import copy_of
from keras_qcqp.recovery.following import add_constant, following


class Bench:
    """Measures what taking channels out of a mask does to the outputs."""

    def __init__(self, model: keras.Model, coupling: Coupling, divergence: Divergence) -> None:
        self._model, self._coupling, self._divergence = model, coupling, divergence
        self._network = Network(copy_of(model))
        self._weights = model.get_weights()

    def fitted(self, gathered: Gathered, found: MaskReaders, kernels: Sequence[np.ndarray]) -> float:
        """With these kernels in the readers of a mask; what they take from the mean output is given back."""
        network = self._network
        for reader, kernel, constant in gathered.new_kernels(network, found, kernels):
            network.layers[reader.node.layer].kernel.assign(kernel)
            add_constant(network, reader.node, following(network, reader.node).norm, constant)
        try:
            return self._divergence(network.model)
        finally:
            network.model.set_weights(self._weights)

    def dropped(self, mask: int, channels: np.ndarray) -> float:
        """Without these channels and without any fit."""
        keep = [np.full(m.size, not m.dead) for m in self._coupling.masks]
        keep[mask][channels] = False
        return self._divergence(masked(self._model, plan_from(self._coupling, tuple(keep))))
