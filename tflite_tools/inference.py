"""Runs a `.tflite` file on arrays, real values in and out, whatever the file stores inside."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tflite_tools.errors import DeviceError, TfliteFileError, first_line
from tflite_tools.quiet import silenced

Arrays = np.ndarray | Mapping[str, np.ndarray]


def predict(model: bytes | str | os.PathLike[str], inputs: Arrays) -> dict[str, np.ndarray]:
    """Runs every sample through the file's signature on the host, one thread.

    Args:
        model: a `.tflite` file or its bytes, with one signature (as `convert` writes it) and a batch of 1.
        inputs: real values float[samples, ...]; for several inputs a mapping by signature input name.

    Returns:
        Signature output name -> float32[samples, ...]; integer outputs are scaled back to real values.

    Raises:
        TfliteFileError: the file cannot be read or has no signature.
        DeviceError: the names or shapes of the inputs do not fit, or the runtime refuses the file.
    """
    interpreter = load(model)
    runner = _runner(interpreter)
    feeds = _feeds(inputs, runner.get_input_details())
    collected: dict[str, list[np.ndarray]] = {}
    targets = runner.get_output_details()
    for sample in zip(*feeds.values(), strict=True):
        try:
            outputs = runner(**{name: value[None] for name, value in zip(feeds, sample, strict=True)})
        except (RuntimeError, ValueError) as error:
            raise DeviceError(f"The model does not run on these inputs: {first_line(error)}") from error
        for name, value in outputs.items():
            collected.setdefault(name, []).append(_real(value, targets[name]))
    return {name: np.concatenate(values) for name, values in collected.items()}


def quantize(values: np.ndarray, detail: Mapping[str, Any]) -> np.ndarray:
    """Real values as the tensor described by `detail` stores them: `round(x / scale) + zero_point`, clipped."""
    scale, zero_point = detail["quantization"]
    dtype = np.dtype(detail["dtype"])
    if not scale:
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    return np.clip(np.round(values / scale) + zero_point, limits.min, limits.max).astype(dtype)


def _real(values: np.ndarray, detail: Mapping[str, Any]) -> np.ndarray:
    scale, zero_point = detail["quantization"]
    return ((values.astype(np.float32) - zero_point) * scale if scale else values).astype(np.float32)


def load(model: bytes | str | os.PathLike[str]) -> Any:
    """An interpreter with its tensors allocated, one thread.

    Raises:
        TfliteFileError: the file cannot be read.
        DeviceError: the runtime refuses it.
    """
    from ai_edge_litert.interpreter import Interpreter

    try:
        data = model if isinstance(model, bytes) else Path(model).read_bytes()
    except OSError as error:
        raise TfliteFileError(f"Cannot read '{model!s}': {error.strerror or error}.") from error
    try:
        with silenced():
            interpreter = Interpreter(model_content=data, num_threads=1)
            interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise DeviceError(f"The model does not load on the host: {first_line(error)}") from error
    return interpreter


def _runner(interpreter: Any) -> Any:
    signatures = interpreter.get_signature_list()
    if len(signatures) != 1:
        raise TfliteFileError(f"A file with one signature was expected, this one has {sorted(signatures)}.")
    return interpreter.get_signature_runner(next(iter(signatures)))


def _feeds(inputs: Arrays, details: Mapping[str, Mapping[str, Any]]) -> dict[str, np.ndarray]:
    if not isinstance(inputs, Mapping):
        if len(details) != 1:
            raise DeviceError(f"The model has inputs {sorted(details)}; give a mapping with an array for each.")
        inputs = {name: inputs for name in details}
    if set(inputs) != set(details):
        raise DeviceError(f"Arrays for the inputs {sorted(details)} were expected, got {sorted(inputs)}.")
    for name, array in inputs.items():
        wanted = tuple(int(size) for size in details[name]["shape"][1:])
        if np.shape(array)[1:] != wanted:
            raise DeviceError(f"Input '{name}' takes samples of shape {wanted}, got an array of {np.shape(array)}.")
    if len({len(array) for array in inputs.values()}) != 1:
        raise DeviceError("All inputs need the same number of samples.")
    return {name: quantize(np.asarray(array), details[name]) for name, array in inputs.items()}
