"""The original network and the pruned one, side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from keras_qcqp.execution import Execution, Network, widest
from keras_qcqp.graph import Node
from keras_qcqp.plan import Plan
from keras_qcqp.samples import Samples

_MAX_CACHED_BYTES = 2**30


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to fit.

    Attributes:
        kernels: fit kernels; else only constants (bias compensation).
        ridge: pull towards the weights as they are, in units of the mean diagonal of the Gram matrix.
        places: output positions of each example that give a row.
        rounds: how often targets beyond the bounds of a rectifier are set anew.
        batch_size: examples computed at once.
    """

    kernels: bool = True
    ridge: float = 1e-3
    places: int = 32
    rounds: int = 2
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
        self._pair, self.num_samples = pair, len(samples)
        self._batches = [inputs for inputs, _ in samples.batches(batch_size)]
        self._kept: list[tuple[Execution, Execution]] | None = None
        if widest(pair.original) * len(samples) * 3 <= _MAX_CACHED_BYTES:
            self._kept = [self._start(inputs) for inputs in self._batches]

    def __iter__(self) -> Iterator[tuple[Execution, Execution]]:
        yield from self._kept if self._kept is not None else map(self._start, self._batches)

    def _start(self, inputs: Sequence[np.ndarray]) -> tuple[Execution, Execution]:
        return Execution(self._pair.original, inputs), Execution(self._pair.pruned, inputs)
