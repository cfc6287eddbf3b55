"""Importance that the user brings along."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from keras_qcqp.errors import DataError, did_you_mean
from keras_qcqp.importance.evidence import Evidence
from keras_qcqp.importance.score import Kernel, Score, kernels


@dataclasses.dataclass(frozen=True)
class Given:
    """Arrays by layer path: float[output channels], or float[input channels, output channels] for pairs.

    Layers that are not named have no importance of their own. Of several kernels the first that has outputs is meant
    (the pointwise one of a separable convolution). One that has no outputs of its own (a depthwise one) is scored along
    the channels it has.
    """

    arrays: Mapping[str, np.ndarray]

    def __call__(self, evidence: Evidence) -> list[Score]:
        """Raises DataError where a layer is unknown, a shape does not fit, or a value is negative or not finite."""
        known: dict[str, Kernel] = {}
        for kernel in kernels(evidence.coupling):
            if kernel.node.layer not in known or not _has_outputs(known[kernel.node.layer]):
                known[kernel.node.layer] = kernel
        scores = []
        for layer, array in self.arrays.items():
            if layer not in known:
                raise DataError(f"importance names layer '{layer}', which has no kernel. {did_you_mean(layer, known)}")
            scores.append(_score(known[layer], array))
        return scores


def _has_outputs(kernel: Kernel) -> bool:
    return any(axis is not None and axis.side != "in" for axis in kernel.axes)


def _score(kernel: Kernel, array: np.ndarray) -> Score:
    layer = kernel.node.layer
    try:
        values = np.asarray(array, np.float64)
    except (TypeError, ValueError):
        raise DataError(f"importance of layer '{layer}' must be an array of numbers, got {array!r}.") from None
    if not np.isfinite(values).all() or (values < 0).any():
        raise DataError(f"importance of layer '{layer}' must be finite and not negative.")
    pairs = zip(kernel.axes, kernel.node.weights[kernel.name].shape, strict=True)
    followed = [(axis, size) for axis, size in pairs if axis is not None]
    followed.sort(key=lambda pair: pair[0].side != "in")  # kernels of transposed convolutions have outputs first
    axis, size = next((pair for pair in followed if pair[0].side != "in"), followed[0])
    sizes = [n for _, n in followed]
    if list(values.shape) == sizes:
        return Score(kernel.node, tuple(a for a, _ in followed), values)
    if list(values.shape) == [size]:
        return Score(kernel.node, (axis,), values)
    raise DataError(
        f"importance of layer '{layer}' has shape {list(values.shape)}; expected {[size]} for its output channels or "
        f"{sizes} for the pairs of channels of '{kernel.name}'."
    )
