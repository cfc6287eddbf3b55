"""Prunes an ImageNet network of MobileNet's kind and measures its top-1 accuracy before and after.

Examples:
  python examples/imagenet_prune.py --model=mobilenetv2.keras --data=val --output=pruned.keras
  python examples/imagenet_prune.py --model=mobilenetv2.keras --data=imagenet_samples --num_images=200 --output=p.keras
  python examples/imagenet_prune.py --model=mobilenetv2.keras --data=imagenet_v2 --budget=macs=0.7 --output=p.keras

--data is a folder with one folder of pictures for each class, in the order of the names; or a folder with a labels.csv
(columns file and class_index); or the name of a data set of tensorflow_datasets with image and label, whose "test" or
"validation" part is read. Pictures are resized (short side 8/7 of the network's, bilinear), cropped in the centre and
scaled to -1..1. A network with one output more than 1000 has a background class first. --num_samples of the pictures
are set aside to measure what channels are worth and to fit the kernels that stay; the accuracy is that of the others.
"""

from __future__ import annotations

import csv
import importlib.util
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from absl import app, flags
from PIL import Image

from tflite_tools.quiet import silenced

with silenced():  # TensorFlow's banner and, at its first tensor, a search for GPUs; no log level switches them off
    import keras

    keras.ops.zeros(1)

import keras_qcqp
from keras_qcqp.model_io import load_model, save_model

_MODEL = flags.DEFINE_string("model", None, "The .keras file to prune.", required=True)
_DATA = flags.DEFINE_string("data", None, "A folder of pictures, or a name of tensorflow_datasets.", required=True)
_OUTPUT = flags.DEFINE_string("output", "pruned.keras", "Where to write the smaller model.")
_BUDGET = flags.DEFINE_string("budget", "macs=0.7", "Limits such as macs=0.7,params=0.8.")
_IMPORTANCE = flags.DEFINE_string("importance", None, "Importance criterion; none: the best for the data at hand.")
_RECOVERY = flags.DEFINE_list("recovery", None, "What follows: least_squares, bias, batch_norm; none: least_squares.")
_NUM_SAMPLES = flags.DEFINE_integer("num_samples", 256, "Pictures set aside; 0 looks at weights only.", 0)
_NUM_IMAGES = flags.DEFINE_integer("num_images", 1000, "How many pictures are measured, spread over all.", 1)
_PICTURES = (".jpeg", ".jpg", ".png", ".webp")
_NUM_CLASSES = 1000

Sample = tuple[Image.Image, int]


def main(argv: list[str]) -> int:
    """Prunes and measures; returns the exit status."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument '{argv[1]}'; give options as --name=value")
    try:
        model = load_model(_MODEL.value)
        x, y = load(_DATA.value, _NUM_IMAGES.value + _NUM_SAMPLES.value, model.input_shape[1])
        aside = set_aside(len(y), _NUM_SAMPLES.value)
        result = prune(model, x[aside], y[aside] + has_background(model))
        x, y = x[~aside], y[~aside]
        save_model(result.model, _OUTPUT.value)
    except (keras_qcqp.QcqpError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(result.report)
    before, after = (top1(m, x, y) for m in (model, result.model))
    print(f"\ntop-1 on {len(y)} pictures: {before:.2%} before, {after:.2%} after; wrote {_OUTPUT.value}")
    return 0


def prune(model: keras.Model, x: np.ndarray, y: np.ndarray) -> keras_qcqp.PruneResult:
    """The one call that this example is about."""
    return keras_qcqp.prune(
        model,
        _BUDGET.value,
        data=(x, y) if len(y) else None,
        num_samples=max(len(y), 1),
        importance=_IMPORTANCE.value,
        recovery=_RECOVERY.value,
        progress=lambda line: print(line, file=sys.stderr),
    )


def set_aside(total: int, count: int) -> np.ndarray:
    """bool[pictures]: `count` of them, evenly spread, and at most half."""
    chosen = np.zeros(total, bool)
    chosen[np.linspace(0, total, min(count, total // 2), endpoint=False).astype(int)] = True
    return chosen


def has_background(model: keras.Model) -> bool:
    """Whether class 0 of the network is none of the 1000."""
    return model.output_shape[-1] == _NUM_CLASSES + 1


def load(data: str, count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs float32[samples, size, size, 3] and labels int[samples], at most `count`."""
    folder = Path(data)
    if not folder.is_dir():
        samples = _from_tfds(data, count)
    elif (folder / "labels.csv").is_file():
        samples = _opened(_from_csv(folder), count)
    else:
        samples = _opened(_from_class_folders(folder), count)
    pairs = [(prepared(image, size), label) for image, label in samples]
    if not pairs:
        raise FileNotFoundError(f"no pictures in '{data}'")
    return np.stack([x for x, _ in pairs]), np.array([label for _, label in pairs])


def _from_csv(folder: Path) -> list[tuple[Path, int]]:
    with (folder / "labels.csv").open(encoding="utf-8") as stream:
        return [(folder / row["file"], int(row["class_index"])) for row in csv.DictReader(stream)]


def _from_class_folders(folder: Path) -> list[tuple[Path, int]]:
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    return [
        (path, label)
        for label, inside in enumerate(classes)
        for path in sorted(inside.iterdir())
        if path.suffix.lower() in _PICTURES
    ]


def _opened(files: list[tuple[Path, int]], count: int) -> Iterator[Sample]:
    """Evenly spread, since files are sorted by class."""
    for place in np.linspace(0, len(files), min(count, len(files)), endpoint=False).astype(int):
        path, label = files[place]
        yield Image.open(path), label


def _from_tfds(name: str, count: int) -> Iterator[Sample]:
    if importlib.util.find_spec("tensorflow_datasets") is None:
        raise FileNotFoundError(
            f"'{name}' is no folder, and tensorflow_datasets is not installed to look for a data set"
        )
    import tensorflow_datasets as tfds

    parts = tfds.builder(name).info.splits
    dataset = tfds.load(name, split="validation" if "validation" in parts else "test")
    for row in itertools.islice(tfds.as_numpy(dataset), count):
        yield Image.fromarray(row["image"]), int(row["label"])


def prepared(image: Image.Image, size: int) -> np.ndarray:
    """MobileNet's input: float32[size, size, 3] in -1..1."""
    image = image.convert("RGB")
    short = round(size * 8 / 7)
    scale = short / min(image.size)
    if scale != 1:
        image = image.resize([max(short, round(side * scale)) for side in image.size], Image.Resampling.BILINEAR)
    left, top = ((side - size) // 2 for side in image.size)
    return np.asarray(image.crop((left, top, left + size, top + size)), np.float32) / 127.5 - 1


def top1(model: keras.Model, x: np.ndarray, y: np.ndarray) -> float:
    """Share of the pictures named right."""
    outputs = model.predict(x, batch_size=32, verbose=0)
    return float(np.mean(outputs.argmax(axis=-1) == y + has_background(model)))


if __name__ == "__main__":
    app.run(main)
