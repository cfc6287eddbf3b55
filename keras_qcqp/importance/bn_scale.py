"""Scales of batch norms: a channel that its batch norm makes small says little.

Source: Liu et al., "Learning efficient convolutional networks through network slimming" (ICCV 2017), |gamma| as the
importance of a channel. Channels that meet several batch norms add them up; those that meet none keep sums of |W| of
their kernels, scaled to the same mean, so that every layer can be compared.
"""

from __future__ import annotations

import numpy as np

from keras_qcqp.importance.evidence import Evidence
from keras_qcqp.importance.magnitude import l1
from keras_qcqp.importance.score import Score


def bn_scale(evidence: Evidence) -> list[Score]:
    """|gamma| of each batch norm; of masks that meet none, sums of |W| on the same scale."""
    coupling = evidence.coupling
    met, scores = np.zeros(len(coupling.mask_of), bool), list[Score]()
    for node in coupling.first_calls():
        for name, axes in coupling.specs[node.name].weights.items():
            if node.kind == "BatchNormalization" and name == "gamma" and name in node.weights and axes[0] is not None:
                scores.append(Score(node, (axes[0],), np.abs(evidence.weights[node.layer][name].astype(np.float64))))
                met[coupling.ids(node, axes[0])] = True
    mean = float(np.mean(np.concatenate([s.values for s in scores]))) if scores else 1.0
    for score in l1(evidence):
        for number, axis in enumerate(score.axes):
            ids = coupling.ids(score.node, axis)
            others = tuple(k for k in range(len(score.axes)) if k != number)
            sums = np.where(met[ids], 0.0, score.values.sum(axis=others))
            if sums.any():
                scores.append(Score(score.node, (axis,), sums / sums[sums > 0].mean() * mean))
    return scores
