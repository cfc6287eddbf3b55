"""What is lost after reconstruction: measured, not guessed, and without labels.

For each coupled mask: its channels are taken out of all layers that read them, one by one, the cheapest first, while
the kernels are fitted to what is left (`recovery.elimination`; or by pivots, `recovery.pivoting`). At a few widths
these kernels are put into a copy of the network, and the divergence of its outputs from the original is measured.
Between the measured widths it is shared out by the error that each channel adds. So importance is in one unit (nats,
for class scores) across all layers, and the sum of what a selection drops predicts how far the pruned and reconstructed
network will be from the original.

Ours; the fits are those of ZipLM (see `recovery.elimination`), measuring whole layers goes back to the sensitivity
analysis of Li et al., "Pruning filters for efficient convnets" (ICLR 2017).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from keras_qcqp.channels import Inside, Out
from keras_qcqp.coupling import Coupling
from keras_qcqp.execution import Network
from keras_qcqp.importance.bench import Bench
from keras_qcqp.importance.evidence import Evidence
from keras_qcqp.importance.mask_readers import find_readers, gather
from keras_qcqp.importance.score import Score, kernels
from keras_qcqp.recovery.elimination import Elimination, eliminate

Ranking = Callable[..., Elimination]
"""`(readings, number of channels, ridge, stops)`, as `eliminate`."""


@dataclasses.dataclass(frozen=True)
class Reconstruction:
    """The criterion.

    Attributes:
        probes: shares of a mask's channels that are taken out for a measurement.
        num_probed: examples on which a measurement is made.
        ridge: of the fits, see `recovery.recover`.
        places: output positions of each example that give a row.
        ranking: in which order the channels of a mask go: `eliminate`, or `pivoting.pivot`.
    """

    probes: tuple[float, ...] = (0.0625, 0.125, 0.1875, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875)
    num_probed: int = 512
    ridge: float = 1e-3
    places: int = 32
    ranking: Ranking = eliminate

    def __call__(self, evidence: Evidence) -> list[Score]:
        """One score for each mask that may shrink.

        Raises:
            DataError: there are no examples.
        """
        model, samples = evidence.examples("reconstruction")
        network, coupling = Network(model), evidence.coupling
        readers = find_readers(coupling, network)
        evidence.tell(f"reading {len(samples)} examples")
        gathered = gather(network, readers, samples, self.places, evidence.seed)
        bench = Bench(model, coupling, samples[: self.num_probed], evidence.loss)
        scores = []
        for done, (number, reading) in enumerate(readers.items()):
            evidence.tell(f"measuring '{coupling.masks[number].name}', {done + 1} of {len(readers)}")
            size = coupling.masks[number].size
            stops = sorted({min(round(share * size), size - 1) for share in self.probes} - {0})
            if reading.fitted:
                found = self.ranking(gathered.readings(network, reading), size, self.ridge, stops)
                order, costs = found.order, found.costs
                measured = {n: bench.fitted(gathered, reading, found.kernels[n]) for n in stops}
            else:
                order, costs = _by_size(evidence, number)
                measured = {n: bench.dropped(number, order[:n]) for n in stops}
            scores.append(_score(coupling, number, _shared_out(order, costs, measured)))
        return scores


def _by_size(evidence: Evidence, mask: int) -> tuple[np.ndarray, np.ndarray]:
    """Order and sizes by sums of squared weights, where no fit is known."""
    coupling = evidence.coupling
    sizes = np.zeros(coupling.masks[mask].size)
    for kernel in kernels(coupling):
        values = np.square(evidence.weights[kernel.node.layer][kernel.name].astype(np.float64))
        for number, axis in enumerate(kernel.axes):
            if axis is not None:
                ids = coupling.ids(kernel.node, axis)
                sums = values.sum(axis=tuple(k for k in range(values.ndim) if k != number))
                ours = coupling.mask_of[ids] == mask
                np.add.at(sizes, coupling.position[ids[ours]], sums[ours])
    order = np.argsort(sizes, kind="stable")
    return order, sizes[order]


def _shared_out(order: np.ndarray, costs: np.ndarray, measured: dict[int, float]) -> np.ndarray:
    """float[channels]: what each channel adds to the measured loss; later ones never less than earlier ones."""
    added, level, start, factor = np.zeros(len(order)), 0.0, 0, 1.0
    for stop in sorted(measured):
        part, rise = costs[start:stop], max(measured[stop] - level, 0.0)
        total = float(part.sum())
        added[start:stop] = part / total * rise if total > 0 else rise / (stop - start)
        factor = rise / total if total > 0 else factor
        level, start = max(measured[stop], level), stop
    added[start:] = costs[start:] * factor
    values = np.zeros(len(order))
    values[order] = _never_falling(added)
    return values


def _never_falling(values: np.ndarray) -> np.ndarray:
    """The nearest sequence that never falls (pooling of adjacent violators)."""
    pools = list[tuple[float, int]]()
    for value in values.tolist():
        pools.append((value, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (a, n), (b, m) = pools.pop(-2), pools.pop()
            pools.append(((a * n + b * m) / (n + m), n + m))
    return np.concatenate([np.full(n, value) for value, n in pools]) if pools else values


def _score(coupling: Coupling, mask: int, values: np.ndarray) -> Score:
    """Along the first tensor, or hidden width, that shows all channels of the mask."""
    for node in coupling.graph.nodes:
        spec = coupling.specs[node.name]
        shown = [(Out(port), x.ids) for port, x in enumerate(spec.outputs)]
        shown += [(Inside(port), h.ids) for port, h in enumerate(spec.hidden)]
        for axis, ids in shown:
            ours = np.flatnonzero(coupling.mask_of[ids] == mask)
            channels, first = np.unique(coupling.position[ids[ours]], return_index=True)
            if len(channels) == len(values):
                along = np.zeros(len(ids))
                along[ours[first]] = values
                return Score(node, (axis,), along)
    raise AssertionError(f"mask {mask} is shown nowhere")
