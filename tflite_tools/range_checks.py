"""Whether samples have the values the model was trained on: a wrong range quantizes without an error, but wrongly.

Three witnesses: the range the user declares; a Rescaling layer that wants pixels 0..255; and the first batch norm,
which remembers mean and variance of its input from training.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tflite_tools.errors import RepresentativeDataError, RepresentativeDataWarning
from tflite_tools.representative import InputSpec

_SPREAD = 4.0  # how many times wider or narrower than in training is doubtful
_SHIFT = 4.0  # standard deviations of training that the mean may be off
_LOOKED_AT = 64  # samples


def check_declared(samples: Mapping[str, np.ndarray], specs: Sequence[InputSpec], limits: tuple[float, float]) -> None:
    """Refuses values outside the declared range, and values that use next to nothing of it.

    Raises:
        RepresentativeDataError: says what the values are, and what they look like.
    """
    low, high = limits
    for spec in specs:
        if "float" not in spec.dtype:
            continue
        least, greatest = float(samples[spec.name].min()), float(samples[spec.name].max())
        slack = 1e-3 * (high - low)
        if least < low - slack or greatest > high + slack:
            problem = "leaves the declared range"
        elif greatest - least < 0.02 * (high - low):
            problem = "uses less than 2 % of the declared range"
        else:
            continue
        raise RepresentativeDataError(
            f"Representative data for '{spec.name}' is {least:g} to {greatest:g}, which {problem} {low:g} to {high:g}."
            f"{_looks_like(least, greatest)} Apply the model's own preprocessing."
        )


def warn_doubtful(samples: Mapping[str, np.ndarray], specs: Sequence[InputSpec], model: Any) -> None:
    """Warns where samples are all the same, or where the model itself remembers other values from its training."""
    for spec in specs:
        values = samples[spec.name]
        if len(values) > 1 and "float" in spec.dtype and (values == values[:1]).all():
            _warn(f"Representative data for '{spec.name}' holds {len(values)} times the same sample.")
    if model is None or len(specs) != 1 or "float" not in specs[0].dtype:
        return
    values = samples[specs[0].name][:_LOOKED_AT]
    least, greatest = float(values.min()), float(values.max())
    kind = type(model).__module__.split(".")[0]
    if kind == "keras":
        _ask_rescaling(model, least, greatest)
        _ask_batch_norm(model, values, least, greatest)


def _ask_rescaling(model: Any, least: float, greatest: float) -> None:
    first: Any = next((layer for layer in model.layers if type(layer).__name__ != "InputLayer"), None)
    if type(first).__name__ != "Rescaling" or not isinstance(first.scale, (int, float)):
        return
    if 1 / 300 < abs(first.scale) < 1 / 100 and greatest - least < 8:
        _warn(
            f"The model begins with a Rescaling by {first.scale:.4g}, made for pixels 0 to 255, but the representative "
            f"data is {least:g} to {greatest:g}: it was rescaled already."
        )


def _ask_batch_norm(model: Any, values: np.ndarray, least: float, greatest: float) -> None:
    import keras

    norm = next((x for x in model.layers if type(x).__name__ == "BatchNormalization"), None)
    if norm is None:
        return
    try:
        seen = np.asarray(keras.Model(model.inputs[0], norm.input)(values, training=False))
    except Exception:  # called twice, or a network that cannot be cut there: no verdict
        return
    axis = norm.axis if isinstance(norm.axis, int) else norm.axis[0]
    seen = np.moveaxis(seen, axis, -1).reshape(-1, seen.shape[axis])
    mean, spread = np.asarray(norm.moving_mean), np.sqrt(np.asarray(norm.moving_variance) + norm.epsilon)
    alive = spread > 10 * np.sqrt(norm.epsilon)
    if not alive.any():
        return
    ratio = float(np.exp(np.median(np.log((seen.std(0)[alive] + 1e-12) / spread[alive]))))
    shift = float(np.median(np.abs(seen.mean(0) - mean)[alive] / spread[alive]))
    if 1 / _SPREAD < ratio < _SPREAD and shift < _SHIFT:
        return
    _warn(
        f"Representative data ({least:g} to {greatest:g}) is not what the model was trained on: in front of "
        f"'{norm.name}' values spread {ratio:.3g} times as wide as in training, and their mean is {shift:.2g} standard "
        f"deviations off.{_looks_like(least, greatest)} Apply the model's own preprocessing."
    )


def _looks_like(least: float, greatest: float) -> str:
    if least >= 0 and 100 < greatest <= 255:
        return " It looks like raw pixels, 0 to 255."
    if least >= 0 and greatest <= 1:
        return " It looks like pixels scaled to 0 to 1."
    if -1 <= least < 0 and greatest <= 1:
        return " It looks like pixels scaled to -1 to 1."
    return ""


def _warn(text: str) -> None:
    warnings.warn(text, RepresentativeDataWarning, stacklevel=5)
