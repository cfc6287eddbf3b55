"""Who reads the channels of a mask, and what these layers multiply."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from keras_qcqp.channels import Axis
from keras_qcqp.coupling import Coupling
from keras_qcqp.execution import Execution, Network
from keras_qcqp.graph import Node
from keras_qcqp.keras_graph import float64
from keras_qcqp.recovery.elimination import Reading
from keras_qcqp.recovery.following import following, norm_scale
from keras_qcqp.recovery.normal_equations import NormalEquations
from keras_qcqp.recovery.readers import Reader, reader_of
from keras_qcqp.recovery.windows import random_places
from keras_qcqp.samples import Samples

_BATCH = 64


@dataclasses.dataclass(frozen=True)
class MaskReaders:
    """All readers of one mask.

    Attributes:
        fitted: all of them can be fitted anew, so that dropping channels can be made up for.
        readers: these, with int[channels of the mask, rows of the kernel matrix that read each].
    """

    fitted: bool
    readers: tuple[tuple[Reader, np.ndarray], ...]


def find_readers(coupling: Coupling, network: Network) -> dict[int, MaskReaders]:
    """The readers of every mask that is not frozen."""
    known: dict[int, list[tuple[Reader, np.ndarray]]] = collections.defaultdict(list)
    unknown = set[int]()
    for node in coupling.first_calls():
        spec = coupling.specs[node.name]
        for name in node.weights:
            for number in spec.reading(name) if name in spec.weights else ():
                axis = spec.weights[name][number]
                assert axis is not None
                reader = reader_of(network.nodes[node.name]) if name == "kernel" and network.called_once(node) else None
                masks = set(coupling.mask_of[coupling.ids(node, axis)].tolist())
                if reader is None or reader.too_large or reader.depthwise:
                    unknown |= masks
                    continue
                for mask in masks:
                    known[mask].append((reader, _rows(coupling, node, axis, mask)))
    unknown |= zeroed_masks(coupling)
    return {
        number: MaskReaders(number not in unknown and number in known, tuple(known[number]))
        for number, mask in enumerate(coupling.masks)
        if not mask.frozen and not mask.dead
    }


def _rows(coupling: Coupling, node: Node, axis: Axis, mask: int) -> np.ndarray:
    """int[channels, rows]: a kernel matrix has a row for each tap and channel of a group, channels fastest."""
    ids = coupling.ids(node, axis)
    places = [
        np.flatnonzero((coupling.mask_of[ids] == mask) & (coupling.position[ids] == channel))
        for channel in range(coupling.masks[mask].size)
    ]
    taps = int(np.prod(node.weights["kernel"].shape[:-2]))
    return np.array([(np.arange(taps)[:, None] * len(ids) + p).ravel() for p in places], np.int64)


def zeroed_masks(coupling: Coupling) -> set[int]:
    """Masks that something reads without a kernel."""
    found = set[int]()
    for node in coupling.graph.nodes:
        spec, inputs = coupling.specs[node.name], coupling.inputs[node.name]
        for port in spec.zeroed:
            found |= set(coupling.mask_of[inputs[port].ids].tolist())
        if spec.after or spec.slicer:
            for x in (*inputs, *spec.outputs):
                found |= set(coupling.mask_of[x.ids].tolist())
    for join in coupling.joins:
        for x in coupling.inputs[join.node]:
            found |= set(coupling.mask_of[x.ids].tolist())
    return found


@dataclasses.dataclass(frozen=True)
class Gathered:
    """What the layers that can be fitted multiply: layer path -> sums over the examples."""

    sums: Mapping[str, NormalEquations]

    def readings(self, network: Network, found: MaskReaders) -> list[Reading]:
        """One for each group of each reader, its outputs in units of what comes behind a batch norm."""
        readings = []
        for reader, inputs in found.readers:
            matrices, scale = matrices_of(network, reader)
            covariance = self.sums[reader.node.layer].covariance
            readings += [Reading(c, m * s, inputs) for c, m, s in zip(covariance, matrices, scale, strict=True)]
        return readings

    def new_kernels(
        self, network: Network, found: MaskReaders, kernels: Sequence[np.ndarray]
    ) -> list[tuple[Reader, np.ndarray, np.ndarray]]:
        """(reader, its new kernel, constants float[outputs] that keep its mean output), from kernels of readings."""
        made, rest = [], list(kernels)
        for reader, _ in found.readers:
            matrices, scale = matrices_of(network, reader)
            own, rest = rest[: reader.groups], rest[reader.groups :]
            new = np.stack(own) / np.where(scale == 0, 1.0, scale)[:, None, :]
            new = np.where((scale == 0)[:, None, :], matrices, new)
            lost = np.einsum("gi,gio->go", self.sums[reader.node.layer].mean, matrices - new)
            shape = reader.node.weights["kernel"].shape
            made.append((reader, reader.kernel(new, shape), lost.reshape(-1)))
        return made


def matrices_of(network: Network, reader: Reader) -> tuple[np.ndarray, np.ndarray]:
    """Kernel float[groups, inputs, outputs], and what the batch norm behind multiplies, float[groups, outputs]."""
    kernel = float64(network.layers[reader.node.layer].kernel)
    matrices = reader.matrices(kernel)
    scale = norm_scale(network, following(network, reader.node).norm, kernel.shape[-1])
    return matrices, scale.reshape(reader.groups, -1)


def gather(network: Network, readers: Mapping[int, MaskReaders], samples: Samples, places: int, seed: int) -> Gathered:
    """One pass over the examples; of each output `places` random positions."""
    random = np.random.default_rng(seed)
    wanted = {r.node.layer: r for found in readers.values() if found.fitted for r, _ in found.readers}
    order = {node.layer: number for number, node in enumerate(network.graph.nodes)}
    sums = {layer: NormalEquations() for layer in wanted}
    for inputs, _ in samples.batches(_BATCH):
        run = Execution(network, inputs)
        for layer in sorted(wanted, key=lambda layer: order[layer]):
            reader = wanted[layer]
            x = run.array(reader.node.inputs[0])
            rows = reader.rows(x, random_places(reader.output_shape(x), places, random))
            sums[layer].add(rows, np.zeros((*rows.shape[:2], 0)))
    return Gathered(sums)
