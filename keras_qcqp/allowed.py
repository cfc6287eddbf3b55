"""Width rules applied to a network: which counts of channels each mask may keep."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from keras_qcqp.coupling import Coupling, FrozenLayer
from keras_qcqp.errors import BudgetError
from keras_qcqp.graph import Node
from keras_qcqp.partition import CoupledMask
from keras_qcqp.patterns import matching, most_specific
from keras_qcqp.problem import Mask
from keras_qcqp.resources import multiplicities
from keras_qcqp.widths import RULES, Widths

ASKED_FOR = "asked for"
"""The reason of layers that the user froze."""


@dataclasses.dataclass(frozen=True)
class _Wish:
    """What one layer's rule says of one mask: a count, and the rule in words."""

    count: int
    text: str


@dataclasses.dataclass(frozen=True)
class _Part:
    """A mask in the output of a layer, each of its channels `times` there."""

    coupling: Coupling
    mask: int
    times: int

    @property
    def size(self) -> int:
        return self.coupling.masks[self.mask].size


def freeze(coupling: Coupling, widths: Widths) -> Coupling:
    """The same coupling, in which the channels of the layers that `widths.frozen` names are kept.

    Raises:
        BudgetError: a pattern matches no layer.
    """
    layers = list(dict.fromkeys(node.layer for node in coupling.graph.nodes))
    wanted = {layer for pattern in widths.frozen for layer in matching(pattern, layers, "frozen")}
    held, told = set[int](), []
    for node in coupling.graph.nodes:
        if node.layer not in wanted:
            continue
        ids = np.unique(np.concatenate([x.ids for x in coupling.specs[node.name].outputs]))
        free = {m for m in np.unique(coupling.mask_of[ids]).tolist() if _is_free(coupling.masks[m])}
        number = int(np.isin(coupling.mask_of[ids], list(free)).sum())
        if number and node.name == node.layer:
            told.append(FrozenLayer(node.name, node.kind, ASKED_FOR, number))
        held |= free
    masks = tuple(dataclasses.replace(m, frozen=m.frozen or i in held) for i, m in enumerate(coupling.masks))
    return dataclasses.replace(coupling, masks=masks, frozen=(*coupling.frozen, *told))


def allowed_masks(coupling: Coupling, widths: Widths) -> tuple[Mask, ...]:
    """The masks of the program: one count for frozen and dead ones, for the others what all rules allow.

    Raises:
        BudgetError: a pattern speaks of no layer, or rules contradict each other.
    """
    makers = [(node, ids, _free_parts(coupling, ids)) for node, ids in _makers(coupling)]
    _require_spoken_of(coupling, widths, {node.layer for node, _, parts in makers if parts})
    wishes: dict[int, dict[str, list[_Wish]]] = {}
    for node, ids, parts in makers:
        for mask, times in parts.items():
            for name, wish in _wishes(widths, node, ids, _Part(coupling, mask, times)):
                wishes.setdefault(mask, {}).setdefault(name, []).append(wish)
    return tuple(_mask(coupled, wishes.get(number, {})) for number, coupled in enumerate(coupling.masks))


def _is_free(mask: CoupledMask) -> bool:
    return not (mask.frozen or mask.dead)


def _makers(coupling: Coupling) -> Iterator[tuple[Node, np.ndarray]]:
    """Layers that make channels, and the channels of each of their outputs."""
    seen = set[int]()
    for node in coupling.graph.nodes:
        spec = coupling.specs[node.name]
        writes = any(a is not None and a.side == "out" for axes in spec.weights.values() for a in axes)
        mixes = node.name == node.layer and (writes or spec.macs)
        for x in spec.outputs:
            masks = set(np.unique(coupling.mask_of[x.ids]).tolist())
            if mixes or masks - seen:
                yield node, x.ids
            seen |= masks


def _free_parts(coupling: Coupling, ids: np.ndarray) -> dict[int, int]:
    """Mask -> how often each of its channels appears among `ids`, for masks that rules can speak of."""
    return {mask: n for mask, n in multiplicities(coupling, ids).items() if _is_free(coupling.masks[mask])}


def _require_spoken_of(coupling: Coupling, widths: Widths, free: set[str]) -> None:
    """Every pattern must reach one of the layers that make `free` channels."""
    layers = list(dict.fromkeys(node.layer for node in coupling.graph.nodes))
    for name in RULES:
        for pattern in widths.rule(name):
            found = [] if pattern == "*" else matching(pattern, layers, name)
            if found and not free.intersection(found):
                raise BudgetError(
                    f"{name}: '{pattern}' matches no layer whose width is free, only {', '.join(found[:3])}. Name "
                    "layers that make channels (convolutions, Dense) and are not frozen."
                )


def _wishes(widths: Widths, node: Node, ids: np.ndarray, part: _Part) -> Iterator[tuple[str, _Wish]]:
    for name, count in _COUNTS.items():
        found = most_specific(widths.rule(name), node.layer)
        if found is not None and found[1] is not None:
            yield name, _Wish(count(found[1], ids, part), f"{name} {found[1]:g} of '{node.layer}'")


def _least(value: float, ids: np.ndarray, part: _Part) -> int:
    share = Fraction(int(value), len(ids)) if value >= 1 else value * (1 - 1e-12)
    return min(part.size, max(1, math.ceil(share * part.size)))


def _most(value: float, ids: np.ndarray, part: _Part) -> int:
    """So many of the mask that no more than `value` of the layer stay, the frozen ones included."""
    width = len(ids)
    most = int(value) if value >= 1 else math.floor(value * width * (1 + 1e-12))
    if most >= width:
        return part.size
    held = int(np.array([m.frozen for m in part.coupling.masks])[part.coupling.mask_of[ids]].sum())
    return max(0, math.floor(Fraction(most - held, width - held) * part.size))


def _step(value: float, ids: np.ndarray, part: _Part) -> int:
    del ids
    return int(value) // math.gcd(int(value), part.times)


_COUNTS = {"min_keep": _least, "max_keep": _most, "width_multiple": _step}


def _mask(coupled: CoupledMask, wishes: dict[str, list[_Wish]]) -> Mask:
    if not _is_free(coupled):
        return Mask(coupled.name, coupled.size, (0 if coupled.dead else coupled.size,))
    size = coupled.size
    least = max(wishes["min_keep"], key=lambda w: w.count)
    most = min(wishes.get("max_keep", [_Wish(size, "")]), key=lambda w: w.count)
    step = math.lcm(*(w.count for w in wishes["width_multiple"]))
    counts = [k for k in range(least.count, most.count + 1) if k % step == 0 or k == size]
    if not counts:
        steps = [w.text for w in wishes["width_multiple"] if w.count > 1]
        rules = ", ".join(dict.fromkeys([least.text, *([most.text] if most.text else []), *steps]))
        multiples = f" in multiples of {step}" if step > 1 else ""
        raise BudgetError(
            f"The width rules contradict each other for the {size} coupled channels of '{coupled.name}': at least "
            f"{least.count}, at most {most.count}{multiples} ({rules}). Change one of them."
        )
    return Mask(coupled.name, size, tuple(counts))
