"""How far the outputs of a network move: a number to compare interventions by."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_qcqp.losses import classifies, ends_normalised
from keras_qcqp.samples import Samples

_BATCH = 64
_CONSTANT = 1e-9
Outputs = Sequence[np.ndarray]


@dataclasses.dataclass(frozen=True)
class Divergence:
    """How far outputs are from the original ones.

    Class scores: mean KL divergence of the class probabilities from the original ones, in nats. Anything else: half the
    mean squared distance, as a share of the variance of the original outputs, summed over the outputs.

    Attributes:
        before: the original outputs float[samples, ...].
        classes: what class scores are, "logits" or "probabilities"; None: the only output is no row of class scores.
    """

    before: Outputs
    classes: str | None

    @classmethod
    def of(cls, model: keras.Model, samples: Samples, loss: Any = None) -> Divergence:
        """From what a model gives for the examples."""
        kind = "probabilities" if ends_normalised(model) else "logits"
        return cls(outputs_of(model, samples), kind if classifies(model, samples.labels, loss) else None)

    def __call__(self, after: Outputs) -> float:
        """Zero where nothing changed."""
        if self.classes is not None:
            before, now = (_log_probabilities(y[0], self.classes == "probabilities") for y in (self.before, after))
            return max(float((np.exp(before) * (before - now)).sum(axis=-1).mean()), 0.0)
        return sum(_distance(y, z) for y, z in zip(self.before, after, strict=True))


def _distance(before: np.ndarray, after: np.ndarray) -> float:
    size = float(np.square(before).sum()) / len(before)
    variance = float(before.var(axis=0).sum())
    scale = variance if variance > _CONSTANT * size else size  # one example, or an output that never changes
    return 0.5 * float(np.square(before - after).sum()) / len(before) / (scale or 1.0)


def outputs_of(model: keras.Model, samples: Samples) -> list[np.ndarray]:
    """All outputs float64[samples, ...], in the model's own order."""
    parts = []
    for inputs, _ in samples.batches(_BATCH):
        made = model.predict_on_batch(inputs if len(inputs) > 1 else inputs[0])
        parts.append([np.asarray(y, np.float64) for y in keras.tree.flatten(made)])
    return [np.concatenate(ys) for ys in zip(*parts, strict=True)]


def _log_probabilities(scores: np.ndarray, normalised: bool) -> np.ndarray:
    logits = np.log(np.maximum(scores, 1e-12)) if normalised else scores
    logits = logits - logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
