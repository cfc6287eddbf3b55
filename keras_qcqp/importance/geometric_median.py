"""Distance of a filter to all others of its layer: what lies in their middle can be replaced by them.

Source: He et al., "Filter pruning via geometric median for deep convolutional neural networks acceleration" (CVPR
2019): the filters nearest to the geometric median have the least sum of Euclidean distances to the others. Divided by
the mean in each layer, since that sum grows with the number of filters and their size.
"""

from __future__ import annotations

import numpy as np

from keras_qcqp.importance.evidence import Evidence
from keras_qcqp.importance.score import Score, kernels


def geometric_median(evidence: Evidence) -> list[Score]:
    """Sum of distances to the other filters, along the outputs of each kernel (its channels, if it has no outputs)."""
    scores = []
    for kernel in kernels(evidence.coupling):
        outputs = [n for n, axis in enumerate(kernel.axes) if axis is not None and axis.side != "in"]
        followed = [n for n, axis in enumerate(kernel.axes) if axis is not None]
        number = (outputs or followed)[0]
        values = evidence.weights[kernel.node.layer][kernel.name].astype(np.float64)
        filters = np.moveaxis(values, number, 0).reshape(values.shape[number], -1)
        axis = kernel.axes[number]
        assert axis is not None
        scores.append(Score(kernel.node, (axis,), _normalised(distances(filters))))
    return scores


def distances(filters: np.ndarray) -> np.ndarray:
    """float[filters]: sum of the Euclidean distances of each row to all others."""
    squares = (filters**2).sum(axis=1)
    products = squares[:, None] + squares[None, :] - 2 * filters @ filters.T
    return np.sqrt(np.maximum(products, 0)).sum(axis=1)


def _normalised(sums: np.ndarray) -> np.ndarray:
    mean = sums.mean()
    return sums / mean if mean > 0 else sums
