"""Width rules applied to a network: which counts of channels each mask may keep."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction

import numpy as np

from keras_qcqp.branches.removable import removable_masks, spare_masks
from keras_qcqp.channels import Spec
from keras_qcqp.coupling import Coupling
from keras_qcqp.errors import BudgetError
from keras_qcqp.graph import Node
from keras_qcqp.limits.patterns import matching, most_specific
from keras_qcqp.limits.widths import RULES, Widths
from keras_qcqp.partition import CoupledMask, FrozenLayer
from keras_qcqp.problem import Mask
from keras_qcqp.resources import multiplicities

ASKED_FOR = "asked for"
"""The reason of layers that the user froze."""


@dataclasses.dataclass(frozen=True)
class _Wish:
    """What one layer's rule says of one mask: a count, and the rule in words."""

    count: int
    text: str


@dataclasses.dataclass(frozen=True)
class _Output:
    """An output of a layer that makes channels, or a width inside it.

    Attributes:
        fixed: number of its channels that are always kept.
        times: free mask -> how often each of its channels appears.
        sizes: free mask -> number of its channels.
        spare: free masks that may go altogether, since no tensor would be left without channels.
        removable: free masks that may go since their whole branch goes with them.
    """

    layer: str
    fixed: int
    times: Mapping[int, int]
    sizes: Mapping[int, int]
    spare: frozenset[int]
    removable: frozenset[int]

    def width(self, spare: bool) -> int:
        """Number of channels of the free masks that are, or are not, spare."""
        return sum(n * self.times[m] for m, n in self.sizes.items() if (m in self.spare) is spare)


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
        masks = coupling.mask_of[np.unique(np.concatenate(coupling.specs[node.name].held))]
        free = {m for m in np.unique(masks).tolist() if _is_free(coupling.masks[m])}
        if free and node.name == node.layer:
            told.append(FrozenLayer(node.name, node.kind, ASKED_FOR, int(np.isin(masks, list(free)).sum())))
        held |= free
    frozen = tuple(dataclasses.replace(m, frozen=m.frozen or i in held) for i, m in enumerate(coupling.masks))
    return dataclasses.replace(coupling, masks=frozen, frozen=(*coupling.frozen, *told))


def allowed_masks(coupling: Coupling, widths: Widths) -> tuple[Mask, ...]:
    """The masks of the program: one count for frozen and dead ones, for the others what all rules allow.

    Raises:
        BudgetError: a pattern speaks of no layer, or rules contradict each other.
    """
    outputs = list(_outputs(coupling, 0 in widths.rule("min_keep").values()))
    _require_spoken_of(coupling, widths, {x.layer for x in outputs if x.sizes})
    wishes: dict[int, dict[str, list[_Wish]]] = {}
    for output in outputs:
        for name, counts in _COUNTS.items():
            found = most_specific(widths.rule(name), output.layer)
            if found is None or found[1] is None:
                continue
            text = f"{name} {found[1]:g} of '{output.layer}'"
            for mask, count in counts(found[1], output).items():
                wishes.setdefault(mask, {}).setdefault(name, []).append(_Wish(count, text))
    return tuple(_mask(coupled, wishes.get(number, {})) for number, coupled in enumerate(coupling.masks))


def free_outputs(coupling: Coupling) -> Iterator[tuple[str, Mapping[int, int]]]:
    """The layers that make channels: path, and free mask -> how often each of its channels appears."""
    yield from ((output.layer, output.times) for output in _outputs(coupling, False) if output.times)


def _is_free(mask: CoupledMask) -> bool:
    return not (mask.frozen or mask.dead)


def _outputs(coupling: Coupling, removes: bool) -> Iterator[_Output]:
    """The outputs of all layers that mix channels, and of those where masks come into being.

    Args:
        removes: whether some rule lets whole branches go.
    """
    seen, spare = set[int](), spare_masks(coupling)
    removable = removable_masks(coupling) if removes else frozenset[int]()
    for node in coupling.graph.nodes:
        spec = coupling.specs[node.name]
        writes = any(a is not None and a.side == "out" for axes in spec.weights.values() for a in axes)
        mixes = node.name == node.layer and (writes or spec.macs)
        for place, ids in zip(_places(node, spec), spec.held, strict=True):
            found = {m: (coupling.masks[m], n) for m, n in multiplicities(coupling, ids).items()}
            if mixes or found.keys() - seen:
                fixed = sum(mask.size * n for mask, n in found.values() if mask.frozen)
                free = {m: (mask, n) for m, (mask, n) in found.items() if _is_free(mask)}
                times, sizes = {m: n for m, (_, n) in free.items()}, {m: mask.size for m, (mask, _) in free.items()}
                yield _Output(place, fixed, times, sizes, spare.intersection(free), removable.intersection(free))
            seen |= found.keys()


def _places(node: Node, spec: Spec) -> list[str]:
    """Where rules find the outputs of a call and the widths inside it: `attention`, `attention/heads`."""
    return [node.layer] * len(spec.outputs) + [f"{node.layer}/{h.name}" for h in spec.hidden]


def _require_spoken_of(coupling: Coupling, widths: Widths, free: set[str]) -> None:
    """Every pattern must reach one of the layers that make `free` channels."""
    layers = list(dict.fromkeys(p for n in coupling.graph.nodes for p in _places(n, coupling.specs[n.name])))
    for name in RULES:
        for pattern in widths.rule(name):
            found = [] if pattern == "*" else matching(pattern, layers, name)
            if found and not free.intersection(found):
                raise BudgetError(
                    f"{name}: '{pattern}' matches no layer whose width is free, only {', '.join(found[:3])}. Name "
                    "layers that make channels (convolutions, Dense) and are not frozen."
                )


def _least(value: float, output: _Output) -> dict[int, int]:
    """Together at least `value` channels of the layer; spare masks round down, the others make up for it."""
    if value == 0:
        return {m: 0 if m in output.spare | output.removable else 1 for m in output.sizes}
    width = output.fixed + output.width(True) + output.width(False)
    wanted = int(value) if value >= 1 else math.ceil(value * width * (1 - 1e-12))
    share = min(Fraction(wanted, width), Fraction(1))
    found = {m: math.floor(share * output.sizes[m]) for m in output.spare}
    rest = share * width - sum(count * output.times[m] for m, count in found.items())
    share = rest / max(width - output.width(True), 1)
    return found | {m: min(n, max(1, math.ceil(share * n))) for m, n in output.sizes.items() if m not in output.spare}


def _most(value: float, output: _Output) -> dict[int, int]:
    """Together at most `value` channels of the layer, fixed ones included; spare masks round up if others can pay."""
    spare, others = output.width(True), output.width(False)
    width = output.fixed + spare + others
    wanted = int(value) if value >= 1 else math.floor(value * width * (1 + 1e-12))
    if wanted >= width:
        return {}
    share = max(Fraction(wanted - output.fixed, max(spare + others, 1)), Fraction(0))
    rounded = math.ceil if others else math.floor
    found = {m: rounded(share * output.sizes[m]) for m in output.spare}
    rest = wanted - output.fixed - sum(count * output.times[m] for m, count in found.items())
    share = max(Fraction(rest, max(others, 1)), Fraction(0))
    counts = {m: max(1, math.floor(share * n)) for m, n in output.sizes.items() if m not in output.spare}
    excess = sum(n * output.times[m] for m, n in counts.items()) - rest
    while excess > 0 and max(counts.values(), default=0):
        largest = max(counts, key=lambda m: (counts[m] * output.times[m], m))
        counts[largest] -= 1
        excess -= output.times[largest]
    return found | counts


def _step(value: float, output: _Output) -> dict[int, int]:
    return {m: int(value) // math.gcd(int(value), times) for m, times in output.times.items()}


_COUNTS: dict[str, Callable[[float, _Output], dict[int, int]]] = {
    "min_keep": _least,
    "max_keep": _most,
    "width_multiple": _step,
}
"""Rule -> what a value says of each free mask in an output."""


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
