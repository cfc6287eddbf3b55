"""Sizes of weights, summed for each channel pair of a kernel.

`magnitude` is that of Jeong et al., "Optimal channel selection with discrete QCQP" (AISTATS 2022), as in the authors'
code: `V_ij = sum over taps of |W_ij|`, importance `V / ||V||_F` for each layer. Departures: Dense layers take part too
(there the head's inputs have no importance at all), and depthwise kernels enter as a linear term, normalised likewise.
`l1` and `l2` are the same sums of |W| and of W^2 without any normalisation.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from keras_qcqp.importance.evidence import Evidence
from keras_qcqp.importance.score import Score, kernels


def magnitude(evidence: Evidence) -> list[Score]:
    """Sums of |W|, divided by their Frobenius norm in each layer."""
    return _sums(evidence, np.abs, _normalised)


def l1(evidence: Evidence) -> list[Score]:
    """Sums of |W|, comparable across layers as they are."""
    return _sums(evidence, np.abs, lambda summed: summed)


def l2(evidence: Evidence) -> list[Score]:
    """Sums of W^2, comparable across layers as they are."""
    return _sums(evidence, np.square, lambda summed: summed)


Array = np.ndarray


def _sums(evidence: Evidence, size: Callable[[Array], Array], finish: Callable[[Array], Array]) -> list[Score]:
    scores = []
    for kernel in kernels(evidence.coupling):
        values = evidence.weights[kernel.node.layer][kernel.name].astype(np.float64)
        scores.append(kernel.score(finish(size(values).sum(axis=kernel.taps))))
    return scores


def _normalised(summed: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(summed)
    return summed / norm if norm > 0 else summed
