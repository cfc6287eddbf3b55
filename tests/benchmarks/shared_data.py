"""Real trained networks and the real data each of them was made for, from the shared data folder."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

DATA = Path(os.environ.get("KERAS_QCQP_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
CIFAR_MEAN, CIFAR_STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


@dataclasses.dataclass(frozen=True)
class Samples:
    """float32 inputs [samples, ...] as the network wants them, labels int[samples] or None, and calibration inputs."""

    inputs: np.ndarray
    labels: np.ndarray | None
    calibration: np.ndarray


def load_tiles(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Decodes a pack of lossless WebP tiles: uint8[images, height, width(, 3)] and labels."""
    pack = np.load(path)
    rows, columns = (int(v) for v in pack["grid"])
    shape = tuple(int(v) for v in pack["shape"])
    height, width = shape[1:3]
    parts = []
    for key in sorted(k for k in pack.files if k.startswith("webp_")):
        tile = np.asarray(Image.open(io.BytesIO(pack[key].tobytes())).convert("RGB"))
        tile = tile.reshape(rows, height, columns, width, 3).transpose(0, 2, 1, 3, 4)
        parts.append(tile.reshape(rows * columns, height, width, 3))
    images = np.concatenate(parts)
    return (images if len(shape) == 4 else np.ascontiguousarray(images[..., 0])), pack["y"]


def cifar10(count: int, normalise: bool = True) -> Samples:
    """The first test images of CIFAR-10; calibration from the training set."""

    def prepare(images: np.ndarray) -> np.ndarray:
        floats = images.astype(np.float32)
        return (floats / 255 - CIFAR_MEAN) / CIFAR_STD if normalise else floats

    images, labels = load_tiles(DATA / "cifar10/test.npz")
    training, _ = load_tiles(DATA / "cifar10/train_1.npz")
    return Samples(prepare(images[:count]), labels[:count].astype(int), prepare(training[:200]))


def keywords(count: int) -> Samples:
    """MLPerf Tiny keyword spotting: MFCC features."""
    pack = np.load(DATA / "mlperf_tiny/kws01.npz")
    inputs = (pack["x_int8"].astype(np.float32) - float(pack["zero_point"])) * float(pack["scale"])
    return Samples(inputs[:count], pack["y"][:count].astype(int), inputs[:200])


def wakeword(count: int) -> Samples:
    """MLPerf Tiny streaming wakeword: the 45 published samples, used for everything."""
    pack = np.load(DATA / "mlperf_tiny/sww01_calibration_samples.npz")
    inputs = pack["specs"].astype(np.float32)
    return Samples(inputs[:count], pack["labels"][:count].astype(int), inputs)


def spectra(count: int) -> Samples:
    """MLPerf Tiny anomaly detection: its sound data may not be passed on, so smooth random spectra stand in."""
    random = np.random.default_rng(0)
    frames = np.cumsum(random.normal(0, 3, (max(count, 200), 5, 128)), axis=2) - 40
    inputs = frames.reshape(len(frames), 640).astype(np.float32)
    return Samples(inputs[:count], None, inputs[:200])


def imagenet_images(tested: bool, count: int) -> tuple[np.ndarray, np.ndarray]:
    """ImageNet samples of every second class, or of the others; labels count a background class as 0."""
    with (DATA / "imagenet_samples/labels.csv").open() as stream:
        rows = list(csv.DictReader(stream))[0 if tested else 1 :: 2][:count]

    def read(row: dict[str, str]) -> np.ndarray:
        image = Image.open(DATA / "imagenet_samples" / row["file"]).convert("RGB").crop((16, 16, 240, 240))
        return np.asarray(image, np.float32) / 127.5 - 1

    return np.stack([read(r) for r in rows]), np.array([int(r["class_index"]) + 1 for r in rows])


def imagenet(count: int) -> Samples:
    """Half of the ImageNet samples; calibration from the other half."""
    return Samples(*imagenet_images(True, count), imagenet_images(False, 100)[0])


SAMPLES: dict[str, Callable[[int], Samples]] = {
    "resnet20_cifar10": cifar10,
    "resnet56_cifar10": cifar10,
    "mlperf_resnet8_cifar10": lambda count: cifar10(count, normalise=False),
    "mlperf_kws_dscnn": keywords,
    "mlperf_sww_dscnn1d": wakeword,
    "mlperf_ad_autoencoder": spectra,
    "mobilenetv2_100_224_imagenet": imagenet,
}


def model_path(name: str) -> Path:
    """Where a shared network lies."""
    return DATA / "models" / f"{name}.keras"
