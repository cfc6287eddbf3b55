"""Reconstruction: every kernel is fitted anew, so that it makes of what is left what it used to make of everything.

Layer after layer in the order of the network: the rows are what the layer reads in the pruned network as fitted so far,
the targets what it gave in the original. So each fit makes up for what the ones before could not (source for such
asymmetric fits: Zhang et al., "Accelerating very deep convolutional networks for classification and detection", TPAMI
2016; for channels: He et al., "Channel pruning for accelerating very deep neural networks", ICCV 2017). Ours: a ridge
towards the weights as they are, and the last operand of a residual addition also makes up for the error of the others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import keras
import numpy as np

from keras_qcqp.execution import Execution, Network
from keras_qcqp.graph import Node, Tensor
from keras_qcqp.plan import Plan
from keras_qcqp.recovery.following import Following, add_constant, following, norm_scale, takes_constant
from keras_qcqp.recovery.normal_equations import NormalEquations
from keras_qcqp.recovery.readers import MAX_INPUTS, Reader, reader_of
from keras_qcqp.recovery.windows import random_places
from keras_qcqp.samples import Samples

_SMALLEST_SCALE = 1e-3  # a batch norm that nearly silences a channel cannot be asked to repair a sum
_MAX_CACHED_BYTES = 2**30


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to fit.

    Attributes:
        kernels: fit kernels; else only constants (bias compensation).
        ridge: pull towards the weights as they are, in units of the mean diagonal of the Gram matrix.
        places: output positions of each example that give a row.
        batch_size: examples computed at once.
    """

    kernels: bool = True
    ridge: float = 1e-3
    places: int = 32
    batch_size: int = 64
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Pair:
    """The original network and the pruned one, whose layers have the same paths."""

    original: Network
    pruned: Network
    plan: Plan

    def kept(self, node: Node, size: int) -> list[int]:
        """Output channels of a layer that stay, in their new order; `size` is how many there were."""
        plan = self.plan.layers.get(node.layer)
        return list(range(size)) if plan is None else list(plan.out_index[0])


class Runs:
    """Both networks on all batches; where keeping what is under way takes too much memory, each start anew."""

    def __init__(self, pair: Pair, samples: Samples, batch_size: int) -> None:
        self._pair = pair
        self._batches = [inputs for inputs, _ in samples.batches(batch_size)]
        self._kept: list[tuple[Execution, Execution]] | None = None
        if _widest(pair.original) * len(samples) * 3 <= _MAX_CACHED_BYTES:
            self._kept = [self._start(inputs) for inputs in self._batches]

    def __iter__(self):  # type: ignore[no-untyped-def]
        yield from self._kept if self._kept is not None else map(self._start, self._batches)

    def _start(self, inputs: Sequence[np.ndarray]) -> tuple[Execution, Execution]:
        return Execution(self._pair.original, inputs), Execution(self._pair.pruned, inputs)


def _widest(network: Network) -> int:
    """Bytes of the largest tensor of one example, as float32."""
    sizes = (np.prod([n or 1 for n in x.shape[1:]]) for node in network.graph.nodes for x in node.outputs)
    return 4 * int(max(sizes, default=0))


def fit(pair: Pair, samples: Samples, settings: Settings, tell: Callable[[str], None]) -> list[str]:
    """Changes the pruned network; returns a line for each layer with a kernel that stays as it is."""
    runs, random = Runs(pair, samples, settings.batch_size), np.random.default_rng(settings.seed)
    readers, left = _readers(pair.pruned)
    fitted = set[str]()
    for number, reader in enumerate(readers):
        tell(f"fitting '{reader.node.layer}', {number + 1} of {len(readers)}")
        behind = following(pair.pruned, reader.node)
        if behind.addition is not None and not _settled(pair, behind, fitted, readers):
            behind = dataclasses.replace(behind, addition=None)
        _Fit(pair, reader, behind, settings, random).run(runs)
        fitted.add(reader.node.layer)
    return left


def _readers(network: Network) -> tuple[list[Reader], list[str]]:
    found, left = list[Reader](), list[str]()
    times = [node.layer for node in network.graph.nodes]
    for node in network.graph.nodes:
        if node.name != node.layer or not any(name.endswith("kernel") for name in node.weights):
            continue
        reader = reader_of(node)
        if reader is None:
            left.append(f"'{node.layer}' ({node.kind}): no fit is known for such a kernel")
        elif reader.too_large:
            left.append(f"'{node.layer}' ({node.kind}): its kernel reads more than {MAX_INPUTS:,} numbers at a time")
        elif times.count(node.layer) > 1:
            left.append(f"'{node.layer}' ({node.kind}): it is called more than once")
        else:
            found.append(reader)
    return found, left


def _settled(pair: Pair, behind: Following, fitted: set[str], readers: Sequence[Reader]) -> bool:
    """Whether the other operands of the addition are what they will be, and none was taken out."""
    assert behind.addition is not None
    network = pair.pruned
    if len(pair.original.nodes[behind.addition.name].inputs) != len(behind.addition.inputs):
        return False
    others = [x for k, x in enumerate(behind.addition.inputs) if k != behind.operand]
    before = network.ancestors(others)
    return all(r.node.layer in fitted for r in readers if r.node.name in before)


@dataclasses.dataclass(frozen=True)
class _Fit:
    """One layer's turn."""

    pair: Pair
    reader: Reader
    behind: Following
    settings: Settings
    random: np.random.Generator

    def run(self, runs: Runs) -> None:
        pair, node = self.pair, self.reader.node
        layer = pair.pruned.layers[node.layer]
        kernel = np.asarray(keras.ops.convert_to_numpy(layer.kernel), np.float64)
        start = self.reader.matrices(kernel)
        sums = NormalEquations()
        for original, pruned in runs:
            self._add(sums, original, pruned, start.shape)
        intercept = takes_constant(pair.pruned, node, self.behind.norm)
        if self.settings.kernels:
            found = sums.solve(start, self.settings.ridge, intercept)
            layer.kernel.assign(self.reader.kernel(found.kernel, kernel.shape))
            constant = found.constant
        else:
            constant = sums.constant(start)
        if intercept:
            add_constant(pair.pruned, node, self.behind.norm, constant.reshape(-1))

    def _add(self, sums: NormalEquations, original: Execution, pruned: Execution, shape: tuple[int, ...]) -> None:
        """Rows and targets of one batch."""
        before = self._original()
        x = pruned.array(self.reader.node.inputs[0])
        places = random_places(self.reader.output_shape(x), self.settings.places, self.random)
        layer = self.pair.original.layers[before.node.layer]
        matrices = before.matrices(np.asarray(keras.ops.convert_to_numpy(layer.kernel), np.float64))
        made = before.rows(original.array(before.node.inputs[0]), places) @ matrices
        groups, rows, outputs = made.shape
        targets = made.transpose(1, 0, 2).reshape(rows, groups * outputs)
        kept = self.pair.kept(self.reader.node, groups * outputs)
        targets = targets[:, kept] + self._missing(original, pruned, places, kept)
        split = targets.reshape(rows, shape[0], shape[2]).transpose(1, 0, 2)
        sums.add(self.reader.rows(x, places), split)

    def _original(self) -> Reader:
        reader = reader_of(self.pair.original.nodes[self.reader.node.name])
        assert reader is not None, "what can be fitted in the pruned network can be in the original"
        return reader

    def _missing(self, original: Execution, pruned: Execution, places: np.ndarray, kept: list[int]) -> np.ndarray:
        """float[rows, channels]: what the other operands of the addition lack, in units of this layer's output."""
        addition = self.behind.addition
        if addition is None:
            return np.zeros(())
        old = self.pair.original.nodes[addition.name]
        total = np.zeros(())
        for k, (x, y) in enumerate(zip(old.inputs, addition.inputs, strict=True)):
            if k != self.behind.operand:
                total = total + self._at(original, x, places)[:, kept] - self._at(pruned, y, places)[:, self._own(kept)]
        scale = norm_scale(self.pair.pruned, self.behind.norm, len(kept))
        return total / np.where(np.abs(scale) < _SMALLEST_SCALE, np.inf, scale)

    def _own(self, kept: list[int]) -> list[int]:
        """Where the channels of this layer stand in the sum: it may have more (union residuals)."""
        assert self.behind.addition is not None
        plan = self.pair.plan.layers.get(self.behind.addition.layer)
        if plan is None:
            return list(range(len(kept)))
        place = {channel: number for number, channel in enumerate(plan.out_index[0])}
        return [place[channel] for channel in kept]

    def _at(self, run: Execution, x: Tensor, places: np.ndarray) -> np.ndarray:
        """float[rows, channels] of a tensor at positions."""
        values = self.reader.window.channels_last(run.array(x))
        picked = values[(np.arange(len(values))[:, None], *np.moveaxis(places, -1, 0))]
        return picked.reshape(-1, values.shape[-1])
