"""The model that is really trained: the student's graph, whose loss also compares it with a teacher."""

from __future__ import annotations

from typing import Any

import keras

from keras_qcqp import keras_graph
from keras_qcqp.finetuning.losses import imitation
from keras_qcqp.losses import of_classes, output_kinds


class Distilled(keras.Model):
    """A Functional model over the student's own layers, with imitation of a teacher in its training loss.

    `keras.distillation.Distiller` is not used: it freezes the teacher object it is given (ours belongs to the user),
    takes every output for logits (a softmax of a softmax teaches next to nothing), refuses a student of mixed precision
    for its dtype, ignores sample weights, and is not in Keras before 3.12.
    """

    def __init__(
        self, student: keras.Model, teacher: keras.Model, loss: Any, weight: float, temperature: float
    ) -> None:
        functional = keras_graph.as_functional(student)
        assert functional is not None
        inputs, outputs = keras_graph.structures(functional)
        super().__init__(inputs, outputs, name=student.name)
        teacher.trainable = False  # a copy of the user's
        self._teacher = teacher
        self._weight, self._temperature = weight, temperature
        self._kinds = tuple(zip(output_kinds(teacher), output_kinds(student), strict=True))
        self._classes = of_classes(loss)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """Validation losses are the labels' alone, so that runs with and without a teacher compare."""
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        if not training:
            return loss
        told = self._teacher(x, training=False)
        imitated = imitation(told, y_pred, self._kinds, self._classes, self._temperature)
        return (1 - self._weight) * loss + self._weight * imitated
