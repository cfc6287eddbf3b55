"""Which loss a model is trained with, and how far its outputs are from those of a teacher."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_qcqp import keras_graph
from keras_qcqp.errors import TrainingError
from keras_qcqp.losses import output_kinds


def compile_arguments(model: keras.Model, loss: Any) -> dict[str, Any]:
    """Loss and metrics: those asked for, those the model was compiled with, or those of a classifier.

    Raises:
        TrainingError: not compiled, and the last layer does not say whether it gives logits or probabilities.
    """
    if model.compiled:
        given = keras_graph.compile_settings(model)
        kept = {name: given.get(name) for name in ("loss", "loss_weights", "metrics", "weighted_metrics")}
        if loss is not None:
            kept |= {"loss": loss, "loss_weights": None}
        if kept["loss"] is not None:
            return kept
    return {"loss": loss if loss is not None else _of_classifier(model), "metrics": ["accuracy"]}


def _of_classifier(model: keras.Model) -> Any:
    kinds = output_kinds(model)
    advice = (
        "Give loss=, for example keras.losses.SparseCategoricalCrossentropy(from_logits=True), or compile the model."
    )
    if len(kinds) > 1:
        raise TrainingError(f"Model '{model.name}' is not compiled and has {len(kinds)} outputs. {advice}")
    maker = keras_graph.makers(model)[0]
    if kinds[0] is None or model.outputs[0].shape[-1] == 1:
        raise TrainingError(
            f"Model '{model.name}' is not compiled, and its last operation '{maker.name}' ({type(maker).__name__}, "
            f"{model.outputs[0].shape[-1]} wide) does not tell whether it gives logits or probabilities of classes. "
            f"{advice}"
        )
    return CategoricalCrossentropyOfEither(kinds[0] == "logits")


class CategoricalCrossentropyOfEither(keras.losses.Loss):
    """For labels that are class numbers, or rows as wide as the output."""

    def __init__(self, from_logits: bool) -> None:
        super().__init__()
        self.from_logits = from_logits

    def call(self, y_true: Any, y_pred: Any) -> Any:
        if len(y_true.shape) == len(y_pred.shape) and y_true.shape[-1] == y_pred.shape[-1]:
            return ops.categorical_crossentropy(y_true, y_pred, from_logits=self.from_logits)
        numbers = ops.cast(ops.reshape(y_true, ops.shape(y_pred)[:-1]), "int32")
        return ops.sparse_categorical_crossentropy(numbers, y_pred, from_logits=self.from_logits)


def imitation(
    told: Any, given: Any, kinds: tuple[tuple[str | None, str | None], ...], classes: bool, temperature: float
) -> Any:
    """How far outputs are from the teacher's: for classes Kullback-Leibler of softened ones, else squared difference.

    Source: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2: the square of the
    temperature keeps the gradients' size.

    Args:
        kinds: for each output the teacher's and the student's.
        classes: whether linear outputs are logits.
    """
    total = 0.0
    for t, s, (teacher, student) in zip(keras.tree.flatten(told), keras.tree.flatten(given), kinds, strict=True):
        t, s = ops.cast(ops.stop_gradient(t), "float32"), ops.cast(s, "float32")
        if teacher is None or student is None or ("logits" in (teacher, student) and not classes):
            total += ops.mean(ops.square(t - s))
            continue
        log_t, log_s = (ops.log_softmax(_logits(x, kind) / temperature) for x, kind in ((t, teacher), (s, student)))
        total += temperature**2 * ops.mean(ops.sum(ops.exp(log_t) * (log_t - log_s), axis=-1))
    return total


def _logits(x: Any, kind: str) -> Any:
    return ops.log(ops.maximum(x, keras.config.epsilon())) if kind == "probabilities" else x
