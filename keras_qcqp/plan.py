"""Which channels each layer keeps: the value between deciding and building."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_qcqp.coupling import RESIDUALS, Coupling
from keras_qcqp.errors import FileError, PlanError, did_you_mean
from keras_qcqp.files import write_text
from keras_qcqp.graph import Node
from keras_qcqp.layout import arranged, best_order, free_masks
from keras_qcqp.problem import Keep

_FORMAT, _VERSION = "keras_qcqp.plan", 1
Index = tuple[int, ...]
_Tensor = tuple[str, str, np.ndarray, Index]
"""Layer, "input" or "output", its channels, and what the plan keeps of them."""


@dataclasses.dataclass(frozen=True)
class LayerPlan:
    """What one layer keeps.

    Attributes:
        kind: class name of the layer.
        in_size, out_size: channels of each input and output tensor before.
        in_index, out_index: for each tensor the channels that stay, in their new order; positions in the tensor as it
            was, so behind a Flatten they count height x width x channels. All tensors that hold the same coupled
            channels must hold them in the same order.
    """

    kind: str
    in_size: tuple[int, ...]
    out_size: tuple[int, ...]
    in_index: tuple[Index, ...]
    out_index: tuple[Index, ...]


@dataclasses.dataclass(frozen=True)
class Plan:
    """Layer path -> what it keeps, for every layer that has weights or widths that depend on channels.

    Attributes:
        residual: how additions were coupled, see `keras_qcqp.couple`. With "union" those whose sum has channels of its
            own are listed too: the channels of each operand, and those of the sum.
    """

    model: str
    layers: Mapping[str, LayerPlan]
    residual: str = "tied"

    def __getitem__(self, layer: str) -> LayerPlan:
        return self.layers[layer]

    def __str__(self) -> str:
        lines = [f"Plan for '{self.model}'"]
        for path, p in self.layers.items():
            widths = ", ".join(f"{size} -> {len(i)}" for size, i in zip(p.out_size, p.out_index, strict=True))
            lines.append(f"  {path}: {widths}")
        return "\n".join(lines)

    def to_json(self) -> str:
        """JSON text; an index that keeps everything in order is written as null."""
        layers = {
            path: {
                "kind": p.kind,
                "in_size": p.in_size,
                "out_size": p.out_size,
                "in_index": [_pack(i, n) for i, n in zip(p.in_index, p.in_size, strict=True)],
                "out_index": [_pack(i, n) for i, n in zip(p.out_index, p.out_size, strict=True)],
            }
            for path, p in self.layers.items()
        }
        residual = {} if self.residual == "tied" else {"residual": self.residual}
        head = {"format": _FORMAT, "version": _VERSION, "model": self.model, **residual}
        return json.dumps({**head, "layers": layers})

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Reads what `to_json` wrote.

        Raises:
            PlanError: not a plan, a newer version, or an index out of range (names the layer).
        """
        try:
            data = json.loads(text)
        except (ValueError, TypeError, RecursionError) as error:
            raise PlanError(f"The plan is not JSON: {error}.") from error
        if not isinstance(data, dict) or data.get("format") != _FORMAT:
            raise PlanError(f"This JSON is not a plan: 'format' should be '{_FORMAT}'.")
        if data.get("version") != _VERSION:
            raise PlanError(f"The plan has version {data.get('version')!r}; this package reads {_VERSION}. Update it.")
        layers = data.get("layers")
        if not isinstance(layers, dict) or not isinstance(data.get("model"), str):
            raise PlanError("The plan needs 'model' (a string) and 'layers' (an object).")
        residual = data.get("residual", "tied")
        if residual not in RESIDUALS:
            raise PlanError(f"The plan has residual {residual!r}. {did_you_mean(residual, RESIDUALS)}")
        return cls(data["model"], {path: _unpack_layer(path, value) for path, value in layers.items()}, residual)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the JSON atomically."""
        write_text(path, self.to_json())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Plan:
        """Reads a file written by `save`.

        Raises:
            FileError: the file cannot be read.
            PlanError: it holds no plan.
        """
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise FileError(f"Cannot read plan '{path}': {reason}.") from error


def plan_from(coupling: Coupling, keep: Keep) -> Plan:
    """The plan of a selection.

    Channels stay in their old order, except where another one saves union additions a gather (see `layout`).
    """
    alive = coupling.alive(keep)
    rows = best_order(coupling, alive)
    return Plan(
        coupling.graph.name,
        {
            node.layer: LayerPlan(
                kind=node.kind,
                in_size=tuple(map(len, ins)),
                out_size=tuple(map(len, outs)),
                in_index=tuple(arranged(coupling, ids, alive, rows) for ids in ins),
                out_index=tuple(arranged(coupling, ids, alive, rows) for ids in outs),
            )
            for node, ins, outs in _planned(coupling)
        },
        coupling.residual,
    )


def _planned(coupling: Coupling) -> Iterator[tuple[Node, list[np.ndarray], list[np.ndarray]]]:
    """Every layer that a plan speaks of, and the channels of its inputs and outputs."""
    joins = {j.node for j in coupling.joins}
    for node in coupling.first_calls():
        spec = coupling.specs[node.name]
        if spec.edits or node.name in joins:
            yield node, [x.ids for x in coupling.inputs[node.name]], [x.ids for x in spec.outputs]


def require_match(plan: Plan, coupling: Coupling) -> None:
    """Raises PlanError, naming the first layer in which the plan and the model differ."""
    expected = {node.layer: (node.kind, ins, outs) for node, ins, outs in _planned(coupling)}
    for path, (kind, ins, outs) in expected.items():
        found = plan.layers.get(path)
        if found is None:
            raise PlanError(_mismatch(plan, coupling, f"layer '{path}' ({kind}) is not in the plan"))
        wanted = {"kind": kind, "in_size": tuple(map(len, ins)), "out_size": tuple(map(len, outs))}
        for field, value in wanted.items():
            if getattr(found, field) != value:
                what = f"layer '{path}' has {field} {value}, the plan says {getattr(found, field)}"
                raise PlanError(_mismatch(plan, coupling, what))
    for path in plan.layers:
        if path not in expected:
            raise PlanError(_mismatch(plan, coupling, f"the plan has layer '{path}', the model does not"))
    _require_consistent(plan, coupling)


def _require_consistent(plan: Plan, coupling: Coupling) -> None:
    """Coupled channels live or die together, in one order, so all layers must say the same of each."""
    tensors = [
        (f"'{node.layer}'", side, ids, index)
        for node, ins, outs in _planned(coupling)
        for side, all_ids, all_index in (
            ("input", ins, plan[node.layer].in_index),
            ("output", outs, plan[node.layer].out_index),
        )
        for ids, index in zip(all_ids, all_index, strict=True)
    ]
    alive = _require_one_choice(tensors, coupling)
    _require_one_order(tensors, coupling, alive)
    _require_needs(coupling, alive)


def _require_one_choice(tensors: Sequence[_Tensor], coupling: Coupling) -> np.ndarray:
    """bool[channels], which are kept; frozen ones must be, dead ones must not."""
    frozen = np.array([m.frozen for m in coupling.masks], bool)[coupling.mask_of]
    dead = np.array([m.dead for m in coupling.masks], bool)[coupling.mask_of]
    decided: dict[int, tuple[bool, str]] = {
        c: (True, "is an input or output of the model, or frozen") for c in np.flatnonzero(frozen).tolist()
    }
    decided |= {c: (False, "is nothing but zeros") for c in np.flatnonzero(dead).tolist()}
    for layer, side, channels, index in tensors:
        kept = np.zeros(len(channels), bool)
        kept[list(index)] = True
        for position, (channel, keeps) in enumerate(zip(channels.tolist(), kept.tolist(), strict=True)):
            before, why = decided.setdefault(channel, (keeps, f"{layer} {_verb(keeps)}"))
            if before != keeps:
                raise PlanError(
                    f"The plan contradicts itself: layer {layer} {_verb(keeps)} channel {position} of its {side}, "
                    f"which {why}."
                )
    return np.array([decided.get(c, (True, ""))[0] for c in range(len(frozen))], bool)


def _require_one_order(tensors: Sequence[_Tensor], coupling: Coupling, alive: np.ndarray) -> None:
    free = free_masks(coupling)
    rows: dict[int, tuple[int, ...]] = {}
    for layer, side, channels, index in tensors:
        kept = channels[list(index)]
        for mask in np.unique(coupling.mask_of[kept]).tolist():
            held = kept[coupling.mask_of[kept] == mask].tolist()
            rows.setdefault(mask, tuple(dict.fromkeys(held if free[mask] else sorted(held))))
        if arranged(coupling, channels, alive, rows) != tuple(index):
            raise PlanError(
                f"The plan puts the channels of layer {layer} ({side}) into another order than the layers around it, "
                "or into one that this layer cannot have."
            )


def _require_needs(coupling: Coupling, alive: np.ndarray) -> None:
    """What a sum keeps some operand must bring, and what only sums read one must keep."""
    keep = [np.zeros(m.size, bool) for m in coupling.masks]
    for channel in np.flatnonzero(alive).tolist():
        keep[coupling.mask_of[channel]][coupling.position[channel]] = True
    for need in coupling.needs:
        met = np.any([keep[mask][index] for mask, index in need.sources], axis=0)
        alone = need.index[keep[need.mask][need.index] & ~met]
        if len(alone):
            names = " or ".join(coupling.masks[mask].name for mask, _ in need.sources)
            raise PlanError(
                f"The plan keeps channel {alone[0]} of '{coupling.masks[need.mask].name}' without that of {names}, so "
                "an addition would have nothing to add, or a layer would compute it for nothing."
            )


def _verb(keeps: bool) -> str:
    return "keeps" if keeps else "drops"


def _mismatch(plan: Plan, coupling: Coupling, what: str) -> str:
    return f"The plan was made for model '{plan.model}' and does not fit '{coupling.graph.name}': {what}."


def _pack(index: Index, size: int) -> Index | None:
    return None if index == tuple(range(size)) else index


def _unpack_layer(path: str, value: Any) -> LayerPlan:
    def integers(items: Any) -> tuple[int, ...]:
        if not isinstance(items, list) or not all(type(i) is int for i in items):
            raise PlanError(f"Plan of layer '{path}': lists of whole numbers expected.")
        return tuple(items)

    def indices(key: str, sizes: tuple[int, ...]) -> tuple[Index, ...]:
        listed = value.get(key)
        if not isinstance(listed, list) or len(listed) != len(sizes):
            raise PlanError(f"Plan of layer '{path}': '{key}' needs one list for each of {len(sizes)} tensors.")
        found = tuple(tuple(range(n)) if i is None else integers(i) for i, n in zip(listed, sizes, strict=True))
        for index, size in zip(found, sizes, strict=True):
            if len(set(index)) != len(index) or (size and not index) or not all(0 <= i < size for i in index):
                raise PlanError(
                    f"Plan of layer '{path}': '{key}' must list different channels of 0..{size - 1}, at least one."
                )
        return found

    if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
        raise PlanError(f"Plan of layer '{path}': an object with 'kind', sizes and indices expected.")
    in_size, out_size = integers(value.get("in_size")), integers(value.get("out_size"))
    if any(not 0 <= size <= 2**24 for size in in_size + out_size):
        raise PlanError(f"Plan of layer '{path}': sizes must lie in 0..2^24.")
    return LayerPlan(value["kind"], in_size, out_size, indices("in_index", in_size), indices("out_index", out_size))
