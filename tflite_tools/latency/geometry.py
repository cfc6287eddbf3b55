"""Operators that cost the same at the same widths, whatever layer they come from, and small models of one operator."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tflite_tools.latency.axes import Axes, axes_of, indices, paddings
from tflite_tools.latency.flat_graph import FlatGraph, FlatOp, FlatTensor, write_graph

Widths = tuple[int | None, int | None]
"""Input width and output width; None where an operator does not depend on it."""


@dataclass(frozen=True)
class Use:
    """One operator of a network: its geometry's number, its widths as they are, how many positions its output has."""

    kind: str
    row: int
    widths: Widths
    positions: int = 1


@dataclass(frozen=True)
class Geometry:
    """All operators that differ in nothing but their widths.

    Attributes:
        key: what they have in common, in words: kernel, stride, dilation, groups, spatial sizes, fused activation,
            number formats.
        spans: smallest and largest input width, and output width, that are of interest; None as in `Widths`.
        multiple: widths are multiples of this.
    """

    kind: str
    key: str
    spans: tuple[tuple[int, int] | None, tuple[int, int] | None]
    multiple: int
    full: tuple[Widths, ...]
    graph: FlatGraph
    axes: Axes

    def model(self, widths: Widths) -> bytes:
        """A `.tflite` file with this one operator at other widths."""
        return write_graph(self.graph, self.axes.sizes(*widths), self._values(widths))

    def _values(self, widths: Widths) -> dict[int, np.ndarray]:
        (op,), made = self.graph.ops, widths[1]
        if made is None:
            return {}
        if op.kind in ("PAD", "PADV2", "MIRROR_PAD"):
            x = op.inputs[0]
            given = self.axes.sizes(None, made)[x][len(self.graph.tensors[x].shape) - 1]
            return paddings(self.graph, op, given, made)
        return indices(self.graph, op, made)


def geometries(graph: FlatGraph) -> tuple[tuple[Geometry, ...], tuple[Use, ...]]:
    """The distinct geometries of a network, and for each operator in order which one it has."""
    found: dict[str, list[tuple[int, Axes]]] = {}
    for number, op in enumerate(graph.ops):
        axes = axes_of(graph, op)
        found.setdefault(_key(graph, op, axes), []).append((number, axes))
    rows = tuple(_geometry(graph, key, members) for key, members in found.items())
    uses = {
        number: Use(graph.ops[number].kind, row, (axes.given, axes.made), _positions(graph, graph.ops[number]))
        for row, members in enumerate(found.values())
        for number, axes in members
    }
    return rows, tuple(uses[number] for number in range(len(graph.ops)))


def _positions(graph: FlatGraph, op: FlatOp) -> int:
    return math.prod(graph.tensors[op.outputs[0]].shape[:-1])


def _geometry(graph: FlatGraph, key: str, members: list[tuple[int, Axes]]) -> Geometry:
    full = tuple(dict.fromkeys((axes.given, axes.made) for _, axes in members))
    number, axes = max(members, key=lambda m: (m[1].given or 0) * (m[1].made or 0) + (m[1].made or 0))
    fixed_in = [set(graph.activations(graph.ops[n])) <= set(graph.inputs) for n, _ in members]
    fixed_out = [graph.ops[n].outputs[0] in graph.outputs for n, _ in members]
    spans = (
        _span([a.given for _, a in members], fixed_in),
        _span([a.made for _, a in members], fixed_out),
    )
    return Geometry(graph.ops[number].kind, key, spans, axes.multiple, full, graph.single(number), axes)


def _span(widths: Iterable[int | None], fixed: Iterable[bool]) -> tuple[int, int] | None:
    """What the network takes and returns keeps its width; everything else may shrink."""
    known = [(width, stays) for width, stays in zip(widths, fixed, strict=True) if width is not None]
    if not known:
        return None
    most = max(width for width, _ in known)
    return min(width if stays else 1 for width, stays in known), most


def _key(graph: FlatGraph, op: FlatOp, axes: Axes) -> str:
    followed = {(f.tensor, f.axis) for f in axes.follow}
    settings = _settings(op.source.builtinOptions)
    tensors = [_tensor_key(graph.tensors[t], t, followed) for t in (*op.inputs, *op.outputs) if t >= 0]
    code = graph.codes[op.source.opcodeIndex]
    return f"{op.kind} v{code.version}{settings} {' '.join(tensors)}".replace("  ", " ")


def _settings(options: Any) -> str:
    plain = {} if options is None else {k: v for k, v in vars(options).items() if isinstance(v, (int, float, bool))}
    words = [f"{name}={value}" for name, value in plain.items() if value not in (0, False) and value is not None]
    return f" {','.join(words)}" if words else ""


def _tensor_key(tensor: FlatTensor, number: int, followed: set[tuple[int, int]]) -> str:
    shape = "x".join("*" if (number, axis) in followed else str(size) for axis, size in enumerate(tensor.shape))
    if tensor.data is None:
        return f"{tensor.dtype}[{shape}]"
    small = tensor.dtype in ("int32", "int64") and not any(t == number for t, _ in followed) and tensor.data.size <= 16
    if small:  # axes, paddings: their values decide what is done
        values = tensor.data.copy()
        return f"const{values.ravel().tolist()}".replace(" ", "")
    return f"{tensor.dtype} const[{shape}]"


def short_name(geometry: Geometry, number: int) -> str:
    """A name for reports: `3:CONV_2D`."""
    return f"{number}:{geometry.kind}"


def fingerprint(data: bytes) -> str:
    """Tells files apart."""
    return hashlib.sha256(data).hexdigest()[:16]
