"""How much of a layer's sum each input channel brings: sizes of activations times sizes of weights.

Source: the score |W| x ||activation|| of Sun et al., "A simple and effective pruning approach for large language
models" (2023), there for single weights; here its square is summed over the taps of a channel pair, and divided by the
whole of the layer, so that layers can be compared.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from keras_qcqp.execution import Execution, Network
from keras_qcqp.importance.evidence import Evidence
from keras_qcqp.importance.score import Kernel, Score, kernels

_BATCH = 64


def activation(evidence: Evidence) -> list[Score]:
    """Mean square of each input channel x sum of W^2, as a share of the layer; without labels."""
    model, samples = evidence.examples("activation")
    network = Network(model)
    reading = [kernel for kernel in kernels(evidence.coupling) if _side(kernel, "in") is not None]
    squares = [np.zeros(())] * len(reading)
    for inputs, _ in samples.batches(_BATCH):
        run = Execution(network, inputs)
        for k, kernel in enumerate(reading):
            squares[k] = squares[k] + _mean_squares(evidence, kernel, run) * len(inputs[0]) / len(samples)
    return [_score(evidence, kernel, s) for kernel, s in zip(reading, squares, strict=True)]


def _side(kernel: Kernel, side: str) -> int | None:
    found = [number for number, axis in enumerate(kernel.axes) if axis is not None and axis.side == side]
    return found[0] if found else None


def _mean_squares(evidence: Evidence, kernel: Kernel, run: Execution) -> np.ndarray:
    """float[channels of the input]."""
    axis = kernel.axes[_side(kernel, "in") or 0]
    assert axis is not None
    x = np.square(run.array(kernel.node.inputs[axis.port]).astype(np.float64))
    number = evidence.coupling.inputs[kernel.node.name][axis.port].axis
    return x.mean(axis=tuple(k for k in range(x.ndim) if k != number))


def _score(evidence: Evidence, kernel: Kernel, squares: np.ndarray) -> Score:
    values = np.square(evidence.weights[kernel.node.layer][kernel.name].astype(np.float64))
    number = _side(kernel, "in")
    assert number is not None
    values = (values * _factors(kernel, number, squares, values.shape)).sum(axis=kernel.taps)
    total = values.sum()
    return kernel.score(values / total if total > 0 else values)


def _factors(kernel: Kernel, number: int, squares: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """What each weight multiplies, mean square; of a grouped convolution's outputs each group reads its own inputs."""
    axis = kernel.axes[number]
    assert axis is not None
    own = dataclasses.replace(axis, groups=1, start=0, stop=None)
    parts = np.stack([own.follow(part) for part in np.split(squares[axis.start : axis.stop], axis.groups)])
    if axis.groups > 1:  # Keras has (..., inputs of a group, outputs), outputs of a group side by side
        return np.repeat(parts, shape[-1] // axis.groups, axis=0).T
    return parts[0].reshape([-1 if k == number else 1 for k in range(len(shape))])
