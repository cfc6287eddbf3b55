"""A small fine-tuning, in a process of its own: `python tests/finetune_run.py FOLDER [PAUSE_S]`.

Tells each epoch on standard output; leaves the trained weights in FOLDER/weights.npz. Each batch takes PAUSE_S longer,
so that there is time to kill the process in the middle of an epoch.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import keras
import numpy as np

import keras_qcqp

L = keras.layers
CLASSES, SAMPLES = 4, 96


def network(seed: int = 0) -> keras.Model:
    """conv bn relu -> mean -> dropout -> logits; what the colours' means say."""
    keras.utils.set_random_seed(seed)
    image = keras.Input((6, 6, 3), name="image")
    x = L.Conv2D(8, 3, use_bias=False, name="conv")(image)
    x = L.ReLU(name="relu")(L.BatchNormalization(momentum=0.9, name="bn")(x))
    x = L.Dropout(0.2, name="drop")(L.GlobalAveragePooling2D(name="mean")(x))
    return keras.Model(image, L.Dense(CLASSES, name="logits")(x), name="small")


def samples() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    x = random.normal(size=(SAMPLES, 6, 6, 3)).astype("float32")
    return x, (x.mean((1, 2)) @ random.normal(size=(3, CLASSES))).argmax(axis=1)


def noisy(x: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return x + random.normal(0, 0.1, x.shape).astype(x.dtype)


def options(pause_s: float = 0.0) -> dict:
    """Everything that has a state: dropout, momentum, schedule, order, augmentation, batch norm, teacher."""

    def augment(x: np.ndarray, random: np.random.Generator) -> np.ndarray:
        time.sleep(pause_s)
        return noisy(x, random)

    return {
        "teacher": network(1),
        "validation_data": samples(),
        "augment": augment,
        "epochs": 4,
        "batch_size": 32,
        "learning_rate": 0.05,
        "seed": 3,
    }


def main(folder: Path, pause_s: float) -> None:
    tell = lambda line: print(line, flush=True)  # noqa: E731
    given = {**options(pause_s), "checkpoint_dir": folder / "checkpoint", "progress": tell}
    result = keras_qcqp.finetune(network(), samples(), **given)
    np.savez(folder / "weights.npz", *result.model.get_weights())


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 0.0)
