"""First-order Taylor expansion of the loss: what it would change if a channel pair were gone.

Source: Molchanov et al., "Pruning convolutional neural networks for resource efficient inference" (ICLR 2017), there of
activations; here of the weights between two channels.
"""

from __future__ import annotations

import numpy as np

from keras_qcqp.importance.evidence import Evidence
from keras_qcqp.importance.score import Score
from keras_qcqp.importance.sensitivity import summed_sensitivity
from keras_qcqp.losses import loss_of

_BATCH = 64


def taylor(evidence: Evidence) -> list[Score]:
    """Mean over batches of 64 examples of |sum of gradient x weight|, in units of the loss."""
    model, samples = evidence.examples("taylor", labelled=True)
    loss = loss_of(model, evidence.loss)
    return summed_sensitivity(evidence, model, loss, samples.batches(_BATCH), np.abs)
