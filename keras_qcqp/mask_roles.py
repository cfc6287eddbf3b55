"""Who makes, reads and hands on each coupled mask, and why it is frozen: the coupling as seen from its masks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from keras_qcqp.channels import Axis, Channels, Spec
from keras_qcqp.graph import Graph, Node
from keras_qcqp.partition import CoupledMask, FrozenLayer


class Coupled(Protocol):
    """What is asked of a `Coupling`, which itself prints through this module."""

    @property
    def graph(self) -> Graph: ...
    @property
    def specs(self) -> Mapping[str, Spec]: ...
    @property
    def inputs(self) -> Mapping[str, tuple[Channels, ...]]: ...
    @property
    def masks(self) -> tuple[CoupledMask, ...]: ...
    @property
    def mask_of(self) -> np.ndarray: ...
    @property
    def frozen(self) -> tuple[FrozenLayer, ...]: ...
    @property
    def residual(self) -> str: ...
    @property
    def joins(self) -> Sequence[object]: ...

    def ids(self, node: Node, axis: Axis) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class Roles:
    """The layers (paths, in topological order) that have to do with one mask.

    Attributes:
        makers: their kernels, or they themselves, bring its channels into being; all of them keep the same.
        readers: their kernels read it, or it ends there.
        carriers: it goes through them unmixed: norms, activations, depthwise convolutions, pooling.
        why: the reason why all of it or nothing of it is kept, empty for a mask that can be chosen from.
    """

    mask: CoupledMask
    makers: tuple[str, ...]
    readers: tuple[str, ...]
    carriers: tuple[str, ...]
    why: str


def roles_of(coupling: Coupled) -> tuple[Roles, ...]:
    """One for each mask, in the order of `coupling.masks`."""
    found: list[tuple[list[str], list[str], list[str]]] = [([], [], []) for _ in coupling.masks]
    for node in coupling.graph.nodes:
        made, read, carried = _part_of(coupling, node)
        for role, numbers in enumerate((made, read, carried)):
            for number in numbers:
                found[number][role].append(node.layer)
    reasons = _reasons(coupling)
    roles = []
    for number, (mask, layers) in enumerate(zip(coupling.masks, found, strict=True)):
        makers, readers, carriers = (tuple(dict.fromkeys(names)) for names in layers)
        if not makers and not carriers:  # a width inside a layer, which no tensor has
            makers = (home(coupling.graph, mask),)
        carriers = tuple(name for name in carriers if name not in makers)
        roles.append(Roles(mask, makers, readers, carriers, reasons.get(number, "")))
    return tuple(roles)


def home(graph: Graph, mask: CoupledMask) -> str:
    """The layer whose name begins the mask's, as in `mha/heads`."""
    inside = [n.layer for n in graph.nodes if mask.name == n.layer or mask.name.startswith(f"{n.layer}/")]
    return max(inside, key=len, default=mask.name)


def masks_of(coupling: Coupled, tensors: Sequence[Channels]) -> set[int]:
    """The masks that these tensors hold channels of."""
    return {int(m) for x in tensors for m in np.unique(coupling.mask_of[x.ids])}


def _part_of(coupling: Coupled, node: Node) -> tuple[list[int], list[int], list[int]]:
    """The masks that a call makes, reads and carries."""
    spec, inputs = coupling.specs[node.name], coupling.inputs[node.name]
    given, out = masks_of(coupling, inputs), masks_of(coupling, spec.outputs)
    made, read = out - given, given - out
    for side, ids in _kernel_axes(coupling, node):
        (read if side == "in" else made).update(np.unique(coupling.mask_of[ids]).tolist())
    return sorted(made), sorted(read), sorted(out - made)


def _kernel_axes(coupling: Coupled, node: Node) -> Iterator[tuple[str, np.ndarray]]:
    """The axes of all weights that mix one set of channels into another."""
    spec = coupling.specs[node.name]
    for name, axes in spec.weights.items():
        followed = [a for a in axes if a is not None]
        if name in node.weights and len(followed) > 1:
            yield from ((a.side, coupling.ids(node, a)) for a in followed)


def _reasons(coupling: Coupled) -> dict[int, str]:
    """Mask -> why it cannot be chosen from; several reasons are told in one sentence."""
    graph = coupling.graph
    held: dict[int, dict[str, None]] = {m: {} for m, mask in enumerate(coupling.masks) if mask.frozen}
    made = {
        tensor.number: channels
        for node in graph.nodes
        for tensor, channels in zip(node.outputs, coupling.specs[node.name].outputs, strict=True)
    }
    causes = [("input of the network", [made[t.number] for t in graph.inputs])]
    causes.append(("output of the network", [made[t.number] for t in graph.outputs]))
    for f in coupling.frozen:
        if not f.tied:
            causes.append((f"frozen at {f.node}", [*coupling.inputs[f.node], *coupling.specs[f.node].outputs]))
    for reason, tensors in causes:
        for mask in masks_of(coupling, tensors) & held.keys():
            held[mask][reason] = None
    told = {m: _joined(list(reasons)) or "frozen" for m, reasons in held.items()}
    return told | {m: "zeros that only pad an addition" for m, mask in enumerate(coupling.masks) if mask.dead}


def _joined(reasons: list[str]) -> str:
    """The first few; every layer normalisation of a transformer freezes the same mask."""
    more = len(reasons) - 3
    return " and ".join(reasons if more <= 1 else [*reasons[:3], f"{more} more"])
