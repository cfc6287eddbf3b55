"""A copy of the network, on which interventions are tried and measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_qcqp.coupling import Coupling
from keras_qcqp.execution import Execution, Network, Runs
from keras_qcqp.graph import Node
from keras_qcqp.importance.mask_readers import Gathered, MaskReaders
from keras_qcqp.importance.probing import Divergence
from keras_qcqp.plan import plan_from
from keras_qcqp.rebuilder import blanked_copy, duplicate
from keras_qcqp.recovery.following import add_constant, following
from keras_qcqp.samples import Samples

_BATCH = 128


class Bench:
    """Measures what taking channels out of a mask does to the outputs.

    Masks are best measured in the order of the network: what lies before the readers of one is not computed again.
    """

    def __init__(self, model: keras.Model, coupling: Coupling, samples: Samples, loss: Any = None) -> None:
        self._model, self._coupling, self._samples = model, coupling, samples
        self._divergence = Divergence.of(model, samples, loss)
        self._network = Network(duplicate(model))
        self._weights = model.get_weights()
        self._place = {node.name: number for number, node in enumerate(self._network.graph.nodes)}
        self._runs = Runs((self._network,), samples, _BATCH)
        self._reached = -1

    def fitted(self, gathered: Gathered, found: MaskReaders, kernels: Sequence[np.ndarray]) -> float:
        """With these kernels in the readers of a mask; what they take from the mean output is given back."""
        network = self._network
        first = min((reader.node for reader, _ in found.readers), key=lambda node: self._place[node.name])
        runs = self._before(first)
        for reader, kernel, constant in gathered.new_kernels(network, found, kernels):
            network.layers[reader.node.layer].kernel.assign(kernel)
            add_constant(network, reader.node, following(network, reader.node).norm, constant)
        try:
            return self._divergence(_outputs(network, runs))
        finally:
            network.model.set_weights(self._weights)

    def dropped(self, mask: int, channels: np.ndarray) -> float:
        """Without these channels and without any fit."""
        keep = [np.full(m.size, not m.dead) for m in self._coupling.masks]
        keep[mask][channels] = False
        # No plan that could be built: what needs these channels stays, and gets zeros.
        network = Network(blanked_copy(self._model, self._coupling, plan_from(self._coupling, tuple(keep))))
        return self._divergence(_outputs(network, (run for (run,) in Runs((network,), self._samples, _BATCH))))

    def _before(self, node: Node) -> Iterator[Execution]:
        """Copies of the runs in which nothing is computed that a layer from `node` on takes part in."""
        place = self._place[node.name]
        if place < self._reached:  # too far already: start again
            self._runs = Runs((self._network,), self._samples, _BATCH)
        if self._runs.kept:
            for (run,) in self._runs:
                run.value(node.inputs[0])
        self._reached = place
        return (run.fork() for (run,) in self._runs)


def _outputs(network: Network, runs: Iterable[Execution]) -> list[np.ndarray]:
    """All outputs float64[samples, ...]; call by call, since a model compiled for each measurement takes longer."""
    parts = [[run.array(x).astype(np.float64) for x in network.graph.outputs] for run in runs]
    return [np.concatenate(ys) for ys in zip(*parts, strict=True)]
