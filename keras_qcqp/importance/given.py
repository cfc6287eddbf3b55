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

    Layers that are not named have no importance of their own. A kernel that has no outputs of its own (a depthwise one)
    is scored along the channels it has.
    """

    arrays: Mapping[str, np.ndarray]

    def __call__(self, evidence: Evidence) -> list[Score]:
        """Raises DataError where a layer is unknown, a shape does not fit, or a value is negative or not finite."""
        known: dict[str, Kernel] = {}
        for kernel in kernels(evidence.coupling):
            known.setdefault(kernel.node.layer, kernel)
        scores = []
        for layer, array in self.arrays.items():
            if layer not in known:
                raise DataError(f"importance names layer '{layer}', which has no kernel. {did_you_mean(layer, known)}")
            scores.append(_score(known[layer], np.asarray(array, np.float64)))
        return scores


def _score(kernel: Kernel, values: np.ndarray) -> Score:
    if not np.isfinite(values).all() or (values < 0).any():
        raise DataError(f"importance of layer '{kernel.node.layer}' must be finite and not negative.")
    sizes = kernel.node.weights[kernel.name].shape
    followed = [n for n, axis in enumerate(kernel.axes) if axis is not None]
    outputs = [n for n in followed if kernel.axes[n].side != "in"] or followed  # type: ignore[union-attr]
    wanted = [sizes[outputs[0]]], [sizes[n] for n in followed]
    if list(values.shape) == wanted[1]:
        return kernel.score(values)
    if list(values.shape) == wanted[0]:
        axis = kernel.axes[outputs[0]]
        assert axis is not None
        return Score(kernel.node, (axis,), values)
    raise DataError(
        f"importance of layer '{kernel.node.layer}' has shape {list(values.shape)}; expected {wanted[0]} for its "
        f"output channels or {wanted[1]} for the pairs of channels of '{kernel.name}'."
    )
