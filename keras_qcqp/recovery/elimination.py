"""Which channels a set of readers misses least, one after the other, when what is left is fitted anew each time.

The squared error of a fit without the inputs D is `tr(W_D^T S W_D)` with S the Schur complement of the Gram matrix H:
for one channel after the fits so far, `tr(W_j^T ([H^-1]_jj)^-1 W_j)`. Taking the cheapest, then updating H^-1 and W, is
the optimal brain surgeon for groups of weights. Source: Hassibi and Stork, "Second order derivatives for network
pruning" (NIPS 1992); for structures: Kurtic et al., "ZipLM" (NeurIPS 2023). Ours: several readers share one mask of
channels, and each counts by the share of its output that it loses.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

import numpy as np

from keras_qcqp.recovery.normal_equations import pull


@dataclasses.dataclass(frozen=True)
class Reading:
    """One group of a layer, as a reader of a mask.

    Attributes:
        covariance: float[inputs, inputs] of the rows it multiplies.
        kernel: float[inputs, outputs], in whatever units of the outputs errors shall count.
        inputs: int[channels of the mask, inputs of each]: which rows of the kernel read a channel; may be empty.
    """

    covariance: np.ndarray
    kernel: np.ndarray
    inputs: np.ndarray


@dataclasses.dataclass(frozen=True)
class Elimination:
    """The order in which channels go.

    Attributes:
        order: int[channels], the first to go first.
        costs: float[channels]: error added when each goes, as a share of the output, summed over the readers.
        kernels: number of channels that went -> for each reader the kernel fitted for the rest, zero where they were.
    """

    order: np.ndarray
    costs: np.ndarray
    kernels: dict[int, list[np.ndarray]]


def eliminate(readings: Sequence[Reading], num_channels: int, ridge: float, stops: Collection[int]) -> Elimination:
    """Takes out all channels one by one.

    Args:
        stops: numbers of channels after which the kernels are wanted.
    """
    states = [_State(reading, ridge) for reading in readings]
    alive, order, costs = np.arange(num_channels), [], []
    kernels: dict[int, list[np.ndarray]] = {}
    for gone in range(num_channels):
        if gone in stops:
            kernels[gone] = [state.kernel.copy() for state in states]
        total = np.sum([state.costs(alive) for state in states], axis=0)
        where = int(np.argmin(total))
        for state in states:
            state.remove(int(alive[where]))
        order.append(int(alive[where]))
        costs.append(float(total[where]))
        alive = np.delete(alive, where)
    if num_channels in stops:
        kernels[num_channels] = [state.kernel.copy() for state in states]
    return Elimination(np.array(order, np.int64), np.maximum(costs, 0.0), kernels)


class _State:
    """What is left of one reader."""

    def __init__(self, reading: Reading, ridge: float) -> None:
        self.inverse = np.linalg.inv(reading.covariance + pull(reading.covariance, ridge))
        self.kernel = reading.kernel.astype(np.float64)
        self.inputs = reading.inputs
        whole = float(np.einsum("io,ij,jo->", self.kernel, reading.covariance, self.kernel))
        self.scale = 1.0 / whole if whole > 0 else 0.0

    def costs(self, channels: np.ndarray) -> np.ndarray:
        """float[channels]: share of the output that each would take along."""
        at = self.inputs[channels]
        if not at.shape[1]:
            return np.zeros(len(channels))
        blocks = self.inverse[at[:, :, None], at[:, None, :]]
        rows = self.kernel[at]
        return self.scale * np.einsum("cio,cio->c", rows, np.linalg.solve(blocks, rows))

    def remove(self, channel: int) -> None:
        """Fits the rest anew without it."""
        at = self.inputs[channel]
        if not len(at):
            return
        across = self.inverse[:, at]
        solved = np.linalg.solve(self.inverse[np.ix_(at, at)], np.concatenate([across.T, self.kernel[at]], axis=1))
        size = len(self.inverse)
        self.kernel -= across @ solved[:, size:]
        self.inverse -= across @ solved[:, :size]
        self.kernel[at] = 0.0
        self.inverse[at, :] = self.inverse[:, at] = 0.0
        self.inverse[at, at] = 1.0  # harmless, and never looked at again
