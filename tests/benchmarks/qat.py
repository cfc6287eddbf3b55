"""Quantization after training against training with quantization, on the CIFAR-10 networks.

    TFLITE_QAT_PYTHON=qat/bin/python python -m tests.benchmarks.qat --output=qat.jsonl

Both get the same network; training sees the first --num_train training images, moved and mirrored, and imitates the
network itself. Top-1 is that of the same --count test images. Each row is appended to --output as soon as it is known;
what is there with the same numbers of images and settings is not measured again.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags

import tflite_tools
from tests.benchmarks.shared_data import CIFAR_MEAN, CIFAR_STD, DATA, SAMPLES, load_tiles, model_path

_MODELS = flags.DEFINE_list("models", ["mlperf_resnet8_cifar10", "resnet20_cifar10"], "Shared networks.")
_COUNT = flags.DEFINE_integer("count", 10_000, "Test images.")
_NUM_TRAIN = flags.DEFINE_integer("num_train", 20_000, "Training images, at most 50,000.")
_EPOCHS = flags.DEFINE_integer("epochs", 3, "Passes over them.")
_LEARNING_RATE = flags.DEFINE_float("learning_rate", 0.001, "The highest.")
_OUTPUT = flags.DEFINE_string("output", None, "Rows as JSON lines; continued if the file is there.")


def main(argv: list[str]) -> None:
    """Makes the rows that are missing."""
    del argv
    store = Path(_OUTPUT.value) if _OUTPUT.value else None
    rows = [json.loads(line) for line in store.read_text().splitlines()] if store and store.exists() else []
    done = {row["model"] for row in rows if all(row.get(key) == value for key, value in _asked().items())}
    for name in (n for n in _MODELS.value if n not in done):
        row = measured(name)
        print(json.dumps(row), flush=True)
        if store:
            with store.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")


def _asked() -> dict[str, object]:
    """What a row depends on, besides the network."""
    return {
        "count": _COUNT.value,
        "num_train": _NUM_TRAIN.value,
        "epochs": _EPOCHS.value,
        "learning_rate": _LEARNING_RATE.value,
    }


def measured(name: str) -> dict[str, object]:
    """Both ways for one network."""
    model = keras.models.load_model(model_path(name), compile=False)
    samples = SAMPLES[name](_COUNT.value)
    packs = [load_tiles(DATA / f"cifar10/train_{k}.npz") for k in range(1, 2 + (_NUM_TRAIN.value - 1) // 10_000)]
    images = np.concatenate([pack[0] for pack in packs])[: _NUM_TRAIN.value].astype(np.float32)
    labels = np.concatenate([pack[1] for pack in packs])[: _NUM_TRAIN.value].astype(int)
    if not name.startswith("mlperf"):
        images = (images / 255 - CIFAR_MEAN) / CIFAR_STD
    settings = tflite_tools.QatSettings(
        epochs=_EPOCHS.value, learning_rate=_LEARNING_RATE.value, shift_px=4, mirror=True
    )
    began = time.monotonic()
    made = tflite_tools.qat(model, images, labels, settings=settings, progress=lambda line: print(line, flush=True))
    seconds = round(time.monotonic() - began)
    after = tflite_tools.convert(model, "int8", samples.calibration)
    score = lambda x: round(100 * float(np.mean(x.argmax(-1) == samples.labels)), 2)  # noqa: E731
    run = lambda data: score(next(iter(tflite_tools.predict(data, samples.inputs).values())))  # noqa: E731
    return {
        "model": name,
        "top1_keras": score(model.predict(samples.inputs, batch_size=250, verbose=0)),
        "top1_ptq": run(after),
        "top1_qat": run(made.data),
        "ptq_bytes": len(after),
        "qat_bytes": len(made.data),
        **_asked(),
        "train_s": seconds,
    }


if __name__ == "__main__":
    app.run(main)
