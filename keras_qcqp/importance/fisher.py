"""Pairwise Fisher information: the second-order loss increase when a channel pair goes.

With the Gauss-Newton approximation the loss increases by half the mean of (derivative by a factor on the pair)^2: for
each pair `I_ij = mean over batches of (sum over taps of gradient x weight)^2`. Source: the squared Taylor term of
Molchanov et al., "Importance estimation for neural network pruning" (CVPR 2019), taken for pairs instead of filters, so
that it is the objective of the QCQP. Never normalised per layer: that destroys what makes layers comparable.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_qcqp.importance.evidence import Evidence
from keras_qcqp.importance.score import Score
from keras_qcqp.importance.sensitivity import summed_sensitivity
from keras_qcqp.losses import classifies, cross_entropy, ends_normalised, loss_of
from keras_qcqp.samples import Batch, Samples

_BATCH = 8  # squares of single examples are the true Fisher; batches of 8 select as well in a quarter of the time


def fisher(evidence: Evidence) -> list[Score]:
    """Of the labels that the user gives (the empirical Fisher)."""
    model, samples = evidence.examples("fisher", labelled=True)
    loss = loss_of(model, evidence.loss)
    return summed_sensitivity(evidence, model, loss, samples.batches(_BATCH), np.square)


def output_fisher(evidence: Evidence) -> list[Score]:
    """Without labels: how far the outputs of the network itself would move.

    Class scores: labels are drawn from the network's own distribution, which gives the true Fisher information, the
    curvature of the KL divergence from the original. Any other outputs, or if the loss is none of classes: random signs
    weigh them, which gives their Gauss-Newton matrix, the curvature of the squared distance from the original.
    """
    model, samples = evidence.examples("output_fisher")
    draws = _Draws(
        model, samples, np.random.default_rng(evidence.seed), classifies(model, None, evidence.loss, guess=True)
    )
    return summed_sensitivity(evidence, model, draws.loss, draws.batches(), np.square)


@dataclasses.dataclass(frozen=True)
class _Draws:
    """Random targets for every output of a model.

    Attributes:
        classifies: whether the only output is one row of scores of several classes.
    """

    model: keras.Model
    samples: Samples
    random: np.random.Generator
    classifies: bool

    def loss(self, targets: Any, outputs: Any) -> Any:
        if self.classifies:
            return cross_entropy(self.model)(targets, outputs)
        flat = zip(keras.tree.flatten(targets), keras.tree.flatten(outputs), strict=True)
        return sum(keras.ops.sum(target * keras.ops.cast(y, "float32")) for target, y in flat) / _BATCH

    def batches(self) -> Iterator[Batch]:
        for inputs, _ in self.samples.batches(_BATCH):
            outputs = self.model.predict_on_batch(inputs if len(inputs) > 1 else inputs[0])
            flat = [np.asarray(y, np.float64) for y in keras.tree.flatten(outputs)]
            if self.classifies:
                yield inputs, self._classes(flat[0])
            else:
                yield inputs, [self.random.choice([-1.0, 1.0], y.shape).astype(np.float32) for y in flat]

    def _classes(self, scores: np.ndarray) -> np.ndarray:
        """A class for each row, by the Gumbel trick."""
        logits = np.log(np.maximum(scores, 1e-30)) if ends_normalised(self.model) else scores
        return (logits + self.random.gumbel(size=logits.shape)).argmax(axis=-1)
