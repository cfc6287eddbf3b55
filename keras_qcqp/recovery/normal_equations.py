"""Least squares from sums: rows come in batches, are added up and forgotten."""

from __future__ import annotations

import dataclasses

import numpy as np

Sum = np.ndarray | float


@dataclasses.dataclass(frozen=True)
class Fit:
    """Kernels float[groups, inputs, outputs] and the constants float[groups, outputs] to add."""

    kernel: np.ndarray
    constant: np.ndarray


class NormalEquations:
    """Sums of products of rows x float[groups, rows, inputs] and targets y float[groups, rows, outputs], in float64.

    Memory is groups x inputs x (inputs + outputs) numbers, however many rows there are. Sums lose half of the digits
    that a QR of all rows would keep: with float32 networks and a ridge that is what the rows themselves are worth.
    """

    def __init__(self) -> None:
        self.num_rows = 0
        self._xx: Sum = 0.0
        self._xy: Sum = 0.0
        self._x: Sum = 0.0
        self._y: Sum = 0.0

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """Takes further rows."""
        x, y = x.astype(np.float64), y.astype(np.float64)
        self.num_rows += x.shape[1]
        turned = x.transpose(0, 2, 1)
        self._xx += turned @ x
        self._xy += turned @ y
        self._x += x.sum(axis=1)
        self._y += y.sum(axis=1)

    @property
    def mean(self) -> np.ndarray:
        """float[groups, inputs]: mean row."""
        return np.asarray(self._x) / max(self.num_rows, 1)

    @property
    def covariance(self) -> np.ndarray:
        """float[groups, inputs, inputs]: mean product of centred rows."""
        mean = self.mean
        return np.asarray(self._xx) / max(self.num_rows, 1) - mean[:, :, None] * mean[:, None, :]

    def solve(self, start: np.ndarray, ridge: float, intercept: bool) -> Fit:
        """The kernels float[groups, inputs, outputs] nearest to the targets.

        Args:
            start: the kernels that a ridge pulls towards: directions of which the rows say nothing keep them.
            ridge: in units of the mean diagonal entry of the (centred) Gram matrix of a group.
            intercept: whether a constant may be added to each output; it is not pulled anywhere.
        """
        n = max(self.num_rows, 1)
        mean_x, mean_y = self.mean, np.asarray(self._y) / n
        if not intercept:
            mean_x, mean_y = np.zeros_like(mean_x), np.zeros_like(mean_y)
        gram = np.asarray(self._xx) - n * mean_x[:, :, None] * mean_x[:, None, :]
        cross = np.asarray(self._xy) - n * mean_x[:, :, None] * mean_y[:, None, :]
        kernel = start + np.linalg.solve(gram + pull(gram, ridge), cross - gram @ start)
        return Fit(kernel, mean_y - np.einsum("gi,gio->go", mean_x, kernel))

    def constant(self, kernel: np.ndarray) -> np.ndarray:
        """The best constants float[groups, outputs] for kernels that stay as they are: the mean of what they miss."""
        return np.asarray(self._y) / max(self.num_rows, 1) - np.einsum("gi,gio->go", self.mean, kernel)


def pull(gram: np.ndarray, ridge: float) -> np.ndarray:
    """float[..., inputs, inputs]: what a ridge adds to Gram matrices; never all zero, so that they can be inverted."""
    size = gram.shape[-1]
    level = np.trace(gram, axis1=-2, axis2=-1) / max(size, 1)
    smallest = np.finfo(np.float64).tiny ** 0.25
    return np.maximum(ridge * level, smallest)[..., None, None] * np.eye(size)
