"""Representative samples in whatever form they come: arrays, batches, files, folders of images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tflite_tools.errors import RepresentativeDataError, first_line
from tflite_tools.range_checks import check_declared, warn_doubtful
from tflite_tools.representative import MAX_SAMPLES, Arrays, InputSpec, load_arrays, representative_dataset

_IMAGES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
_INPUT_KEYS = ("x_train", "x", "inputs", "images", "x_calibration", "specs")


@dataclass(frozen=True)
class Calibration:
    """Samples with what has to happen to them.

    Attributes:
        source: arrays, an iterable of batches (a `tf.data.Dataset`), or the path of an .npy or .npz file or of a folder
            of images. Images are resized by their shorter side and cropped to the input, float32 0..255.
        preprocess: the model's own: a function of the batch (of a dictionary of batches where there are several
            inputs) that returns the like.
        input_range: (least, greatest) that the preprocessed values may have; outside is an error.
        max_samples: at most so many are used, evenly spaced; the first ones of an iterable.

    Raises:
        RepresentativeDataError: a range or number that makes no sense.
    """

    source: Any
    preprocess: Callable[[Any], Any] | None = None
    input_range: tuple[float, float] | None = None
    max_samples: int = MAX_SAMPLES

    def __post_init__(self) -> None:
        if self.max_samples < 1:
            raise RepresentativeDataError(f"max_samples is {self.max_samples}; at least 1 is expected.")
        if self.input_range is not None and not self.input_range[0] < self.input_range[1]:
            raise RepresentativeDataError(f"input_range is {self.input_range}; (least, greatest) is expected.")

    @classmethod
    def of(cls, data: Any) -> Calibration:
        """Data as it is, or wrapped."""
        return data if isinstance(data, cls) else cls(data)


def samples_of(
    calibration: Calibration, specs: Sequence[InputSpec], model: Any = None
) -> tuple[Callable[[], Iterator[dict[str, np.ndarray]]], int]:
    """A function that starts a pass over the samples, one dictionary by input name each, and how many there are.

    Args:
        calibration: where they come from.
        specs: what the model expects.
        model: the Keras model, if there is one, to tell from it whether the values look as in its training.

    Raises:
        RepresentativeDataError: they do not fit, are not finite, or are outside the declared range.
    """
    data = arrays_of(calibration, specs)
    samples = representative_dataset(data, specs, calibration.max_samples)
    first = list(samples())
    stacked = {spec.name: np.concatenate([sample[spec.name] for sample in first]) for spec in specs}
    if calibration.input_range is not None:
        check_declared(stacked, specs, calibration.input_range)
    else:
        warn_doubtful(stacked, specs, model)
    return samples, len(first)


def arrays_of(calibration: Calibration, specs: Sequence[InputSpec]) -> Arrays:
    """The preprocessed samples as arrays; nothing about their values is checked yet.

    Raises:
        RepresentativeDataError: the source cannot be read, or preprocessing fails.
    """
    arrays = _read(calibration.source, specs, calibration.max_samples)
    if calibration.preprocess is None:
        return arrays
    try:
        done = calibration.preprocess(arrays)
    except Exception as error:  # the user's own function
        raise RepresentativeDataError(
            f"preprocess fails on the representative data: {type(error).__name__}: {first_line(error)}"
        ) from error
    return done if isinstance(done, (Mapping, tuple, list)) else np.asarray(done)


def _read(source: Any, specs: Sequence[InputSpec], limit: int) -> Arrays:
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        return _images(path, specs, limit) if path.is_dir() else _of_file(path, specs)
    if isinstance(source, (Mapping, tuple, list)) or hasattr(source, "__array__") or not hasattr(source, "__iter__"):
        return source
    return _batches(source, specs, limit)


def _of_file(path: Path, specs: Sequence[InputSpec]) -> Arrays:
    """An .npz may hold more than the inputs, such as labels."""
    arrays = load_arrays(path)
    if not isinstance(arrays, dict) or len(specs) > 1 or specs[0].name in arrays:
        names = {spec.name for spec in specs}
        known = isinstance(arrays, dict) and names <= set(arrays)
        return {name: arrays[name] for name in names} if known else arrays
    for key in _INPUT_KEYS:
        if key in arrays:
            return arrays[key]
    return arrays


def _batches(source: Iterable[Any], specs: Sequence[InputSpec], limit: int) -> dict[str, np.ndarray]:
    """Elements are inputs or (inputs, labels, ...), with or without a batch axis."""
    names = [spec.name for spec in specs]
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    count = 0
    for element in source:
        inputs = element[0] if isinstance(element, (tuple, list)) and not _is_inputs(element, specs) else element
        if isinstance(inputs, Mapping):
            if set(inputs) != set(names):
                raise RepresentativeDataError(f"Batches hold {sorted(inputs)}; the inputs are {sorted(names)}.")
            arrays = [np.asarray(inputs[name]) for name in names]
        else:
            arrays = [np.asarray(x) for x in (inputs if isinstance(inputs, (tuple, list)) else [inputs])]
        if len(arrays) != len(specs):
            raise RepresentativeDataError(f"Batches hold {len(arrays)} arrays for {len(specs)} inputs.")
        for spec, array in zip(specs, arrays, strict=True):
            parts[spec.name].append(array[None] if array.shape == spec.shape else array)
        count += len(parts[names[0]][-1])
        if count >= limit:
            break
    if not count:
        raise RepresentativeDataError("Representative data has 0 samples: the iterable is empty.")
    return {name: np.concatenate(arrays)[:limit] for name, arrays in parts.items()}


def _is_inputs(element: Sequence[Any], specs: Sequence[InputSpec]) -> bool:
    """Whether a tuple is that of several inputs; (inputs, labels) is the other meaning."""
    if len(specs) == 1 or len(element) != len(specs):
        return False
    shapes = [tuple(getattr(x, "shape", ())) for x in element]
    return all(spec.shape in (shape, shape[1:]) for shape, spec in zip(shapes, specs, strict=True))


def _images(folder: Path, specs: Sequence[InputSpec], limit: int) -> np.ndarray:
    if len(specs) != 1 or len(specs[0].shape) != 3 or specs[0].shape[2] not in (1, 3):
        raise RepresentativeDataError(f"A folder of images fits one input [height, width, 1 or 3], not {list(specs)}.")
    try:
        from PIL import Image
    except ImportError as error:
        raise RepresentativeDataError("Reading images needs Pillow: run 'pip install pillow'.") from error
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in _IMAGES)
    if not files:
        raise RepresentativeDataError(f"There are no images in '{folder}' ({', '.join(_IMAGES)}).")
    chosen = np.unique(np.linspace(0, len(files) - 1, min(limit, len(files))).round().astype(int))
    height, width, channels = specs[0].shape
    arrays = []
    for file in (files[k] for k in chosen):
        try:
            with Image.open(file) as opened:
                arrays.append(_fitted(opened.convert("L" if channels == 1 else "RGB"), height, width))
        except OSError as error:
            raise RepresentativeDataError(f"Image '{file}' cannot be read: {first_line(error)}") from error
    return np.stack(arrays).reshape(-1, height, width, channels)


def _fitted(image: Any, height: int, width: int) -> np.ndarray:
    """Resized until it just covers the input, then cropped in the middle."""
    scale = max(height / image.height, width / image.width)
    size = (max(round(image.width * scale), width), max(round(image.height * scale), height))
    if size != image.size:
        image = image.resize(size, 2)  # bilinear
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return np.asarray(image.crop((left, top, left + width, top + height)), np.float32)
