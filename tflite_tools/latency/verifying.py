"""Measures Keras models on the device of a latency file: what `keras_qcqp.prune(..., verify=True)` calls."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from tflite_tools.devices.base import DEFAULT_DELEGATE
from tflite_tools.errors import ProfileError, RepresentativeDataWarning
from tflite_tools.latency.costing import CostSource, DeviceCosts, place_of
from tflite_tools.latency.model import LatencyModel

_SECONDS, _PASSES, _SAMPLES = 0.5, 2, 8
_AT_LEAST_S = 1.5  # small networks are measured in milliseconds, and a busy neighbour stays longer than that
_CONVERTED: WeakKeyDictionary[Any, dict[str, bytes]] = WeakKeyDictionary()  # the original is measured in every round


def measure(models: Sequence[Any], path: str, source: CostSource | None = None) -> list[float]:
    """Milliseconds of Keras models, converted as the fitted file was, all of them taking turns.

    Integer models are calibrated with noise: their values are of no use, but they take as long as calibrated well.

    Args:
        source: what measures; the device that the latency file names if None.

    Raises:
        ProfileError: `path` is no latency file, or was fitted on another device or with other versions.
        ConversionError: a model does not convert.
        DeviceError: the device is not there, or a model does not run on it.
    """
    fitted = LatencyModel.load(path)
    device = source or DeviceCosts(fitted.device, fitted.num_threads, fitted.settings.get("delegate", DEFAULT_DELEGATE))
    _require_same_place(fitted, device, path)
    files = {str(number): _converted(model, fitted.recipe) for number, model in enumerate(models)}
    found, end = [device.costs(files, _SECONDS)], time.monotonic() + _AT_LEAST_S
    while not device.deterministic and (len(found) < _PASSES or time.monotonic() < end):
        found.append(device.costs(files, _SECONDS))
    return [min(costs[name] for costs in found) for name in files]


def _require_same_place(fitted: LatencyModel, device: CostSource, path: str) -> None:
    then, now = place_of(fitted.environment), place_of(device.environment())
    other = [f"{name} was {then[name]}, is {now.get(name)}" for name in then if then[name] != now.get(name)]
    if other:
        raise ProfileError(f"'{path}' was fitted elsewhere: {'; '.join(other)}. Fit again here, or verify there.")


def _converted(model: Any, recipe: str) -> bytes:
    known = _CONVERTED.setdefault(model, {})
    if recipe not in known:
        known[recipe] = _convert(model, recipe)
    return known[recipe]


def _convert(model: Any, recipe: str) -> bytes:
    from tflite_tools.conversion import convert

    random = np.random.default_rng(0)
    samples = [random.normal(size=(_SAMPLES, *x.shape[1:])).astype(x.dtype) for x in model.inputs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RepresentativeDataWarning)
        return convert(model, recipe, samples if recipe == "int8" else None)
