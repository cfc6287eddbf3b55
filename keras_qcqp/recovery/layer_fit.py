"""One layer's turn in a reconstruction."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from keras_qcqp.execution import Execution, Runs
from keras_qcqp.graph import Tensor
from keras_qcqp.keras_graph import float64
from keras_qcqp.recovery.following import Following, add_constant, norm_scale, takes_constant
from keras_qcqp.recovery.normal_equations import Fit, NormalEquations
from keras_qcqp.recovery.pair import Pair, Settings
from keras_qcqp.recovery.readers import Reader, reader_of
from keras_qcqp.recovery.windows import random_places

_MAX_ROW_NUMBERS = 2**27  # rows of one layer, which are kept while it is fitted: 512 MiB as float32
_SMALLEST_SCALE = 1e-3  # a batch norm that nearly silences a channel cannot be asked to repair a sum


@dataclasses.dataclass(frozen=True)
class _Batch:
    """Rows of one batch.

    Attributes:
        rows: float[groups, rows, inputs] of the pruned network.
        targets: float[rows, outputs], what the layer should make of them, its bias left out.
        wanted: float[rows, outputs], what should arrive at the rectifier; None if there is none.
    """

    rows: np.ndarray
    targets: np.ndarray
    wanted: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class LayerFit:
    """Fits one layer of the pruned network to what it gave in the original one."""

    pair: Pair
    reader: Reader
    behind: Following
    settings: Settings
    random: np.random.Generator

    @functools.cached_property
    def _original(self) -> tuple[Reader, np.ndarray]:
        """The layer as it was, and its matrices float[groups, inputs, outputs]."""
        reader = reader_of(self.pair.original.nodes[self.reader.node.name])
        assert reader is not None, "what can be fitted in the pruned network can be in the original"
        return reader, reader.matrices(float64(self.pair.original.layers[reader.node.layer].kernel))

    def run(self, runs: Runs) -> None:
        """Sets the kernel of the layer, and its constants where there is a place for them."""
        node, pruned = self.reader.node, self.pair.pruned
        layer = pruned.layers[node.layer]
        kernel = float64(layer.kernel)
        start = self.reader.matrices(kernel)
        intercept = takes_constant(pruned, node, self.behind.norm)
        scale = norm_scale(pruned, self.behind.norm, start.shape[0] * start.shape[2])
        steps = np.where(np.abs(scale) < _SMALLEST_SCALE, 0.0, 1 / np.where(scale == 0, 1.0, scale))
        inputs = start.shape[0] * start.shape[1]
        places = max(1, min(self.settings.places, _MAX_ROW_NUMBERS // (runs.num_samples * inputs)))
        batches = [self._batch(original, smaller, steps, places) for original, smaller in runs]
        found = self._solved(batches, start, intercept)
        for _ in range(self.settings.rounds if self.behind.rectifier and self.settings.kernels else 0):
            batches = [self._aimed(batch, found, scale, steps) for batch in batches]
            found = self._solved(batches, start, intercept)
        layer.kernel.assign(self.reader.kernel(found.kernel, kernel.shape))
        if intercept:
            add_constant(pruned, node, self.behind.norm, found.constant.reshape(-1))

    def _solved(self, batches: list[_Batch], start: np.ndarray, intercept: bool) -> Fit:
        sums = NormalEquations()
        for batch in batches:
            sums.add(batch.rows, _grouped(batch.targets, start.shape[0]))
        if self.settings.kernels:
            return sums.solve(start, self.settings.ridge, intercept)
        return Fit(start, sums.constant(start))

    def _batch(self, original: Execution, pruned: Execution, steps: np.ndarray, num_places: int) -> _Batch:
        before, matrices = self._original
        x = pruned.array(self.reader.node.inputs[0])
        places = random_places(self.reader.output_shape(x), num_places, self.random)
        made = before.rows(original.array(before.node.inputs[0]), places) @ matrices
        flat = made.transpose(1, 0, 2).reshape(made.shape[1], -1)
        kept = self.pair.kept(self.reader.node, flat.shape[1])
        targets, wanted = flat[:, kept], None
        # First what enters the addition: once it is computed, its operands are forgotten.
        missing = self._missing(original, pruned, places, kept) * steps
        if self.behind.rectified_by is not None:
            at_rectifier = self.pair.original.nodes[self.behind.rectified_by.name].inputs[0]
            wanted = self._at(original, at_rectifier, places)[:, kept]
        elif self.behind.rectifier is not None:
            bias = self.pair.original.layers[before.node.layer].bias
            wanted = targets + (float64(bias)[kept] if bias is not None else 0.0)
        return _Batch(self.reader.rows(x, places), targets + missing, wanted)

    def _aimed(self, batch: _Batch, found: Fit, scale: np.ndarray, steps: np.ndarray) -> _Batch:
        """With targets that ask for nothing where the rectifier cuts off anyway."""
        assert batch.wanted is not None and self.behind.rectifier is not None
        made = (batch.rows @ found.kernel + found.constant[:, None, :]).transpose(1, 0, 2).reshape(batch.targets.shape)
        given = batch.wanted + scale * (made - batch.targets)
        aimed = self.behind.rectifier.targets(batch.wanted, given)
        # `wanted` and `targets` move together: where the targets are met, what is wanted arrives.
        return _Batch(batch.rows, batch.targets + (aimed - batch.wanted) * steps, aimed)

    def _missing(self, original: Execution, pruned: Execution, places: np.ndarray, kept: list[int]) -> np.ndarray:
        """float[rows, channels]: what the other operands of the addition lack."""
        addition = self.behind.addition
        if addition is None:
            return np.zeros(())
        old, total = self.pair.original.nodes[addition.name], np.zeros(())
        for k, (x, y) in enumerate(zip(old.inputs, addition.inputs, strict=True)):
            if k != self.behind.operand:
                total = total + self._at(original, x, places)[:, kept] - self._at(pruned, y, places)[:, self._own(kept)]
        return total

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


def _grouped(targets: np.ndarray, groups: int) -> np.ndarray:
    """float[groups, rows, outputs of a group]."""
    return targets.reshape(len(targets), groups, -1).transpose(1, 0, 2)
