"""How the loss of a batch changes when channel pairs fade: the raw material of Taylor and Fisher criteria."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np

from keras_qcqp.errors import DataError, QcqpError
from keras_qcqp.gradients import Gradients, Loss, gradients_of
from keras_qcqp.importance.evidence import Evidence
from keras_qcqp.importance.score import Score, kernels
from keras_qcqp.keras_graph import layers_by_path, named_weights
from keras_qcqp.samples import Batch

Merge = Callable[[np.ndarray], np.ndarray]


def summed_sensitivity(
    evidence: Evidence, model: keras.Model, loss: Loss, batches: Iterable[Batch], merge: Merge
) -> list[Score]:
    """Mean over batches of `merge(sum over taps of gradient x weight)`, for every pair of channels of every kernel.

    The inner sum is the derivative of the loss by a factor on that pair. Nothing is normalised: all are in units of the
    loss, and so comparable across layers.
    """
    found = list(kernels(evidence.coupling))
    layers = layers_by_path(model)
    variables = [named_weights(layers[k.node.layer])[k.name] for k in found]
    values = [np.asarray(evidence.weights[k.node.layer][k.name], np.float32) for k in found]
    differentiate = gradients_of(model, loss, variables)
    sums, number = [np.zeros(())] * len(found), 0
    for inputs, labels in batches:
        gradients = _require_defined(differentiate, inputs, labels)
        for k, (kernel, value, gradient) in enumerate(zip(found, values, gradients, strict=True)):
            derivative = (value * gradient).sum(axis=kernel.taps, dtype=np.float64)
            sums[k] = sums[k] + merge(derivative)
        number += 1
    for kernel, total in zip(found, sums, strict=True):
        if not np.isfinite(total).all():
            raise DataError(
                f"The loss has NaN or infinite derivatives by the weights of layer '{kernel.node.layer}'. Look for NaN "
                "among the labels and for class numbers beyond the outputs, or give another loss=."
            )
    return [kernel.score(total / number) for kernel, total in zip(found, sums, strict=True)]


def _require_defined(differentiate: Gradients, inputs: Sequence[np.ndarray], labels: Any) -> list[np.ndarray]:
    try:
        return differentiate(inputs, labels)
    except QcqpError:
        raise
    except Exception as error:  # labels that a loss cannot take fail in a way of every loss and backend
        shapes = keras.tree.map_structure(lambda y: getattr(y, "shape", None), labels)
        raise DataError(
            f"The loss of labels of shape {shapes} cannot be computed. Give class numbers below the number of outputs, "
            f"labels like the outputs, or loss=. Keras says: {error}"
        ) from error
