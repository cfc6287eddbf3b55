"""Chance: the baseline that any criterion has to beat."""

from __future__ import annotations

import numpy as np

from keras_qcqp.importance.evidence import Evidence
from keras_qcqp.importance.score import Score, kernels


def random(evidence: Evidence) -> list[Score]:
    """Uniform in [0, 1) for each pair of channels; the seed is that of the search."""
    generator = np.random.default_rng(evidence.seed)
    scores = []
    for kernel in kernels(evidence.coupling):
        sizes = kernel.node.weights[kernel.name].shape
        followed = [n for n, axis in zip(sizes, kernel.axes, strict=True) if axis is not None]
        scores.append(kernel.score(generator.random(followed)))
    return scores
