"""Which channels each layer keeps: the value between deciding and building."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_qcqp.coupling import GROUP_CONVS, RESIDUALS, Coupling
from keras_qcqp.errors import FileError, PlanError, did_you_mean
from keras_qcqp.files import write_text
from keras_qcqp.graph import Node
from keras_qcqp.layer_plan import Index as Index
from keras_qcqp.layer_plan import LayerPlan as LayerPlan
from keras_qcqp.problem import Keep
from keras_qcqp.residual.layout import arranged, best_order

_FORMAT, _VERSION = "keras_qcqp.plan", 1
_MODES: Mapping[str, tuple[str, ...]] = {"residual": RESIDUALS, "group_conv": GROUP_CONVS}
"""Ways of coupling that a plan depends on; the first of each is the default and left out of the file."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """Layer path -> what it keeps, for every layer that has weights or widths that depend on channels.

    Attributes:
        residual: how additions were coupled, see `keras_qcqp.couple`. With "union" those whose sum has channels of its
            own are listed too: the channels of each operand, and those of the sum.
        group_conv: what grouped convolutions lose, see `keras_qcqp.couple`.
    """

    model: str
    layers: Mapping[str, LayerPlan]
    residual: str = "tied"
    group_conv: str = "channels"

    def __getitem__(self, layer: str) -> LayerPlan:
        return self.layers[layer]

    def __str__(self) -> str:
        lines = [f"Plan for '{self.model}'"]
        for path, p in self.layers.items():
            pairs = (*zip(p.out_size, p.out_index, strict=True), *zip(p.hidden_size, p.hidden_index, strict=True))
            lines.append(f"  {path}: {', '.join(f'{size} -> {len(i)}' for size, i in pairs)}")
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
                **_packed_hidden(p),
            }
            for path, p in self.layers.items()
        }
        modes = {key: getattr(self, key) for key, known in _MODES.items() if getattr(self, key) != known[0]}
        head = {"format": _FORMAT, "version": _VERSION, "model": self.model, **modes}
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
        modes = {key: data.get(key, known[0]) for key, known in _MODES.items()}
        for key, known in _MODES.items():
            if modes[key] not in known:
                raise PlanError(f"The plan has {key} {modes[key]!r}. {did_you_mean(modes[key], known)}")
        return cls(data["model"], {path: _unpack_layer(path, value) for path, value in layers.items()}, **modes)

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

    def kept(tensors: Sequence[np.ndarray]) -> tuple[Index, ...]:
        return tuple(arranged(coupling, ids, alive, rows) for ids in tensors)

    layers = {
        node.layer: LayerPlan(
            kind=node.kind,
            in_size=sizes(ins),
            out_size=sizes(outs),
            in_index=kept(ins),
            out_index=kept(outs),
            hidden_size=sizes(hidden),
            hidden_index=kept(hidden),
        )
        for node, ins, outs, hidden in planned(coupling)
    }
    return Plan(coupling.graph.name, layers, coupling.residual, coupling.group_conv)


def sizes(tensors: Sequence[np.ndarray]) -> tuple[int, ...]:
    """How many channels each has."""
    return tuple(map(len, tensors))


Planned = tuple[Node, list[np.ndarray], list[np.ndarray], list[np.ndarray]]


def planned(coupling: Coupling) -> Iterator[Planned]:
    """Every layer that a plan speaks of; the channels of its inputs, of its outputs, and its hidden widths."""
    joins = {j.node for j in coupling.joins}
    for node in coupling.first_calls():
        spec = coupling.specs[node.name]
        if spec.edits or node.name in joins:
            ins, outs = coupling.inputs[node.name], spec.outputs
            yield node, [x.ids for x in ins], [x.ids for x in outs], [h.ids for h in spec.hidden]


def _packed_hidden(p: LayerPlan) -> dict[str, Any]:
    if not p.hidden_size:
        return {}
    index = [_pack(i, n) for i, n in zip(p.hidden_index, p.hidden_size, strict=True)]
    return {"hidden_size": p.hidden_size, "hidden_index": index}


def _pack(index: Index, size: int) -> Index | None:
    return None if index == tuple(range(size)) else index


def _unpack_layer(path: str, value: Any) -> LayerPlan:
    def integers(items: Any) -> tuple[int, ...]:
        if not isinstance(items, list) or not all(type(i) is int for i in items):
            raise PlanError(f"Plan of layer '{path}': lists of whole numbers expected.")
        return tuple(items)

    def indices(key: str, sizes: tuple[int, ...]) -> tuple[Index, ...]:
        listed = value.get(key, [])
        if not isinstance(listed, list) or len(listed) != len(sizes):
            raise PlanError(f"Plan of layer '{path}': '{key}' needs one list for each of {len(sizes)} tensors.")
        found = tuple(tuple(range(n)) if i is None else integers(i) for i, n in zip(listed, sizes, strict=True))
        for index, size in zip(found, sizes, strict=True):
            if len(set(index)) != len(index) or not all(0 <= i < size for i in index):
                raise PlanError(f"Plan of layer '{path}': '{key}' must list different channels of 0..{size - 1}.")
        return found

    if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
        raise PlanError(f"Plan of layer '{path}': an object with 'kind', sizes and indices expected.")
    in_size, out_size = integers(value.get("in_size")), integers(value.get("out_size"))
    hidden_size = integers(value.get("hidden_size", []))
    if any(not 0 <= size <= 2**24 for size in in_size + out_size + hidden_size):
        raise PlanError(f"Plan of layer '{path}': sizes must lie in 0..2^24.")
    outside = indices("in_index", in_size), indices("out_index", out_size)
    return LayerPlan(value["kind"], in_size, out_size, *outside, hidden_size, indices("hidden_index", hidden_size))
