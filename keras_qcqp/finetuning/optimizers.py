"""The optimizer of a fine-tuning: the default one, or a copy of the user's."""

from __future__ import annotations

from typing import Any

import keras

from keras_qcqp import keras_graph
from keras_qcqp.carry_over import custom_objects
from keras_qcqp.finetuning.settings import FinetuneSettings


def half_cosine_sgd(settings: FinetuneSettings, steps: int, model: keras.Model) -> keras.optimizers.Optimizer:
    """Nesterov SGD whose rate falls to zero along half a cosine; kernels alone decay."""
    warm = round(settings.warmup_epochs * steps)
    falling = max(settings.epochs * steps - warm, 1)
    warming = {"initial_learning_rate": 0.0, "warmup_target": settings.learning_rate, "warmup_steps": warm}
    plain = {"initial_learning_rate": settings.learning_rate}
    rate = keras.optimizers.schedules.CosineDecay(decay_steps=falling, **(warming if warm else plain))
    decay = settings.weight_decay or None
    optimizer = keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, weight_decay=decay)
    if decay:
        optimizer.exclude_from_weight_decay([v for v in model.trainable_variables if len(v.shape) < 2])
    return optimizer


def fresh(optimizer: Any) -> keras.optimizers.Optimizer:
    """Of the same settings; the user's own stays as it is."""
    optimizer = keras.optimizers.get(optimizer)
    with keras.saving.custom_object_scope(custom_objects(optimizer)):
        return type(optimizer).from_config(optimizer.get_config())


def uses_float16(model: keras.Model) -> bool:
    """Whether gradients may underflow, so that the loss must be scaled."""
    layers = keras_graph.layers_by_path(model).values()
    return any(getattr(layer, "compute_dtype", "") == "float16" for layer in layers)
