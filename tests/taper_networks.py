"""What tapering is tested on."""

from __future__ import annotations

import keras
import numpy as np

L = keras.layers


def network() -> keras.Model:
    x = image = keras.Input((8, 8, 3), name="image")
    for k, width in enumerate((8, 12, 8)):
        x = L.Conv2D(width, 3, padding="same", use_bias=False, name=f"conv{k}")(x)
        x = L.ReLU(name=f"relu{k}")(L.BatchNormalization(name=f"bn{k}")(x))
    x = L.Dense(4, name="head")(L.GlobalAveragePooling2D(name="pool")(x))
    return keras.Model(image, x)


def examples(count: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Four classes by which quarter of the image is bright."""
    random = np.random.default_rng(0)
    y = random.integers(0, 4, count)
    x = random.normal(size=(count, 8, 8, 3)).astype("float32") * 0.5
    for image, label in zip(x, y, strict=True):
        image[4 * (label // 2) :][:4, 4 * (label % 2) :][:, :4] += 1.0
    return x, y


OPTIONS = {"epochs": 3, "batch_size": 16, "learning_rate": 0.02, "points": (0.7, 0.5)}
QUICK = {"every": 1, "batch_size": 32, "speed": 0.1}
