"""Union residuals: a sum has channels of its own, and a channel that an operand does not have counts as zero in it.

For every channel c of a sum V of operands A_k (after Jeong et al., "Optimal channel selection with discrete QCQP",
AISTATS 2022, `u <= v <= u + v_s`; here for any number of operands):

* what the sum keeps, some operand brings: `V[c] <= sum over k of A_k[c]`;
* what only sums read, one of them keeps: `A_k[c] <= sum over those sums of V[c]`.

Padding with zeros brings nothing. Zeros that nothing but sums can see are `dead`: they are never kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from keras_qcqp.channels import ids_along
from keras_qcqp.partition import resolve
from keras_qcqp.problem import Need
from keras_qcqp.residual.streams import Streams
from keras_qcqp.residual.zeros import zero_flags

Ties = Sequence[tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Sum:
    """An addition that may have channels of its own: ids of the sum, and of each operand."""

    node: str
    out: np.ndarray
    operands: tuple[np.ndarray, ...]


@dataclasses.dataclass(frozen=True)
class Join:
    """An addition that has channels of its own.

    Attributes:
        produced: for each operand bool[channels], False where the operand is zero whatever is fed to the network.
    """

    node: str
    produced: tuple[np.ndarray, ...]


def settle(
    num_ids: int, ties: Ties, sums: Sequence[Sum], pinned: Sequence[np.ndarray]
) -> tuple[np.ndarray, tuple[Sum, ...]]:
    """The class of each id, and the additions that can have channels of their own.

    Refused, and tied after all, are those that touch `pinned` ids, and those whose sum is tied to an operand anyway.
    Tying one may pin another, so this goes on until nothing changes.
    """
    ties, left = list(ties), tuple(sums)
    while True:
        root = resolve(num_ids, ties)
        held = np.zeros(num_ids + 1, bool)
        for ids in pinned:
            held[root[ids]] = True
        refused = [s for s in left if _hindered(s, root, held)]
        if not refused:
            return root, left
        for s in refused:
            ties += [(s.out, x) for x in s.operands]
        left = tuple(s for s in left if s not in refused)


def _hindered(s: Sum, root: np.ndarray, held: np.ndarray) -> bool:
    out, given = root[s.out], root[np.concatenate(s.operands)]
    return bool(held[out].any() or held[given].any() or np.isin(out, given).any())


def join(streams: Streams, born: Mapping[str, tuple[np.ndarray, ...]]) -> tuple[tuple[Join, ...], np.ndarray]:
    """The joins, and bool[channels]: which channels are dead.

    Args:
        born: node -> for each output bool[channels], zeros that come into being there.
    """
    met = np.zeros(len(streams.frozen), bool)
    if not streams.joins:
        return (), met
    flags = zero_flags(streams, born)
    joins, dead = [], ~streams.frozen
    for node in streams.graph.nodes:
        outs = streams.specs[node.name].outputs
        for tensor, x in zip(node.outputs, outs, strict=True):
            met[x.ids] = True
            dead[x.ids[~flags[tensor.number]]] = False
        if node.name in streams.joins:
            joins.append(Join(node.name, tuple(~flags[t.number] for t in node.inputs)))
            continue
        passed = np.concatenate([x.ids for x in outs] or [np.zeros(0, int)])
        for x in streams.inputs[node.name]:
            dead[x.ids[~np.isin(x.ids, passed)]] = False
    return tuple(joins), dead & met


def needs(
    streams: Streams, joins: Sequence[Join], dead: np.ndarray, mask_of: np.ndarray, position: np.ndarray
) -> tuple[Need, ...]:
    """Both rules of this module as constraints on masks; what holds anyway is left out."""
    links: dict[tuple[int, tuple[int, ...]], None] = {}
    read = _read_by_others(streams)
    sums: dict[int, set[int]] = {}
    for j in joins:
        out = streams.specs[j.node].outputs[0].ids
        given = [x.ids for x in streams.inputs[j.node]]
        for place, channel in enumerate(out.tolist()):
            sources = {int(ids[place]) for ids, real in zip(given, j.produced, strict=True) if real[place]}
            if sources:  # else it is zero itself, and may go like any other
                links[channel, tuple(sorted(sources))] = None
            for source in sources:
                sums.setdefault(source, set()).add(channel)
    for source, channels in sums.items():
        if not read[source]:
            links[source, tuple(sorted(channels))] = None
    free = {link: None for link in links if not dead[link[0]]}
    return _grouped(free, mask_of, position)


def _read_by_others(streams: Streams) -> np.ndarray:
    """bool[channels]: what some node reads that is no join and does not merely hand it on."""
    read = np.zeros(len(streams.frozen), bool)
    for node in streams.graph.nodes:
        if node.name in streams.joins:
            continue
        spec, inputs = streams.specs[node.name], streams.inputs[node.name]
        passed = np.concatenate([x.ids for x in spec.outputs] or [np.zeros(0, int)])
        for x in inputs:
            read[x.ids[~np.isin(x.ids, passed)]] = True
        for name, axes in spec.weights.items():
            for number in spec.reading(name):
                axis = axes[number]
                if axis is not None:
                    read[ids_along(spec, inputs, axis)] = True
    return read


def _grouped(
    links: Collection[tuple[int, tuple[int, ...]]], mask_of: np.ndarray, position: np.ndarray
) -> tuple[Need, ...]:
    """One `Need` for all links between the same masks."""
    rows: dict[tuple[int, tuple[int, ...]], list[tuple[int, ...]]] = {}
    for target, sources in links:
        ordered = sorted(sources, key=lambda c: (int(mask_of[c]), int(position[c])))
        key = int(mask_of[target]), tuple(int(mask_of[c]) for c in ordered)
        rows.setdefault(key, []).append((int(position[target]), *(int(position[c]) for c in ordered)))
    found = []
    for (mask, source_masks), listed in sorted(rows.items()):
        index, *columns = np.array(sorted(listed), np.int64).T
        found.append(Need(mask, index, tuple(zip(source_masks, columns, strict=True))))
    return tuple(found)
