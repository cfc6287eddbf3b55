"""Representative samples for quantization, checked at the door: nothing behind it notices a wrong one."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tflite_tools.errors import RepresentativeDataError, RepresentativeDataWarning, did_you_mean

MAX_SAMPLES = 200
FEW_SAMPLES = 50
_BLOCK = 256  # samples looked at together, so that a memory-mapped file is never read at once

Arrays = np.ndarray | Sequence[np.ndarray] | Mapping[str, np.ndarray]


@dataclass(frozen=True)
class InputSpec:
    """One model input: `shape` without the batch axis, `dtype` as NumPy spells it."""

    name: str
    shape: tuple[int, ...]
    dtype: str


def representative_dataset(
    data: Arrays, inputs: Sequence[InputSpec], max_samples: int = MAX_SAMPLES
) -> Callable[[], Iterator[dict[str, np.ndarray]]]:
    """Samples for the converter, one dictionary each, addressed by input *name*.

    A list would be fed to the inputs in the converter's own order, often the reverse of Keras's, without an
    error. The values are taken as given: apply the model's own preprocessing first.

    Args:
        data: `float[samples, ...]` for one input; for several a tuple or list in the order of `model.inputs`,
            or a dictionary by input name.
        inputs: what the model expects.
        max_samples: at most so many are used, evenly spaced over the data.

    Returns:
        A function that starts a new pass; it yields `{name: dtype[1, ...]}`.

    Raises:
        RepresentativeDataError: names, shapes, counts or dtypes do not fit, or a value is NaN or infinite.
    """
    arrays = _by_name(data, inputs)
    for spec in inputs:
        _check_array(arrays[spec.name], spec)
    count = _common_count(arrays)
    chosen: np.ndarray = np.arange(count)
    if count > max_samples:
        chosen = np.linspace(0, count - 1, max_samples).round().astype(int)

    def samples() -> Iterator[dict[str, np.ndarray]]:
        for index in chosen:
            yield {s.name: arrays[s.name][index : index + 1].astype(s.dtype) for s in inputs}

    return samples


def load_arrays(path: str | os.PathLike[str]) -> np.ndarray | dict[str, np.ndarray]:
    """Reads `.npy` as one array and `.npz` as arrays by name; an `.npz` of one array counts as that array.

    Raises:
        RepresentativeDataError: the file is missing, damaged, or holds Python objects.
    """
    if not Path(path).is_file():
        raise RepresentativeDataError(f"Representative data '{path}' does not exist. Give an .npy or .npz file.")
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            arrays = {name: loaded[name] for name in loaded.files}
    except Exception as error:  # NumPy raises ValueError, BadZipFile, EOFError, zlib.error, ...
        raise RepresentativeDataError(
            f"Representative data '{path}' cannot be read as .npy or .npz of plain numbers "
            f"({type(error).__name__}). Write it with numpy.save or numpy.savez."
        ) from error
    return next(iter(arrays.values())) if len(arrays) == 1 else arrays


def _by_name(data: Arrays, inputs: Sequence[InputSpec]) -> dict[str, np.ndarray]:
    names = [spec.name for spec in inputs]
    listed = ", ".join(f"'{name}'" for name in names)
    if isinstance(data, Mapping):
        unknown = [str(name) for name in data if name not in names]
        if unknown:
            raise RepresentativeDataError(
                f"Representative data names '{unknown[0]}', which is no input. {did_you_mean(unknown[0], names)}"
            )
        missing = [name for name in names if name not in data]
        if missing:
            raise RepresentativeDataError(
                f"Representative data lacks input '{missing[0]}'. Give one array for each of {listed}."
            )
        return {name: _as_array(data[name]) for name in names}
    if isinstance(data, (tuple, list)):
        if len(data) != len(names):
            raise RepresentativeDataError(
                f"Representative data is a {type(data).__name__} of {len(data)} for {len(names)} input(s) "
                f"{listed}. Give one array per input, with the samples along its first axis."
            )
        return dict(zip(names, map(_as_array, data), strict=True))
    if len(names) != 1:
        raise RepresentativeDataError(
            f"Representative data is a single {type(data).__name__}, but the model has {len(names)} inputs. "
            f"Give a dictionary with one array for each of {listed}."
        )
    return {names[0]: _as_array(data)}


def _as_array(value: Any) -> np.ndarray:
    if not isinstance(value, np.ndarray) and not hasattr(value, "__array__"):
        raise RepresentativeDataError(
            f"Representative data holds a {type(value).__name__}; NumPy arrays are expected. Use numpy.stack(samples)."
        )
    return np.asanyarray(value)


def _check_array(array: np.ndarray, spec: InputSpec) -> None:
    if array.dtype.kind not in "fiub" or (np.dtype(spec.dtype).kind in "iu" and array.dtype.kind == "f"):
        raise RepresentativeDataError(
            f"Representative data for '{spec.name}' has dtype {array.dtype}; the input is {spec.dtype}. "
            "Give plain numbers of that kind."
        )
    expected = ", ".join(["samples", *map(str, spec.shape)])
    if array.ndim == 0 or array.shape[1:] != spec.shape:
        hint = " Add the samples axis: data[None]." if array.shape == spec.shape else ""
        raise RepresentativeDataError(
            f"Representative data for '{spec.name}' has shape {list(array.shape)}; expected [{expected}].{hint}"
        )
    for start in range(0, len(array), _BLOCK):
        # After the cast, because a float64 may leave the range of float32.
        with np.errstate(over="ignore"):
            finite = np.isfinite(array[start : start + _BLOCK].astype(spec.dtype))
        if not finite.all():
            sample = start + int(np.argwhere(~finite)[0][0])
            raise RepresentativeDataError(
                f"Representative data for '{spec.name}' holds NaN or infinity, first in sample {sample}. "
                "Every value must be finite in float32; clean the data."
            )


def _common_count(arrays: Mapping[str, np.ndarray]) -> int:
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) != 1:
        listed = ", ".join(f"'{name}' {count}" for name, count in counts.items())
        raise RepresentativeDataError(f"Representative data differs in its number of samples: {listed}.")
    count = next(iter(counts.values()))
    if count == 0:
        raise RepresentativeDataError(f"Representative data has 0 samples. Give at least {FEW_SAMPLES}, better 100.")
    if count < FEW_SAMPLES:
        warnings.warn(
            f"Representative data has only {count} samples; below {FEW_SAMPLES} the scales depend on chance. "
            "Give 100 or more.",
            RepresentativeDataWarning,
            stacklevel=3,
        )
    return count
