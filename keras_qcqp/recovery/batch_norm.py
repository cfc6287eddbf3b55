"""Batch norms learn anew what comes in: exact means and variances over all examples, layer after layer.

Source: "batch norm re-estimation", as in Li et al., "EagleEye" (ECCV 2020). There running averages of shuffled batches
are taken in one pass; here each batch norm is set to the statistics of all examples before the next one is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import keras
import numpy as np

from keras_qcqp.execution import Network, Runs
from keras_qcqp.samples import Samples


def reestimate(network: Network, samples: Samples, batch_size: int, tell: Callable[[str], None]) -> list[str]:
    """Changes the moving statistics of the network; returns a line for each batch norm that stays as it is."""
    runs, left = Runs((network,), samples, batch_size), list[str]()
    for node in network.graph.nodes:
        if node.cls is not keras.layers.BatchNormalization or node.name != node.layer:
            continue
        if not network.called_once(node):
            left.append(f"'{node.layer}' (BatchNormalization): it is called more than once")
            continue
        tell(f"re-estimating '{node.layer}'")
        layer = network.layers[node.layer]
        axis = range(len(node.inputs[0].shape))[node.config["axis"]]
        mean, variance = _statistics((run.array(node.inputs[0]) for (run,) in runs), axis)
        layer.moving_mean.assign(mean)
        layer.moving_variance.assign(variance)
    return left


def _statistics(arrays: Iterable[np.ndarray], axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance float[channels] over all batches; pairwise updates, since sums of squares would cancel."""
    number, mean, squares = 0, np.zeros(()), np.zeros(())
    for array in arrays:
        rows = np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis]).astype(np.float64)
        new, total = rows.mean(axis=0), number + len(rows)
        step = new - mean
        squares = squares + ((rows - new) ** 2).sum(axis=0) + step**2 * number * len(rows) / total
        mean, number = mean + step * len(rows) / total, total
    return mean, squares / number
