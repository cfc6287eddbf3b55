"""Sum of absolute weights of each channel pair, normalised for each layer.

Source: Jeong et al., "Optimal channel selection with discrete QCQP" (AISTATS 2022), as in the authors' code:
`V_ij = sum over taps of |W_ij|`, importance `V / ||V||_F`. Departures: Dense layers take part too (there the
head's inputs have no importance at all), and depthwise kernels enter as a linear term, normalised likewise.
"""

from __future__ import annotations

import numpy as np

from keras_qcqp.channels import Axis
from keras_qcqp.coupling import Coupling
from keras_qcqp.importance.score import Score, WeightValues, scored


def magnitude(coupling: Coupling, weights: WeightValues) -> list[Score]:
    """Scores of every kernel; biases and batch norms have none."""
    scores = []
    for node in coupling.first_calls():
        for name, axes in coupling.specs[node.name].weights.items():
            axes = scored(coupling, node, axes)
            followed = tuple(axis for axis in axes if axis is not None)
            if not followed or not name.rpartition("/")[2].endswith("kernel"):
                continue
            values = _normalised(weights[node.layer][name], axes)
            scores.append(Score(node, followed, values))
    return scores


def _normalised(kernel: np.ndarray, axes: tuple[Axis | None, ...]) -> np.ndarray:
    others = tuple(number for number, axis in enumerate(axes) if axis is None)
    summed = np.abs(kernel.astype(np.float64)).sum(axis=others)
    norm = np.linalg.norm(summed)
    return summed / norm if norm > 0 else summed
