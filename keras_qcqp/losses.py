"""What a network was trained to make small, and what its outputs are: logits, probabilities or plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_qcqp.errors import DataError, did_you_mean
from keras_qcqp.gradients import Loss
from keras_qcqp.keras_graph import as_functional, compile_settings, makers, structures

_KINDS = {"softmax": "probabilities", "log_softmax": "logits", "linear": "logits"}
_NORMALISING = ("softmax", "sigmoid")


def loss_of(model: keras.Model, loss: Any = None) -> Loss:
    """The loss of a batch: what the user gives, what the model was compiled with, or what its labels suggest.

    Args:
        loss: a Keras loss, its name, or a function `(labels, outputs) -> tensor`; for several outputs one for all of
            them, a list or a dict, as in `Model.compile`. None: that of `compile`; of a model that was not compiled,
            cross-entropy of class numbers (labels as wide as the output: of one-hot rows), from logits unless it ends
            in softmax.

    Raises:
        DataError: the loss is unknown, or not given where the model has several outputs or none of class scores.
    """
    weights = None
    if loss is None and getattr(model, "compiled", False):
        settings = compile_settings(model)
        loss, weights = settings.get("loss"), settings.get("loss_weights")
    if loss is None:
        return cross_entropy(model)
    names = _output_names(model)
    given = _by_output(names, loss, "loss") if isinstance(loss, (list, tuple, Mapping)) else [loss] * len(names)
    parts = [None if part is None else _mean(part) for part in given]
    factors = _by_output(names, weights, "loss_weights") if isinstance(weights, (list, tuple, Mapping)) else []
    return _sum(names, parts, [1.0 if f is None else f for f in factors] or [1.0] * len(names))


def _output_names(model: keras.Model) -> list[str]:
    """By which losses and labels speak of the outputs, in their order."""
    functional = as_functional(model)
    assert functional is not None
    outputs = structures(functional)[1]
    return sorted(outputs) if isinstance(outputs, dict) else list(functional.output_names)


def _by_output(names: Sequence[str], nested: Any, what: str) -> list[Any]:
    """One entry for each output, None for those that a dictionary does not name."""
    if not isinstance(nested, Mapping):
        flat = keras.tree.flatten(nested)
        if len(flat) != len(names):
            raise DataError(f"{what} for {len(flat)} outputs, but the model has {len(names)}: {', '.join(names)}.")
        return flat
    for name in nested:
        if name not in names:
            raise DataError(f"{what} for '{name}', which is no output. {did_you_mean(name, names)}")
    return [nested.get(name) for name in names]


def _mean(loss: Any) -> Loss:
    try:
        function = keras.losses.get(loss)
    except ValueError as error:
        raise DataError(f"Unknown loss: {error}") from error

    def mean(labels: Any, outputs: Any) -> Any:
        if not isinstance(function, keras.losses.Loss) and not _of_class_numbers(function):
            labels = _of_rank(labels, outputs)
        return keras.ops.mean(function(labels, outputs))

    return mean


def _of_class_numbers(function: Any) -> bool:
    return "sparse" in getattr(function, "__name__", "")


def _of_rank(labels: Any, outputs: Any) -> Any:
    """As `compile` does it for bare functions: labels [n] meet outputs [n, 1], and the other way round."""
    if len(labels.shape) == len(outputs.shape) - 1 and outputs.shape[-1] == 1:
        return keras.ops.expand_dims(labels, -1)
    if len(labels.shape) == len(outputs.shape) + 1 and labels.shape[-1] == 1:
        return keras.ops.squeeze(labels, -1)
    return labels


def _sum(names: Sequence[str], parts: Sequence[Loss | None], factors: Sequence[float]) -> Loss:
    def total(labels: Any, outputs: Any) -> Any:
        terms = []
        flat = zip(names, parts, factors, _by_output(names, labels, "labels"), keras.tree.flatten(outputs), strict=True)
        for name, part, factor, y, p in flat:
            if part is not None and y is None:
                raise DataError(f"Output '{name}' has a loss but no labels. Give labels, or loss= without that output.")
            if part is not None:
                terms.append(factor * part(y, p))
        return sum(terms)

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
        (labels,), (outputs,) = keras.tree.flatten(labels), keras.tree.flatten(outputs)
        outputs = keras.ops.cast(outputs, "float32")
        if len(labels.shape) == 2 and labels.shape[-1] == outputs.shape[-1]:
            labels, function = keras.ops.cast(labels, "float32"), keras.ops.categorical_crossentropy
        else:
            labels, function = keras.ops.reshape(labels, (-1,)), keras.ops.sparse_categorical_crossentropy
        return keras.ops.mean(function(labels, outputs, from_logits=from_logits))

    return loss


def classifies(model: keras.Model, labels: Any = None, loss: Any = None, guess: bool = False) -> bool:
    """Whether the only output is one row of class scores: by its softmax, by its loss, or by labels that are numbers.

    Args:
        loss: what the user says; None: what the model was compiled with.
        guess: take a row of plain values for logits if there is no loss.
    """
    if len(model.outputs) != 1 or len(model.outputs[0].shape) != 2 or (model.outputs[0].shape[1] or 1) < 2:
        return False
    activation = _activation(makers(model)[0])
    if activation in ("softmax", "log_softmax"):
        return True
    if loss is None and getattr(model, "compiled", False):
        loss = compile_settings(model).get("loss")
    loss = _alone(loss)
    if loss is not None:
        return of_classes(loss)
    labels = _alone(labels)
    if isinstance(labels, np.ndarray) and np.issubdtype(labels.dtype, np.integer) and labels.size == len(labels):
        return True
    return guess and activation not in _NORMALISING


def _alone(nested: Any) -> Any:
    """What is in a list or dictionary of one."""
    flat = keras.tree.flatten(nested)
    return flat[0] if len(flat) == 1 else nested


def of_classes(loss: Any) -> bool:
    """Whether all losses compare classes, so that linear outputs are logits."""
    return all("categorical" in name.lower() and "binary" not in name.lower() for name in names_of(loss))


def names_of(loss: Any) -> list[str]:
    """Of every loss in a nested structure: as it is asked for, or of its function or class."""
    return [x if isinstance(x, str) else getattr(x, "__name__", type(x).__name__) for x in keras.tree.flatten(loss)]


def ends_normalised(model: keras.Model) -> bool:
    """Whether the first output comes out of a softmax or sigmoid, so that it is no row of logits."""
    return _activation(makers(model)[0]) in _NORMALISING


def output_kinds(model: keras.Model) -> tuple[str | None, ...]:
    """For each output "logits", "probabilities", or None where the last operation does not tell."""
    return tuple(_kind(maker) for maker in makers(model))


def _kind(operation: Any) -> str | None:
    name = _activation(operation)
    if name == "linear" and not hasattr(operation, "kernel"):
        return None  # says nothing of what came before
    return _KINDS.get(name)


def _activation(operation: Any) -> str:
    """Name of a layer's activation; where it has none, of the layer's or operation's class (`Softmax`), lower case."""
    return getattr(getattr(operation, "activation", None), "__name__", type(operation).__name__).lower()
