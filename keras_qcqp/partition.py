"""From ties between channel ids to coupled channels, and from those to masks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from keras_qcqp.channels import Spec
from keras_qcqp.graph import Graph


@dataclasses.dataclass(frozen=True)
class CoupledMask:
    """A set of channels with the same part in every layer: one binary vector of the program.

    Attributes:
        name: the layer call that brings these channels into being.
        size: number of independent channels, the length of the vector.
        multiplicity: how often each channel appears in the tensor that brings it into being (grouped convolutions).
        frozen: always kept.
        dead: never kept; zeros that only pad the shorter operand of an addition (union residuals).
    """

    name: str
    size: int
    multiplicity: int
    frozen: bool
    dead: bool = False


@dataclasses.dataclass(frozen=True)
class FrozenLayer:
    """A call that keeps channels which would otherwise be free, how many, and why.

    `tied` marks layers that were followed, but whose channels are added to an input or output of the network.
    """

    node: str
    kind: str
    reason: str
    num_channels: int
    tied: bool = False


def resolve(num_ids: int, ties: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Union-find; returns the number of each id's class, classes numbered by first appearance."""
    parent = list(range(num_ids))

    def find(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for a, b in ties:
        for i, j in zip(a.tolist(), b.tolist(), strict=True):
            i, j = find(i), find(j)
            parent[max(i, j)] = min(i, j)
    roots = np.array([find(i) for i in range(num_ids)], dtype=np.int64)
    return np.unique(roots, return_inverse=True)[1].astype(np.int64) if num_ids else roots


def label_channels(graph: Graph, specs: Mapping[str, Spec], frozen: np.ndarray, dead: np.ndarray) -> np.ndarray:
    """Channels get the same label when they appear equally often in every tensor (partition refinement)."""
    label = np.where(dead, 2, frozen.astype(np.int64))
    next_label = 3
    for node in graph.nodes:
        for ids in specs[node.name].held:
            present, count = np.unique(ids, return_counts=True)
            if len(present) == 0:
                continue
            _, fresh = np.unique(np.stack([label[present], count]), axis=1, return_inverse=True)
            label[present] = next_label + fresh.ravel()
            next_label += int(fresh.max()) + 1
    return label


def group_masks(
    graph: Graph, specs: Mapping[str, Spec], label: np.ndarray, frozen: np.ndarray, dead: np.ndarray
) -> tuple[tuple[CoupledMask, ...], np.ndarray, np.ndarray]:
    birth = np.full(len(label), -1)
    times = np.ones(len(label), np.int64)
    cradles: list[str] = []
    for node in graph.nodes:
        spec = specs[node.name]
        labels = [node.name] * len(spec.outputs) + [f"{node.name}/{h.name}" for h in spec.hidden]
        for cradle, ids in zip(labels, spec.held, strict=True):
            present, count = np.unique(ids, return_counts=True)
            new = birth[present] < 0
            birth[present[new]], times[present[new]] = len(cradles), count[new]
            cradles.append(cradle)
    _, first, mask_of = np.unique(label, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))  # masks in the order in which the network makes them
    mask_of = order[mask_of]
    masks: list[CoupledMask] = []
    position = np.zeros(len(label), np.int64)
    names: dict[str, int] = {}
    for mask in range(len(first)):
        members = np.flatnonzero(mask_of == mask)
        position[members] = np.arange(len(members))
        name, multiplicity = cradles[birth[members[0]]], int(times[members[0]])
        number = names[name] = names.get(name, 0) + 1
        unique = name if number == 1 else f"{name}/{number}"
        kinds = bool(frozen[members[0]]), bool(dead[members[0]])
        masks.append(CoupledMask(unique, len(members), multiplicity, *kinds))
    return tuple(masks), mask_of, position
