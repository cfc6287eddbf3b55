"""Whole networks at other widths, made from a `.tflite` file alone: what predictions are held against.

Which tensors share their channels is found by walking through the operators; what cannot be followed keeps its width.
The kernels repeat or lose entries, so such a network computes nothing useful, but takes as long as a pruned one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tflite_tools.latency.axes import FIXED, axes_of, indices, paddings
from tflite_tools.latency.flat_graph import FlatGraph, FlatOp, write_graph
from tflite_tools.latency.geometry import Widths

_Parts = tuple[tuple[int, int], ...]  # of a tensor's channels: (symbol, how often each of its channels appears)
_KERNELS = ("CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
_PADS = ("PAD", "PADV2", "MIRROR_PAD")


class Resizable:
    """A network whose inner widths can be chosen.

    Attributes:
        sizes: symbol -> its full number of channels, those that may change only.
    """

    def __init__(self, graph: FlatGraph) -> None:
        self._graph = graph
        self._root: list[int] = []
        self._size: list[int] = []
        self._frozen: set[int] = set()
        self._parts: dict[int, _Parts] = {}
        for tensor in graph.inputs:
            self._freeze(self._new(tensor))
        for op in graph.ops:
            self._walk(op)
        for tensor in graph.outputs:
            self._freeze(self._parts[tensor])
        frozen = {self._find(s) for s in self._frozen}
        self.sizes = {s: self._size[s] for s in range(len(self._size)) if self._find(s) == s and s not in frozen}
        self.sizes = {s: n for s, n in self.sizes.items() if n > 1}

    def random(self, seed: int, multiple: int = 1, least: float = 0.25) -> dict[int, int]:
        """Widths drawn between a share of the full ones and all of it, in multiples, or as they are."""
        random = np.random.default_rng(seed)
        # A level for the whole network first: independent draws alone would all cost about the same.
        level = random.uniform(least, 1.0)
        found = {}
        for symbol, size in self.sizes.items():
            share = float(np.clip(level + random.uniform(-0.3, 0.3), least, 1.0))
            found[symbol] = min(size, max(1, round(share * size / multiple)) * multiple)
        return found

    def model(self, chosen: Mapping[int, int]) -> tuple[bytes, tuple[Widths, ...]]:
        """The `.tflite` file at these widths, and the widths of its operators."""
        graph, sizes, values = self._graph, dict[int, dict[int, int]](), dict[int, np.ndarray]()
        width = {t: self._width(t, chosen) for t in self._parts}
        for tensor, number in width.items():
            if number != graph.tensors[tensor].shape[-1]:
                sizes[tensor] = {len(graph.tensors[tensor].shape) - 1: number}
        used: list[Widths] = []
        for op in graph.ops:
            axes = axes_of(graph, op)
            y, x = op.outputs[0], next(iter(graph.activations(op)), op.outputs[0])
            made = None if axes.made is None else width[y]
            given = None if axes.given is None else width[x]
            used.append((given, made))
            if axes is not FIXED:
                for tensor, found in axes.sizes(given, made).items():
                    if graph.tensors[tensor].data is not None:
                        sizes[tensor] = dict(found)
            values |= paddings(graph, op, width[x], width[y]) if op.kind in _PADS else indices(graph, op, width[y])
        return write_graph(graph, sizes, values), tuple(used)

    def _width(self, tensor: int, chosen: Mapping[int, int]) -> int:
        return sum(times * chosen.get(s := self._find(symbol), self._size[s]) for symbol, times in self._parts[tensor])

    def _walk(self, op: FlatOp) -> None:
        given, y = self._graph.activations(op), op.outputs[0]
        last = self._graph.tensors[y].shape[-1] if self._graph.tensors[y].shape else 1
        axes = axes_of(self._graph, op)
        if op.kind == "RESHAPE" and self._reshape(op):
            return
        if axes is FIXED or not self._graph.tensors[y].shape:
            for tensor in given:
                self._freeze(self._parts[tensor])
            for tensor in op.outputs:
                self._freeze(self._new(tensor))
        elif op.kind in _KERNELS:
            made = self._new(y)
            if axes.multiple > 1:  # groups: both sides in step with them
                self._freeze((*made, *self._parts[given[0]]))
        elif op.kind == "CONCATENATION" and last == sum(self._full(t) for t in given):
            self._parts[y] = tuple(part for t in given for part in self._parts[t])
        elif last == self._full(given[0]) or len(given) > 1:
            wide = [t for t in given if self._full(t) == last]
            for tensor in wide[1:]:
                self._tie(self._parts[wide[0]], self._parts[tensor])
            self._parts[y] = self._parts[wide[0]] if wide else self._new(y)
        elif op.kind in _PADS:
            self._parts[y] = (*self._parts[given[0]], *self._pad(last - self._full(given[0])))
        else:  # a depthwise convolution that makes several of each channel
            times = last // self._full(given[0])
            self._parts[y] = tuple((symbol, times * n) for symbol, n in self._parts[given[0]])

    def _reshape(self, op: FlatOp) -> bool:
        x, y = (self._graph.tensors[t].shape for t in (op.inputs[0], op.outputs[0]))
        if not x or not y or y[-1] % x[-1] or y[-1] != x[-1] * (int(np.prod(x)) // int(np.prod((*y[:-1], x[-1])))):
            return False
        times = y[-1] // x[-1]
        self._parts[op.outputs[0]] = tuple((symbol, times * n) for symbol, n in self._parts[op.inputs[0]])
        return True

    def _new(self, tensor: int) -> _Parts:
        shape = self._graph.tensors[tensor].shape
        self._parts[tensor] = self._pad(shape[-1] if shape else 1)
        return self._parts[tensor]

    def _pad(self, size: int) -> _Parts:
        self._root.append(len(self._root))
        self._size.append(size)
        return ((len(self._root) - 1, 1),)

    def _full(self, tensor: int) -> int:
        return sum(times * self._size[symbol] for symbol, times in self._parts[tensor])

    def _freeze(self, parts: _Parts) -> None:
        self._frozen |= {symbol for symbol, _ in parts}

    def _tie(self, first: _Parts, second: _Parts) -> None:
        """Both tensors keep the same channels; where that cannot be told part by part, all of them."""
        alike = len(first) == len(second) and all(
            self._size[a] == self._size[b] and n == m for (a, n), (b, m) in zip(first, second, strict=True)
        )
        if not alike:
            self._freeze((*first, *second))
            return
        for (a, _), (b, _) in zip(first, second, strict=True):
            low, high = sorted((self._find(a), self._find(b)))
            self._root[high] = low
            if high in self._frozen or low in self._frozen:
                self._frozen |= {low, high}

    def _find(self, symbol: int) -> int:
        while self._root[symbol] != symbol:
            symbol = self._root[symbol]
        return symbol
