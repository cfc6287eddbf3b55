"""What a drawing says, before anything has a place: for each call its texts and the masks in its output."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from keras_qcqp.channels import Channels
from keras_qcqp.coupling import Coupling
from keras_qcqp.coupling_text import parts, size
from keras_qcqp.drawing.labels import arrow
from keras_qcqp.drawing.rows import Wire
from keras_qcqp.graph import Node, Tensor
from keras_qcqp.mask_roles import Roles, home, masks_of, roles_of

_MOST_STRIPES = 64


@dataclasses.dataclass(frozen=True)
class Stripe:
    """Neighbouring channels of one mask: how many, and how many of them stay."""

    mask: int
    before: int
    after: int


@dataclasses.dataclass(frozen=True)
class Box:
    """One call.

    Attributes:
        width: channels of its outputs, before and after.
        notes: short lines under the box's colours, such as widths that only this layer has.
        reasons: why it is frozen, as short as that can be said.
        tip: everything in full.
    """

    name: str
    kind: str
    width: str
    stripes: tuple[Stripe, ...]
    notes: tuple[str, ...]
    reasons: tuple[str, ...]
    tip: str


@dataclasses.dataclass(frozen=True)
class Line:
    """One tensor on its way to its readers."""

    wire: Wire
    channels: int
    mask: int | None
    tip: str


@dataclasses.dataclass(frozen=True)
class Entry:
    """One mask in the legend."""

    name: str
    text: str
    frozen: bool
    tip: str


@dataclasses.dataclass(frozen=True)
class Content:
    title: str
    summary: str
    boxes: tuple[Box, ...]
    lines: tuple[Line, ...]
    entries: tuple[Entry, ...]


def content_of(coupling: Coupling, alive: np.ndarray | None) -> Content:
    """Args:
    alive: bool[channels], what a plan keeps; None where there is no plan.
    """
    graph = coupling.graph
    summary = f"{len(graph.nodes)} calls, {len(coupling.masks)} coupled masks of {len(coupling.mask_of):,} channels"
    if alive is not None:
        summary += f", of which {int(alive.sum()):,} stay"
    roles = roles_of(coupling)
    kept = np.ones(len(coupling.mask_of), bool) if alive is None else alive
    inside = _inside(coupling, kept)
    boxes = tuple(_box(coupling, node, roles, kept, inside.get(node.name, ())) for node in graph.nodes)
    return Content(graph.name, summary, boxes, _lines(coupling, kept), _entries(coupling, roles, kept))


def _box(coupling: Coupling, node: Node, roles: Sequence[Roles], kept: np.ndarray, inside: Sequence[str]) -> Box:
    outputs = coupling.specs[node.name].outputs
    stripes = tuple(s for x in outputs for s in _stripes(coupling, x, kept))
    notes = [*inside]
    if any(t in coupling.graph.outputs for t in node.outputs):
        notes.append("output of the network")
    reasons = dict.fromkeys(_short_reason(f.reason) for f in coupling.frozen if f.node == node.name)
    width = ", ".join(arrow(len(x), int(kept[x.ids].sum())) for x in outputs if len(x))
    return Box(node.name, node.kind, width, stripes, tuple(notes), tuple(reasons), _tip(coupling, node, roles, kept))


def _stripes(coupling: Coupling, channels: Channels, kept: np.ndarray) -> list[Stripe]:
    """In the order of the tensor, or one for each mask where they alternate too often."""
    numbers = coupling.mask_of[channels.ids]
    starts = np.flatnonzero(np.diff(numbers, prepend=-1))
    if len(starts) > _MOST_STRIPES:
        groups = [channels.ids[numbers == mask] for mask in dict.fromkeys(numbers.tolist())]
    else:
        groups = np.split(channels.ids, starts[1:]) if len(starts) else []
    return [Stripe(int(coupling.mask_of[ids[0]]), len(ids), int(kept[ids].sum())) for ids in groups]


def _inside(coupling: Coupling, kept: np.ndarray) -> dict[str, list[str]]:
    """Layer -> masks that no tensor holds, such as the heads of an attention: number, last part of the name, width."""
    seen = masks_of(coupling, [x for s in coupling.specs.values() for x in s.outputs])
    found: dict[str, list[str]] = {}
    for number in sorted(set(range(len(coupling.masks))) - seen):
        mask = coupling.masks[number]
        layer = home(coupling.graph, mask)
        width = arrow(mask.size, int(kept[coupling.mask_of == number].sum()))
        found.setdefault(layer, []).append(f"{number} {mask.name.removeprefix(f'{layer}/')}: {width}")
    return found


def _short_reason(reason: str) -> str:
    """What a custom layer's author should do is for the tip."""
    return f"frozen: {reason.split(';')[0]}"


def _tip(coupling: Coupling, node: Node, roles: Sequence[Roles], kept: np.ndarray) -> str:
    lines = [f"{node.name} ({node.kind})"]
    if node.name != node.layer:
        lines.append(f"a further call of {node.layer}")
    for tensor, channels in zip(node.outputs, coupling.specs[node.name].outputs, strict=True):
        lines.append(f"output {_tensor(tensor, channels, kept)}")
        for mask in sorted(masks_of(coupling, [channels])):
            why = f" ({roles[mask].why})" if roles[mask].why else ""
            lines.append(f"  mask {mask} {roles[mask].mask.name}{why}")
    lines += [f"frozen, {f.num_channels} channels: {f.reason}" for f in coupling.frozen if f.node == node.name]
    return "\n".join(lines)


def _tensor(tensor: Tensor, channels: Channels, kept: np.ndarray) -> str:
    width = f": {arrow(len(channels), int(kept[channels.ids].sum()))} channels" if len(channels) else ""
    return f"{tensor.shape} {tensor.dtype}{width}"


def _lines(coupling: Coupling, kept: np.ndarray) -> tuple[Line, ...]:
    """One for each tensor that some call reads."""
    readers: dict[int, list[int]] = {}
    for number, node in enumerate(coupling.graph.nodes):
        for tensor in node.inputs:
            readers.setdefault(tensor.number, []).append(number)
    found = []
    for number, node in enumerate(coupling.graph.nodes):
        for tensor, channels in zip(node.outputs, coupling.specs[node.name].outputs, strict=True):
            if tensor.number in readers:
                masks = masks_of(coupling, [channels])
                targets = tuple(dict.fromkeys(readers[tensor.number]))
                to = ", ".join(coupling.graph.nodes[t].name for t in itertools.islice(targets, 12))
                tip = f"{node.name} to {to}\n{_tensor(tensor, channels, kept)}"
                mask = masks.pop() if len(masks) == 1 else None
                found.append(Line((number, targets), int(kept[channels.ids].sum()), mask, tip))
    return tuple(found)


def _entries(coupling: Coupling, roles: Sequence[Roles], kept: np.ndarray) -> tuple[Entry, ...]:
    after = np.bincount(coupling.mask_of[kept], minlength=len(coupling.masks))
    found = []
    for r, left in zip(roles, after.tolist(), strict=True):
        times = f" \u00d7 {r.mask.multiplicity}" if r.mask.multiplicity > 1 else ""
        tip = f"{r.mask.name}: {size(r)}\n" + parts(r).replace("; ", "\n")
        text = arrow(r.mask.size, left) + times
        found.append(Entry(r.mask.name, f"{text}, {r.why}" if r.why else text, r.mask.frozen, tip.rstrip()))
    return tuple(found)
