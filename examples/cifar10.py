"""What the CIFAR-10 examples share: the images, their normalisation and augmentation, small ResNets, accuracy."""

from __future__ import annotations

import dataclasses
import io
import os
from pathlib import Path

import numpy as np
from absl import flags

from tflite_tools.quiet import silenced

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with silenced():  # TensorFlow's banner and, at its first tensor, a search for GPUs; no log level switches them off
    import keras

    keras.ops.zeros(1)

L = keras.layers
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
RAW_PIXELS = flags.DEFINE_bool("raw_pixels", False, "The network takes pixels 0..255 as they are, not normalised.")


@dataclasses.dataclass(frozen=True)
class Images:
    """float32[samples, 32, 32, 3], normalised or raw pixels, and labels int[samples]."""

    x: np.ndarray
    y: np.ndarray


@dataclasses.dataclass(frozen=True)
class Data:
    """The official split."""

    train: Images
    test: Images


def load(data_dir: str, num_train: int = 0, num_test: int = 0) -> Data:
    """The first images of both parts, all of them for 0.

    Args:
        data_dir: a folder with `train_1.npz` ... `train_5.npz` and `test.npz`, lossless WebP tiles (see `read_tiles`);
            empty for `keras.datasets.cifar10`, which downloads 170 MB once.
    """
    if data_dir:
        folder = Path(data_dir)
        packs = [
            read_tiles(folder / f"train_{k}.npz") for k in range(1, 6 if not num_train else 2 + num_train // 10001)
        ]
        train = tuple(np.concatenate(parts) for parts in zip(*packs, strict=True))
        test = read_tiles(folder / "test.npz")
    else:
        train, test = keras.datasets.cifar10.load_data()
    return Data(_images(*train, num_train), _images(*test, num_test))


def _images(pixels: np.ndarray, labels: np.ndarray, count: int) -> Images:
    chosen = slice(count or None)
    x = pixels[chosen].astype(np.float32)
    return Images(x if _raw() else (x / 255 - MEAN) / STD, labels[chosen].reshape(-1).astype(int))


def _raw() -> bool:
    return flags.FLAGS.is_parsed() and RAW_PIXELS.value


def read_tiles(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8[images, 32, 32, 3] and labels of a pack.

    Each array `webp_*` is a lossless WebP picture of `grid` (rows, columns) images side by side; `shape` is that of all
    images and `y` holds the labels.
    """
    from PIL import Image

    with np.load(path, allow_pickle=False) as pack:
        rows, columns = (int(v) for v in pack["grid"])
        height, width = (int(v) for v in pack["shape"][1:3])
        parts = []
        for key in sorted(k for k in pack.files if k.startswith("webp_")):
            tile = np.asarray(Image.open(io.BytesIO(pack[key].tobytes())).convert("RGB"))
            tile = tile.reshape(rows, height, columns, width, 3).transpose(0, 2, 1, 3, 4)
            parts.append(tile.reshape(rows * columns, height, width, 3))
        return np.concatenate(parts), pack["y"]


def crop_and_flip(x: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Each image moved by up to 4 pixels, black coming in, half of them mirrored."""
    count, height, width = x.shape[:3]
    black = np.zeros(3, np.float32) if _raw() else -MEAN / STD
    padded = np.empty((count, height + 8, width + 8, 3), x.dtype)
    padded[:] = black
    padded[:, 4:-4, 4:-4] = x
    corners, mirrored = random.integers(9, size=(2, count)).T, random.random(count) >= 0.5
    moved = np.empty_like(x)
    for k, (top, left) in enumerate(corners):  # twice as fast as one indexing of all
        window = padded[k, top : top + height, left : left + width]
        moved[k] = window[:, ::-1] if mirrored[k] else window
    return moved


def resnet(depth: int) -> keras.Model:
    """A ResNet of 6 n + 2 layers (8, 14, 20, ...) for CIFAR-10, three stages of 16, 32 and 64 channels; gives logits.

    Source: He et al., "Deep Residual Learning", 2016, section 4.2; shortcuts are projected where the shape changes.
    """
    blocks, rest = divmod(depth - 2, 6)
    if rest or blocks < 1:
        raise ValueError(f"A CIFAR ResNet has 6 n + 2 layers (8, 14, 20, ...), got {depth}.")
    image = keras.Input((32, 32, 3), name="image")
    x = L.ReLU()(_conv_norm(image, 16, 3, 1))
    for stage, filters in enumerate((16, 32, 64)):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            shortcut = x if x.shape[-1] == filters and stride == 1 else _conv_norm(x, filters, 1, stride)
            y = L.ReLU()(_conv_norm(x, filters, 3, stride))
            x = L.ReLU()(L.Add()([_conv_norm(y, filters, 3, 1), shortcut]))
    return keras.Model(image, L.Dense(10, name="logits")(L.GlobalAveragePooling2D()(x)), name=f"resnet{depth}")


def _conv_norm(x: keras.KerasTensor, filters: int, kernel: int, stride: int) -> keras.KerasTensor:
    x = L.Conv2D(filters, kernel, stride, padding="same", use_bias=False, kernel_initializer="he_normal")(x)
    return L.BatchNormalization(momentum=0.9)(x)


def accuracy(model: keras.Model, images: Images) -> float:
    """Share of the images whose greatest output is the right one."""
    outputs = model.predict(images.x, batch_size=256, verbose=0)
    return float(np.mean(outputs.argmax(axis=-1) == images.y))
