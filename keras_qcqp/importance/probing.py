"""How far the outputs of a network move: a number to compare interventions by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from keras_qcqp.keras_graph import compile_settings, makers
from keras_qcqp.losses import ends_normalised
from keras_qcqp.samples import Samples

_BATCH = 64
Divergence = Callable[[keras.Model], float]


def divergence_from(model: keras.Model, samples: Samples, loss: Any = None) -> Divergence:
    """A function that says how far another model's outputs are from those of `model` on the examples.

    Class scores: mean KL divergence of the class probabilities from the original ones, in nats. Anything else: half the
    mean squared distance, as a share of the variance of the original outputs, summed over the outputs.
    """
    before = _outputs(model, samples)
    if classifies(model, samples.labels, loss):
        normalised = ends_normalised(model)
        original = _log_probabilities(before[0], normalised)

        def divergence(other: keras.Model) -> float:
            changed = _log_probabilities(_outputs(other, samples)[0], normalised)
            return max(float((np.exp(original) * (original - changed)).sum(axis=-1).mean()), 0.0)

        return divergence
    smallest = float(np.finfo(np.float32).tiny)
    scales = [max(float(y.var(axis=0).sum()), smallest) for y in before]

    def distance(other: keras.Model) -> float:
        pairs = zip(before, _outputs(other, samples), scales, strict=True)
        return float(sum(0.5 * np.square(y - z).sum() / len(y) / scale for y, z, scale in pairs))

    return distance


def classifies(model: keras.Model, labels: Any = None, loss: Any = None) -> bool:
    """Whether the only output is one row of class scores: by its activation, by the loss, or by the labels."""
    if len(model.outputs) != 1 or len(model.outputs[0].shape) != 2 or (model.outputs[0].shape[1] or 1) < 2:
        return False
    if loss is None and getattr(model, "compiled", False):
        loss = compile_settings(model).get("loss")
    name = loss if isinstance(loss, str) else str(getattr(loss, "name", None) or getattr(loss, "__name__", ""))
    if loss is not None and not isinstance(loss, Mapping):
        return "crossentropy" in name.lower().replace("_", "") and "binary" not in name.lower()
    numbered = isinstance(labels, np.ndarray) and np.issubdtype(labels.dtype, np.integer) and labels.size == len(labels)
    return numbered or _ends_in_softmax(model)


def _ends_in_softmax(model: keras.Model) -> bool:
    operation = makers(model)[0]
    name = getattr(getattr(operation, "activation", None), "__name__", type(operation).__name__)
    return name.lower() == "softmax"


def _outputs(model: keras.Model, samples: Samples) -> list[np.ndarray]:
    parts = []
    for inputs, _ in samples.batches(_BATCH):
        made = model.predict_on_batch(inputs if len(inputs) > 1 else inputs[0])
        parts.append([np.asarray(y, np.float64) for y in keras.tree.flatten(made)])
    return [np.concatenate(ys) for ys in zip(*parts, strict=True)]


def _log_probabilities(scores: np.ndarray, normalised: bool) -> np.ndarray:
    logits = np.log(np.maximum(scores, 1e-12)) if normalised else scores
    logits = logits - logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
