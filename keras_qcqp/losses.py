"""What a network was trained to make small."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from keras_qcqp.errors import DataError
from keras_qcqp.gradients import Loss
from keras_qcqp.keras_graph import compile_settings, makers

_NORMALISING = ("softmax", "sigmoid")


def loss_of(model: keras.Model, loss: Any = None) -> Loss:
    """The loss of a batch: what the user gives, what the model was compiled with, or what its labels suggest.

    Args:
        loss: a Keras loss, its name, or a function `(labels, outputs) -> tensor`; for several outputs a list or dict of
            them, as in `Model.compile`. None: that of `compile`; of a model that was not compiled, cross-entropy of
            class numbers (labels as wide as the output: of one-hot rows), from logits unless it ends in softmax.

    Raises:
        DataError: the model has several outputs, or none of class scores, and no loss is known.
    """
    if loss is None and getattr(model, "compiled", False):
        loss = compile_settings(model).get("loss")
    if loss is None:
        return cross_entropy(model)
    if isinstance(loss, (list, tuple, Mapping)):
        return _sum(model, loss)
    return _single(loss)


def _single(loss: Any) -> Loss:
    function = keras.losses.get(loss)

    def mean(labels: Any, outputs: Any) -> Any:
        return keras.ops.mean(function(labels, outputs))

    return mean


def _sum(model: keras.Model, losses: Any) -> Loss:
    if isinstance(losses, Mapping):
        names = list(model.output_names)
        unknown = [name for name in losses if name not in names]
        if unknown:
            raise DataError(f"Losses for {', '.join(unknown)}, but the outputs are {', '.join(names)}.")
        losses = [losses.get(name) for name in names]
    parts = [None if part is None else _single(part) for part in losses]

    def total(labels: Any, outputs: Any) -> Any:
        pairs = zip(parts, keras.tree.flatten(labels), keras.tree.flatten(outputs), strict=True)
        return sum(part(y, p) for part, y, p in pairs if part is not None)

    return total


def cross_entropy(model: keras.Model) -> Loss:
    """Of class numbers, or of rows as wide as the output; from logits unless the model ends in softmax or sigmoid.

    Raises:
        DataError: the model does not end in one row of class scores.
    """
    if len(model.outputs) != 1 or len(model.outputs[0].shape) != 2 or model.outputs[0].shape[1] in (None, 1):
        raise DataError(
            f"Model '{model.name}' is not compiled and does not end in one row of class scores, so its loss is "
            "unknown. Give loss=, or compile the model."
        )
    from_logits = not ends_normalised(model)

    def loss(labels: Any, outputs: Any) -> Any:
        dense = len(labels.shape) == 2 and labels.shape[-1] == outputs.shape[-1]
        function = keras.ops.categorical_crossentropy if dense else keras.ops.sparse_categorical_crossentropy
        if not dense:
            labels = keras.ops.reshape(labels, (-1,))
        return keras.ops.mean(function(labels, keras.ops.cast(outputs, "float32"), from_logits=from_logits))

    return loss


def ends_normalised(model: keras.Model) -> bool:
    """Whether the first output comes out of a softmax or sigmoid, so that it is no row of logits."""
    operation = makers(model)[0]
    name = getattr(getattr(operation, "activation", None), "__name__", type(operation).__name__).lower()
    return name in _NORMALISING
