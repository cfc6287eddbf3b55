"""Scales, then training with simulated quantization. Only the training process imports this."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from tflite_tools.aware.settings import QatSettings
from tflite_tools.aware.twin import outputs_of

_DECAY = 0.999  # of the moving averages that tensorflow-model-optimization keeps of ranges
_RANGE_PASSES = 30


@dataclass(frozen=True)
class Material:
    """Inputs as arrays in the order of the model; labels of the first output, int[samples], or None."""

    inputs: list[np.ndarray]
    labels: np.ndarray | None

    def part(self, chosen: Any) -> Material:
        """Some of the samples."""
        return Material([x[chosen] for x in self.inputs], None if self.labels is None else self.labels[chosen])


def choose_ranges(model: Any, material: Material, settings: QatSettings) -> None:
    """Sets the ranges of all activations from the data; untrained they are -6 to 6, and averages move slowly.

    The moving average is undone to see each batch's own range. Behind a range that was wrong other ranges are
    wrong too, so that there are as many passes as a deep network needs. A shared layer has one range for its result,
    and it becomes the mean of those of its calls, so that the widest is clipped.
    """
    ranges = [
        v for v in model.variables if _range_name(v).endswith(("_min", "_max")) and "kernel" not in _range_name(v)
    ]
    ranges = [v for v in ranges if not _range_name(v).startswith("quantize_layer")]
    kept = [v for v in model.variables if "moving_mean" in v.name or "moving_variance" in v.name]
    before = [v.numpy() for v in kept]
    run = tf.function(lambda inputs: model(inputs, training=True), reduce_retracing=True)
    random = np.random.default_rng(settings.seed)
    count = len(material.inputs[0]) - settings.num_validation  # what is held out chooses nothing
    for number in range(_RANGE_PASSES):
        chosen = random.permutation(count)[: settings.batch_size]
        batch = [x[chosen] for x in material.inputs]
        old = [v.numpy() for v in ranges]
        run(batch if len(batch) > 1 else batch[0])
        for variable, value in zip(ranges, old, strict=True):
            moved = variable.numpy()
            if np.any(moved != value):  # ranges of weights are those of the weights, not averages
                seen = (moved - _DECAY * value) / (1 - _DECAY)
                variable.assign(seen if number < _RANGE_PASSES // 2 else value + (seen - value) / 4)
        for variable, value in zip(kept, before, strict=True):
            variable.assign(value)
        # Ranges of inputs only ever grow, from -6 to 6 on, which wastes bits; so they are set last.
        _set_input_ranges(model, [x[:count] for x in material.inputs])


def _set_input_ranges(model: Any, inputs: list[np.ndarray]) -> None:
    """Those of the layers that tensorflow-model-optimization puts behind each input."""
    for layer in (x for x in model.layers if type(x).__name__ == "QuantizeLayer"):
        data = next(x for tensor, x in zip(model.inputs, inputs, strict=True) if tensor is layer.input)
        ends = {"_min": min(float(data.min()), 0.0), "_max": max(float(data.max()), 0.0)}
        for variable in (v for v in layer.variables if _range_name(v).endswith(tuple(ends))):
            variable.assign(ends[_range_name(variable)[-4:]])


def _range_name(variable: Any) -> str:
    """What it is the range of, without the layer, which may be called anything."""
    return str(variable.name.rsplit("/", 1)[-1].split(":")[0])


def train(
    model: Any, teacher: Any, material: Material, settings: QatSettings, tell: Callable[[str], None]
) -> list[dict[str, float]]:
    """Trains in place; returns one line of numbers for each epoch, the state before training first."""
    held = settings.num_validation
    count = len(material.inputs[0]) - held
    seen, kept_out = material.part(slice(0, count)), material.part(slice(count, None))
    history = [{"epoch": 0, **_validated(model, kept_out)}]
    tell(_line(history[-1]))
    steps = max(settings.epochs * math.ceil(count / settings.batch_size), 1)
    schedule = tf_keras.optimizers.schedules.CosineDecay(settings.learning_rate, steps)
    optimizer = tf_keras.optimizers.SGD(schedule, momentum=0.9, nesterov=True, global_clipnorm=5.0)
    step = _step(model, teacher, optimizer, settings, material.labels is not None)
    random = np.random.default_rng(settings.seed)
    for epoch in range(1, settings.epochs + 1):
        losses = [float(step(*batch)) for batch in _batches(seen, settings, random)]
        history.append({"epoch": epoch, "loss": round(float(np.mean(losses)), 5), **_validated(model, kept_out)})
        tell(_line(history[-1]))
    return history


def _step(model: Any, teacher: Any, optimizer: Any, settings: QatSettings, labelled: bool) -> Any:
    logits = _gives_logits(teacher)
    share = settings.distillation_weight if labelled else 1.0
    judge = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=logits)

    @tf.function(reduce_retracing=True)
    def step(inputs: Any, labels: Any) -> Any:
        given = inputs if len(inputs) > 1 else inputs[0]
        right = tf.nest.flatten(teacher(given, training=False))
        with tf.GradientTape() as tape:
            found = tf.nest.flatten(model(given, training=True))
            loss = share * tf.add_n(
                [_imitation(r, f, settings.temperature, labelled, logits) for r, f in zip(right, found, strict=True)]
            )
            if labelled and share < 1:
                loss += (1 - share) * judge(labels, found[0])
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(
            (g, v) for g, v in zip(gradients, model.trainable_variables, strict=True) if g is not None
        )
        return loss

    return step


def _imitation(right: Any, found: Any, temperature: float, classes: bool, logits: bool) -> Any:
    """Cross entropy of softened outputs where they are classes, else the squared error by the teacher's square."""
    if not classes:
        return tf.reduce_mean((right - found) ** 2) / (tf.reduce_mean(right**2) + 1e-9)
    if not logits:
        right, found = tf.math.log(right + 1e-7), tf.math.log(found + 1e-7)
    soft = tf.nn.softmax(right / temperature)
    entropy = tf.nn.softmax_cross_entropy_with_logits(soft, found / temperature)
    return temperature**2 * tf.reduce_mean(entropy - tf.nn.softmax_cross_entropy_with_logits(soft, right / temperature))


def _gives_logits(model: Any) -> bool:
    """Whether the first output is something other than probabilities, by its last layer."""
    last = model.layers[-1]
    activation = getattr(getattr(last, "activation", None), "__name__", "")
    return activation != "softmax" and type(last).__name__ != "Softmax"


def _batches(seen: Material, settings: QatSettings, random: np.random.Generator) -> Iterator[tuple[list[Any], Any]]:
    order = random.permutation(len(seen.inputs[0]))
    for start in range(0, len(order), settings.batch_size):
        part = seen.part(order[start : start + settings.batch_size])
        inputs = [_augmented(x, settings, random) if x.ndim == 4 else x for x in part.inputs]
        labels = np.zeros(len(inputs[0]), int) if part.labels is None else part.labels
        yield [tf.constant(x) for x in inputs], tf.constant(labels)


def _augmented(images: np.ndarray, settings: QatSettings, random: np.random.Generator) -> np.ndarray:
    shift = settings.shift_px
    if settings.mirror:
        flipped = random.random(len(images)) < 0.5
        images = np.where(flipped[:, None, None, None], images[:, :, ::-1], images)
    if not shift:
        return images
    height, width = images.shape[1:3]
    padded = np.pad(images, ((0, 0), (shift, shift), (shift, shift), (0, 0)))
    corners = random.integers(0, 2 * shift + 1, (len(images), 2))
    return np.stack([p[y : y + height, x : x + width] for p, (y, x) in zip(padded, corners, strict=True)])


def _validated(model: Any, material: Material) -> dict[str, float]:
    count = len(material.inputs[0])
    if not count or material.labels is None:
        return {}
    right = 0
    for start in range(0, count, 250):
        part = material.part(slice(start, start + 250))
        assert part.labels is not None
        right += int((outputs_of(model, part.inputs)[0].argmax(-1) == part.labels).sum())
    return {"val_accuracy": round(right / count, 5)}


def _line(row: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in row.items())
