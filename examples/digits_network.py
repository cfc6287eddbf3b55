"""What `digits.py` prunes: scikit-learn's real handwritten digits, a residual CNN, its training and its accuracy."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import tflite_tools
from tflite_tools.quiet import silenced

os.environ["KERAS_BACKEND"] = "tensorflow"  # the only one that converts to .tflite
with silenced():  # TensorFlow's banner and, at its first tensor, a search for GPUs; no log level switches them off
    import keras

    keras.ops.zeros(1)

L = keras.layers
Tell = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Images:
    """Grey pictures float32[samples, 8, 8, 1] in 0..1 and their digits int[samples]."""

    x: np.ndarray
    y: np.ndarray


def load_images() -> tuple[Images, Images]:
    """Training and test images: halves, so that one test image weighs only about 0.1 % of the accuracy."""
    x, y = load_digits(return_X_y=True)
    x = (x / 16).reshape(-1, 8, 8, 1).astype("float32")
    train_x, test_x, train_y, test_y = train_test_split(x, y, test_size=0.5, stratify=y, random_state=0)
    return Images(train_x, train_y), Images(test_x, test_y)


def shifted(images: Images) -> Images:
    """Every image nine times: as it is, and moved by one pixel each way."""
    padded = np.pad(images.x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    moved = [padded[:, row : row + 8, column : column + 8] for row in range(3) for column in range(3)]
    return Images(np.concatenate(moved), np.tile(images.y, len(moved)))


def conv_norm(x: keras.KerasTensor, filters: int, kernel: int, stride: int) -> keras.KerasTensor:
    """Convolution and batch norm."""
    x = L.Conv2D(filters, kernel, stride, padding="same", use_bias=False)(x)
    # Pruning shifts all statistics at once; at the default 0.99 they would outlast a short fine-tuning.
    return L.BatchNormalization(momentum=0.9)(x)


def residual_block(x: keras.KerasTensor, filters: int, stride: int) -> keras.KerasTensor:
    """Two 3x3 convolutions and a shortcut, which is projected where the shape changes."""
    shortcut = x if x.shape[-1] == filters and stride == 1 else conv_norm(x, filters, 1, stride)
    x = L.ReLU()(conv_norm(x, filters, 3, stride))
    return L.ReLU()(L.Add()([conv_norm(x, filters, 3, 1), shortcut]))


def residual_cnn() -> keras.Model:
    """A stem and three stages of two blocks, 8x8x32 -> 4x4x64 -> 2x2x128, then one logit for each digit."""
    image = keras.Input((8, 8, 1), name="image")
    x = L.ReLU()(conv_norm(image, 32, 3, 1))
    for filters, stride in ((32, 1), (32, 1), (64, 2), (64, 1), (128, 2), (128, 1)):
        x = residual_block(x, filters, stride)
    return keras.Model(image, L.Dense(10, name="logits")(L.GlobalAveragePooling2D()(x)), name="digits")


def fit(model: keras.Model, images: Images, epochs: int, tell: Tell) -> None:
    """Trains with Adam and cosine decay; tells one line for each epoch."""
    batch_size = 64
    decay = keras.optimizers.schedules.CosineDecay(3e-3, epochs * math.ceil(len(images.x) / batch_size))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(decay), loss, metrics=["accuracy"])

    def end_of_epoch(epoch: int, logs: Mapping[str, float]) -> None:
        tell(f"epoch {epoch + 1}/{epochs}: loss {logs['loss']:.4f}, training accuracy {logs['accuracy']:.2%}")

    callbacks = [keras.callbacks.LambdaCallback(on_epoch_end=end_of_epoch)]
    model.fit(images.x, images.y, batch_size, epochs, verbose=0, callbacks=callbacks)


def keras_accuracy(model: keras.Model, images: Images) -> float:
    """Share of the images that the Keras model names right."""
    return float(np.mean(model.predict(images.x, verbose=0).argmax(axis=-1) == images.y))


def tflite_accuracy(path: Path, images: Images) -> float:
    """Share of the images that the .tflite file itself, run by LiteRT, names right."""
    (logits,) = tflite_tools.predict(path, images.x).values()
    return float(np.mean(logits.argmax(axis=-1) == images.y))
